"""Layers as they are stored, uncompressed while they are read: gzip (also of several members), zstd, or neither.

What a blob is compressed with is seen from its first bytes: media types are wrong often enough.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, BinaryIO, Protocol

from pycontain.errors import LayerError, NotSupported

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

# What unpacks to more than this is looked at, and refused when it has grown more than so many times: gzip can do 1,032
# times, and zstd far more. A root file system is compressed to a third.
SUSPICIOUS = 1 << 30  # bytes
LARGEST_RATIO = 500


class Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Decompressed:
    """The uncompressed bytes of a blob, read once from the front. Raises `LayerError` when it is broken or a bomb.

    `blob` stays the caller's; it is read to its end, so that what follows the compressed data is not overlooked.
    """

    def __init__(self, blob: BinaryIO, layer: str) -> None:
        self._layer = layer
        self._size = 0
        self._raw = _Counted(blob)
        self._stream: Reader = _open(self._raw)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        try:
            data = self._stream.read(size)
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise LayerError(self._layer, None, f"its compressed data are broken: {error}") from None
        self._size += len(data)
        if self._size > SUSPICIOUS and self._size > LARGEST_RATIO * self._raw.size:
            raise LayerError(
                self._layer, None, f"{self._raw.size} bytes unpack to more than {LARGEST_RATIO} times as much"
            )
        return data


class _Counted(io.RawIOBase):
    """A file whose bytes are counted, and that can give back those that were read to look at."""

    def __init__(self, blob: BinaryIO) -> None:
        self._blob = blob
        self.size = 0
        self._begin = b""

    def begin(self, size: int) -> bytes:
        """The first bytes, which are read again afterwards."""
        self._begin = self._blob.read(size)
        return self._begin

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._begin or self._blob.read(len(buffer))
        data, self._begin = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(data)] = data
        self.size += len(data)
        return len(data)


def _open(raw: _Counted) -> Reader:
    begin = raw.begin(4)
    buffered = io.BufferedReader(raw, 1 << 20)
    if begin[:2] == GZIP:
        return _gzip(buffered)
    if begin == ZSTD:
        return _zstd(buffered)
    return buffered


def _gzip(file: BinaryIO) -> Reader:
    reader: Reader = _gzip_module.GzipFile(fileobj=file, mode="rb")
    return reader


def _zstd(file: BinaryIO) -> Reader:
    if _zstandard is None:
        raise NotSupported("this layer is compressed with zstd", remedy="pip install backports.zstd")
    reader: Reader = _zstandard.ZstdFile(file, "rb")
    return reader


def _first(*names: str) -> Any:
    """The first of these modules that is here, None without one."""
    from importlib import import_module

    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


_gzip_module = _first("isal.igzip", "gzip")  # isal is twice as fast
_zstandard = _first("compression.zstd", "backports.zstd")  # the first one from Python 3.14 on

_BROKEN: tuple[type[Exception], ...] = (
    EOFError, OSError, zlib.error, *(module.error for module in (_first("isal.isal_zlib"),) if module is not None),
    *(() if _zstandard is None else (_zstandard.ZstdError,)),
)
