"""Failures of the file system below the store, as `StoreError` with what helps."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pycontain.errors import StoreError

_REMEDIES = {
    errno.ENOSPC: "Free space on the file system of the store",
    errno.EDQUOT: "Free space, or raise the quota of the user",
    errno.EACCES: "Use the user that owns the store, or another store",
    errno.EPERM: "Use the user that owns the store, or another store",
    errno.EROFS: "Use a store that can be written",
    errno.EMFILE: "Raise the limit of open files (RLIMIT_NOFILE)",
}


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Within the block, an `OSError` becomes a `StoreError` whose message begins with `what`."""
    try:
        yield
    except OSError as error:
        raise StoreError(what, errno=error.errno, remedy=_REMEDIES.get(error.errno or 0)) from error
