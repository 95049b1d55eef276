"""Removes what dead pycontain processes left: processes that the guard did not get, cgroups, and their tables."""

from __future__ import annotations

import os
import signal

from pycontain.cgroups import CgroupDriver
from pycontain.errors import CgroupError
from pycontain.linux.pidfd import pidfd_open, send_signal
from pycontain.runtimes.owner import Recorded, run_directory, stale_owners


def sweep(driver: CgroupDriver) -> None:
    """Undoes everything of every owner whose lock is free. Groups without an owner's file are left alone: their owner
    may live where this process cannot see it."""
    names: set[str] | None = None
    for stale in stale_owners(run_directory()):
        for task in stale.tasks:
            _kill(task)
        names = driver.names() if names is None else names
        try:
            for name in names:
                if name.startswith(stale.token + "-"):
                    group = driver.open(name)
                    group.kill()
                    group.remove()
        except CgroupError:  # a process that cannot die yet: the file stays, and a later sweep tries again
            os.close(stale.fd)
            continue
        stale.discard()


def _kill(task: Recorded) -> None:
    if task.pid <= 1:
        return
    try:
        pidfd = pidfd_open(task.pid)
    except OSError:
        return
    try:
        # before Linux 6.9 a process cannot be told from a later one of the same number: its cgroup finds it
        if task.pidfd_inode and os.fstat(pidfd).st_ino == task.pidfd_inode:
            send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)
