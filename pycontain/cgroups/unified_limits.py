"""How cgroup v2 writes the limits of each controller (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycontain.cgroups.limits import Setting, Translation, check_hierarchy, number, refuse, refuse_leaf_weights, swap_of

if TYPE_CHECKING:
    from pycontain.spec import CPU, BlockIO, HugepageLimit, Memory, NetworkResources, Pids

DEFAULT_PERIOD = 100_000  # microseconds, the kernel's


def weight_of(shares: int) -> int:
    """The v2 weight (1 to 10000) of v1 shares (2 to 262144), linear as runc and crun had it for years.

    Their newer curve meets 1024 = 100 at the price of the proportions: 1:3 in shares would become 1:2.4.
    """
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def io_weight_of(weight: int) -> int:
    """The io.weight (1 to 10000) of a v1 weight (10 to 1000), linear as in runc and crun."""
    return 1 + (min(max(weight, 10), 1000) - 10) * 9999 // 990


def _memory(memory: Memory) -> list[Setting]:
    check_hierarchy(memory)
    refuse("memory.kernel", number("memory.kernel", memory.kernel), "cgroup v2 counts kernel memory in memory.limit")
    refuse("memory.kernel_tcp", number("memory.kernel_tcp", memory.kernel_tcp),
           "cgroup v2 counts the memory of sockets in memory.limit")
    refuse("memory.swappiness", memory.swappiness, "cgroup v2 has one swappiness for the whole machine")
    refuse("memory.disable_oom_killer", memory.disable_oom_killer or None, "cgroup v2 has no such switch",
           "Set memory.high with `unified`: over it a task is slowed down, not killed")
    limit = number("memory.limit", memory.limit)
    reservation = number("memory.reservation", memory.reservation)
    swap = swap_of(memory)
    settings = []
    if limit is not None:
        settings.append(Setting("memory", "memory.max", _maximum(limit), "memory.limit"))
    if swap is not None:
        implied = number("memory.swap", memory.swap) is None
        settings.append(Setting("memory", "memory.swap.max", _maximum(swap), "memory.swap", implied))
    if reservation is not None:
        settings.append(Setting("memory", "memory.low", _maximum(reservation), "memory.reservation"))
    return settings


def _cpu(cpu: CPU) -> list[Setting]:
    cause = "cgroup v2 has no limits for real-time processes"
    refuse("cpu.realtime_runtime", cpu.realtime_runtime or None, cause)
    refuse("cpu.realtime_period", cpu.realtime_period or None, cause)
    shares = number("cpu.shares", cpu.shares)
    quota, period = number("cpu.quota", cpu.quota), number("cpu.period", cpu.period)
    settings = []  # the weight before idle, which forbids to change it; the burst is checked by the quota
    if shares is not None:
        settings.append(Setting("cpu", "cpu.weight", str(weight_of(shares)), "cpu.shares"))
    if quota is not None or period is not None:
        value = f"{_maximum(-1 if quota is None else quota)} {period or DEFAULT_PERIOD}"
        settings.append(Setting("cpu", "cpu.max", value, "cpu.period" if quota is None else "cpu.quota"))
    if cpu.burst is not None:
        settings.append(Setting("cpu", "cpu.max.burst", str(cpu.burst), "cpu.burst"))
    if cpu.idle is not None:
        settings.append(Setting("cpu", "cpu.idle", str(cpu.idle), "cpu.idle"))
    return settings


def _cpuset(cpu: CPU) -> list[Setting]:
    wanted = (("cpuset.cpus", cpu.cpus, "cpu.cpus"), ("cpuset.mems", cpu.mems, "cpu.mems"))
    return [Setting("cpuset", file, value, limit) for file, value, limit in wanted if value]


def _pids(pids: Pids) -> list[Setting]:
    limit = number("pids.limit", pids.limit)
    return [] if limit is None else [Setting("pids", "pids.max", _maximum(limit), "pids.limit")]


def _block_io(io: BlockIO) -> list[Setting]:
    """Weights are written for both schedulers that know them, of which a kernel may have one: BFQ and iocost."""
    refuse_leaf_weights(io)
    settings = []
    if io.weight:
        settings += _weights("", io.weight, "block_io.weight")
    for device in io.weight_device:
        if device.weight:
            settings += _weights(f"{device.major}:{device.minor} ", device.weight, "block_io.weight_device")
    for kind, key in (("read_bps", "rbps"), ("write_bps", "wbps"), ("read_iops", "riops"), ("write_iops", "wiops")):
        limit = f"throttle_{kind}_device"
        for throttle in getattr(io, limit):
            value = f"{throttle.major}:{throttle.minor} {key}={throttle.rate or 'max'}"
            settings.append(Setting("io", "io.max", value, f"block_io.{limit}"))
    return settings


def _weights(device: str, weight: int, limit: str) -> list[Setting]:
    return [
        Setting("io", "io.bfq.weight", f"{device}{weight}", limit, implied=True),
        Setting("io", "io.weight", f"{device or 'default '}{io_weight_of(weight)}", limit, implied=True),
    ]


def _hugepages(limit: HugepageLimit) -> list[Setting]:
    name, file = f"hugepage_limits[{limit.page_size}]", f"hugetlb.{limit.page_size}"
    return [  # over a limit of reservations mmap fails; over the other alone, the process dies of SIGBUS
        Setting("hugetlb", f"{file}.max", str(limit.limit), name),
        Setting("hugetlb", f"{file}.rsvd.max", str(limit.limit), name, implied=True),
    ]


def _network(network: NetworkResources) -> list[Setting]:
    remedy = "Match the cgroup in nftables instead (socket cgroupv2)"
    refuse("network.class_id", network.class_id, "cgroup v2 has no net_cls", remedy)
    refuse("network.priorities", network.priorities or None, "cgroup v2 has no net_prio", remedy)
    return []


def _maximum(value: int) -> str:
    return "max" if value == -1 else str(value)


TRANSLATION = Translation(_memory, _cpu, _cpuset, _pids, _block_io, _hugepages, _network)
