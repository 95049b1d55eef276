"""cgroup v2: the unified hierarchy (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pycontain.cgroups import files, parse
from pycontain.cgroups.hierarchy import PARENT, Hierarchy
from pycontain.cgroups.limits import Setting, Translation, number, swap_of
from pycontain.cgroups.move import empty_into
from pycontain.errors import LimitNotSupported

if TYPE_CHECKING:
    from pycontain.spec import CPU, Memory, Pids

LEAF = "pycontain.task"  # where the processes of a group are once there are groups below it

DEFAULT_PERIOD = 100_000  # microseconds, the kernel's


def weight_of(shares: int) -> int:
    """The v2 weight (1 to 10000) of v1 shares (2 to 262144), linear as runc and crun had it for years.

    Their newer curve meets 1024 = 100 at the price of the proportions: 1:3 in shares would become 1:2.4.
    """
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def _memory(memory: Memory) -> list[Setting]:
    settings = []
    limit = number("memory.limit", memory.limit)
    reservation = number("memory.reservation", memory.reservation)
    swap = swap_of(memory)
    if limit is not None:
        settings.append(Setting("memory", "memory.max", _maximum(limit), "memory.limit"))
    if swap is not None:
        implied = number("memory.swap", memory.swap) is None
        settings.append(Setting("memory", "memory.swap.max", _maximum(swap), "memory.swap", implied))
    if reservation is not None:
        settings.append(Setting("memory", "memory.low", _maximum(reservation), "memory.reservation"))
    return settings


def _cpu(cpu: CPU) -> list[Setting]:
    settings = []
    shares = number("cpu.shares", cpu.shares)
    quota, period = number("cpu.quota", cpu.quota), number("cpu.period", cpu.period)
    if shares is not None:
        settings.append(Setting("cpu", "cpu.weight", str(weight_of(shares)), "cpu.shares"))
    if quota is not None or period is not None:
        value = f"{_maximum(-1 if quota is None else quota)} {period or DEFAULT_PERIOD}"
        settings.append(Setting("cpu", "cpu.max", value, "cpu.period" if quota is None else "cpu.quota"))
    return settings


def _pids(pids: Pids) -> list[Setting]:
    limit = number("pids.limit", pids.limit)
    return [] if limit is None else [Setting("pids", "pids.max", _maximum(limit), "pids.limit")]


def _maximum(value: int) -> str:
    return "max" if value == -1 else str(value)


TRANSLATION = Translation(_memory, _cpu, _pids)


class UnifiedSubtree:
    """Our part of the v2 hierarchy: the parent directory and the groups in it."""

    version = 2

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.base = hierarchy.base
        self.parent = f"{hierarchy.base}/{PARENT}"
        self.controllers = hierarchy.usable
        self.ready: frozenset[str] | None = None

    def prepare(self, controllers: frozenset[str]) -> None:
        """Makes the parent directory and enables `controllers` for the groups in it.

        Raises OSError, and `LimitNotSupported` when processes keep the kernel from enabling a controller.
        """
        try:
            os.mkdir(self.parent, 0o755)
        except FileExistsError:
            pass
        for group in (self.base, self.parent):
            _enable(group, controllers)
        self.ready = controllers | (self.ready or frozenset())

    def forget(self) -> None:
        """The parent may be gone: the next group prepares it again."""
        self.ready = None

    def memory_peak(self, path: str) -> int | None:
        text = files.read_short(f"{path}/memory.peak")
        return None if text is None else int(text)

    def oom_kills(self, path: str) -> int:
        # Local: what happens in a group below, such as a container's own container, is not this group's end.
        texts = (files.read_short(f"{part}/memory.events.local") for part in (path, f"{path}/{LEAF}"))
        return sum(parse.flat_keyed(text).get("oom_kill", 0) for text in texts if text is not None)


def give(group: str, controllers: frozenset[str] | set[str]) -> None:
    """Enables `controllers` for the groups below a running group, whose processes move to the group `LEAF` below it.

    Not from the beginning, since that would cost every start a group more. Raises OSError, and `CgroupError`.
    """
    if controllers.issubset(files.read(f"{group}/cgroup.subtree_control").split()):
        return
    leaf = f"{group}/{LEAF}"
    try:
        os.mkdir(leaf, 0o755)
    except FileExistsError:
        pass
    empty_into(leaf, group)
    _enable(group, frozenset(controllers))


def _enable(group: str, controllers: frozenset[str]) -> None:
    control = f"{group}/cgroup.subtree_control"
    missing = controllers.difference(files.read(control).split()) if controllers else None
    if not missing:
        return
    try:
        files.write(control, " ".join(f"+{controller}" for controller in sorted(missing)))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise LimitNotSupported(
            f"the controllers {', '.join(sorted(missing))} cannot be enabled: {group} holds processes",
            remedy=f"Move these processes to a group of their own below {group}",
        ) from error
