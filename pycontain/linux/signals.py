"""Whether a signal would reach a process: process 1 of a pid namespace gets only those that it handles or waits for."""

from __future__ import annotations

import os


def would_arrive(pid: int, number: int, *, ignored: bool = False) -> bool:
    """Whether a process handles a signal, or blocks it and may wait for it; of one that is not process 1 of its pid
    namespace it is always true, and of one that has ended. See pid_namespaces(7).

    With `ignored` also whether it ignores it, which any other process could do as well.
    """
    fields = ("SigCgt:", "SigBlk:", "SigIgn:") if ignored else ("SigCgt:", "SigBlk:")
    caught = 0
    try:
        if _waits_for_signals(pid):
            return True
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("NSpid:") and line.split()[-1] != "1":
                    return True
                if line.startswith(fields):
                    caught |= int(line.split()[1], 16)
        # again: one that began to wait between the two readings did not wait in the first, nor block in the second
        return bool(caught >> (number - 1) & 1) or _waits_for_signals(pid)
    except OSError:
        return True


def _waits_for_signals(pid: int) -> bool:
    """Whether a thread is in sigwait(3), as inits are: the kernel unblocks what it waits for meanwhile, so that
    /proc/PID/status shows it neither as blocked nor as caught (do_sigtimedwait, kernel/signal.c)."""
    number = "137" if os.uname().machine == "aarch64" else "128"  # rt_sigtimedwait
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/syscall") as file:
            if file.read().split()[0] == number:
                return True
    return False
