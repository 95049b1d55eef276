"""Makes a layer of changes: a deterministic tar, the same for the same changes, whoever writes it and when."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator

from pycontain.errors import InvalidArgument, LayerError
from pycontain.layers import tar
from pycontain.layers.diff import Change, components
from pycontain.layers.tar import Entry
from pycontain.layers.whiteouts import PREFIX
from pycontain.layers.writer import TarWriter
from pycontain.layers.xattrs import carried_xattrs
from pycontain.linux.paths import Resolve, openat2

_INSIDE = Resolve.BENEATH | Resolve.NO_SYMLINKS | Resolve.NO_MAGICLINKS
_PIECE = 1 << 20
_NS = 1_000_000_000
_TYPES = {
    stat.S_IFREG: tar.REGULAR, stat.S_IFLNK: tar.SYMLINK, stat.S_IFCHR: tar.CHARACTER, stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFDIR: tar.DIRECTORY, stat.S_IFIFO: tar.FIFO,
}


def write_layer(
    write: Callable[[bytes], object], changes: Iterable[Change], tree: int, *, epoch: int | None = None
) -> None:
    """Writes the layer that makes `changes`, an uncompressed tar, to `write`.

    `tree` is the directory (a descriptor) that has what was added and modified: the upper directory of an overlay, or
    the whole tree. The directories above a change come with it. What a running container removes meanwhile is left out;
    a file that it shortens is filled with zeros. Sockets cannot be in a layer.

    epoch: seconds since 1970; later times are written as this one (see `source_date_epoch`).

    Raises `LayerError` for a name that would mean a deletion.
    """
    _Layer(write, tree, epoch).write(changes)


def source_date_epoch() -> int | None:
    """The variable SOURCE_DATE_EPOCH of the environment, as reproducible builds set it.

    Raises `InvalidArgument` when it is no number.
    """
    value = os.environ.get("SOURCE_DATE_EPOCH")
    if not value:
        return None
    if not (value.isascii() and value.isdigit()):
        raise InvalidArgument(f"SOURCE_DATE_EPOCH={value!r} is not a number of seconds")
    return int(value)


class _Layer:
    def __init__(self, write: Callable[[bytes], object], tree: int, epoch: int | None) -> None:
        self._tar = TarWriter(write)
        self._tree = tree
        self._epoch_ns = None if epoch is None else epoch * _NS
        self._first_names: dict[tuple[int, int], bytes] = {}  # of files with several, by device and inode

    def write(self, changes: Iterable[Change]) -> None:
        kinds = {change.path: change.kind for change in changes}
        for path in list(kinds):
            for above in _parents(path):
                kinds.setdefault(above, "modified")
        for path in sorted(kinds, key=components):
            if kinds[path] == "deleted":
                self._whiteout(path)
            else:
                self._entry(path, kinds[path] == "added")
        self._tar.finish()

    def _whiteout(self, path: str) -> None:
        parent, _, name = os.fsencode(path).lstrip(b"/").rpartition(b"/")
        whiteout = parent + b"/" + PREFIX + name if parent else PREFIX + name
        self._tar.add(Entry(whiteout, tar.REGULAR, 0o644, 0, 0, 0, 0, 0, b"", 0, 0))

    def _entry(self, path: str, is_new: bool) -> None:
        try:
            handle = openat2(self._tree, path.lstrip("/") or ".", os.O_PATH | os.O_NOFOLLOW, 0, _INSIDE)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            info = os.fstat(handle)
            if stat.S_ISSOCK(info.st_mode):
                if not is_new:  # what it has replaced is gone
                    self._whiteout(path)
                return
            entry = self._describe(path, handle, info)
            self._tar.add(entry, _content(handle, entry.size) if entry.type == tar.REGULAR else ())
        finally:
            os.close(handle)

    def _describe(self, path: str, handle: int, info: os.stat_result) -> Entry:
        name = os.fsencode(path).lstrip(b"/") or b"."
        if name.rpartition(b"/")[2].startswith(PREFIX):
            raise LayerError("to be made", path, "a name that begins with .wh. means a deletion in a layer")
        mtime = info.st_mtime_ns if self._epoch_ns is None else min(info.st_mtime_ns, self._epoch_ns)
        kind = _TYPES[stat.S_IFMT(info.st_mode)]
        entry = Entry(
            name, kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, mtime, 0, 0, b"", 0, 0,
            xattrs=carried_xattrs(f"/proc/self/fd/{handle}", follow=True),
        )
        if kind == tar.DIRECTORY:
            entry.name += b"/"
        elif info.st_nlink > 1 and (first := self._first_names.setdefault((info.st_dev, info.st_ino), name)) != name:
            entry.type, entry.link, entry.xattrs = tar.HARD_LINK, first, {}
        elif kind == tar.REGULAR:
            entry.size = entry.stored = info.st_size
        elif kind == tar.SYMLINK:
            entry.link = os.readlink(b"", dir_fd=handle)
        elif kind in (tar.CHARACTER, tar.BLOCK_DEVICE):
            entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
        return entry


def _parents(path: str) -> Iterator[str]:
    """The directories above an absolute path, without the root."""
    while (path := path.rpartition("/")[0]):
        yield path


def _content(handle: int, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes of a file, whatever is written to it meanwhile."""
    fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while size:
            piece = os.read(fd, min(size, _PIECE)) or bytes(min(size, _PIECE))
            size -= len(piece)
            yield piece
    finally:
        os.close(fd)
