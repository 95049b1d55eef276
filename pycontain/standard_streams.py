"""The caller's own descriptors 0, 1 and 2, of which it may have closed some."""

from __future__ import annotations

import os
import threading

_filling = threading.Lock()


def fill_standard_streams() -> None:
    """Opens /dev/null in place of each standard stream that this process has closed; programs that it executes still
    find it closed.

    What is opened next would get the number: the table of tasks, for one, and a container that inherits its caller's
    standard output would write to it. glibc does the same in set-user-ID programs (csu/check_fds.c).
    """
    if all(map(is_open, range(3))):
        return
    with _filling:
        for fd in range(3):
            if not is_open(fd):
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)  # the lowest free number
                if null != fd:  # another thread of the caller was faster
                    os.close(null)


def is_open(fd: int) -> bool:
    """Whether a descriptor is open."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
