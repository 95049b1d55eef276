"""What a running group uses, as typed figures, from the files of whichever hierarchies have it.

The kernel documents the files in Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst. What a hierarchy cannot tell
is None. Bytes are bytes and times are seconds, whatever the unit of the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping

from attrs import evolve, field, frozen

from pycontain.cgroups import files, parse

UNLIMITED = 1 << 62  # v1 writes "no limit" as the largest number of pages


@frozen
class CpuStats:
    """Processor time in seconds, of all processes since the group was made.

    Attributes:
        usage_time: in all; None on v1 when the group is not in the cpuacct controller, as are the next two.
        user_time, system_time: in programs and in the kernel.
        periods, throttled_periods, throttled_time: enforcement periods of a limit, those in which it was reached, and
            the seconds that processes were held back for; None without the cpu controller.
        percent: use over a while before, 100 is one processor all the time; None where no while was asked about.
    """

    usage_time: float | None = None
    user_time: float | None = None
    system_time: float | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_time: float | None = None
    percent: float | None = None


@frozen
class MemoryStats:
    """Memory in bytes.

    Attributes:
        current, peak: now and the most at any moment, page cache included.
        limit: None for no limit.
        swap: swap in use; None where the kernel does not account it.
        anonymous, file, shared, kernel: by kind: of processes, page cache, tmpfs and shared memory (a part of `file`),
            the kernel's own for the group.
        working_set: `current` without the page cache that could be dropped at once.
        limit_hits: how often a process had to wait or was refused because of the limit.
        oom_kills: processes that were killed for want of memory.
        detail: all that `memory.stat` says, under the kernel's names.
    """

    current: int
    peak: int | None
    limit: int | None
    swap: int | None
    anonymous: int
    file: int
    shared: int
    kernel: int | None
    working_set: int
    limit_hits: int
    oom_kills: int
    detail: Mapping[str, int] = field(repr=False)

    @property
    def percent(self) -> float | None:
        """`working_set` as a part of the limit, 0 to 100; None without a limit."""
        return None if not self.limit else 100 * self.working_set / self.limit


@frozen
class PidsStats:
    """Processes and threads: now, the most at any moment (None before Linux 6.1), and the limit (None for none)."""

    current: int
    peak: int | None
    limit: int | None


@frozen
class DeviceIO:
    """What was read from and written to one block device: bytes and requests."""

    major: int
    minor: int
    read_bytes: int
    written_bytes: int
    reads: int
    writes: int


@frozen
class HugetlbStats:
    """Huge pages of one size in bytes: in use now, at most (v1), and how often the limit refused one."""

    page_size: int
    current: int
    peak: int | None
    failures: int


@frozen
class Stall:
    """Pressure stall information: the share of time, 0 to 100, in which processes waited, as averages over 10, 60 and
    300 seconds, and the seconds in all."""

    avg10: float
    avg60: float
    avg300: float
    total_time: float


@frozen
class Pressure:
    """Stalls for one resource: of some process of the group, and of all at the same time (None where not told)."""

    some: Stall
    full: Stall | None


@frozen
class Stats:
    """The figures of a group at one moment. A part is None where no controller or file gives it.

    Attributes:
        taken: the moment, in seconds of `time.monotonic`.
        cpu, memory, pids: see their classes.
        io: one entry for each block device that was used.
        hugetlb: one entry for each size of huge pages.
        cpu_pressure, memory_pressure, io_pressure: stalls; only cgroup v2 tells them.
    """

    taken: float
    cpu: CpuStats
    memory: MemoryStats | None
    pids: PidsStats | None
    io: tuple[DeviceIO, ...]
    hugetlb: tuple[HugetlbStats, ...]
    cpu_pressure: Pressure | None
    memory_pressure: Pressure | None
    io_pressure: Pressure | None

    def with_cpu_percent(self, since: float, usage_time: float | None) -> Stats:
        """The same with `cpu.percent`, given the moment at which the group had used `usage_time`."""
        if self.cpu.usage_time is None or usage_time is None or self.taken <= since:
            return self
        percent = 100 * (self.cpu.usage_time - usage_time) / (self.taken - since)
        return evolve(self, cpu=evolve(self.cpu, percent=percent))


@frozen
class Place:
    """A group's directory in one hierarchy: its version, and the controllers that it has there."""

    version: int
    controllers: frozenset[str]
    path: str


def read_stats(places: Iterable[Place]) -> Stats:
    """Reads the figures of a group, which may be in several hierarchies. Of a group that is gone they are empty."""
    places = tuple(places)
    unified = next((place.path for place in places if place.version == 2), None)
    legacy = {controller: p.path for p in places if p.version == 1 for controller in p.controllers}
    return Stats(
        taken=time.monotonic(),
        cpu=_cpu(unified, legacy),
        memory=_memory_v1(legacy["memory"]) if "memory" in legacy else _memory_v2(unified) if unified else None,
        pids=_pids(legacy.get("pids") or unified),
        io=tuple(_io_v1(legacy["blkio"]) if "blkio" in legacy else _io_v2(unified)),
        hugetlb=tuple(_hugetlb_v1(legacy["hugetlb"]) if "hugetlb" in legacy else _hugetlb_v2(unified)),
        cpu_pressure=_pressure(unified, "cpu"),
        memory_pressure=_pressure(unified, "memory"),
        io_pressure=_pressure(unified, "io"),
    )


def _text(path: str) -> str:
    """The whole file; empty where there is none."""
    try:
        return files.read(path)
    except OSError as error:
        if error.errno in files.GONE:
            return ""
        raise


def _keyed(path: str) -> dict[str, int]:
    return parse.flat_keyed(_text(path))


def _number(path: str) -> int | None:
    text = files.read_short(path)
    return None if text is None or not text.strip().isdigit() else int(text)


def _limit(path: str) -> int | None:
    value = _number(path)  # v2 writes "max", which is no number
    return None if value is None or value >= UNLIMITED else value


def _seconds(value: int | None, unit: float) -> float | None:
    return None if value is None else value * unit


# ---- cpu


def _cpu(unified: str | None, legacy: Mapping[str, str]) -> CpuStats:
    times = _keyed(f"{unified}/cpu.stat") if unified else {}
    usage = _seconds(times.get("usage_usec"), 1e-6)
    user, system = _seconds(times.get("user_usec"), 1e-6), _seconds(times.get("system_usec"), 1e-6)
    if usage is None and "cpuacct" in legacy:
        path = legacy["cpuacct"]
        usage = _seconds(_number(f"{path}/cpuacct.usage"), 1e-9)
        user = _seconds(_number(f"{path}/cpuacct.usage_user"), 1e-9)
        system = _seconds(_number(f"{path}/cpuacct.usage_sys"), 1e-9)
    limits, throttled = times, _seconds(times.get("throttled_usec"), 1e-6)
    if "cpu" in legacy:
        limits = _keyed(f"{legacy['cpu']}/cpu.stat")
        throttled = _seconds(limits.get("throttled_time"), 1e-9)
    return CpuStats(usage, user, system, limits.get("nr_periods"), limits.get("nr_throttled"), throttled)


# ---- memory


def _memory_v1(path: str) -> MemoryStats | None:
    current = _number(f"{path}/memory.usage_in_bytes")
    if current is None:
        return None
    # usage is hierarchical, and so are only the figures named total_*
    detail = {k[6:]: v for k, v in _keyed(f"{path}/memory.stat").items() if k.startswith("total_")}
    memsw = _number(f"{path}/memory.memsw.usage_in_bytes")
    return MemoryStats(
        current=current,
        peak=_number(f"{path}/memory.max_usage_in_bytes"),
        limit=_limit(f"{path}/memory.limit_in_bytes"),
        swap=None if memsw is None else max(0, memsw - current),
        anonymous=detail.get("rss", 0),
        file=detail.get("cache", 0),
        shared=detail.get("shmem", 0),
        kernel=_number(f"{path}/memory.kmem.usage_in_bytes"),
        working_set=max(0, current - detail.get("inactive_file", 0)),
        # both: with swap forbidden, the limit of memory and swap together is the one that is met
        limit_hits=(_number(f"{path}/memory.failcnt") or 0) + (_number(f"{path}/memory.memsw.failcnt") or 0),
        oom_kills=_keyed(f"{path}/memory.oom_control").get("oom_kill", 0),
        detail=detail,
    )


def _memory_v2(path: str) -> MemoryStats | None:
    current = _number(f"{path}/memory.current")
    if current is None:
        return None
    detail, events = _keyed(f"{path}/memory.stat"), _keyed(f"{path}/memory.events")
    return MemoryStats(
        current=current,
        peak=_number(f"{path}/memory.peak"),
        limit=_limit(f"{path}/memory.max"),
        swap=_number(f"{path}/memory.swap.current"),
        anonymous=detail.get("anon", 0),
        file=detail.get("file", 0),
        shared=detail.get("shmem", 0),
        kernel=detail.get("kernel"),
        working_set=max(0, current - detail.get("inactive_file", 0)),
        limit_hits=events.get("max", 0),
        oom_kills=events.get("oom_kill", 0),
        detail=detail,
    )


# ---- pids, io, huge pages, pressure


def _pids(path: str | None) -> PidsStats | None:
    current = _number(f"{path}/pids.current") if path else None
    if current is None:
        return None
    return PidsStats(current, _number(f"{path}/pids.peak"), _limit(f"{path}/pids.max"))


def _io_v2(path: str | None) -> Iterator[DeviceIO]:
    """`8:0 rbytes=90112 wbytes=0 rios=7 wios=0 dbytes=0 dios=0`"""
    for line in _text(f"{path}/io.stat").splitlines() if path else ():
        device, *words = line.split()
        values = {key: int(value) for key, _, value in (word.partition("=") for word in words) if value.isdigit()}
        if values:
            major, _, minor = device.partition(":")
            yield DeviceIO(
                int(major), int(minor), values.get("rbytes", 0), values.get("wbytes", 0),
                values.get("rios", 0), values.get("wios", 0),
            )


def _io_v1(path: str) -> Iterator[DeviceIO]:
    """`8:0 Read 90112`, a line for each kind of request, in one file for bytes and one for requests."""
    volume = _requests(f"{path}/blkio.throttle.io_service_bytes_recursive")
    number = _requests(f"{path}/blkio.throttle.io_serviced_recursive")
    for device in sorted(volume):
        amount, count = volume[device], number.get(device, {})
        yield DeviceIO(
            *device, amount.get("Read", 0), amount.get("Write", 0), count.get("Read", 0), count.get("Write", 0)
        )


def _requests(path: str) -> dict[tuple[int, int], dict[str, int]]:
    result: dict[tuple[int, int], dict[str, int]] = {}
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) == 3 and ":" in words[0]:
            major, _, minor = words[0].partition(":")
            result.setdefault((int(major), int(minor)), {})[words[1]] = int(words[2])
    return result


def _page_sizes(path: str) -> Iterator[tuple[str, int]]:
    """The sizes of huge pages by the names of a group's files, `2MB`, with the bytes."""
    units = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
    try:
        names = {name.split(".")[1] for name in os.listdir(path) if name.startswith("hugetlb.")}
    except FileNotFoundError:
        return
    for name in sorted(names):
        if name[-2:] in units and name[:-2].isdigit():
            yield name, int(name[:-2]) * units[name[-2:]]


def _hugetlb_v1(path: str) -> Iterator[HugetlbStats]:
    for name, size in _page_sizes(path):
        base = f"{path}/hugetlb.{name}"
        yield HugetlbStats(
            size, _number(f"{base}.usage_in_bytes") or 0, _number(f"{base}.max_usage_in_bytes"),
            _number(f"{base}.failcnt") or 0,
        )


def _hugetlb_v2(path: str | None) -> Iterator[HugetlbStats]:
    for name, size in _page_sizes(path) if path else ():
        base = f"{path}/hugetlb.{name}"
        yield HugetlbStats(size, _number(f"{base}.current") or 0, None, _keyed(f"{base}.events").get("max", 0))


def _pressure(path: str | None, resource: str) -> Pressure | None:
    try:
        text = files.read_short(f"{path}/{resource}.pressure") if path else None
    except OSError:  # EOPNOTSUPP: the kernel was started with psi=0
        return None
    return parse_pressure(text) if text else None


def parse_pressure(text: str) -> Pressure | None:
    """`some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line `full` (Documentation/accounting/psi.rst)."""
    stalls: dict[str, Stall] = {}
    for line in text.splitlines():
        kind, *words = line.split()
        values = {key: float(value) for key, _, value in (word.partition("=") for word in words)}
        stalls[kind] = Stall(values["avg10"], values["avg60"], values["avg300"], values["total"] / 1e6)
    return Pressure(stalls["some"], stalls.get("full")) if "some" in stalls else None
