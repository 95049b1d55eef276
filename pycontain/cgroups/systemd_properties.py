"""The settings of a group as properties of its unit: systemd.resource-control(5), org.freedesktop.systemd1(5).

What systemd has no property for (a burst of cpu time, huge pages, device rules in their order) is set in the group
below the unit only, which systemd has delegated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pycontain.cgroups.limits import Setting
from pycontain.cgroups.systemd_bus import Property
from pycontain.errors import LimitNotSupported

INFINITY = 2**64 - 1
_SECOND = 1_000_000  # microseconds
_PERCENT = 10_000  # microseconds a second: systemd keeps whole percents when it reloads its units
# What the unit has over the task in it: the pause process, and the kernel's own memory for the groups in the unit.
_TASKS = 1
_MEMORY = 1 << 20

_LIMITS = ("memory.max", "memory.limit_in_bytes")
_BYTES = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
}
_WEIGHTS = {"cpu.weight": "CPUWeight", "cpu.shares": "CPUShares"}
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}
_THROTTLES = {
    "rbps": "IOReadBandwidthMax", "wbps": "IOWriteBandwidthMax", "riops": "IOReadIOPSMax", "wiops": "IOWriteIOPSMax",
    "blkio.throttle.read_bps_device": "IOReadBandwidthMax", "blkio.throttle.write_bps_device": "IOWriteBandwidthMax",
    "blkio.throttle.read_iops_device": "IOReadIOPSMax", "blkio.throttle.write_iops_device": "IOWriteIOPSMax",
}


def properties(settings: Iterable[Setting]) -> list[Property]:
    """The properties for the settings that have one.

    Raises `LimitNotSupported` for real-time limits: these need time from the groups above, which are systemd's.
    """
    found: dict[str, tuple[str, Any]] = {}
    period, quota = 100_000, None
    for setting in settings:
        file, value = setting.file, setting.value.strip()
        if file.startswith("cpu.rt_"):
            raise LimitNotSupported(
                f"the limit {setting.limit} cannot be enforced: systemd gives its groups no real-time processor time",
                remedy="Use the driver cgroupfs",
            )
        if file in _BYTES:
            found[_BYTES[file]] = ("t", _number(value))
        elif file in _LIMITS:
            found["MemoryMax"] = ("t", min(_number(value) + _MEMORY, INFINITY))
        elif file in _WEIGHTS:
            found[_WEIGHTS[file]] = ("t", int(value))
        elif file == "cpu.idle" and value == "1":
            found["CPUWeight"] = ("t", 0)  # `idle`
        elif file in _SETS:
            mask = _mask(value)
            if mask:  # otherwise the kernel says what is wrong with it
                found[_SETS[file]] = ("ay", mask)
        elif file == "pids.max":
            found["TasksMax"] = ("t", min(_number(value) + _TASKS, INFINITY))
        elif file == "cpu.cfs_period_us":
            period = int(value)
        elif file == "cpu.cfs_quota_us":
            quota = int(value)
        elif file == "cpu.max":
            words = value.split()
            quota = -1 if words[0] == "max" else int(words[0])
            period = int(words[1]) if len(words) > 1 else period
        elif file == "io.weight" and value.startswith("default "):
            found["IOWeight"] = ("t", int(value.split()[1]))
        elif file == "blkio.bfq.weight":
            found["IOWeight"] = ("t", int(value) // 5)  # 500 is 100
        elif file == "io.weight":
            _append(found, "IODeviceWeight", *value.split()[:2])
        elif file == "io.max":
            device, *limits = value.split()
            for limit in limits:
                key, _, rate = limit.partition("=")
                _append(found, _THROTTLES[key], device, rate)
        elif file in _THROTTLES:
            _append(found, _THROTTLES[file], *value.split())
    if quota is not None:
        found["CPUQuotaPerSecUSec"] = ("t", INFINITY if quota == -1 else _share(quota, period))
        found["CPUQuotaPeriodUSec"] = ("t", period)
    return list(found.items())


def _share(quota: int, period: int) -> int:
    """The quota in microseconds a second, up to the next percent. The exact quota holds in the group below."""
    return -(-quota * _SECOND // (period * _PERCENT)) * _PERCENT


def _number(value: str) -> int:
    return INFINITY if value in ("max", "-1") else int(value)


def _append(found: dict[str, tuple[str, Any]], name: str, device: str, value: str) -> None:
    entries = found.setdefault(name, ("a(st)", []))[1]
    entries.append((f"/dev/block/{device}", INFINITY if value in ("max", "0") else int(value)))


def _mask(text: str) -> bytes:
    """A list such as `0-3,7` as a bit mask, the lowest byte first; empty for what is no list of numbers."""
    mask = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = (first, last if dash else first)
        if not all(word.isascii() and word.isdigit() and len(word) < 6 for word in numbers):
            return b""
        low, high = map(int, numbers)
        mask |= ((1 << max(high - low + 1, 0)) - 1) << low
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")
