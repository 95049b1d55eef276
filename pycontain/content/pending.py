"""A file that is being written: apart from others, locked by its writer, and renamed to its place when it is whole.
The lock is on the file itself, so that nothing else has to be cleaned up: a pending file without a lock is nobody's,
and may be resumed or removed."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable

from pycontain.errors import StoreError

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ATTEMPTS = 1000  # of opening a file that others publish or remove at the same moment


class Pending:
    """A pending file that this object has locked; `fd` is open for reading and writing. To be closed."""

    def __init__(self, directory: int, name: str, fd: int, target: int) -> None:
        self.fd = fd
        self._directory = directory
        self._name = name
        self._target = target

    @classmethod
    def lock(
        cls, directory: int, name: str, target: int, *, done: Callable[[], bool], patience: float
    ) -> Pending | None:
        """The file `name` in `directory`, made when it is not there, which is to be published in the directory `target`
        of the same file system. The descriptors of both have to stay open meanwhile.

        Waits for another writer as long as that one's file grows, and `patience` seconds more. None as soon as `done`
        says that there is nothing left to write.

        Raises:
            StoreError: the other writer does not go on.
            OSError: that of the file system.
        """
        fd = _open_locked(directory, name, done, patience)
        return None if fd is None else cls(directory, name, fd, target)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Adds all of `data`."""
        view = memoryview(data).cast("B")
        while view:  # each call writes something, or raises
            view = view[os.write(self.fd, view) :]

    def truncate(self) -> None:
        """Empties the file."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def publish(self, name: str) -> None:
        """Gives the file its name in the target directory, in place of what is there. After a loss of power it is there
        as a whole, or not at all."""
        os.fsync(self.fd)
        try:
            os.replace(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._target)
        except IsADirectoryError:
            remove(self._target, name)
            os.replace(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._target)
        os.fsync(self._target)

    def remove(self) -> None:
        """Removes the file, unless it has been published."""
        if _is_named(self.fd, self._directory, self._name):
            os.unlink(self._name, dir_fd=self._directory)

    def close(self) -> None:
        """Gives the lock away. Not left to close(2): a child that was forked meanwhile has the same lock, flock(2)."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)


def remove_pending(directory: int, name: str, older_than: float) -> bool:
    """Removes a pending file that no one holds, and that was last written `older_than` seconds ago or earlier; also
    what is no file. Gives whether it did."""
    try:
        if _removed_unless_file(directory, name):
            return True
        fd = os.open(name, _FLAGS, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        old = time.time() - os.fstat(fd).st_mtime >= older_than
        if not old or not _try_lock(fd) or not _is_named(fd, directory, name):
            return False
        os.unlink(name, dir_fd=directory)
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)
    return True


def remove(directory: int, name: str) -> None:
    """Removes whatever is there under the name, a directory with all that is in it."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        import shutil

        shutil.rmtree(f"/proc/self/fd/{directory}/{name}")


def _open_locked(directory: int, name: str, done: Callable[[], bool], patience: float) -> int | None:
    for _ in range(_ATTEMPTS):
        if done():
            return None
        try:
            _removed_unless_file(directory, name)
        except FileNotFoundError:
            pass
        fd = os.open(name, _FLAGS | os.O_CREAT, 0o644, dir_fd=directory)
        try:
            _lock(fd, name, patience)
            # The one that had the lock has published or removed the file; what we have locked is not pending then.
            named = _is_named(fd, directory, name)
            if named and not done():
                return fd
            if named:
                os.unlink(name, dir_fd=directory)
            fcntl.flock(fd, fcntl.LOCK_UN)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise StoreError(f"{name} is made and removed by others all the time")


def _removed_unless_file(directory: int, name: str) -> bool:
    """What is no file is removed before it could be opened: a fifo, a device, a link."""
    if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        return False
    remove(directory, name)
    return True


def _lock(fd: int, name: str, patience: float) -> None:
    """Waits for the lock while the file grows. flock(2) itself has no time limit, so that the lock is tried."""
    pause = 0.001
    size = -1
    deadline = time.monotonic() + patience
    while not _try_lock(fd):
        grown = os.fstat(fd).st_size
        if grown != size:
            size = grown
            deadline = time.monotonic() + patience
        elif time.monotonic() > deadline:
            raise StoreError(
                f"another process has been holding {name} for {patience:g} s without writing to it",
                remedy="End that process (`fuser` names it)",
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(fd: int, directory: int, name: str) -> bool:
    try:
        named = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    own = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)
