"""How the whiteouts of a layer take effect: as overlayfs's marks, or by removing what they name.

They concern the layers below alone: what the layer itself has at the same place stays, whichever comes first in it.
"""

from __future__ import annotations

import os
import stat
from typing import Protocol

from pycontain.layers.directories import Directories
from pycontain.layers.pax import Malformed
from pycontain.layers.whiteouts import Whiteouts

_ROOM = 1 << 16  # bytes of names of files that are made at once


class Deletions(Protocol):
    def whiteout(self, parent: bytes, name: bytes, mtime_ns: int) -> None:
        """What the layers below have at `name` in the directory is gone."""

    def opaque(self, path: bytes, mtime_ns: int) -> None:
        """All that the layers below have in the directory is gone."""

    def made(self, inode: int, names: bytes) -> None:
        """The layer has made these names, with a NUL between them, in the directory that has the inode."""

    def room(self) -> bytearray | None:
        """Where the names of files can be written that are made at once; None when nobody needs them."""

    def finish(self) -> None:
        """All entries have been made."""


def deletions(whiteouts: Whiteouts, directories: Directories) -> Deletions:
    """For a layer that is applied by means of `directories`."""
    if whiteouts is Whiteouts.REMOVE:
        return _Removals(directories)
    return _Marks(directories, whiteouts.opaque_xattr)


class _Marks:
    """Character devices 0:0 and opaque directories. They are made last, when all that the layer has is there."""

    def __init__(self, directories: Directories, opaque_xattr: str) -> None:
        self._directories = directories
        self._opaque_xattr = opaque_xattr
        self._pending: list[tuple[bytes, bytes | None, int]] = []  # directory, name or None for all in it, time

    def whiteout(self, parent: bytes, name: bytes, mtime_ns: int) -> None:
        self._pending.append((parent, name, mtime_ns))

    def opaque(self, path: bytes, mtime_ns: int) -> None:
        self._pending.append((path, None, mtime_ns))

    def made(self, inode: int, names: bytes) -> None:
        pass

    def room(self) -> None:
        return None

    def finish(self) -> None:
        for path, name, mtime_ns in self._pending:
            try:
                parent = self._directories.open(path, mtime_ns)
            except Malformed as error:
                raise Malformed(f"a whiteout in {os.fsdecode(path)!r}: {error}") from None
            if name is None:
                self._mark_opaque(f"/proc/self/fd/{parent}/")
            else:
                self._mark(parent, name)

    def _mark(self, parent: int, name: bytes) -> None:
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:  # the layer's own, which hides what is below it; but for directories, which are merged
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._mark_opaque(f"/proc/self/fd/{parent}/{os.fsdecode(name)}")

    def _mark_opaque(self, directory: str) -> None:
        os.setxattr(directory, self._opaque_xattr, b"y", follow_symlinks=False)


class _Removals:
    """Removes from a tree that the layers below have made, at once. It knows what this layer has made in it."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._made: dict[int, list[bytes]] = {}  # by the inodes of directories, as several paths can lead to one

    def whiteout(self, parent: bytes, name: bytes, mtime_ns: int) -> None:
        fd = self._open(parent, mtime_ns)
        if fd is not None:
            self._prune(fd, name, self._directories.inode)

    def opaque(self, path: bytes, mtime_ns: int) -> None:
        fd = self._open(path, mtime_ns)
        if fd is not None:
            for name in os.listdir(f"/proc/self/fd/{fd}".encode()):
                self._prune(fd, name, self._directories.inode)

    def made(self, inode: int, names: bytes) -> None:
        self._made.setdefault(inode, []).append(names)

    def room(self) -> bytearray:
        return bytearray(_ROOM)

    def finish(self) -> None:
        pass

    def _open(self, path: bytes, mtime_ns: int) -> int | None:
        try:
            return self._directories.open(path, mtime_ns, make=False)
        except FileNotFoundError:
            return None

    def _own(self, inode: int) -> set[bytes]:
        """The names that this layer has made in a directory."""
        blocks = self._made.get(inode)
        if not blocks:
            return set()
        if len(blocks) > 1:
            self._made[inode] = blocks = [b"\0".join(blocks)]
        return set(blocks[0].split(b"\0"))

    def _prune(self, parent: int, name: bytes, inode: int) -> None:
        """Removes a name, and all below it if it is a directory, but not what this layer has made."""
        pending = [(b"/proc/self/fd/%d/%s" % (parent, name), name in self._own(inode))]
        directories: list[bytes] = []
        while pending:
            path, is_own = pending.pop()
            try:
                info = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(info.st_mode):
                own = self._own(info.st_ino)
                pending += [(path + b"/" + below, below in own) for below in os.listdir(path)]
                if not is_own:
                    directories.append(path)
            elif not is_own:
                os.unlink(path)
        for path in reversed(directories):
            if not os.listdir(path):
                os.rmdir(path)
