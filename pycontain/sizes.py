"""Sizes as people write them."""

from __future__ import annotations

import re

from pycontain.errors import InvalidArgument

UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)  # more digits are no size


def parse_size(size: int | str, what: str = "a size") -> int:
    """Bytes from a number or a text: `1024`, `"256M"`, `"1.5g"`, `"512 KiB"`. Units are powers of 1024, as docker's.

    Raises `InvalidArgument` for anything else, and for sizes that are not between 1 and 2**63 - 1.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        value = size
    else:
        match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
        if match is None:
            raise InvalidArgument(f"{size!r} is not {what}", remedy="Write bytes as a number, or for instance '256M'")
        number, unit = match.groups()
        scale = UNITS[unit.lower()]
        value = int(float(number) * scale) if "." in number else int(number) * scale
    if not 1 <= value < 2**63:
        raise InvalidArgument(f"{size!r} is not {what}: it must be 1 byte or more")
    return value


def format_size(size: int) -> str:
    """The shortest exact form: `256M`, `1000`."""
    for unit in ("T", "G", "M", "K"):
        scale = UNITS[unit.lower()]
        if size and size % scale == 0:
            return f"{size // scale}{unit}"
    return str(size)
