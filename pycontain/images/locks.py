"""Locks between all threads and processes that use a store, by name: so that a layer is unpacked once."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pycontain.errors import StoreError

PATIENCE = 3600.0  # seconds for others who do the same work; the lock of one that dies is free at once


@contextmanager
def locked(directory: str, name: str) -> Iterator[None]:
    """Holds the lock `name`, a file of `directory` that is there only while somebody holds or awaits it."""
    path = os.path.join(directory, name)
    deadline = time.monotonic() + PATIENCE
    fd = _take(directory, path, deadline)
    try:
        yield
    finally:
        os.unlink(path)  # before the lock is given away: whoever gets this file's lock sees that it has no name
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _take(directory: str, path: str, deadline: float) -> int:
    pause = 0.001
    while time.monotonic() < deadline:
        os.makedirs(directory, 0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(fd, path):
                return fd
        except BlockingIOError:
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise StoreError(f"another process has been holding the lock {path} for {PATIENCE:g} s")


def _is_named(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def remove_unheld(directory: str) -> None:
    """Removes the files of locks whose holder was killed."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    for name in names:
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(fd, path):
                os.unlink(path)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
