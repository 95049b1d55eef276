"""The names of systemd's units and the places of their groups: systemd.unit(5), systemd.slice(5), systemd-escape(1)."""

from __future__ import annotations

import re

from pycontain.errors import InvalidArgument

PREFIX = "pycontain-"
SUFFIX = ".scope"
_LONGEST = 255

_PLAIN = re.compile(r"[^A-Za-z0-9:_.\-]")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_SLICE = re.compile(r"[A-Za-z0-9:_.\\]+(-[A-Za-z0-9:_.\\]+)*\.slice")


def unit_of(name: str) -> str:
    """The scope of the group `name`. Raises `InvalidArgument` when that is too long for a unit."""
    unit = PREFIX + _PLAIN.sub(_escape, name) + SUFFIX
    if len(unit) > _LONGEST:
        raise InvalidArgument(f"the name {name!r} is too long for a unit of systemd, which has {_LONGEST} characters")
    return unit


def name_of(unit: str) -> str | None:
    """The name of the group whose scope is `unit`; None for one that is not ours."""
    if not (unit.startswith(PREFIX) and unit.endswith(SUFFIX)):
        return None
    inner = unit[len(PREFIX):-len(SUFFIX)]
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), inner).encode("latin-1").decode("utf-8", "replace")


def slice_path(name: str) -> str:
    """The directory of a slice, relative to that of its systemd: `a-b.slice` is `a.slice/a-b.slice`.

    Raises `InvalidArgument` for a name that is no slice's.
    """
    if name == "-.slice":
        return ""
    if not _SLICE.fullmatch(name) or len(name) > _LONGEST:
        raise InvalidArgument(
            f"not a slice of systemd: {name!r}", remedy="The parent is the name of one, such as machine.slice"
        )
    parts = name[:-len(".slice")].split("-")
    return "/".join("-".join(parts[:end]) + ".slice" for end in range(1, len(parts) + 1))


def _escape(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode())
