"""What the errors of sqlite and of the kernel mean for a store, as `StoreError` with what helps."""

from __future__ import annotations

import errno
import os

from pycontain.errors import StoreError

BUSY_LIMIT = 60.0  # seconds that a writer waits for others

_FREE = "Free space in the file system of the store"
_ELSEWHERE = "Run as the user who owns the store, or set PYCONTAIN_STORE to another directory"
_START_AGAIN = "Remove metadata.db, and -wal and -shm beside it, and pull the images again"

# parts of sqlite's messages (Python 3.10 has no codes), the kernel's nearest number, and what helps
_REASONS = (
    ("is full", errno.ENOSPC, _FREE),
    ("readonly", errno.EROFS, _ELSEWHERE),
    ("unable to open", None, _ELSEWHERE),
    ("is locked", errno.EBUSY, f"Another process has been writing for {BUSY_LIMIT:.0f} seconds: end it"),
    ("malformed", None, _START_AGAIN),
    ("not a database", None, _START_AGAIN),
    ("disk I/O error", errno.EIO, "Look at the kernel's messages for the disk of the store"),
)


def translated(error: BaseException, path: str) -> BaseException:
    """The meaning of an error of sqlite with the database `path`; other exceptions are returned as they are."""
    import sqlite3

    if isinstance(error, sqlite3.IntegrityError) or not isinstance(error, sqlite3.Error):
        return error
    text = str(error)
    if ("disk I/O error" in text or "unable to open" in text) and _is_full(path):
        text = "the disk is full"  # sqlite says this only when it writes to the database or the log
    for part, number, remedy in _REASONS:
        if part in text:
            return StoreError(f"the database {path}: {text}", errno=number, remedy=remedy)
    return StoreError(f"the database {path}: {text}")


def refused(error: OSError, what: str) -> StoreError:
    """`what` is a sentence without its end."""
    remedy = _FREE if error.errno in (errno.ENOSPC, errno.EDQUOT) else _ELSEWHERE
    return StoreError(what, errno=error.errno, remedy=remedy)


def _is_full(path: str) -> bool:
    """Whether there is no space for the index of the log (32 KiB), or no inode for it."""
    try:
        found = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < 65536 or 0 == found.f_favail < found.f_files
