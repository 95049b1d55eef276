"""The records of pax extended headers: "LENGTH KEY=VALUE\\n". See POSIX pax(1), "pax Extended Header"."""

from __future__ import annotations

Records = list[tuple[bytes, bytes]]

XATTR = b"SCHILY.xattr."  # the prefix of an extended attribute's name: what all programs of this field use

_MAX_DIGITS = 20
_NS = 1_000_000_000


class Malformed(Exception):
    """What an archive says is not what the format allows; the text is the rule that it breaks."""


def parse_records(data: bytes) -> Records:
    """The records in their order; a key may be there twice. Raises `Malformed`."""
    records: Records = []
    at = 0
    while at < len(data):
        blank = data.find(b" ", at, at + _MAX_DIGITS)
        digits = data[at:blank]
        if blank < 0 or not digits.isdigit():
            raise Malformed("a pax record without its length")
        end = at + int(digits)
        equals = data.find(b"=", blank, end)
        if end > len(data) or data[end - 1 : end] != b"\n" or equals <= blank + 1:
            raise Malformed("a pax record that does not fit its length, or has no key")
        records.append((data[blank + 1 : equals], data[equals + 1 : end - 1]))
        at = end
    return records


def format_records(records: Records) -> bytes:
    """The records as the data of an extended header."""
    return b"".join(_format(key, value) for key, value in records)


def _format(key: bytes, value: bytes) -> bytes:
    """The length counts itself: adding its digits may make it one digit longer."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def integer(key: bytes, value: bytes) -> int:
    """A decimal number that is not negative."""
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        raise Malformed(f"the pax record {key.decode(errors='replace')} is no number: {value[:40]!r}")
    return int(value)


def nanoseconds(key: bytes, value: bytes) -> int:
    """A time in seconds with a fraction; digits below a nanosecond are cut off, towards the past."""
    whole, point, fraction = value.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or (point and not (fraction.isdigit() or not fraction)):
        raise Malformed(f"the pax record {key.decode(errors='replace')} is no time: {value[:40]!r}")
    part = int(fraction[:9].ljust(9, b"0"))
    if whole.startswith(b"-"):
        inexact = bool(fraction[9:].strip(b"0"))
        return -(int(digits) * _NS + part + inexact)
    return int(digits) * _NS + part
