"""Loading BPF programs and attaching them to cgroups (bpf(2)); the kinds and numbers are those of linux/bpf.h."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from pycontain._native._core import ffi, lib
from pycontain.linux.syscalls import check

PROG_TYPE_CGROUP_DEVICE = 15
ATTACH_CGROUP_DEVICE = 6

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_F_ALLOW_MULTI, _F_REPLACE = 2, 4
_ATTRIBUTES = 120  # bytes of union bpf_attr that are passed; the kernel takes the rest for zero
_MOST_PROGRAMS = 64  # that the kernel lets be attached to one group (BPF_CGROUP_MAX_PROGS)


class Instruction(NamedTuple):
    """One eBPF instruction (struct bpf_insn)."""

    code: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    immediate: int = 0

    def encode(self) -> bytes:
        return struct.pack("=BBhi", self.code, self.src << 4 | self.dst, self.offset, self.immediate)


def load(kind: int, attach_type: int, instructions: list[Instruction], name: str) -> int:
    """The descriptor (close-on-exec) of a new program. Raises OSError: EPERM without CAP_BPF or in a user namespace."""
    code = ffi.from_buffer(b"".join(instruction.encode() for instruction in instructions))
    licence = ffi.from_buffer(b"Apache-2.0\0")
    attributes = struct.pack(
        "=IIQQIIQII16sII", kind, len(instructions), _address(code), _address(licence), 0, 0, 0, 0, 0,
        name.encode()[:15], 0, attach_type,
    )
    return _bpf(_PROG_LOAD, attributes, "BPF_PROG_LOAD", name)


def attach(cgroup: int, program: int, attach_type: int, replace: int | None = None) -> None:
    """Attaches a program to the group whose directory `cgroup` is open, beside those of others, or instead of the
    program `replace`, in one step (Linux 5.6)."""
    flags = _F_ALLOW_MULTI if replace is None else _F_ALLOW_MULTI | _F_REPLACE
    attributes = struct.pack("=IIIII", cgroup, program, attach_type, flags, replace or 0)
    _bpf(_PROG_ATTACH, attributes, "BPF_PROG_ATTACH", cgroup)


def detach(cgroup: int, program: int, attach_type: int) -> None:
    _bpf(_PROG_DETACH, struct.pack("=III", cgroup, program, attach_type), "BPF_PROG_DETACH", cgroup)


def attached(cgroup: int, attach_type: int) -> list[int]:
    """Descriptors of the programs that are attached to this group itself, for the caller to close."""
    ids = ffi.new("unsigned int[]", _MOST_PROGRAMS)
    attributes = bytearray(struct.pack("=IIIIQI", cgroup, attach_type, 0, 0, _address(ids), _MOST_PROGRAMS))
    attributes = _padded(attributes)
    check(lib.pc_bpf(_PROG_QUERY, ffi.from_buffer(attributes), len(attributes)), "BPF_PROG_QUERY", cgroup)
    (count,) = struct.unpack_from("=I", attributes, 24)
    programs: list[int] = []
    try:
        for number in range(count):
            programs.append(_bpf(_PROG_GET_FD_BY_ID, struct.pack("=I", ids[number]), "BPF_PROG_GET_FD_BY_ID"))
    except BaseException:
        for program in programs:
            os.close(program)
        raise
    return programs


def _bpf(command: int, attributes: bytes, name: str, *arguments: object) -> int:
    padded = _padded(attributes)
    return check(lib.pc_bpf(command, ffi.from_buffer(padded), len(padded)), name, *arguments)


def _padded(attributes: bytes | bytearray) -> bytearray:
    return bytearray(attributes.ljust(_ATTRIBUTES, b"\0"))


def _address(data: object) -> int:
    return int(ffi.cast("uintptr_t", data))
