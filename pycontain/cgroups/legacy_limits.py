"""How cgroup v1 writes the limits of each controller (Documentation/admin-guide/cgroup-v1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycontain.cgroups.limits import Setting, Translation, check_hierarchy, number, refuse_leaf_weights, swap_of

if TYPE_CHECKING:
    from pycontain.spec import CPU, BlockIO, HugepageLimit, Memory, NetworkResources, Pids


def _memory(memory: Memory) -> list[Setting]:
    check_hierarchy(memory)
    limit = number("memory.limit", memory.limit)
    swap = swap_of(memory)
    settings = []
    if limit is not None:
        settings.append(Setting("memory", "memory.limit_in_bytes", str(limit), "memory.limit"))
    if swap is not None:
        both = -1 if swap == -1 or limit is None else limit + swap
        implied = number("memory.swap", memory.swap) is None
        settings.append(Setting("memory", "memory.memsw.limit_in_bytes", str(both), "memory.swap", implied))
    others = (
        ("memory.soft_limit_in_bytes", number("memory.reservation", memory.reservation), "memory.reservation"),
        ("memory.kmem.limit_in_bytes", number("memory.kernel", memory.kernel), "memory.kernel"),
        ("memory.kmem.tcp.limit_in_bytes", number("memory.kernel_tcp", memory.kernel_tcp), "memory.kernel_tcp"),
        ("memory.swappiness", memory.swappiness, "memory.swappiness"),
        ("memory.oom_control", _flag(memory.disable_oom_killer), "memory.disable_oom_killer"),
    )
    return settings + _settings("memory", others)


def _cpu(cpu: CPU) -> list[Setting]:
    return _settings("cpu", (  # the shares before idle, which forbids to change them; the burst is checked by the quota
        ("cpu.shares", number("cpu.shares", cpu.shares), "cpu.shares"),
        ("cpu.cfs_period_us", number("cpu.period", cpu.period), "cpu.period"),
        ("cpu.cfs_quota_us", number("cpu.quota", cpu.quota), "cpu.quota"),
        ("cpu.cfs_burst_us", cpu.burst, "cpu.burst"),
        ("cpu.idle", cpu.idle, "cpu.idle"),
        ("cpu.rt_period_us", number("cpu.realtime_period", cpu.realtime_period), "cpu.realtime_period"),
        ("cpu.rt_runtime_us", cpu.realtime_runtime, "cpu.realtime_runtime"),
    ))


def _cpuset(cpu: CPU) -> list[Setting]:
    return _settings("cpuset", (
        ("cpuset.cpus", cpu.cpus or None, "cpu.cpus"), ("cpuset.mems", cpu.mems or None, "cpu.mems"),
    ))


def _pids(pids: Pids) -> list[Setting]:
    limit = number("pids.limit", pids.limit)
    return [] if limit is None else [Setting("pids", "pids.max", "max" if limit == -1 else str(limit), "pids.limit")]


def _block_io(io: BlockIO) -> list[Setting]:
    refuse_leaf_weights(io)
    settings = _settings("blkio", (("blkio.bfq.weight", io.weight or None, "block_io.weight"),))
    for device in io.weight_device:
        value = f"{device.major}:{device.minor} {device.weight}"
        settings.append(Setting("blkio", "blkio.bfq.weight_device", value, "block_io.weight_device"))
    for kind in ("read_bps", "write_bps", "read_iops", "write_iops"):
        limit = f"throttle_{kind}_device"
        for throttle in getattr(io, limit):
            value = f"{throttle.major}:{throttle.minor} {throttle.rate}"
            settings.append(Setting("blkio", f"blkio.throttle.{kind}_device", value, f"block_io.{limit}"))
    return settings


def _hugepages(limit: HugepageLimit) -> list[Setting]:
    name, file = f"hugepage_limits[{limit.page_size}]", f"hugetlb.{limit.page_size}"
    return [  # over a limit of reservations mmap fails; over the other alone, the process dies of SIGBUS
        Setting("hugetlb", f"{file}.limit_in_bytes", str(limit.limit), name),
        Setting("hugetlb", f"{file}.rsvd.limit_in_bytes", str(limit.limit), name, implied=True),
    ]


def _network(network: NetworkResources) -> list[Setting]:
    settings = _settings("net_cls", (("net_cls.classid", network.class_id, "network.class_id"),))
    for priority in network.priorities:
        value = f"{priority.name} {priority.priority}"
        settings.append(Setting("net_prio", "net_prio.ifpriomap", value, "network.priorities"))
    return settings


def _settings(controller: str, wanted: tuple[tuple[str, int | str | None, str], ...]) -> list[Setting]:
    return [Setting(controller, file, str(value), limit) for file, value, limit in wanted if value is not None]


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)


TRANSLATION = Translation(_memory, _cpu, _cpuset, _pids, _block_io, _hugepages, _network)
