"""Namespaces: their types, the calls that make and join them (`unshare`, `setns`, `clone`), and namespaces as objects.

`unshare` and `setns` change the calling thread for good. To do something inside another namespace and come back, use
`in_thread`. See namespaces(7).
"""

from __future__ import annotations

import enum
import errno
import os
import stat
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from pycontain._native._core import lib
from pycontain.errors import InvalidArgument
from pycontain.linux.syscalls import PathArgument, check, encode

T = TypeVar("T")

_CLONE_FS = 0x200  # sched.h; Python has it as os.CLONE_FS only from 3.12


class NamespaceType(enum.IntFlag):
    """The eight types; the values are the `CLONE_NEW*` flags of clone(2), so they can be joined by `|`."""

    TIME = 0x00000080
    MOUNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    USER = 0x10000000
    PID = 0x20000000
    NETWORK = 0x40000000

    @property
    def oci_name(self) -> str:
        """The name in the OCI runtime specification ("network", "mount", ...). One type only."""
        return _NAMES[self][0]

    @property
    def file_name(self) -> str:
        """The name of the file in /proc/PID/ns ("net", "mnt", ...). One type only."""
        return _NAMES[self][1]

    @classmethod
    def from_name(cls, name: str) -> NamespaceType:
        """The type that the OCI specification or /proc/PID/ns calls `name`. Raises `InvalidArgument`."""
        for kind, names in _NAMES.items():
            if name in names:
                return kind
        known = ", ".join(names[0] for names in _NAMES.values())
        raise InvalidArgument(f"{name!r} is not a type of namespace (known: {known})")


_NAMES = {
    NamespaceType.MOUNT: ("mount", "mnt"),
    NamespaceType.UTS: ("uts", "uts"),
    NamespaceType.IPC: ("ipc", "ipc"),
    NamespaceType.PID: ("pid", "pid"),
    NamespaceType.NETWORK: ("network", "net"),
    NamespaceType.USER: ("user", "user"),
    NamespaceType.CGROUP: ("cgroup", "cgroup"),
    NamespaceType.TIME: ("time", "time"),
}

ALL_NAMESPACES: tuple[NamespaceType, ...] = tuple(_NAMES)


def unshare(*types: NamespaceType) -> None:
    """Moves the calling thread into new namespaces; see unshare(2).

    There is no way back. A new pid or time namespace is that of the children to come, not of the caller. In a process
    of several threads, a new user namespace is refused (EINVAL), and the other threads stay where they are.
    """
    flags = _joined(types)
    check(lib.pc_unshare(flags), "unshare", flags)


def setns(namespace: int | PathArgument, types: NamespaceType | None = None) -> None:
    """Moves the calling thread into a namespace, given as a descriptor or path of its file; see setns(2).

    With a pidfd, `types` says which namespaces of that process to join (several at once). With the file of a namespace,
    `types` is what the file has to be (EINVAL otherwise), None accepts any.
    """
    if isinstance(namespace, int):
        check(lib.pc_setns(namespace, int(types or 0)), "setns", namespace, types or 0)
        return
    fd = _open_file(namespace)
    try:
        check(lib.pc_setns(fd, int(types or 0)), "setns", namespace, types or 0)
    finally:
        os.close(fd)


def clone(*types: NamespaceType) -> int:
    """Like `os.fork`, but the child lives in new namespaces of these types: returns 0 there, its pid in the parent.

    The hooks of `os.register_at_fork` run as they do for `os.fork`, those of pthread_atfork(3) do not. **Only for
    processes with one thread**: a lock that another thread holds at this moment, also one inside malloc, stays locked
    in the child for ever. It also copies the page tables of the whole process, which takes about 0.1 s for each GB.
    To run a program, use `Container`, which has neither fault.

    The child leaves by `os._exit`, as after `os.fork`. In a new pid namespace it is pid 1: everything in
    it ends when it does.
    """
    flags = _joined(types)
    sys.audit("os.fork")
    return check(lib.pc_fork(flags), "clone3", flags)


class NamespaceRequest(enum.IntEnum):
    """The questions of `ioctl_ns`; the values are the numbers in linux/nsfs.h."""

    GET_USERNS = 1
    GET_PARENT = 2
    GET_NSTYPE = 3
    GET_OWNER_UID = 4


_REQUESTS = {
    NamespaceRequest.GET_USERNS: lib.pc_ns_userns,
    NamespaceRequest.GET_PARENT: lib.pc_ns_parent,
    NamespaceRequest.GET_NSTYPE: lib.pc_ns_type,
    NamespaceRequest.GET_OWNER_UID: lib.pc_ns_owner_uid,
}


def ioctl_ns(fd: int, request: NamespaceRequest) -> int:
    """Asks about the namespace whose file is open as `fd`; see ioctl_ns(2). Mostly used through `Namespace`.

    Returns a new descriptor (GET_USERNS, GET_PARENT; close-on-exec), a `CLONE_NEW*` value (GET_NSTYPE) or a user id.
    Raises EPERM when the answer lies outside of the caller's own namespaces, ENOTTY when `fd` is not a namespace.
    """
    return check(_REQUESTS[request](fd), "ioctl_ns", fd, request.name)


class Namespace:
    """A namespace, kept alive by the open descriptor that this object owns.

    Made by `Namespace.of`, `Namespace.open`, `user_namespace` and `parent`. Closed by `close`, at the end of a `with`
    block, or with the object. Two of them are equal when they are the same namespace.

    Attributes:
        type: its type.
        id: device and inode number of its file, which the kernel does not give to another one as long as this is open.
    """

    __slots__ = ("_fd", "id", "type")

    def __init__(self, fd: int) -> None:
        """Takes over `fd`, also when it is not the file of a namespace and this raises `InvalidArgument`."""
        self._fd = fd
        try:
            status = os.fstat(fd)
            self.id = (status.st_dev, status.st_ino)
            self.type = NamespaceType(_type_of(fd, status.st_mode))
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, pid: int | None, kind: NamespaceType) -> Namespace:
        """The namespace of that type in which process `pid` lives; None is the calling thread."""
        return cls.open(f"/proc/{'thread-self' if pid is None else pid}/ns/{kind.file_name}")

    @classmethod
    def open(cls, path: PathArgument) -> Namespace:
        """The namespace whose file is `path`: in /proc/PID/ns, or one that is bind-mounted (as `ip netns add` does).

        Raises `OSError` when it cannot be opened, `InvalidArgument` when it is not a namespace.
        """
        fd = _open_file(path)
        try:
            return cls(fd)
        except InvalidArgument:
            raise InvalidArgument(f"{os.fsdecode(path)!r} is not the file of a namespace") from None

    @property
    def path(self) -> str:
        """A path that leads to the namespace, for other processes too, as long as this object is open."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @property
    def owner_uid(self) -> int:
        """The user id, as the caller sees it, of the owner of a user namespace. EINVAL for the other types."""
        return ioctl_ns(self._fd, NamespaceRequest.GET_OWNER_UID)

    def user_namespace(self) -> Namespace:
        """The user namespace that owns this one, of a user namespace its parent. EPERM when outside of the caller's."""
        return Namespace(ioctl_ns(self._fd, NamespaceRequest.GET_USERNS))

    def parent(self) -> Namespace:
        """The parent of a pid or user namespace. EINVAL for the other types, EPERM when outside of the caller's."""
        return Namespace(ioctl_ns(self._fd, NamespaceRequest.GET_PARENT))

    def enter(self) -> None:
        """Moves the calling thread into the namespace, for good: see `setns`, and `in_thread` for the way back."""
        setns(self._fd, self.type)

    def fileno(self) -> int:
        """The descriptor, which stays owned by this object."""
        return self._fd

    def close(self) -> None:
        """Closes the descriptor. The namespace itself goes on as long as something else uses it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Namespace) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Namespace {self.type.file_name}:[{self.id[1]}]>"


def in_thread(namespace: Namespace, function: Callable[[], T]) -> T:
    """Calls `function` in a thread of its own that has entered `namespace`, and returns what it returns.

    The thread ends with the call, so nothing of the caller changes; what `function` opens (a socket, a directory) keeps
    belonging to the namespace. An exception of `function` is raised here. For network, mount, uts, ipc and cgroup
    namespaces: the kernel lets a thread of a process with several enter no user or time namespace (EINVAL, EUSERS),
    and a pid namespace only for its children.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            if namespace.type is NamespaceType.MOUNT:  # refused while root and working directory are shared with others
                check(lib.pc_unshare(_CLONE_FS), "unshare", "CLONE_FS")
            namespace.enter()
            outcome.append(function())
        except BaseException as exception:
            failure.append(exception)

    # a daemon, so that Ctrl-C in join does not make the end of the interpreter wait for the function
    thread = threading.Thread(target=run, name="pycontain-namespace", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure.pop()
    return outcome.pop()


def _joined(types: tuple[NamespaceType, ...]) -> NamespaceType:
    joined = NamespaceType(0)
    for kind in types:
        joined |= kind
    return joined


def _open_file(path: PathArgument) -> int:
    """O_NONBLOCK and O_NOCTTY, because the path may turn out to be a fifo or a terminal."""
    return os.open(os.fsdecode(encode(path)), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def _type_of(fd: int, mode: int) -> int:
    """Of a namespace's file, which is a regular one. Devices are not asked: the number may mean something to them."""
    try:
        if stat.S_ISREG(mode):
            return ioctl_ns(fd, NamespaceRequest.GET_NSTYPE)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
    raise InvalidArgument(f"descriptor {fd} is not the file of a namespace")
