"""syncfs(2): all that was written to one file system is on its disk. Python has only sync(2), for all of them."""

from __future__ import annotations

from pycontain.linux.syscalls import error


def syncfs(fd: int) -> None:
    """Waits until the file system of `fd` (any open file or directory of it, not O_PATH) has written everything.

    Raises `OSError`, also when writing has failed since the file was opened (ENOSPC, EIO).
    """
    import ctypes  # 8 ms, and nothing on the way of starting a container needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) != 0:
        raise error(ctypes.get_errno(), "syncfs", fd)
