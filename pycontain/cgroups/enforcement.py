"""What a write alone does not prove: settings that the kernel takes and then does not enforce, or not as asked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from pycontain.cgroups import files
from pycontain.cgroups.limits import Setting
from pycontain.errors import LimitNotSupported

_WEIGHTS = ("blkio.bfq.weight", "blkio.bfq.weight_device", "io.weight", "io.bfq.weight")


class BufferedWritesNotLimited(UserWarning):
    """On cgroup v1 a limit for writing holds for direct and synchronous writes only: what goes through the page cache
    is written by the kernel's own threads, for which no limit holds. cgroup v2 limits both."""


def require_weights(settings: Sequence[Setting], io_root: str | None) -> tuple[Setting, ...]:
    """The settings, of which those for weights must be taken by the scheduler that is in use. `io_root` is where the
    io controller of v2 is mounted, None on v1.

    Raises `LimitNotSupported` where no scheduler knows weights: BFQ does for a device, on v2 also iocost, which is
    switched on at the root. A kernel may also have BFQ without weights for groups, and then lacks the file.
    """
    if not any(setting.file in _WEIGHTS for setting in settings):
        return tuple(settings)
    costs = files.read_short(f"{io_root}/io.cost.qos") if io_root else None
    if costs is not None and "enable=1" in costs:
        needed = "io.weight"
    elif _is_bfq_in_use():
        needed = "io.bfq.weight"
    else:
        limit = next(setting.limit for setting in settings if setting.file in _WEIGHTS)
        raise LimitNotSupported(
            f"the limit {limit} cannot be enforced: no block device has a scheduler that knows weights",
            remedy="Choose BFQ for it: echo bfq > /sys/block/DEVICE/queue/scheduler",
        )
    return tuple(setting._replace(implied=False) if setting.file == needed else setting for setting in settings)


def warn(settings: Iterable[Setting]) -> None:
    """Warns of limits that hold in part."""
    for setting in settings:
        if setting.file.startswith("blkio.throttle.write_"):
            import warnings

            warnings.warn(
                f"the limit {setting.limit} holds for direct and synchronous writes only: cgroup v1 does not limit "
                "what is written through the page cache", BufferedWritesNotLimited, stacklevel=2,
            )
            return


def check_after(path: str, setting: Setting) -> None:
    """Raises `LimitNotSupported` when the group `path` did not get what was written to it."""
    if setting.file in ("cpuset.cpus", "cpuset.mems"):
        # v1 refuses what the group above has not; v2 takes it, and gives what there is of it or else everything.
        effective = files.read_short(f"{path}/{setting.file}.effective")
        if effective is not None and effective != files.read_short(f"{path}/{setting.file}"):
            got = effective.strip() or "nothing"
            raise LimitNotSupported(
                f"the limit {setting.limit} cannot be enforced: instead of {setting.value} it would be {got}",
                remedy=f"Choose from {_above(path, setting.file)}",
            )
    # Since Linux 6.1 the file for kernel memory takes everything, with a warning in the kernel's log, to no effect.
    if setting.file == "memory.kmem.limit_in_bytes" and _is_above(f"{path}/{setting.file}", setting.value):
        raise LimitNotSupported(
            f"the limit {setting.limit} cannot be enforced: this kernel ignores it",
            remedy="Leave out memory.kernel: kernel memory counts in memory.limit",
        )
    if setting.file == "cpuset.cpus.partition":
        state = (files.read_short(f"{path}/{setting.file}") or "").strip()
        if "invalid" in state:
            raise LimitNotSupported(
                f"the limit {setting.limit} cannot be enforced: the partition is {state}",
                remedy="The group above must be a partition root that can give these processors away",
            )


def _is_above(file: str, value: str) -> bool:
    return value != "-1" and int(files.read(file)) > int(value)


def _above(path: str, file: str) -> str:
    return (files.read_short(f"{os.path.dirname(path)}/{file}.effective") or "none").strip()


def _is_bfq_in_use() -> bool:
    devices = os.listdir("/sys/block") if os.path.isdir("/sys/block") else ()
    return any("[bfq]" in (files.read_short(f"/sys/block/{device}/queue/scheduler") or "") for device in devices)
