"""cgroup v1: one hierarchy for each controller (Documentation/admin-guide/cgroup-v1)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pycontain.cgroups import files, parse
from pycontain.cgroups.hierarchy import PARENT, Hierarchy
from pycontain.cgroups.limits import Setting, Translation, number, swap_of

if TYPE_CHECKING:
    from pycontain.spec import CPU, Memory, Pids


def _memory(memory: Memory) -> list[Setting]:
    settings = []
    limit = number("memory.limit", memory.limit)
    reservation = number("memory.reservation", memory.reservation)
    swap = swap_of(memory)
    if limit is not None:
        settings.append(Setting("memory", "memory.limit_in_bytes", str(limit), "memory.limit"))
    if swap is not None:
        both = -1 if swap == -1 or limit is None else limit + swap
        implied = number("memory.swap", memory.swap) is None
        settings.append(Setting("memory", "memory.memsw.limit_in_bytes", str(both), "memory.swap", implied))
    if reservation is not None:
        settings.append(Setting("memory", "memory.soft_limit_in_bytes", str(reservation), "memory.reservation"))
    return settings


def _cpu(cpu: CPU) -> list[Setting]:
    wanted = (
        ("cpu.shares", number("cpu.shares", cpu.shares), "cpu.shares"),
        ("cpu.cfs_period_us", number("cpu.period", cpu.period), "cpu.period"),
        ("cpu.cfs_quota_us", number("cpu.quota", cpu.quota), "cpu.quota"),
    )
    return [Setting("cpu", file, str(value), limit) for file, value, limit in wanted if value is not None]


def _pids(pids: Pids) -> list[Setting]:
    limit = number("pids.limit", pids.limit)
    return [] if limit is None else [Setting("pids", "pids.max", "max" if limit == -1 else str(limit), "pids.limit")]


TRANSLATION = Translation(_memory, _cpu, _pids)


class LegacySubtree:
    """Our part of one v1 hierarchy: the parent directory and the groups in it."""

    version = 1

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.parent = f"{hierarchy.base}/{PARENT}"
        self.controllers = hierarchy.usable
        self.ready: frozenset[str] | None = None  # the controllers with which groups in the parent can be made

    def prepare(self, controllers: frozenset[str]) -> None:
        """Makes the parent directory. Raises OSError."""
        try:
            os.mkdir(self.parent, 0o755)
        except FileExistsError:
            pass
        self.ready = self.controllers

    def forget(self) -> None:
        """The parent may be gone: the next group prepares it again."""
        self.ready = None

    def memory_peak(self, path: str) -> int | None:
        text = files.read_short(f"{path}/memory.max_usage_in_bytes")
        return None if text is None else int(text)

    def oom_kills(self, path: str) -> int:
        text = files.read_short(f"{path}/memory.oom_control")
        return 0 if text is None else parse.flat_keyed(text).get("oom_kill", 0)
