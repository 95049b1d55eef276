"""Limits and other settings of the container's cgroup (config-linux.md, control groups)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from pycontain.spec.frozen import EMPTY, Frozen, FrozenMap
from pycontain.spec.layout import FieldError

if TYPE_CHECKING:
    from pycontain.spec.blockio import BlockIO
    from pycontain.spec.choices import DeviceRuleType
    from pycontain.spec.controllers import HugepageLimit, NetworkResources, Rdma
    from pycontain.spec.kinds import DeviceAccess, IdleFlag, Int64, Limit, Percentage, UInt64


@frozen(eq=False, repr=False)
class DeviceRule(Frozen):
    """Allows or denies devices, in the order of the list. None for type, major or minor means all."""

    allow: bool
    type: DeviceRuleType | None = None
    major: Int64 | None = None
    minor: Int64 | None = None
    access: DeviceAccess | None = None


@frozen(eq=False, repr=False)
class Memory(Frozen):
    """Limits in bytes, -1 is unlimited. `swap` is memory and swap together."""

    limit: Limit | None = None
    reservation: Limit | None = None
    swap: Limit | None = None
    kernel: Limit | None = None
    kernel_tcp: Limit | None = None
    swappiness: Percentage | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


@frozen(eq=False, repr=False)
class CPU(Frozen):
    """Times are in microseconds; `cpus` and `mems` are lists such as `0-3,7`."""

    shares: UInt64 | None = None
    quota: Int64 | None = None
    burst: UInt64 | None = None
    period: UInt64 | None = None
    realtime_runtime: Int64 | None = None
    realtime_period: UInt64 | None = None
    cpus: str | None = None
    mems: str | None = None
    idle: IdleFlag | None = None

    def _check_together(self) -> None:
        if self.burst is not None and self.quota is not None and 0 < self.quota < self.burst:
            raise FieldError(f"{self.burst} is above the quota {self.quota}", "burst")


@frozen(eq=False, repr=False)
class Pids(Frozen):
    """The largest number of processes and threads, -1 is unlimited."""

    limit: Limit


@frozen(eq=False, repr=False)
class Resources(Frozen):
    """All settings of the cgroup. `unified` names files of cgroup v2 and what is written to them."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = None
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkResources | None = None
    rdma: FrozenMap[Rdma] = EMPTY
    unified: FrozenMap[str] = EMPTY
