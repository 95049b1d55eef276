"""Moving running processes between groups, which is never done on the start path: on v1, and on v2 when it has not
happened for a while, each write to `cgroup.procs` waits for an RCU grace period, 11 ms on an idle machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pycontain.cgroups import files, parse
from pycontain.cgroups.kill import pauses
from pycontain.errors import CgroupError


def join(path: str, sources: Sequence[str]) -> None:
    """Moves all processes of the groups `sources`, and below them, into `path`."""
    _move(path, lambda: files.processes(sources) - files.processes([path]))


def empty_into(leaf: str, path: str) -> None:
    """Moves the processes of the group `path` itself, not those below it, into its child `leaf`."""
    _move(leaf, lambda: set(parse.processes(files.read(f"{path}/cgroup.procs"))))


def _move(path: str, remaining: Callable[[], set[int]]) -> None:
    """Moves processes until none remains: a process that forks meanwhile leaves a child where it was itself."""
    for _ in pauses(time.monotonic() + 5):
        missing = remaining()
        if not missing:
            return
        for pid in missing:
            try:
                files.write(f"{path}/cgroup.procs", str(pid))
            except ProcessLookupError:
                pass
    raise CgroupError(f"the processes {sorted(missing)} cannot be moved into {path}: they fork too fast")
