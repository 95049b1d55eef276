"""cgroup v1: one hierarchy for each controller (Documentation/admin-guide/cgroup-v1)."""

from __future__ import annotations

import math
import os

from pycontain.cgroups import files, parse
from pycontain.cgroups.hierarchy import Hierarchy


class LegacySubtree:
    """Our part of one v1 hierarchy: the parent directory and the groups in it."""

    version = 1

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.parent = f"{hierarchy.base}/{hierarchy.parent}"
        self.controllers = hierarchy.usable
        self.ready: frozenset[str] | None = None  # the controllers with which groups in the parent can be made

    def prepare(self, controllers: frozenset[str]) -> None:
        """Makes the parent directory. Raises OSError."""
        try:
            os.mkdir(self.parent, 0o755)
        except FileExistsError:
            pass
        self.fill(self.parent)
        self.ready = self.controllers

    def fill(self, path: str) -> None:
        """Gives a new group the processors and memory nodes of the one above it: without, it takes no process."""
        if "cpuset" in self.controllers:
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not (files.read_short(f"{path}/{name}") or "").strip():
                    files.write(f"{path}/{name}", (files.read_short(f"{os.path.dirname(path)}/{name}") or "").strip())

    def allow_realtime(self, path: str, runtime: int) -> None:
        """Gives the parent as much time for real-time processes as the groups in it need, of which `path` will have
        `runtime` microseconds a period. A new group has none (sched-rt-group.rst). Raises OSError."""
        share = runtime / _number(f"{path}/cpu.rt_period_us")
        for name in files.subdirectories(self.parent):
            group = f"{self.parent}/{name}"
            if group != path:
                share += _number(f"{group}/cpu.rt_runtime_us") / _number(f"{group}/cpu.rt_period_us")
        needed = math.ceil(share * _number(f"{self.parent}/cpu.rt_period_us"))
        if _number(f"{self.parent}/cpu.rt_runtime_us") < needed:
            files.write(f"{self.parent}/cpu.rt_runtime_us", str(needed))

    def forget(self) -> None:
        """The parent may be gone: the next group prepares it again."""
        self.ready = None

    def memory_peak(self, path: str) -> int | None:
        text = files.read_short(f"{path}/memory.max_usage_in_bytes")
        return None if text is None else int(text)

    def oom_kills(self, path: str) -> int:
        text = files.read_short(f"{path}/memory.oom_control")
        return 0 if text is None else parse.flat_keyed(text).get("oom_kill", 0)


def _number(path: str) -> int:
    return int(files.read(path))
