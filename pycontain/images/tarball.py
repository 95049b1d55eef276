"""Writes the archives of images: a tar that has nothing of the moment or the machine in it, so that the same images
make the same bytes; and in place of an older one only when it is whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pycontain.content.failures import store_errors
from pycontain.errors import StoreError

_BLOCK = 512
_RECORD = 20 * _BLOCK  # what tar(1) pads archives to


class Tarball:
    """Adds entries to a file. In GNU's format the length of a header does not depend on the size of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add_directory(self, name: str) -> None:
        self._file.write(_header(name, 0, directory=True))

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Adds a file. Its size goes into the header when all of its pieces have been written."""
        start = self._file.tell()
        self._file.write(_header(name, 0))
        size = 0
        for piece in pieces:
            self._file.write(piece)
            size += len(piece)
        self._file.write(bytes(-size % _BLOCK))
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(_header(name, size))
        self._file.seek(end)

    def finish(self) -> None:
        self._file.write(bytes(2 * _BLOCK))
        self._file.write(bytes(-self._file.tell() % _RECORD))


@contextmanager
def tarball(path: str) -> Iterator[Tarball]:
    """A tar that appears at `path` after the block, whole, in place of what was there. A failed block leaves nothing.

    Raises:
        StoreError: it cannot be written, or `path` is a device, a fifo or a directory.
    """
    path = os.path.realpath(path)
    what = f"the archive {path} cannot be written"
    with store_errors(what):
        _refuse_other_than_files(path)
        temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)[:200]}.{os.urandom(6).hex()}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with store_errors(what), os.fdopen(fd, "wb", 1 << 20) as file:
            made = Tarball(file)
            yield made
            made.finish()
            file.flush()
            os.fsync(fd)
            os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    with store_errors(what):
        _sync(os.path.dirname(path))


def _header(name: str, size: int, *, directory: bool = False) -> bytes:
    import tarfile

    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o755 if directory else 0o644
    info.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    return info.tobuf(tarfile.GNU_FORMAT)


def _refuse_other_than_files(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise StoreError(f"{path} is not a file, and is not replaced by an archive")


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
