"""The errors for settings that the kernel does not take, with what helps."""

from __future__ import annotations

import errno
import os

from pycontain.cgroups.limits import Setting
from pycontain.errors import LimitNotSupported

DESCRIPTORS = "Raise the limit of open files (ulimit -n, RLIMIT_NOFILE)"
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


def refused(setting: Setting, error: OSError) -> LimitNotSupported:
    """The error for `error`, which came from writing `setting`."""
    message = f"the limit {setting.limit} cannot be enforced"
    if error.errno in NO_DESCRIPTOR:
        return LimitNotSupported(f"{message}: {os.strerror(error.errno)}", remedy=DESCRIPTORS)
    if error.errno == errno.ENOENT:
        return LimitNotSupported(f"{message}: this kernel has no {setting.file}", remedy=_remedy_of_absence(setting))
    if error.errno == errno.EOPNOTSUPP and setting.limit == "block_io.weight_device":
        device = setting.value.split(" ")[0]
        return LimitNotSupported(
            f"{message}: the device {device} has a scheduler that knows no weights",
            remedy=f"Choose BFQ for it: echo bfq > /sys/dev/block/{device}/queue/scheduler",
        )
    if error.errno in (errno.EOPNOTSUPP, 524):  # 524 is the kernel's own ENOTSUPP
        return LimitNotSupported(f"{message}: this kernel no longer has it", remedy=f"Leave out {setting.limit}")
    text = f"{message}: {setting.file} does not take {setting.value}: {os.strerror(error.errno or 0)}"
    return LimitNotSupported(text, remedy=_remedy(setting, error.errno))


def _remedy_of_absence(setting: Setting) -> str:
    if setting.limit == "memory.swap":
        return "Boot with swapaccount=1"
    if setting.controller == "hugetlb":
        return "Choose a size from /sys/kernel/mm/hugepages"
    return "Use a newer kernel, or leave it out"


def _remedy(setting: Setting, number: int | None) -> str:
    if setting.controller in ("blkio", "io") and number in (errno.ENODEV, errno.EINVAL):
        remedy = _whole_disk(setting.value.split(" ")[0])
        if remedy:
            return remedy
    if setting.controller == "cpuset":
        return "Choose from what the groups above have, see cpuset.cpus and cpuset.mems there"
    if number == errno.EBUSY:
        return "More than that is in use and cannot be reclaimed: take a higher limit"
    if setting.file.startswith("cpu.rt_"):
        return "The groups above have no more time for real-time processes, see cpu.rt_runtime_us there"
    if setting.file in ("cpu.shares", "cpu.weight"):
        return "An idle group (cpu.idle) has no shares: leave out one of the two"
    if setting.file in ("cpu.cfs_burst_us", "cpu.max.burst"):
        return "A burst needs a quota that is not below it"
    if setting.controller == "cpu":
        return "cpu.quota is at least 1000, and cpu.period 1000 to 1000000 microseconds"
    return f"Choose another value for {setting.limit}, or leave it out"


def _whole_disk(device: str) -> str | None:
    """The remedy for a device that is no whole disk: the block layer limits only those."""
    entry = f"/sys/dev/block/{device}"
    if not os.path.exists(entry):
        return f"There is no block device {device}, see lsblk"
    if not os.path.exists(f"{entry}/partition"):
        return None
    with open(f"{os.path.dirname(os.path.realpath(entry))}/dev") as file:
        return f"{device} is a partition: limit the whole disk, {file.read().strip()}"
