"""Stores for the tests of snapshotters, on file systems of their own, and what a container would do in a snapshot.

The file systems are detached mounts: they are in no mount table, and end with this process however it ends.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import define, frozen

from pycontain.linux import loop
from pycontain.linux.mounts import MountAttr
from pycontain.metadata import Database
from pycontain.snapshots.base import Directory, Erofs, FileSystem, Overlay, Root
from pycontain.snapshots.choose import snapshotter
from pycontain.snapshots.mounting import mount, mount_device, mount_erofs
from pycontain.snapshots.recorded import RecordedSnapshotter

NOTHING = MountAttr(0)


class Unavailable(Exception):
    """A file system that cannot be made here, and why."""


@frozen
class Place:
    """Where stores can be. To use it, children have to inherit `inherited`."""

    path: str
    inherited: tuple[int, ...] = ()

    def new(self) -> str:
        """An empty directory in it."""
        directory = f"{self.path}/{os.urandom(4).hex()}"
        os.mkdir(directory, 0o700)
        return directory


@contextmanager
def mounted(kind: str, *options: tuple[str, str | None]) -> Iterator[Place]:
    fd = mount(kind, options, NOTHING)
    try:
        yield Place(f"/proc/self/fd/{fd}", (fd,))
    finally:
        os.close(fd)


@contextmanager
def formatted(kind: str, directory: Path, *arguments: str, size: int = 256 << 20) -> Iterator[Place]:
    """A file system on a loop device, whose file has no name any more."""
    program = shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise Unavailable(f"mkfs.{kind} is not installed")
    image = directory / f"{kind}-{os.urandom(4).hex()}"
    with open(image, "x+b") as file:
        try:
            file.truncate(size)
            subprocess.run([program, "-q", *arguments, str(image)], check=True, capture_output=True)
        finally:
            os.unlink(image)
        try:
            device = loop.attach(file.fileno())
        except OSError as error:
            raise Unavailable(f"there are no loop devices: {error}") from error
        with ExitStack() as stack:
            stack.callback(os.close, device)
            try:
                place = stack.enter_context(mounted(kind, ("source", os.readlink(f"/proc/self/fd/{device}"))))
            except OSError as error:
                raise Unavailable(f"{kind} cannot be mounted: {error}") from error
            yield place


@define
class Store:
    """A snapshotter, where it keeps its snapshots, and the descriptors that a child needs to use it too."""

    snapshots: RecordedSnapshotter
    directory: str
    database: Database
    place: Place

    @classmethod
    def new(cls, name: str, place: Place, database: Database) -> Store:
        directory = place.new()
        return cls(snapshotter(name, directory, database), directory, database, place)

    @contextmanager
    def inside(self, key: str) -> Iterator[Path]:
        """The root of a snapshot as a container would have it."""
        fd = open_root(self.snapshots.root(key))
        try:
            yield Path(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def layer(self, name: str, parent: str | None, files: dict[str, str]) -> None:
        """Commits a snapshot with these files."""
        key = f"making {name}"
        self.snapshots.prepare(key, parent)
        with self.inside(key) as root:
            for path, text in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
        self.snapshots.commit(name, key)

    def seen(self, key: str) -> dict[str, Entry]:
        with self.snapshots.tree(key) as fd:
            return entries(f"/proc/self/fd/{fd}")

    def texts(self, key: str) -> dict[str, str]:
        """The regular files and their content."""
        return {path: entry.content for path, entry in self.seen(key).items() if stat.S_ISREG(entry.mode)}

    def directories(self) -> set[str]:
        """Of snapshots, on the disk."""
        return {name for name in os.listdir(self.snapshots.directory) if not name.startswith("_")}


@frozen
class Entry:
    """What there is to know about a file. `content` of links is their target; `links` are all its names."""

    mode: int
    uid: int
    gid: int
    device: int
    mtime_ns: int
    content: str
    attributes: tuple[tuple[str, bytes], ...]
    links: tuple[str, ...]


def entries(root: str) -> dict[str, Entry]:
    """All that is in a directory, and itself as "."; what is not told is the time of directories, which others change.
    """
    paths = ["."]
    for directory, names, files in os.walk(root):
        paths += [os.path.relpath(os.path.join(directory, name), root) for name in (*names, *files)]
    infos = {path: os.lstat(os.path.join(root, path)) for path in paths}
    names: dict[tuple[int, int], list[str]] = {}
    for path, info in infos.items():
        names.setdefault((info.st_dev, info.st_ino), []).append(path)
    return {
        path: _entry(os.path.join(root, path), info, names[info.st_dev, info.st_ino]) for path, info in infos.items()
    }


def _entry(path: str, info: os.stat_result, names: list[str]) -> Entry:
    content = ""
    if stat.S_ISREG(info.st_mode):
        with open(path, "rb") as file:
            content = file.read().decode("utf-8", "backslashreplace")
    elif stat.S_ISLNK(info.st_mode):
        content = os.readlink(path)
    attributes = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in _attributes(path)]
    return Entry(
        info.st_mode, info.st_uid, info.st_gid, info.st_rdev, 0 if stat.S_ISDIR(info.st_mode) else info.st_mtime_ns,
        content, tuple(sorted(attributes)), tuple(sorted(names)),
    )


def _attributes(path: str) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def open_root(root: Root) -> int:
    """Puts a container's root together, as a detached mount."""
    attributes = MountAttr.RDONLY if isinstance(root, (Directory, FileSystem)) and root.read_only else NOTHING
    if isinstance(root, Directory):
        return os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if isinstance(root, FileSystem):
        return mount_device(root, attributes)
    with ExitStack() as opened:
        return mount("overlay", list(_options(root, opened)), attributes)


def _options(root: Overlay, opened: ExitStack) -> Iterator[tuple[str, str | None]]:
    for lower in root.lowers:
        fd = mount_erofs(lower.path) if isinstance(lower, Erofs) else os.open(lower, os.O_PATH | os.O_CLOEXEC)
        opened.callback(os.close, fd)
        yield "lowerdir+", f"/proc/self/fd/{fd}"
    if root.directory is not None:
        fd = os.open(root.directory, os.O_PATH | os.O_CLOEXEC)
        opened.callback(os.close, fd)
        yield "upperdir", f"/proc/self/fd/{fd}/fs"
        yield "workdir", f"/proc/self/fd/{fd}/work"
    if root.userxattr:
        yield "userxattr", None
