"""Writes tar: POSIX headers, and pax records for what these cannot hold. The same entries give the same bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from pycontain.layers.pax import XATTR, Records, format_records
from pycontain.layers.tar import BLOCK, REGULAR, Entry

_RECORD = 20 * BLOCK  # what archives are padded to, as tapes once wanted it
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_NS = 1_000_000_000
_ID_END, _SIZE_END = 8**7, 8**11  # what the fields of ustar can hold


class TarWriter:
    """An archive that is written front to back to `write`. `finish` ends it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._size = 0

    def add(self, entry: Entry, data: Iterable[bytes | memoryview] = ()) -> None:
        """One entry; a regular file's `data` have to be `entry.size` bytes in all."""
        if records := _records(entry):
            self._extended(entry, records)
        self._put(_header(entry))
        for piece in data:
            self._put(piece)
        self._pad(BLOCK)

    def finish(self) -> None:
        self._put(bytes(2 * BLOCK))
        self._pad(_RECORD)

    def _extended(self, entry: Entry, records: Records) -> None:
        data = format_records(records)
        name = b"PaxHeaders/" + entry.name.rstrip(b"/").rpartition(b"/")[2][:80]
        self._put(_header(Entry(name, ord("x"), 0o644, 0, 0, 0, len(data), len(data), b"", 0, 0)))
        self._put(data)
        self._pad(BLOCK)

    def _put(self, data: bytes | memoryview) -> None:
        self._write(data if isinstance(data, bytes) else bytes(data))
        self._size += len(data)

    def _pad(self, size: int) -> None:
        if rest := -self._size % size:
            self._put(bytes(rest))


def _records(entry: Entry) -> Records:
    """What the header cannot say. Bytes that are no UTF-8 are announced, as POSIX wants it (hdrcharset)."""
    records: Records = []
    if _split(entry.name) is None:
        records.append((b"path", entry.name))
    if len(entry.link) > 100:
        records.append((b"linkpath", entry.link))
    if not all(_is_utf8(value) for _, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    records += [(key, b"%d" % value) for key, value in ((b"uid", entry.uid), (b"gid", entry.gid)) if value >= _ID_END]
    if entry.size >= _SIZE_END:
        records.append((b"size", b"%d" % entry.size))
    if not 0 <= entry.mtime_ns < _SIZE_END * _NS or entry.mtime_ns % _NS:
        records.append((b"mtime", _time(entry.mtime_ns)))
    return records + [(XATTR + name, value) for name, value in sorted(entry.xattrs.items())]


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), _NS)
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """The prefix and the name of a header, which are joined by a slash; None when the path is too long for it."""
    if len(name) <= 100:
        return b"", name
    at = name.find(b"/", len(name) - 101, len(name) - 1)
    return None if not 0 < at <= 155 else (name[:at], name[at + 1 :])


def _header(entry: Entry) -> bytes:
    prefix, name = _split(entry.name) or (b"", entry.name[:100])
    seconds = entry.mtime_ns // _NS
    block = _HEADER.pack(
        name, _octal(entry.mode, 8), _octal(entry.uid, 8), _octal(entry.gid, 8),
        _octal(entry.size if entry.type in (REGULAR, ord("x")) else 0, 12), _octal(seconds, 12), b" " * 8,
        bytes((entry.type,)), entry.link[:100], b"ustar", b"00", b"", b"", _octal(entry.major, 8),
        _octal(entry.minor, 8), prefix,
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _octal(value: int, size: int) -> bytes:
    """Zeros for what does not fit: a pax record has it."""
    return b"%0*o\0" % (size - 1, value if 0 <= value < 8 ** (size - 1) else 0)
