"""The overlay snapshotter: each snapshot holds the changes to its parents, and overlayfs puts them together.

A snapshot is the directory `fs`, in overlayfs's own format (whiteouts are 0:0 devices, opaque directories have an
attribute), and for active ones `work` beside it. Views have nothing of their own.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from typing import ClassVar

from pycontain.errors import SnapshotError
from pycontain.layers.whiteouts import Whiteouts
from pycontain.linux.mounts import MountAttr
from pycontain.linux.trees import remove_tree
from pycontain.metadata import Database
from pycontain.metadata.snapshots import Kind
from pycontain.snapshots.base import Directory, Lower, Overlay, Root, Usage
from pycontain.snapshots.files import OVERLAY_MARKS, copy_attributes
from pycontain.snapshots.mounting import mount, open_tree_of
from pycontain.snapshots.recorded import RecordedSnapshotter

# The mode of a new `fs` without a parent, by which `commit` sees that the layer says nothing about the root directory.
UNTOUCHED = 0o1755

MOST_LAYERS = 500  # OVL_MAX_STACK
ONE_BY_ONE = (6, 7)  # the version of Linux that has "lowerdir+": a list in one option could only be 255 bytes long

_EMPTY = "_empty"  # a directory below which nothing is, for an overlay of a single layer
_USER_XATTR = "_userxattr"  # a file that is there when the marks of overlayfs are user.overlay.*


class OverlaySnapshotter(RecordedSnapshotter):
    name: ClassVar[str] = "overlay"
    rebase: ClassVar[bool] = True

    def __init__(self, directory: str, database: Database) -> None:
        super().__init__(directory, database)
        self._userxattr = os.path.exists(self._join(_USER_XATTR))
        self.whiteouts = Whiteouts.OVERLAY_USER if self._userxattr else Whiteouts.OVERLAY

    @classmethod
    def probe(cls, directory: str) -> str | None:
        trial = f"{directory}/.probe-{os.urandom(6).hex()}"
        try:
            os.mkdir(trial, 0o700)
            try:
                return _obstacle(trial)
            finally:
                remove_tree(trial)
        except OSError as error:
            return f"a trial in {directory} failed: {error}"

    @classmethod
    def create(cls, directory: str) -> None:
        os.mkdir(f"{directory}/{_EMPTY}", 0o755)
        if not _has_trusted_attributes(directory):
            os.close(os.open(f"{directory}/{_USER_XATTR}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))

    def _make(self, path: str, kind: Kind, parents: Sequence[int]) -> None:
        if len(parents) > MOST_LAYERS:
            raise SnapshotError(
                f"overlayfs puts at most {MOST_LAYERS} layers together, and these are {len(parents)}",
                remedy="Use the snapshotter native or btrfs",
            )
        if kind == "view":
            return
        os.mkdir(path, 0o700)
        os.mkdir(f"{path}/work", 0o700)
        os.mkdir(f"{path}/fs", 0o700)
        if parents:
            copy_attributes(self._files(parents[0]), f"{path}/fs", without=OVERLAY_MARKS)
        else:
            os.chmod(f"{path}/fs", UNTOUCHED)

    def _root(self, number: int, kind: Kind, parents: Sequence[int]) -> Root:
        if kind != "active":
            return self._read_only(number, kind, parents)
        if not parents:
            return Directory(self._files(number))
        return Overlay(tuple(map(self._lower, parents)), self._path(number), self._userxattr)

    def _seal(self, number: int, parents: Sequence[int]) -> Usage | None:
        files = self._files(number)
        if stat.S_IMODE(os.stat(files).st_mode) == UNTOUCHED:
            if parents:
                copy_attributes(self._files(parents[0]), files, without=OVERLAY_MARKS)
            else:
                os.chmod(files, 0o755)
        return None

    def _settle(self, number: int) -> None:
        remove_tree(f"{self._path(number)}/work")

    def _open_changes(self, number: int, kind: Kind) -> int:
        return os.open(self._files(number), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _open_tree(self, number: int, kind: Kind, parents: Sequence[int]) -> int:
        return open_tree_of(self._read_only(number, kind, parents))

    def _lower(self, number: int) -> Lower:
        """A committed snapshot as a layer."""
        return self._files(number)

    def _read_only(self, number: int, kind: Kind, parents: Sequence[int]) -> Overlay:
        lowers = [self._lower(parent) for parent in parents]
        if kind != "view":
            lowers.insert(0, self._files(number) if kind == "active" else self._lower(number))
        if len(lowers) == 1:  # overlayfs wants two; alone, the layer's whiteouts would be seen as devices
            lowers.append(self._join(_EMPTY))
        return Overlay(tuple(lowers), None, self._userxattr)


def _obstacle(directory: str) -> str | None:
    """Why `directory` cannot hold upper and work directories, found out by trying in it."""
    for name in ("lower", "lowest", "upper", "work", "entries"):
        os.mkdir(f"{directory}/{name}", 0o700)
    if not _has_trusted_attributes(directory) and not _takes_attribute(directory, "user.overlay.opaque"):
        return "its file system has no extended attributes (user.*) for overlayfs's marks"
    if not _tells_types(f"{directory}/entries"):
        return "its file system does not give the types of entries with their names (d_type; xfs: ftype=1)"
    return _mount_obstacle(directory)


def _mount_obstacle(directory: str) -> str | None:
    try:
        os.mknod(f"{directory}/upper/whiteout", stat.S_IFCHR, 0)
    except PermissionError:
        return "its file system has no place for overlayfs's whiteouts: it is an overlay itself"
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        options = (("lowerdir+", "lower"), ("lowerdir+", "lowest"), ("upperdir", "upper"), ("workdir", "work"))
        os.close(mount("overlay", [(key, f"/proc/self/fd/{fd}/{name}") for key, name in options], MountAttr(0)))
    except PermissionError:  # an unprivileged user has to mount in a user namespace
        return _kernel_obstacle()
    except OSError as error:
        if error.errno == errno.ENODEV:
            return "the kernel has no overlay file system"
        return _kernel_obstacle() or f"overlayfs does not take its file system for upper directories: {error}"
    finally:
        os.close(fd)
    return None


def _has_trusted_attributes(directory: str) -> bool:
    return _takes_attribute(directory, "trusted.overlay.opaque")


def _takes_attribute(directory: str, name: str) -> bool:
    try:
        os.setxattr(directory, name, b"y")
        os.removexattr(directory, name)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP):
            return False
        raise
    return True


def _tells_types(directory: str) -> bool:
    """Without the type beside its name, Python would ask for the entry itself, which is gone by then."""
    os.symlink("nowhere", f"{directory}/link")
    with os.scandir(directory) as entries:
        entry = next(entries)
        os.unlink(entry.path)
        return entry.is_symlink()


def _kernel_obstacle() -> str | None:
    """What is known about the kernel without a mount. Its overlayfs may be a module that the first mount loads."""
    release = os.uname().release
    if tuple(map(int, re.findall(r"\d+", release)[:2])) < ONE_BY_ONE:
        return f"Linux {release} does not take the layers of an overlay one by one, as 6.7 and newer do"
    with open("/proc/filesystems") as file:
        known = any(line.split()[-1] == "overlay" for line in file)
    if known or os.path.exists(f"/lib/modules/{release}/kernel/fs/overlayfs"):
        return None
    return "the kernel has no overlay file system"
