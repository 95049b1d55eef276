"""Network namespaces with a name and a file of their own, as `ip netns` makes them (ip-netns(8))."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
import threading

from attrs import frozen

from pycontain.errors import InvalidArgument, NotSupported, PycontainError, name_of
from pycontain.linux.mounts import MountFlag, UmountFlag, mount, umount
from pycontain.linux.namespaces import NamespaceType, unshare

DIRECTORY = "/run/netns"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@frozen
class NetworkNamespace:
    """A network namespace that is kept by a file in /run/netns, visible to `ip netns`, until `delete`.

    The one thing of pycontain's that outlives the process: it has to be asked for by name.
    """

    name: str

    def __attrs_post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in (".", ".."):
            raise InvalidArgument(f"{self.name!r} is not a name: use up to 64 letters, digits, '_', '.' and '-'")

    @classmethod
    def create(cls, name: str) -> NetworkNamespace:
        """Makes a new namespace in which only the loopback interface is there, and up.

        Raises `PycontainError` when the name is taken, `NotSupported` without the privileges.
        """
        namespace = cls(name)
        _ensure_directory()
        try:
            os.close(os.open(namespace.path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
        except FileExistsError:
            raise PycontainError(f"there is a network namespace {name!r} already") from None
        except PermissionError as error:
            raise _not_permitted(f"{namespace.path} cannot be made", error) from None
        try:
            _hold_new_namespace(namespace.path)
        except BaseException:
            os.unlink(namespace.path)
            raise
        return namespace

    @property
    def path(self) -> str:
        return os.path.join(DIRECTORY, self.name)

    def delete(self) -> None:
        """Removes the name; the namespace itself goes with the last process in it.

        Raises `PycontainError` when there is none, `NotSupported` without the privileges.
        """
        try:
            umount(self.path, UmountFlag.DETACH)
        except OSError as error:
            if not os.path.exists(self.path):
                raise PycontainError(f"there is no network namespace {self.name!r}") from None
            if error.errno in (errno.EPERM, errno.EACCES):
                raise _not_permitted(f"{self.path} cannot be removed", error) from None
            if error.errno != errno.EINVAL:  # a file on which nothing is mounted
                raise
        os.unlink(self.path)


def _ensure_directory() -> None:
    try:
        os.makedirs(DIRECTORY, 0o755, exist_ok=True)
    except PermissionError as error:
        raise _not_permitted(f"{DIRECTORY} cannot be made", error) from None


def _not_permitted(what: str, error: OSError) -> NotSupported:
    return NotSupported(f"{what}: {name_of(error.errno or 0)}", remedy="Run as root")


def _hold_new_namespace(path: str) -> None:
    """Mounts the file of a new namespace on `path`. A throw-away thread is in it for as long as that takes."""
    failures: list[OSError] = []

    def make() -> None:
        try:
            unshare(NamespaceType.NETWORK)
            _bring_loopback_up()
            mount("/proc/thread-self/ns/net", path, None, MountFlag.BIND)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=make, name="pycontain-netns")
    thread.start()
    thread.join()
    if failures:
        raise _not_permitted("a network namespace cannot be made", failures[0]) from failures[0]


def _bring_loopback_up() -> None:
    """SIOCSIFFLAGS with IFF_UP, see netdevice(7)."""
    import socket

    request = struct.pack("16sh22x", b"lo", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, request)
