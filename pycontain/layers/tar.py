"""Reads tar: ustar, pax, and GNU's long names, sparse files and large numbers. See POSIX pax(1), GNU tar's manual.

Everything in an archive is the word of a stranger: each number and name is checked here for what the format allows;
where an entry may be created is decided in pycontain/layers/apply.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from attrs import define, field

from pycontain._native._core import ffi, lib
from pycontain.errors import LayerError
from pycontain.layers import sparse
from pycontain.layers.pax import XATTR, Malformed, Records, integer, nanoseconds, parse_records

BLOCK = 512
CHUNK = 1 << 20  # how much is asked of the stream at once

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO, _CONTIGUOUS = b"01234567"
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _GNU_SPARSE = b"xgLKS"
_TYPES = frozenset(b"01234567S")
_MAX_METADATA = 1 << 20  # bytes of one extended header or long name; the paths of the kernel end at 4096
_MAX_SIZE = 1 << 62
_ZEROS = bytes(BLOCK)
_NS = 1_000_000_000


@define
class Entry:
    """One entry of an archive.

    Attributes:
        name, link: as in the archive; free of NUL bytes, otherwise anything.
        type: one of the constants of this module.
        mode: permissions, set-user-ID and the like: the low 12 bits.
        mtime_ns: nanoseconds since 1970.
        stored: bytes of data in the archive; those of a sparse file's segments, one after another.
        size: of the file that they make.
        segments: of a sparse file, the (offset, length) of its data, ascending; None for others.
        xattrs: extended attributes by name.
    """

    name: bytes
    type: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    stored: int
    link: bytes
    major: int
    minor: int
    segments: tuple[sparse.Segment, ...] | None = None
    xattrs: dict[bytes, bytes] = field(factory=dict)


class Archive:
    """The entries of an uncompressed tar, read once from the front. Raises `LayerError` for what is not tar.

    Iterating gives the entries in order; the data of the current one is read by `data` or `whole`, and what is left is
    skipped by the next step. At the end the whole stream has been read, so that a digest over it is complete. An
    archive without the two blocks of zeros at its end is accepted when it ends after an entry, as several programs
    write such ones.
    """

    def __init__(self, read: Callable[[int], bytes], layer: str) -> None:
        """`read(n)` returns at most about n bytes, and nothing at the end; `layer` is named in errors."""
        self._read = read
        self._layer = layer
        self._header: Any = ffi.new("struct pc_tar_header *")
        self._buffer = b""
        self._at = 0
        self._left = 0  # bytes of the current entry's data
        self._padding = 0  # bytes after them, up to the next block
        self._globals: Records = []
        self._name: bytes | None = None

    def __iter__(self) -> Iterator[Entry]:
        try:
            while (entry := self._next()) is not None:
                yield entry
            self._finish()
        except Malformed as error:
            raise self.refusal(str(error)) from None

    def refusal(self, rule: str) -> LayerError:
        """The error that names the layer, the current entry, and the rule that it breaks."""
        return LayerError(self._layer, None if self._name is None else os.fsdecode(self._name), rule)

    def data(self) -> Iterator[memoryview]:
        """What is left of the current entry's data, in pieces of at most a MiB."""
        while self._left:
            if self._at == len(self._buffer) and not self._fill(1):
                raise self.refusal("the archive ends within its data")
            end = min(self._at + self._left, len(self._buffer))
            piece = memoryview(self._buffer)[self._at : end]
            self._at = end
            self._left -= len(piece)
            yield piece

    def whole(self, size: int) -> bytes:
        """The next `size` bytes of the current entry's data at once."""
        if size > self._left:
            raise Malformed("its data end too early")
        self._left -= size
        return self._take(size)

    def peek(self, size: int) -> bytes:
        """The same, to be read again."""
        left = self._left
        data = self.whole(size)
        self._left, self._at = left, self._at - len(data)
        return data

    def plain_files(self, create: Callable[[memoryview], tuple[int, int, int]]) -> tuple[int, int]:
        """Has `create` take entries from what is in memory. It says how many bytes it has taken, how many entries they
        were, and of what size; the last two are returned."""
        if self._globals:  # which would change what the headers say
            return 0, 0
        self._skip()
        used, count, size = create(memoryview(self._buffer)[self._at :])
        self._at += used
        return count, size

    # ---- headers

    def _next(self) -> Entry | None:
        name = link = None
        local: Records = []
        while True:
            self._skip()
            block = self._next_block()
            if block is None:
                if name or link or local:
                    raise Malformed("the archive ends after an extended header")
                return None
            kind = self._parse(block)
            if kind == _PAX:
                local += parse_records(self._metadata())
            elif kind == _PAX_GLOBAL:
                self._globals = list({**dict(self._globals), **dict(parse_records(self._metadata()))}.items())
            elif kind == _LONG_NAME:
                name = self._metadata().rstrip(b"\0")
            elif kind == _LONG_LINK:
                link = self._metadata().rstrip(b"\0")
            else:
                return self._entry(block, name, link, local)

    def _next_block(self) -> bytes | None:
        """The next header; None at the end: a block of zeros, or that of the stream."""
        if not self._fill(BLOCK):
            if self._at < len(self._buffer):
                raise Malformed("the archive ends within the header after it")
            return None
        block = self._take(BLOCK)
        return None if block == _ZEROS else block

    def _parse(self, block: bytes) -> int:
        header = self._header
        wrong = lib.pc_tar_header(block, header)
        if wrong == lib.PC_TAR_CHECKSUM:
            raise Malformed("the checksum of the header after it is wrong")
        self._name = block[:100].rstrip(b"\0")
        if wrong:
            raise Malformed("a malformed number in its header")
        if not 0 <= header.size < _MAX_SIZE:
            raise Malformed(f"its size is {header.size}")
        return int(header.type)

    def _metadata(self) -> bytes:
        """The data of an extended header."""
        size = self._header.size
        if size > _MAX_METADATA:
            raise Malformed(f"an extended header of {size} bytes; {_MAX_METADATA} are the most")
        self._begin_data(size)
        return self.whole(size)

    def _entry(self, block: bytes, name: bytes | None, link: bytes | None, local: Records) -> Entry:
        header = self._header
        if name is None:
            name = ffi.buffer(header.name, header.name_length)[:]
        if link is None:
            link = ffi.buffer(header.link, header.link_length)[:]
        self._name = name
        entry = Entry(
            name, header.type or REGULAR, header.mode & 0o7777, header.uid, header.gid, header.mtime * _NS,
            header.size, header.size, link, header.major, header.minor,
        )
        if header.mode < 0:
            raise Malformed(f"its mode is {header.mode}")
        if entry.type not in _TYPES:
            raise Malformed(f"its type {chr(entry.type)!r} is not one of those that an image may have")
        if self._globals or local:
            self._override(entry, self._globals + local)
        if b"\0" in entry.name or b"\0" in entry.link:
            raise Malformed("a NUL byte in its name or its link")
        if entry.type in (REGULAR, _CONTIGUOUS):
            # a directory, before POSIX gave it a type; contiguous files are a matter of the file system alone
            entry.type = DIRECTORY if entry.name.endswith(b"/") else REGULAR
        if entry.type == _GNU_SPARSE:
            segments, entry.size = sparse.old_map(block, lambda: self._take(BLOCK))
            entry.type = REGULAR
            entry.segments = sparse.check(segments, entry.size, entry.stored)
        if entry.type != REGULAR:
            entry.size = entry.stored = 0  # whatever the field says, no data follow
        self._begin_data(entry.stored)
        if local and entry.type == REGULAR:
            self._pax_sparse(entry, local)
        return entry

    def _override(self, entry: Entry, records: Records) -> None:
        """What pax records say instead of the header's fields. An empty value means that the field counts."""
        for key, value in records:
            if key.startswith(XATTR):
                entry.xattrs[key[len(XATTR) :]] = value
            elif not value:
                continue
            elif key == b"path":
                entry.name = self._name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                entry.size = entry.stored = integer(key, value)
                if entry.size > _MAX_SIZE:
                    raise Malformed(f"its size is {entry.size}")
            elif key == b"uid":
                entry.uid = integer(key, value)
            elif key == b"gid":
                entry.gid = integer(key, value)
            elif key == b"mtime":
                entry.mtime_ns = nanoseconds(key, value)

    def _pax_sparse(self, entry: Entry, records: Records) -> None:
        """A sparse file in one of the forms that are told by pax records."""
        of = {key: value for key, value in records if key.startswith(b"GNU.sparse.")}
        size = of.get(b"GNU.sparse.realsize") or of.get(b"GNU.sparse.size")
        if size is None:
            return
        if name := of.get(b"GNU.sparse.name"):
            if b"\0" in name:
                raise Malformed("a NUL byte in its name")
            entry.name = self._name = name
        if b"GNU.sparse.major" in of:
            version = (of[b"GNU.sparse.major"], of.get(b"GNU.sparse.minor"))
            if version != (b"1", b"0"):
                raise Malformed(f"a sparse file of the unknown form {version}")
            segments = sparse.data_map(lambda: self.whole(BLOCK))
        else:
            segments = sparse.pax_map(records)
        entry.size, entry.stored = integer(b"GNU.sparse.realsize", size), self._left
        entry.segments = sparse.check(segments, entry.size, entry.stored)

    # ---- bytes

    def _begin_data(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    def _skip(self) -> None:
        """What is left of the current entry and its padding, which may be missing at the end of the archive."""
        for _ in self.data():
            pass
        if self._fill(self._padding):
            self._at += self._padding
        else:
            self._at = len(self._buffer)
        self._padding = 0

    def _fill(self, count: int) -> bool:
        """Whether the next `count` bytes are in the buffer, having read what they need."""
        missing = self._at + count - len(self._buffer)
        if missing <= 0:
            return True
        parts = [self._buffer[self._at :]]
        while missing > 0:
            part = self._read(CHUNK)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self._buffer = parts[-1] if not parts[0] and len(parts) <= 2 else b"".join(parts)
        self._at = 0
        return missing <= 0

    def _take(self, count: int) -> bytes:
        if not self._fill(count):
            raise Malformed("the archive ends within it")
        start = self._at
        self._at = start + count
        return self._buffer[start : start + count]

    def _finish(self) -> None:
        """After the first block of zeros nothing but zeros may come."""
        self._name = None
        rest = self._buffer[self._at :]
        self._buffer = b""
        while rest or (rest := self._read(CHUNK)):
            if rest.count(0) != len(rest):
                raise Malformed("data after the end of the archive")
            rest = b""
