"""Copies of a tree that nobody changes meanwhile: the data is shared where the file system can, holes stay holes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from attrs import define, field

from pycontain.snapshots.files import copy_attributes, walk

FICLONE = 0x40049409  # ioctl_ficlone(2)
_CHUNK = 1 << 30
_NOT_SHARED = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY)
_NOT_BY_KERNEL = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS)


def copy_tree(source: str, target: str) -> None:
    """Copies what is in the directory `source` into the empty directory `target`, and its own attributes too.

    Owners, modes, times to the nanosecond, extended attributes, hard links, devices and fifos are kept; a socket is
    nothing without its process, and left out. Raises `OSError`, ENAMETOOLONG for paths of more than 3000 bytes.
    """
    _Copy(os.fsencode(source), os.fsencode(target)).run()


@define
class _Copy:
    source: bytes
    target: bytes
    shares: bool = True  # whether the file system has reflinks, as far as is known
    _links: dict[int, bytes] = field(factory=dict)  # by the inode number of files with several names
    _directories: list[tuple[bytes, bytes]] = field(factory=list)

    def run(self) -> None:
        self._directories.append((self.source, self.target))
        for entry in walk(os.fsdecode(self.source)):
            if not entry.path.startswith(self.source):
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), self.source)
            self._copy(entry.path, self.target + entry.path[len(self.source) :])
        for source, target in reversed(self._directories):  # what is made in a directory changes its times
            copy_attributes(source, target)

    def _copy(self, source: bytes, target: bytes) -> None:
        info = os.lstat(source)
        if stat.S_ISDIR(info.st_mode):
            os.mkdir(target, 0o700)
            self._directories.append((source, target))
            return
        if info.st_nlink > 1:
            first = self._links.setdefault(info.st_ino, target)
            if first is not target:
                os.link(first, target, follow_symlinks=False)
                return
        if stat.S_ISREG(info.st_mode):
            self._copy_data(source, target)
            copy_attributes(source, target)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(source), target)
            _copy_link_attributes(source, target, info)
        elif not stat.S_ISSOCK(info.st_mode):
            os.mknod(target, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev)
            copy_attributes(source, target)

    def _copy_data(self, source: bytes, target: bytes) -> None:
        read = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if not (self.shares and self._share(read, write)):
                    _copy_extents(read, write)
            finally:
                os.close(write)
        finally:
            os.close(read)

    def _share(self, read: int, write: int) -> bool:
        try:
            fcntl.ioctl(write, FICLONE, read)
        except OSError as error:
            if error.errno not in _NOT_SHARED:
                raise
            self.shares = False
        return self.shares


def _copy_extents(read: int, write: int) -> None:
    """Copies the data, without the holes between it; see lseek(2)."""
    info = os.fstat(read)
    size = info.st_size
    if info.st_blocks * 512 >= size:
        _copy_range(read, write, 0, size)
        return
    os.fsync(read)  # ext4 without extents takes data that is not on the disk yet for a hole
    os.ftruncate(write, size)
    position = 0
    while position < size:
        try:
            position = os.lseek(read, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(read, position, os.SEEK_HOLE)
        _copy_range(read, write, position, end)
        position = end


def _copy_range(read: int, write: int, position: int, end: int) -> None:
    while position < end:
        position += _copy_some(read, write, position, min(end - position, _CHUNK))


def _copy_some(read: int, write: int, position: int, count: int) -> int:
    try:
        copied = os.copy_file_range(read, write, count, position, position)
    except OSError as error:
        if error.errno not in _NOT_BY_KERNEL:
            raise
        copied = os.pwrite(write, os.pread(read, min(count, 1 << 20), position), position)
    if copied == 0:
        raise OSError(errno.EIO, "a file became shorter while it was copied")
    return copied


def _copy_link_attributes(source: bytes, target: bytes, info: os.stat_result) -> None:
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    for name in os.listxattr(source, follow_symlinks=False):
        value = os.getxattr(source, name, follow_symlinks=False)
        os.setxattr(target, name, value, follow_symlinks=False)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
