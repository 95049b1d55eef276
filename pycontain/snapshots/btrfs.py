"""The btrfs snapshotter: each snapshot is a subvolume, made from its parent's at once whatever its size."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pycontain.linux.btrfs import ROOT_INODE, create_snapshot, create_subvolume, destroy_subvolume, set_read_only
from pycontain.linux.trees import remove_tree
from pycontain.metadata.snapshots import Kind
from pycontain.snapshots.base import Usage
from pycontain.snapshots.files import inodes_of, usage_of, walk
from pycontain.snapshots.native import NativeSnapshotter


class BtrfsSnapshotter(NativeSnapshotter):
    """As the native one, with subvolumes in place of copies. Those of committed snapshots are read-only."""

    name: ClassVar[str] = "btrfs"

    @classmethod
    def probe(cls, directory: str) -> str | None:
        name = f".probe-{os.urandom(6).hex()}"
        try:
            with _opened(directory) as fd:
                create_subvolume(fd, name)
                os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if error.errno == errno.ENOTTY:
                return f"{directory} is not on a btrfs file system"
            return f"no subvolumes can be made in {directory}: {error}"
        return None

    def _make(self, path: str, kind: Kind, parents: Sequence[int]) -> None:
        if kind == "view":
            return
        os.mkdir(path, 0o700)
        with _opened(path) as directory:
            if parents:
                with _opened(self._files(parents[0])) as source:
                    create_snapshot(directory, "fs", source)
            else:
                create_subvolume(directory, "fs")
                os.chmod(f"{path}/fs", 0o755)

    def _settle(self, number: int) -> None:
        with _opened(self._files(number)) as subvolume:
            set_read_only(subvolume, True)

    def _measure(self, number: int, parents: Sequence[int]) -> Usage:
        """A snapshot keeps the inode numbers. A file of which a part was written is counted as a whole."""
        known = inodes_of(self._files(parents[0])) if parents else ()
        return usage_of(self._files(number), known)

    def _destroy(self, path: str) -> None:
        try:
            with _opened(path) as directory:
                _destroy(directory, path)
        except FileNotFoundError:
            return
        remove_tree(path)


def _destroy(directory: int, path: str) -> None:
    """The subvolume `fs`, and those that a container has made in it; for others than root it may have to be emptied."""
    try:
        if os.stat("fs", dir_fd=directory).st_ino != ROOT_INODE:
            return
        try:
            destroy_subvolume(directory, "fs")
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            for inner in reversed(list(_subvolumes(f"{path}/fs"))):
                with _opened(os.path.dirname(inner)) as parent:
                    destroy_subvolume(parent, os.path.basename(inner))
            destroy_subvolume(directory, "fs")
    except PermissionError:
        with _opened(f"{path}/fs") as subvolume:
            set_read_only(subvolume, False)
    except FileNotFoundError:
        pass  # incomplete, or others remove it too


def _subvolumes(path: str) -> Iterator[str]:
    for entry in walk(path):
        if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_ino == ROOT_INODE:
            yield os.fsdecode(entry.path)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
