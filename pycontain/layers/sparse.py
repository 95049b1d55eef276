"""The maps of sparse files: which parts of a file an archive has, the rest being holes.

GNU tar wrote four forms one after another (its manual, "Sparse Formats"); all of them are still met in images.
"""

from __future__ import annotations

from collections.abc import Callable

from pycontain._native._core import ffi, lib
from pycontain.layers.pax import Malformed, Records, integer

Segment = tuple[int, int]  # offset, length

_MAX_SEGMENTS = 100_000
_BLOCK = 512
_PAIR = 24  # two numbers of 12 bytes
_EXTENDED = 504  # where a block of the old form says whether another one follows


def old_map(header: bytes, next_block: Callable[[], bytes]) -> tuple[list[Segment], int]:
    """The form of typeflag S: pairs in the header and in blocks after it. Returns them with the size of the file."""
    segments = _pairs(header[386:482])
    more = header[482]
    while more:
        block = next_block()
        segments += _pairs(block[:_EXTENDED])
        more = block[_EXTENDED]
        if len(segments) > _MAX_SEGMENTS:
            raise Malformed(f"a sparse file of more than {_MAX_SEGMENTS} segments")
    return segments, _number(header[483:495])


def _pairs(data: bytes) -> list[Segment]:
    """Pairs up to the first whose fields are empty."""
    pairs: list[Segment] = []
    for at in range(0, len(data), _PAIR):
        if not data[at]:
            break
        pairs.append((_number(data[at : at + 12]), _number(data[at + 12 : at + 24])))
    return pairs


def _number(text: bytes) -> int:
    value = ffi.new("long long *")
    if lib.pc_tar_number(text, len(text), value):
        raise Malformed("a malformed number in the map of a sparse file")
    return int(value[0])


def pax_map(records: Records) -> list[Segment]:
    """The forms 0.0 (a record for each number) and 0.1 (all in one record)."""
    numbers: list[int] = []
    for key, value in records:
        if key == b"GNU.sparse.map":
            numbers = [integer(key, number) for number in value.split(b",")] if value else []
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (len(numbers) % 2 == 0) != (key == b"GNU.sparse.offset"):
                raise Malformed("a sparse file whose map has an offset without a length")
            numbers.append(integer(key, value))
    return _paired(numbers)


def data_map(next_block: Callable[[], bytes]) -> list[Segment]:
    """The form 1.0: lines at the beginning of the data, padded to whole blocks. The first is the number of pairs."""
    text = b""
    wanted = 1
    while text.count(b"\n") < wanted:
        text += next_block()
        if wanted == 1 and b"\n" in text:
            count = integer(b"GNU.sparse map", text[: text.index(b"\n")])
            if count > _MAX_SEGMENTS:
                raise Malformed(f"a sparse file of {count} segments; {_MAX_SEGMENTS} are the most")
            wanted = 1 + 2 * count
        if len(text) > (wanted + 1) * 21 + _BLOCK:
            raise Malformed("a sparse file whose map has no end")
    return _paired([integer(b"GNU.sparse map", line) for line in text.split(b"\n")[1:wanted]])


def _paired(numbers: list[int]) -> list[Segment]:
    if len(numbers) % 2 or len(numbers) > 2 * _MAX_SEGMENTS:
        raise Malformed("a sparse file whose map has an offset without a length, or too many of them")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def check(segments: list[Segment], size: int, stored: int) -> tuple[Segment, ...]:
    """The segments, once they are in order, do not overlap, lie within the size and make up the data stored."""
    end = 0
    for offset, length in segments:
        if offset < end or length < 0 or offset + length > size:
            raise Malformed("a sparse file whose map is out of order, overlaps, or leaves the file")
        end = offset + length
    if sum(length for _, length in segments) != stored:
        raise Malformed("a sparse file whose map is not of the size of its data")
    return tuple(segments)
