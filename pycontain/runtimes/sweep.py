"""Removes what dead pycontain processes left: processes that the guard did not get, cgroups, and their tables."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from pycontain.cgroups import CgroupDriver
from pycontain.errors import PycontainError
from pycontain.linux.pidfd import pidfd_open, send_signal
from pycontain.runtimes.owner import Recorded, StaleOwner, run_directory, stale_owners


def sweep(driver_of: Callable[[str], CgroupDriver]) -> None:
    """Undoes everything of every owner whose lock is free. Groups without an owner's file are left alone: their owner
    may live where this process cannot see it. `driver_of` finds the driver of an owner's note, and raises where it
    cannot find the groups: an owner without a note has made none."""
    for stale in stale_owners(run_directory()):
        for task in stale.tasks:
            _kill(task)
        try:
            for note in stale.notes:
                _remove_groups(driver_of(note), stale)
        except PycontainError:  # a process that cannot die yet, a driver that is not there: a later sweep tries again
            os.close(stale.fd)
            continue
        stale.discard()


def _remove_groups(driver: CgroupDriver, stale: StaleOwner) -> None:
    for name in driver.names():
        if name.startswith(stale.token + "-"):
            group = driver.open(name)
            group.kill()
            group.remove()


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
