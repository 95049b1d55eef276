"""The system call ABIs of the supported machines: their names in the OCI specification, their audit numbers and their
system call numbers (`syscall_numbers.txt`). A 64-bit kernel answers calls of its 32-bit ABI too: filters name both."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from pycontain.errors import NotSupported

if TYPE_CHECKING:
    from pycontain.spec.choices import SeccompArch

#: Numbers from here on are private calls of arm (`__ARM_NR_BASE`), not part of the common sequence.
ARM_PRIVATE = 0xF0000
#: Set in the number of every x32 call, which a filter sees under the audit number of x86_64 (`__X32_SYSCALL_BIT`).
X32_BIT = 0x40000000


class Abi(NamedTuple):
    """One system call ABI.

    Attributes:
        name: the column in `syscall_numbers.txt`: `x86_64`, `x86`, `aarch64`, `arm`.
        scmp: the name in the OCI specification, such as `SCMP_ARCH_X86_64`.
        audit: the `AUDIT_ARCH_*` number that a filter finds in `seccomp_data.arch` (linux/audit.h).
        bits: the width of an argument, 64 or 32.
    """

    name: str
    scmp: SeccompArch
    audit: int
    bits: int


_X86_64 = Abi("x86_64", "SCMP_ARCH_X86_64", 0xC000003E, 64)
_X86 = Abi("x86", "SCMP_ARCH_X86", 0x40000003, 32)
_AARCH64 = Abi("aarch64", "SCMP_ARCH_AARCH64", 0xC00000B7, 64)
_ARM = Abi("arm", "SCMP_ARCH_ARM", 0x40000028, 32)

#: Machine (as `uname -m`) to its ABIs, the native one first.
MACHINES: dict[str, tuple[Abi, ...]] = {"x86_64": (_X86_64, _X86), "aarch64": (_AARCH64, _ARM)}

_numbers: dict[str, dict[str, int]] = {}


def machine() -> str:
    """This machine, a key of `MACHINES`. Raises NotSupported on any other machine."""
    name = os.uname().machine
    if name not in MACHINES:
        raise NotSupported(
            f"no table of system calls for the machine {name}, so no seccomp filter can be built",
            remedy=f"Filters exist for {' and '.join(MACHINES)}; elsewhere ask for a container without a filter",
        )
    return name


def numbers(abi: Abi) -> dict[str, int]:
    """System call name to number, for one ABI. Do not change the result: it is shared."""
    if not _numbers:
        _numbers.update(_read_table())
    return _numbers[abi.name]


def _read_table() -> dict[str, dict[str, int]]:
    with open(os.path.join(os.path.dirname(__file__), "syscall_numbers.txt"), encoding="ascii") as file:
        rows = [line.split() for line in file if not line.startswith("#")]
    header = rows[0]
    return {
        name: {row[0]: int(row[column]) for row in rows[1:] if row[column] != "-"}
        for column, name in enumerate(header)
        if column
    }
