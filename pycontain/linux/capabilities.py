"""Capabilities: names and numbers, bit masks, the default set of a container, and the sets that a process has.
Setting them is a step of the plan and done by the C core. See capabilities(7) and linux/capability.h."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from pycontain.errors import InvalidArgument

#: All names, in the order of their numbers, 0 to 40 (linux/capability.h of Linux 6.18).
NAMES: Final[tuple[str, ...]] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)

#: Name to number.
NUMBERS: Final[dict[str, int]] = {name: number for number, name in enumerate(NAMES)}

#: What a container has unless it asks for more or less: the set that docker grants.
DEFAULT: Final[frozenset[str]] = frozenset(
    {
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    }
)

_last_cap: int | None = None


@frozen
class CapabilitySets:
    """The five sets of a process, as bit masks. See `from_mask` for their names."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int


def parse(name: str) -> int:
    """The number of a capability. Takes any case, with and without `CAP_`: `net_raw` is 13.

    Raises InvalidArgument, with the names that are close, if there is no such capability.
    """
    full = name.upper()
    if not full.startswith("CAP_"):
        full = "CAP_" + full
    if full in NUMBERS:
        return NUMBERS[full]
    import difflib

    close = difflib.get_close_matches(full, NAMES)
    raise InvalidArgument(
        f"unknown capability {name!r}",
        remedy=f"Did you mean {' or '.join(close)}?" if close else "capabilities(7) lists the names",
    )


def to_mask(names: Iterable[str]) -> int:
    """The bit mask of these capabilities. Raises InvalidArgument for an unknown name."""
    mask = 0
    for name in names:
        mask |= 1 << parse(name)
    return mask


def from_mask(mask: int) -> tuple[str, ...]:
    """The names in a bit mask, in the order of their numbers.

    Raises InvalidArgument for a negative mask and for bits that have no name, which only a newer kernel can set.
    """
    if mask < 0 or mask >> len(NAMES):
        raise InvalidArgument(f"capability mask {mask:#x} has bits outside 0 to {len(NAMES) - 1}")
    return tuple(name for number, name in enumerate(NAMES) if mask >> number & 1)


def last_cap() -> int:
    """The highest capability of the running kernel (/proc/sys/kernel/cap_last_cap), read once."""
    global _last_cap
    if _last_cap is None:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            _last_cap = int(file.read())
    return _last_cap


def set_own(effective: int, permitted: int, inheritable: int) -> None:
    """Gives the calling thread these sets, as bit masks; see capset(2). Other threads keep theirs.

    Raises `OSError` (EPERM) for a capability that it may not gain.
    """
    from pycontain._native._core import ffi, lib
    from pycontain.linux.syscalls import check

    sets = ffi.new("struct pc_capability_sets *", (effective, permitted, inheritable))
    check(lib.pc_capset(sets), "capset", f"{effective:#x}", f"{permitted:#x}", f"{inheritable:#x}")


def of_process(pid: int | str = "self") -> CapabilitySets:
    """The sets of a process, from /proc/PID/status (proc_pid_status(5)).

    Raises ProcessLookupError if there is no such process.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            content = file.read()
    except FileNotFoundError:
        import errno

        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), f"/proc/{pid}/status") from None
    fields = dict(line.split(b":", 1) for line in content.splitlines() if line.startswith(b"Cap"))
    return CapabilitySets(
        inheritable=int(fields[b"CapInh"], 16),
        permitted=int(fields[b"CapPrm"], 16),
        effective=int(fields[b"CapEff"], 16),
        bounding=int(fields[b"CapBnd"], 16),
        ambient=int(fields[b"CapAmb"], 16),
    )
