"""Processes by descriptor: signal them, wait for them and learn what they used, without races between pids."""

from __future__ import annotations

import errno
import os

from attrs import frozen

from pycontain._native._core import ffi, lib
from pycontain.linux.syscalls import check


@frozen
class Ended:
    """How a process ended, and what it used.

    Attributes:
        pid: of the process, in the caller's pid namespace.
        exit_code: 0 to 255, None when a signal ended it.
        signal: the number of that signal, None when the process exited.
        core_dumped: whether the signal made a core dump.
        user_time, system_time: CPU seconds of the process and of those of its descendants that were waited for.
        max_rss: the largest resident set, in bytes, of any one of them. It counts from the fork: a child that shared
            or copied a large parent's memory before exec begins with the parent's size.
    """

    pid: int
    exit_code: int | None
    signal: int | None
    core_dumped: bool
    user_time: float
    system_time: float
    max_rss: int


def pidfd_open(pid: int) -> int:
    """A new descriptor (close-on-exec) for a process; ESRCH when there is none; see pidfd_open(2)."""
    return check(lib.pc_pidfd_open(pid, 0), "pidfd_open", pid)


def send_signal(pidfd: int, signal: int) -> None:
    """Sends a signal, 0 only asks whether it could be sent; ESRCH when the process has ended and was waited for."""
    check(lib.pc_pidfd_send_signal(pidfd, signal), "pidfd_send_signal", pidfd, int(signal))


def getfd(pidfd: int, fd: int) -> int:
    """A duplicate, close-on-exec, of descriptor `fd` of another process; needs ptrace rights; see pidfd_getfd(2)."""
    return check(lib.pc_pidfd_getfd(pidfd, fd), "pidfd_getfd", pidfd, fd)


def wait(pidfd: int, nohang: bool = False) -> Ended | None:
    """Waits until a child has ended, and reaps it. With `nohang`, returns None at once when it has not.

    Raises ECHILD when the process is not a child of the caller, or was waited for already. See waitid(2).
    """
    ended = ffi.new("struct pc_ended *")
    options = os.WEXITED | (os.WNOHANG if nohang else 0)
    result = -errno.EINTR
    while result == -errno.EINTR:  # Python's signal handlers run in between (PEP 475)
        result = lib.pc_wait(pidfd, options, ended)
    check(result, "waitid", "P_PIDFD", pidfd)
    if ended.pid == 0:
        return None
    exited = ended.code == os.CLD_EXITED
    return Ended(
        pid=ended.pid,
        exit_code=ended.status if exited else None,
        signal=None if exited else ended.status,
        core_dumped=ended.code == os.CLD_DUMPED,
        user_time=ended.user_us / 1e6,
        system_time=ended.system_us / 1e6,
        max_rss=ended.max_rss_kb * 1024,
    )
