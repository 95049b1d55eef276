"""The native snapshotter: each snapshot is a whole tree, copied from its parent. It works everywhere and is slow; where
the file system has reflinks (xfs, btrfs) the data is shared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from pycontain.layers.whiteouts import Whiteouts
from pycontain.metadata.snapshots import Kind
from pycontain.snapshots.base import Directory, Root
from pycontain.snapshots.copying import copy_tree
from pycontain.snapshots.recorded import RecordedSnapshotter


class NativeSnapshotter(RecordedSnapshotter):
    name: ClassVar[str] = "native"
    whiteouts = Whiteouts.REMOVE

    @classmethod
    def probe(cls, directory: str) -> str | None:
        return None

    def _make(self, path: str, kind: Kind, parents: Sequence[int]) -> None:
        if kind == "view":  # the parent does not change as long as it has this child
            return
        os.mkdir(path, 0o700)
        os.mkdir(f"{path}/fs", 0o700)
        if parents:
            copy_tree(self._files(parents[0]), f"{path}/fs")
        else:
            os.chmod(f"{path}/fs", 0o755)

    def _root(self, number: int, kind: Kind, parents: Sequence[int]) -> Root:
        return Directory(self._files(parents[0] if kind == "view" else number), read_only=kind != "active")

    def _open_changes(self, number: int, kind: Kind) -> int:
        return self._open_tree(number, kind, ())

    def _open_tree(self, number: int, kind: Kind, parents: Sequence[int]) -> int:
        path = self._files(parents[0] if kind == "view" else number)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
