"""Settings of the process and the container that few use: scheduling, processor affinity, NUMA, resctrl, clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from pycontain.spec.frozen import Frozen

if TYPE_CHECKING:
    from pycontain.spec.choices import (
        IOPriorityClass,
        MemoryPolicyFlag,
        MemoryPolicyMode,
        PersonalityDomain,
        SchedulerFlag,
        SchedulerPolicy,
    )
    from pycontain.spec.kinds import CPUList, Int32, Int64, IOPriorityLevel, Nanoseconds, UInt64


@frozen(eq=False, repr=False)
class Scheduler(Frozen):
    """The arguments of sched_setattr(2); `runtime`, `deadline` and `period` are in nanoseconds."""

    policy: SchedulerPolicy
    nice: Int32 | None = None
    priority: Int32 | None = None
    flags: tuple[SchedulerFlag, ...] = ()
    runtime: UInt64 | None = None
    deadline: UInt64 | None = None
    period: UInt64 | None = None


@frozen(eq=False, repr=False)
class IOPriority(Frozen):
    """The arguments of ioprio_set(2): `class` in the document is `class_` here."""

    class_: IOPriorityClass
    priority: IOPriorityLevel


@frozen(eq=False, repr=False)
class ExecCPUAffinity(Frozen):
    """The processors for a process that enters the container: before, and once it is in the cgroup."""

    initial: CPUList | None = None
    final: CPUList | None = None


@frozen(eq=False, repr=False)
class TimeOffset(Frozen):
    """How far a clock of the time namespace is ahead of the host's."""

    secs: Int64 = 0
    nanosecs: Nanoseconds = 0


@frozen(eq=False, repr=False)
class IntelRdt(Frozen):
    """The resctrl group of the container. `schemata` and `enable_monitoring` came with version 1.3."""

    clos_id: str | None = None
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str | None = None
    mem_bw_schema: str | None = None
    enable_cmt: bool | None = None
    enable_mbm: bool | None = None
    enable_monitoring: bool | None = None


@frozen(eq=False, repr=False)
class MemoryPolicy(Frozen):
    """The NUMA policy, see set_mempolicy(2); came with version 1.3. `nodes` is a list such as `0-3,7`."""

    mode: MemoryPolicyMode
    nodes: CPUList | None = None
    flags: tuple[MemoryPolicyFlag, ...] = ()


@frozen(eq=False, repr=False)
class Personality(Frozen):
    """The execution domain, see personality(2). No flags are defined yet."""

    domain: PersonalityDomain
    flags: tuple[str, ...] = ()
