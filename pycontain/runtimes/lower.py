"""What lies below a copy-on-write root: a directory, and the file systems that are mounted in it.

A plan is made for what is there, and used for later starts too as long as `Lower.is_current`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from attrs import define, field

from pycontain.errors import InvalidArgument
from pycontain.linux.mountinfo import MountInfo, MountTable

# File systems of the kernel, not of files: a copy of the host's tree leaves them out.
KERNEL_FILE_SYSTEMS = frozenset((
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs",
    "tracefs",
))

OWN_DIRECTORIES = ("/proc", "/sys", "/dev", "/run", "/tmp")  # of which a clone of the host has its own

_mount_table: MountTable | None = None
_last_table: tuple[MountInfo, ...] = ()


@define(eq=False)
class Lower:
    """A directory as it is now.

    Attributes:
        given: its path as the specification has it.
        path: the same without symbolic links, by which the mount table knows what is in it.
        info: what stat(2) says.
        fs_type: of the file system that it is on.
        mounts: the visible mount at each mount point in it.
    """

    given: str
    path: str
    info: os.stat_result
    fs_type: str
    mounts: dict[str, MountInfo]
    _table: tuple[MountInfo, ...] = field(repr=False)  # in which the mounts are as they are here

    @classmethod
    def of(cls, given: str) -> Lower:
        """Raises `InvalidArgument` for what is not a directory."""
        try:
            info = os.stat(given)
        except OSError as error:
            raise InvalidArgument(f"the root {given!r} cannot be used: {error.strerror}") from None
        if not stat.S_ISDIR(info.st_mode):
            raise InvalidArgument(f"the root {given!r} is not a directory")
        path, table = _without_links(given, info), _current_table()
        return cls(given, path, info, *_look(path, table), table)

    def is_current(self) -> bool:
        """Whether the same directory is there, with the same mounts. Cheap as long as nothing was mounted anywhere."""
        try:
            info = os.stat(self.given)
        except OSError:
            return False
        if not os.path.samestat(info, self.info) or info.st_mode != self.info.st_mode:
            return False
        if self._table is _last_table and _mount_table is not None and _mount_table.is_unchanged():
            return True
        table = _current_table()
        if table is not self._table:
            fs_type, mounts = _look(self.path, table)
            if fs_type != self.fs_type or self._shown(mounts) != self._shown(self.mounts):
                return False
            self._table = table
        return True

    def file_mounts(self) -> list[MountInfo]:
        """The mounts of files, a mount before those in it; those of the kernel are left out."""
        return [mount for point, mount in sorted(self._shown(self.mounts).items()) if not self.is_of_kernel(point)]

    def is_of_kernel(self, point: str) -> bool:
        """Whether a file system of the kernel is mounted there."""
        mount = self.mounts.get(point)
        return mount is not None and mount.fs_type in KERNEL_FILE_SYSTEMS

    def has_mounts(self, directory: str) -> bool:
        """Whether something is mounted below a directory in this one."""
        return any(_is_below(point, directory) for point in self.mounts)

    def has_own(self, path: str) -> bool:
        """Whether the container has this directory of its own."""
        return self.path == "/" and any(path == name or _is_below(path, name) for name in OWN_DIRECTORIES)

    def _shown(self, mounts: Mapping[str, MountInfo]) -> dict[str, MountInfo]:
        return {point: mount for point, mount in mounts.items() if not self.has_own(point)}


def _without_links(path: str, info: os.stat_result) -> str:
    real = os.path.realpath(path)
    try:
        return real if os.path.samestat(os.stat(real), info) else path
    except OSError:  # a link of /proc, whose text need not be a name here
        return path


def _current_table() -> tuple[MountInfo, ...]:
    global _mount_table, _last_table
    if _mount_table is None:
        _mount_table = MountTable()
    _last_table = _mount_table.mounts()
    return _last_table


def _look(path: str, table: Iterable[MountInfo]) -> tuple[str, dict[str, MountInfo]]:
    """The type of the file system that a directory is on, and the mounts in it."""
    topmost = {mount.mount_point: mount for mount in table}
    return _type_of(path, topmost), {point: mount for point, mount in topmost.items() if _is_below(point, path)}


def _type_of(path: str, topmost: Mapping[str, MountInfo]) -> str:
    while path not in topmost and path != "/":
        path = os.path.dirname(path)
    return topmost[path].fs_type if path in topmost else ""


def _is_below(path: str, directory: str) -> bool:
    return path != "/" and path.startswith(directory.rstrip("/") + "/")
