"""The directories of a root to which a layer is applied: found by the kernel within the root, made where one is
missing, and given their attributes in the end, since each entry made in a directory changes its times."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen

from pycontain.layers.creating import Attributes, Creator
from pycontain.layers.pax import Malformed
from pycontain.linux.paths import open_in_root

_FLAGS = os.O_RDONLY | os.O_DIRECTORY
IMPLIED_MODE = 0o755


@frozen
class _Known:
    path: bytes
    attributes: Attributes | None  # None: it was there, and only its time is restored
    mtime_ns: int


class Directories:
    """Opens directories below the descriptor `root`, as a process with this root would find them.

    The last one stays open, as entries come directory by directory.

    Attributes:
        implied: paths of those that were made because something is in them.
        most: so many may be implied.
    """

    def __init__(self, root: int, creator: Creator, most: int) -> None:
        self._root = root
        self._creator = creator
        self._path: bytes | None = None
        self._fd = -1
        self._inode = 0
        self._known: dict[int, _Known] = {}  # by inode: paths may lead through links, and be used again
        self.implied: list[bytes] = []
        self.most = most

    def open(self, path: bytes, mtime_ns: int, *, make: bool = True) -> int:
        """The directory at `path`, valid until the next call.

        Missing parts of the path are made, with the mode 0755 and the time given, unless `make` is false.

        Raises:
            Malformed: part of the path is no directory.
            FileNotFoundError: it is missing.
        """
        if path == self._path:
            return self._fd
        self.close()
        fd = self._open(path)
        if fd is None:
            if not make:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            fd = self._make(path, mtime_ns)
        info = os.fstat(fd)
        self._path, self._fd, self._inode = path, fd, info.st_ino
        if info.st_ino not in self._known:
            self._known[info.st_ino] = _Known(path, None, info.st_mtime_ns)
        return fd

    @property
    def last(self) -> int:
        """The directory that was opened last."""
        return self._fd

    @property
    def inode(self) -> int:
        """Its inode."""
        return self._inode

    @contextmanager
    def other(self, path: bytes) -> Iterator[int | None]:
        """A directory beside that one, not made; None when there is none."""
        if path == self._path:
            yield self._fd
            return
        fd = self._open(path)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def describe(self, path: bytes, fd: int, attributes: Attributes) -> None:
        """What the directory `fd`, at `path`, shall have in the end."""
        self._known[os.fstat(fd).st_ino] = _Known(path, attributes, attributes.mtime_ns)

    def finish(self) -> None:
        """Sets the attributes of all directories, the deepest first, as some may not be entered afterwards."""
        for inode, known in sorted(self._known.items(), key=lambda item: len(item[1].path), reverse=True):
            try:
                fd = self._open(known.path)
            except Malformed:  # something else is there by now, as with the cases below
                continue
            if fd is None:
                continue
            try:
                if os.fstat(fd).st_ino != inode:
                    continue
                if known.attributes is None:
                    os.utime(fd, ns=(known.mtime_ns, known.mtime_ns))
                else:
                    self._creator.set_attributes(fd, known.attributes)
            finally:
                os.close(fd)

    def close(self) -> None:
        if self._path is not None:
            os.close(self._fd)
            self._path = None

    def _open(self, path: bytes) -> int | None:
        try:
            return open_in_root(self._root, path or b".", _FLAGS)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV):
                raise Malformed(f"what should be a directory above it is none: {os.strerror(error.errno)}") from None
            raise

    def _make(self, path: bytes, mtime_ns: int) -> int:
        """Goes up to where there is a directory, and makes the rest from there."""
        parts = path.split(b"/")
        there = len(parts)
        fd = None
        while fd is None:
            there -= 1
            fd = self._open(b"/".join(parts[:there]))
        try:
            for count in range(there + 1, len(parts) + 1):
                below = self._make_one(fd, parts[count - 1])
                os.close(fd)
                fd = below
                made = b"/".join(parts[:count])
                self.implied.append(made)
                self.describe(made, fd, Attributes(IMPLIED_MODE, 0, 0, mtime_ns))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make_one(self, parent: int, name: bytes) -> int:
        if len(self.implied) >= self.most:
            raise Malformed(f"more than {self.most} directories have no entry of their own")
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            raise Malformed("what should be a directory above it is a link to nowhere") from None
        return os.open(name, _FLAGS | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
