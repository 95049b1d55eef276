"""What a snapshot changes, compared with the tree below it.

Deletions are always told one by one, also those that an opaque directory of overlayfs stands for. So the changes, and
the layer made of them, are the same whether they were found in an upper directory or by comparing two trees.
"""

from __future__ import annotations

import io
import os
import stat
from typing import Literal

from attrs import define, field, frozen

from pycontain.errors import SnapshotError
from pycontain.layers.xattrs import carried_xattrs, is_overlay, xattr_names
from pycontain.linux.paths import Resolve, openat2

Kind = Literal["added", "modified", "deleted"]

_INSIDE = Resolve.BENEATH | Resolve.NO_SYMLINKS | Resolve.NO_MAGICLINKS
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_ELSEWHERE = (b"redirect", b"metacopy")  # with these marks, the content of an entry of an upper directory is in a lower
_PIECE = 1 << 20


@frozen
class Change:
    """One path that a snapshot adds, modifies or deletes.

    Attributes:
        kind: "added", "modified" (content, any attribute, or the type) or "deleted" (with all below it).
        path: absolute, as seen in the container.
    """

    kind: Kind
    path: str


def changes_of_upper(upper: int, lower: int | None) -> list[Change]:
    """The changes that an overlay's upper directory holds, sorted by path.

    `lower` is the merged tree of the layers below, None without any; both are descriptors of directories. What has been
    copied up and is still the same is no change. Raises `SnapshotError` for upper directories of overlays with
    `redirect_dir` or `metacopy`, which do not hold the changes themselves.
    """
    return _Comparison(upper, lower, overlay=True).run()


def changes_between(lower: int | None, upper: int) -> list[Change]:
    """The changes that make the tree `lower` into the tree `upper`, descriptors of directories; sorted by path.

    Files whose size and times are equal are read and compared, unless inode and ctime are equal too, as in snapshots of
    btrfs. What is mounted within the trees is not looked into.
    """
    return _Comparison(upper, lower, overlay=False).run()


def components(path: str) -> list[str]:
    """A key that sorts paths so that a directory comes before what is in it, and its siblings after that."""
    return path.split("/")


@define
class _Links:
    """Names of files that did not change but have several: they count as changed when other names of theirs do.

    A layer can only tell that two names are one file when it has both.
    """

    names: dict[tuple[int, int], list[str]] = field(factory=dict)  # of each file of upper
    changed: set[tuple[int, int]] = field(factory=set)
    lower_of: dict[tuple[int, int], tuple[int, int]] = field(factory=dict)
    upper_of: dict[tuple[int, int], tuple[int, int]] = field(factory=dict)

    def same(self, path: str, above: os.stat_result, below: os.stat_result) -> None:
        """A path that is the same above and below. Links that were joined or parted are changes, though."""
        upper, lower = (above.st_dev, above.st_ino), (below.st_dev, below.st_ino)
        self.names.setdefault(upper, []).append(path)
        if self.lower_of.setdefault(upper, lower) != lower:
            self.changed.add(upper)
        other = self.upper_of.setdefault(lower, upper)
        if other != upper:
            self.changed.update((upper, other))

    def changes(self) -> list[Change]:
        return [Change("modified", path) for key in self.changed for path in self.names.get(key, ())]


class _Comparison:
    def __init__(self, upper: int, lower: int | None, overlay: bool) -> None:
        self._upper = upper
        self._lower = lower
        self._overlay = overlay
        self._device = os.fstat(upper).st_dev
        self._changes: list[Change] = []
        self._links = _Links()
        # directories to be compared: path, whether the lower one is compared with, whether upper is all that there is
        self._pending: list[tuple[str, bool, bool]] = [("", lower is not None, not overlay)]

    def run(self) -> list[Change]:
        if self._lower is None:
            self._changes.append(Change("added", "/"))
        elif _attributes_differ(_itself(self._lower), _itself(self._upper)):
            self._changes.append(Change("modified", "/"))
        while self._pending:
            path, with_lower, whole = self._pending.pop()
            upper = _open(self._upper, path)
            if upper is None:  # a running container has removed it
                continue
            lower = _open(self._lower, path) if with_lower and self._lower is not None else None
            try:
                self._directory(path, upper, lower, whole or (self._overlay and _is_opaque(upper)))
            finally:
                os.close(upper)
                if lower is not None:
                    os.close(lower)
        return sorted(self._changes + self._links.changes(), key=lambda change: components(change.path))

    def _directory(self, path: str, upper: int, lower: int | None, whole: bool) -> None:
        names = os.listdir(upper)
        for name in names:
            above = _stat(name, upper)
            if above is not None:
                self._name(f"{path}/{name}", _Place(upper, name, above), lower, whole)
        if lower is not None and whole:
            for name in set(os.listdir(lower)).difference(names):
                self._changes.append(Change("deleted", f"{path}/{name}"))

    def _name(self, path: str, above: _Place, lower: int | None, whole: bool) -> None:
        below_stat = _stat(above.name, lower) if lower is not None else None
        if self._overlay and _is_whiteout(above.stat):
            if below_stat is not None:
                self._changes.append(Change("deleted", path))
            return
        if self._overlay:
            _check_marks(above, path)
        is_directory = stat.S_ISDIR(above.stat.st_mode)
        if lower is None or below_stat is None:
            self._changed("added", path, above)
            merged = False
        else:
            below = _Place(lower, above.name, below_stat)
            merged = is_directory and stat.S_ISDIR(below_stat.st_mode)
            if _attributes_differ(below, above) or (not is_directory and _content_differs(below, above)):
                self._changed("modified", path, above)
            elif not is_directory and (above.stat.st_nlink > 1 or below_stat.st_nlink > 1):
                self._links.same(path, above.stat, below_stat)
        if is_directory and above.stat.st_dev == self._device:
            self._pending.append((path, merged, whole))

    def _changed(self, kind: Kind, path: str, above: _Place) -> None:
        self._changes.append(Change(kind, path))
        if above.stat.st_nlink > 1 and not stat.S_ISDIR(above.stat.st_mode):
            self._links.changed.add((above.stat.st_dev, above.stat.st_ino))


@frozen
class _Place:
    """A name in an open directory."""

    directory: int
    name: str
    stat: os.stat_result

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.directory}/{self.name}"


def _itself(directory: int) -> _Place:
    return _Place(directory, ".", os.fstat(directory))


def _open(root: int, path: str) -> int | None:
    try:
        return openat2(root, path.lstrip("/") or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, 0, _INSIDE)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stat(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


# ---- the marks of overlayfs

def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _is_opaque(directory: int) -> bool:
    """Whether a directory of an upper directory hides all that the layers below have there."""
    names = xattr_names(directory, follow=True)
    return any(name in names and os.getxattr(directory, name) == b"y" for name in _OPAQUE)


def _check_marks(place: _Place, path: str) -> None:
    if stat.S_ISDIR(place.stat.st_mode) or stat.S_ISREG(place.stat.st_mode):
        for name in map(os.fsencode, xattr_names(place.path)):
            if is_overlay(name) and name.rpartition(b".")[2] in _ELSEWHERE:
                raise SnapshotError(
                    f"the changes of {path} are not in the snapshot alone ({name.decode()})",
                    remedy="Mount overlays with redirect_dir=off,metacopy=off",
                )


# ---- comparing

def _attributes_differ(below: _Place, above: _Place) -> bool:
    """Whether type, mode, owner, time, size, device, or extended attributes differ."""
    old, new = below.stat, above.stat
    if (old.st_mode, old.st_uid, old.st_gid, old.st_mtime_ns) != (new.st_mode, new.st_uid, new.st_gid, new.st_mtime_ns):
        return True
    if not stat.S_ISDIR(new.st_mode) and (old.st_size, old.st_rdev) != (new.st_size, new.st_rdev):
        return True
    return not _is_unchanged(old, new) and carried_xattrs(below.path) != carried_xattrs(above.path)


def _is_unchanged(old: os.stat_result, new: os.stat_result) -> bool:
    """Whether it is the same inode that nobody has changed: a snapshot of btrfs keeps both."""
    return (old.st_ino, old.st_ctime_ns) == (new.st_ino, new.st_ctime_ns)


def _content_differs(below: _Place, above: _Place) -> bool:
    """Of two files or links with the same attributes."""
    if _is_unchanged(below.stat, above.stat):
        return False
    if stat.S_ISLNK(above.stat.st_mode):
        return os.readlink(below.name, dir_fd=below.directory) != os.readlink(above.name, dir_fd=above.directory)
    if not stat.S_ISREG(above.stat.st_mode):
        return False
    with _read(below) as old, _read(above) as new:
        while True:
            piece = old.read(_PIECE)
            if piece != new.read(_PIECE):
                return True
            if not piece:
                return False


def _read(place: _Place) -> io.FileIO:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return open(os.open(place.name, flags, dir_fd=place.directory), "rb", buffering=0)
