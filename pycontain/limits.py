"""Limits by the names that people know from docker's options, as the OCI's resources."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union

from attrs import evolve

from pycontain.errors import InvalidArgument
from pycontain.sizes import parse_size
from pycontain.spec import CPU, FrozenMap, Memory, Pids, Resources

if TYPE_CHECKING:
    from pycontain.spec import BlockIO, ThrottleDevice

CPU_PERIOD = 100_000  # microseconds, the kernel's default

Size = Union[int, str]
Devices = Mapping[str, Size]

# cpuset(7), "List format", with the strides that the kernel takes too: "0-2,4", "0-31:2/4"
_RANGE = r"\d+(-\d+(:\d+/\d+)?)?"
_LIST = re.compile(f"{_RANGE}(,{_RANGE})*", re.ASCII)
_DEVICE = re.compile(r"(\d{1,10}):(\d{1,10})", re.ASCII)


class Limits(TypedDict, total=False):
    """The limits that `Container.with_limits` and `Task.update` take; None leaves one as it is.

    A size is bytes, or a text such as "256M".

    memory: of all processes together, page cache included, and of swap too unless `memory_swap` says otherwise.
    memory_reservation: what it should keep when memory is short (v1 soft limit, v2 memory.low).
    memory_swap: memory and swap together; -1 for any amount of swap.
    cpus: processors' worth of time, 0.5 is half of one.
    cpu_shares: the weight against others when processors are short, 2 to 262144; 1024 is usual.
    cpuset_cpus, cpuset_mems: the processors and memory nodes that may be used, a list such as "0-2,4".
    pids: processes and threads at once.
    blkio_weight: the weight of requests to block devices, 10 to 1000.
    device_read_bps, device_write_bps: bytes a second by device ("/dev/sda" or "8:0").
    device_read_iops, device_write_iops: requests a second by device.
    hugetlb: huge pages by page size, {"2MB": "64M"}.
    unified: files of cgroup v2 and what to write to them, {"memory.high": "100000000"}.
    """

    memory: Size | None
    memory_reservation: Size | None
    memory_swap: Size | None
    cpus: float | None
    cpu_shares: int | None
    cpuset_cpus: str | None
    cpuset_mems: str | None
    pids: int | None
    blkio_weight: int | None
    device_read_bps: Devices | None
    device_write_bps: Devices | None
    device_read_iops: Mapping[str, int] | None
    device_write_iops: Mapping[str, int] | None
    hugetlb: Devices | None
    unified: Mapping[str, str] | None


_MEMORY = ("memory", "memory_reservation", "memory_swap")
_CPU = ("cpus", "cpu_shares", "cpuset_cpus", "cpuset_mems")
_BLOCK_IO = ("blkio_weight", "device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops")


def resources_with(old: Resources | None, limits: Mapping[str, Any]) -> Resources:
    """The resources `old` with these limits; those that are not named, or None, stay as they are.

    Raises `InvalidArgument` for values that can never hold, TypeError for a limit that does not exist.
    """
    unknown = limits.keys() - Limits.__annotations__.keys()
    if unknown:
        raise TypeError(f"there is no limit named {', '.join(sorted(unknown))}")
    given = {name: value for name, value in limits.items() if value is not None}
    old = old or Resources()
    new: dict[str, Any] = {}
    if given.keys() & set(_MEMORY):
        new["memory"] = _memory(old.memory or Memory(), given)
    if given.keys() & set(_CPU):
        new["cpu"] = _cpu(old.cpu or CPU(), given)
    if "pids" in given:
        new["pids"] = Pids(_whole(given["pids"], "a limit of processes"))
    if given.keys() & set(_BLOCK_IO):
        new["block_io"] = _block_io(old.block_io, given)
    if "hugetlb" in given:
        from pycontain.spec import HugepageLimit

        new["hugepage_limits"] = tuple(
            HugepageLimit(size, parse_size(limit, "a limit of huge pages")) for size, limit in given["hugetlb"].items()
        )
    if "unified" in given:
        new["unified"] = FrozenMap({**old.unified, **{name: _text(name, v) for name, v in given["unified"].items()}})
    return evolve(old, **new)


def _memory(old: Memory, given: Mapping[str, Any]) -> Memory:
    new: dict[str, Any] = {}
    if "memory" in given:
        new["limit"] = parse_size(given["memory"], "a memory limit")
    if "memory_reservation" in given:
        new["reservation"] = parse_size(given["memory_reservation"], "a memory reservation")
    if "memory_swap" in given:
        swap = given["memory_swap"]
        new["swap"] = -1 if swap == -1 else parse_size(swap, "a limit of memory and swap")
    memory = evolve(old, **new)
    if memory.swap is not None and memory.swap != -1 and (memory.limit is None or memory.swap < memory.limit):
        raise InvalidArgument("memory_swap is memory and swap together: it cannot be less than memory, which it needs")
    return memory


def _cpu(old: CPU, given: Mapping[str, Any]) -> CPU:
    new: dict[str, Any] = {}
    if "cpus" in given:
        cpus = given["cpus"]
        if isinstance(cpus, bool) or not isinstance(cpus, (int, float)) or not 0.01 <= cpus <= 100_000:
            raise InvalidArgument(f"{cpus!r} is not a number of processors: it must be a number from 0.01 to 100000")
        new.update(quota=round(cpus * CPU_PERIOD), period=CPU_PERIOD)
    if "cpu_shares" in given:
        shares = _whole(given["cpu_shares"], "a number of cpu shares")
        if not 2 <= shares <= 262144:
            raise InvalidArgument(f"{shares} is not a number of cpu shares: they go from 2 to 262144")
        new["shares"] = shares
    if "cpuset_cpus" in given:
        new["cpus"] = _list(given["cpuset_cpus"], "processors")
    if "cpuset_mems" in given:
        new["mems"] = _list(given["cpuset_mems"], "memory nodes")
    return evolve(old, **new)


def _block_io(old: BlockIO | None, given: Mapping[str, Any]) -> BlockIO:
    from pycontain.spec import BlockIO

    new: dict[str, Any] = {}
    if "blkio_weight" in given:
        weight = _whole(given["blkio_weight"], "a weight")
        if not 10 <= weight <= 1000:
            raise InvalidArgument(f"{weight} is not a weight of requests: they go from 10 to 1000")
        new["weight"] = weight
    for kind in ("read_bps", "write_bps", "read_iops", "write_iops"):
        if f"device_{kind}" in given:
            rates = given[f"device_{kind}"]
            new[f"throttle_{kind}_device"] = tuple(_throttle(device, rate) for device, rate in rates.items())
    return evolve(old or BlockIO(), **new)


def _throttle(device: str, rate: Size) -> ThrottleDevice:
    from pycontain.spec import ThrottleDevice

    major, minor = _device(device)
    return ThrottleDevice(major, minor, parse_size(rate, f"a rate for {device}"))


def _device(name: str) -> tuple[int, int]:
    """The numbers of a block device, given as its node or as "major:minor"."""
    match = _DEVICE.fullmatch(name)
    if match is not None:
        return int(match[1]), int(match[2])
    kind, *numbers, _ = device_numbers(name)
    if kind != "b":
        raise InvalidArgument(f"{name!r} is not a block device")
    return numbers[0], numbers[1]


def device_numbers(path: str) -> tuple[Literal["b", "c"], int, int, int]:
    """The kind of a device node, its numbers and its mode. Raises `InvalidArgument` for what is none."""
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        cause = error.strerror if isinstance(error, OSError) else error
        raise InvalidArgument(f"the device {path!r} cannot be used: {cause}") from None
    if not stat.S_ISBLK(info.st_mode) and not stat.S_ISCHR(info.st_mode):
        raise InvalidArgument(f"{path!r} is not a device")
    kind: Literal["b", "c"] = "b" if stat.S_ISBLK(info.st_mode) else "c"
    return kind, os.major(info.st_rdev), os.minor(info.st_rdev), stat.S_IMODE(info.st_mode)


def _list(value: object, what: str) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _LIST.fullmatch(text):
        raise InvalidArgument(f"{value!r} is not a list of {what}", remedy="Write one such as '0-2,4'")
    return text


def _text(file: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InvalidArgument(f"{value!r} cannot be written to {file}: it must be a text or a whole number")
    return str(value)


def _whole(number: object, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InvalidArgument(f"{number!r} is not {what}: it must be a whole number of 1 or more")
    return number
