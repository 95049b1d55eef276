"""Which process what belongs to: a locked file for each process that uses a store.

The `flock` of the file is held as long as the process lives, however it ends. An owner without a file, or whose file
nobody holds, is gone, and what belongs to it may be removed by anyone. A forked child is an owner of its own.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterable

from pycontain.metadata.failures import refused

CREATION_LIMIT = 60.0  # seconds after which a file that is still hidden has no maker any more


class Owners:
    """The owners of one store.

    Attributes:
        directory: where their files are; made by the first owner.
    """

    def __init__(self, directory: str) -> None:
        self.directory = os.path.abspath(directory)

    def current(self) -> str:
        """This process's name as an owner, the same for all threads. Its file is made by the first call."""
        mine = _mine.get(self.directory)
        if mine is None:
            with _lock:
                mine = _mine.get(self.directory)
                if mine is None:
                    mine = _mine[self.directory] = _create(self.directory)
        return mine[0]

    def is_current(self, owner: str) -> bool:
        """Whether this process is that owner. Unlike `current`, makes nothing."""
        mine = _mine.get(self.directory)
        return mine is not None and mine[0] == owner

    def is_living(self, owner: str) -> bool:
        """Whether the process is there. One that cannot be asked (a file of another user) counts as living."""
        if self.is_current(owner):
            return True
        try:
            fd = os.open(os.path.join(self.directory, owner), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            return error.errno != errno.ENOENT
        try:
            return _is_locked(fd)
        finally:
            os.close(fd)

    def gone(self, owners: Iterable[str]) -> list[str]:
        """Those of `owners`, read from the database, that are gone: for good, a name is never used again."""
        return [owner for owner in owners if not self.is_living(owner)]

    def release(self) -> None:
        """Gives up this process's place, when it has nothing left in the store."""
        with _lock:
            mine = _mine.pop(self.directory, None)
        if mine is not None:
            _remove(self.directory, *mine)

    def sweep(self) -> None:
        """Removes the files of owners that are gone."""
        for name in _names(self.directory):
            path = os.path.join(self.directory, name)
            try:
                recent = name.startswith(".") and time.time() - os.lstat(path).st_mtime < CREATION_LIMIT
                if not recent and not self.is_living(name):
                    os.unlink(path)
            except FileNotFoundError:  # another process sweeps too
                pass


_mine: dict[str, tuple[str, int]] = {}  # this process's name and locked descriptor, by directory
_lock = threading.Lock()


def _create(directory: str) -> tuple[str, int]:
    """Makes the file under another name, locks it, and only then gives it the name by which others find it."""
    name = os.urandom(8).hex()
    hidden = os.path.join(directory, f".{name}")
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, _description().encode())
            os.rename(hidden, os.path.join(directory, name))
        except BaseException:
            os.unlink(hidden)
            os.close(fd)
            raise
    except OSError as error:
        raise refused(error, f"this process cannot be noted in {directory}") from None
    return name, fd


def _description() -> str:
    """For people who look: the process id, its start in clock ticks after boot (proc_pid_stat(5)), and the boot."""
    with open("/proc/self/stat", "rb") as file:
        started = file.read().rpartition(b")")[2].split()[19].decode()
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"pid {os.getpid()}\nstarted {started}\nboot {file.read()}"


def _is_locked(fd: int) -> bool:
    """A shared lock, so that two processes that ask at once do not take each other for the owner."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _close_all() -> None:
    """At the end of this process."""
    with _lock:
        for directory, (name, fd) in _mine.items():
            _remove(directory, name, fd)
        _mine.clear()


def _remove(directory: str, name: str, fd: int) -> None:
    try:
        os.unlink(os.path.join(directory, name))
    except OSError:  # the store was removed, or cannot be written any more: without its lock the file is stale
        pass
    os.close(fd)


def _after_fork() -> None:
    """In a child: the files are the parent's, whose lock must not outlive it in our descriptors."""
    for _, fd in _mine.values():
        os.close(fd)
    _mine.clear()
    _lock.release()


atexit.register(_close_all)
# not while a thread makes a file: its descriptor would be unknown in the child
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)
