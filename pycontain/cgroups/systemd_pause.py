"""The process that keeps a scope as long as its task is wanted.

systemd makes no scope without a process, and removes one, with all figures, as soon as the last process has ended. This
one is a few kilobytes large, waits, and ends with this process however that ends (`pause_main` in _native/helper.c).
"""

from __future__ import annotations

import os
import signal

from pycontain.linux.helper import executable
from pycontain.linux.pidfd import pidfd_open, wait


class Pause:
    """A pause process: started when made, killed and reaped by `end`."""

    __slots__ = ("_pidfd", "pid")

    def __init__(self) -> None:
        helper = executable()
        inherited = 3 if helper != 3 else 4
        owner = pidfd_open(os.getpid())
        try:
            self.pid = os.posix_spawn(
                f"/proc/self/fd/{helper}", ["pycontain-pause", str(inherited)], {},
                file_actions=[(os.POSIX_SPAWN_DUP2, owner, inherited)], setsigdef=[signal.SIGTERM],
            )
        finally:
            os.close(owner)
        self._pidfd = pidfd_open(self.pid)
        _live.add(self)

    def end(self) -> None:
        """Kills and reaps it. May be called again."""
        if self._pidfd < 0:
            return
        _live.discard(self)
        pidfd, self._pidfd = self._pidfd, -1
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait(pidfd)
        except (ProcessLookupError, ChildProcessError):  # it was stopped from outside, and reaped by a wait for any
            pass
        finally:
            os.close(pidfd)

    def disown(self) -> None:
        """In a child of os.fork: the process is the parent's."""
        os.close(self._pidfd)
        self._pidfd = -1


_live: set[Pause] = set()


def _after_fork() -> None:
    for pause in _live:
        pause.disown()
    _live.clear()


os.register_at_fork(after_in_child=_after_fork)
