"""Killing everything in a group, complete also against a fork bomb: by `cgroup.kill` on v2, by the freezer on v1, and
where there is neither by forbidding forks with `pids.max`. All of it is bounded by a deadline."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence

from pycontain.cgroups import files, parse
from pycontain.errors import CgroupError


def kill_all(name: str, paths: Sequence[str], timeout: float) -> None:
    """Kills all processes in the groups `paths` of the task `name`, and returns when none is left.

    Raises `CgroupError` naming the pids that are left after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    for path in paths:
        if _write_if_there(f"{path}/cgroup.kill", "1"):
            for _ in pauses(deadline):
                text = files.read_short(f"{path}/cgroup.events")
                if text is None or parse.flat_keyed(text).get("populated") == 0:
                    break
    freezer = next((path for path in paths if os.path.exists(f"{path}/freezer.state")), None)
    if not files.processes(paths):
        return
    if freezer is None:
        for path in paths:
            _write_if_there(f"{path}/pids.max", "0")
    for _ in pauses(deadline):
        if not _kill_once(paths, freezer):
            return
        _wait_until_empty(paths, min(deadline, time.monotonic() + 0.05))
    left = sorted(files.processes(paths))
    if left:
        remedy = "They are in uninterruptible sleep: see /proc/PID/stack for what they wait for"
        if freezer is not None and files.read_short(f"{freezer}/freezer.parent_freezing") == "1\n":
            remedy = "The group above is frozen, and on cgroup v1 they die only when it is thawed"
        raise CgroupError(
            f"the processes {left} of the cgroup {name} are still there {timeout:g} s after SIGKILL", remedy=remedy,
        )


def pauses(deadline: float) -> Iterator[None]:
    """Yields at once and then after pauses that grow from 0.2 to 20 ms, until `deadline` (of time.monotonic)."""
    pause = 0.0002
    while True:
        yield
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.02)


def _kill_once(paths: Sequence[str], freezer: str | None) -> bool:
    """One round: SIGKILL to every process that is there. Whether there was any."""
    try:
        if freezer is not None:
            _freeze(freezer)
        # A pid that is read here cannot be another process's in the next microseconds: the kernel gives pids out in a
        # circle, and a frozen process does not end.
        pids = files.processes(paths)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    finally:
        if freezer is not None:
            _write_if_there(f"{freezer}/freezer.state", "THAWED")
    return bool(pids)


def _freeze(freezer: str) -> None:
    """Freezes, and waits a moment for it. What is not frozen by then (a process in uninterruptible sleep) is killed all
    the same, and what it forks in the next round."""
    if _write_if_there(f"{freezer}/freezer.state", "FROZEN"):
        for _ in pauses(time.monotonic() + 0.2):
            if files.read_short(f"{freezer}/freezer.state") != "FREEZING\n":
                return


def _wait_until_empty(paths: Sequence[str], deadline: float) -> None:
    for _ in pauses(deadline):
        if not files.processes(paths):
            return


def _write_if_there(path: str, value: str) -> bool:
    try:
        files.write(path, value)
    except OSError as error:
        if error.errno in files.GONE:
            return False
        raise
    return True
