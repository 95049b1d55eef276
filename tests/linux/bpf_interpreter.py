"""Runs a seccomp program as the kernel would, one call at a time (Documentation/networking/filter.rst)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

WORD = 0xFFFFFFFF


def run(program: bytes, audit: int, number: int, arguments: Sequence[int] = (0,) * 6) -> int:
    """The answer of the filter to this call. Fails on any instruction that a filter of ours never has."""
    data = struct.pack("<IIQ6Q", number & WORD, audit, 0, *arguments)
    accumulator = 0
    position = 0
    while True:
        code, jt, jf, constant = struct.unpack_from("=HBBI", program, 8 * position)
        position += 1
        if code == 0x06:  # ret k
            return int(constant)
        if code == 0x20:  # ld [k]
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == 0x54:  # and k
            accumulator &= constant
        elif code == 0x05:  # ja k
            position += constant
        else:
            holds = {
                0x15: accumulator == constant,
                0x25: accumulator > constant,
                0x35: accumulator >= constant,
                0x45: bool(accumulator & constant),
            }[code]
            position += jt if holds else jf
