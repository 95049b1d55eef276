"""The protocol of all snapshotters, and the values that they take and give.

An image is unpacked by `prepare`, applying a layer in `changes_directory`, and `commit` under the layer's chain ID; the
next layer is prepared on that chain ID. A container is started from `prepare` on the topmost chain ID: what it gives, a
`Root`, says how the root file system is put together. Nothing is mounted on the host for that, ever: whoever starts the
container does it in the container's own mount namespace.

A *key* names any snapshot, a *name* is the key of a committed one: each is unique in its snapshotter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, Union

from attrs import frozen

from pycontain.layers.whiteouts import Whiteouts
from pycontain.metadata.snapshots import Kind


@frozen
class Info:
    """What is recorded about a snapshot.

    Attributes:
        parent: the name of the committed snapshot that it is built upon, or None.
        kind: "active" can be written, "view" only read, "committed" built upon.
        created: seconds since the epoch.
    """

    key: str
    parent: str | None
    kind: Kind
    created: float
    labels: Mapping[str, str]


@frozen
class Usage:
    """What a snapshot itself takes, without its parents: bytes on the disk, and inodes."""

    size: int
    inodes: int


@frozen
class Erofs:
    """A layer as the file of an erofs image, to be mounted straight from the file."""

    path: str


Lower = Union[str, Erofs]  # a string is the path of a directory


@frozen
class Overlay:
    """An overlayfs.

    Attributes:
        lowers: the layers, the topmost first; at least one with a `directory`, at least two without.
        directory: holds `fs` (upper) and `work`; None for a read-only overlay of the lowers alone.
        userxattr: whether overlayfs's own marks are `user.overlay.*`, as an unprivileged user has to have them.
    """

    lowers: tuple[Lower, ...]
    directory: str | None
    userxattr: bool = False


@frozen
class Directory:
    """A directory that is the root as it is."""

    path: str
    read_only: bool = False


@frozen
class FileSystem:
    """A file system of its own: its type, the block device, and options for fsconfig(2), of which flags have ""."""

    type: str
    source: str
    read_only: bool = False
    options: tuple[tuple[str, str], ...] = ()


Root = Union[Overlay, Directory, FileSystem]


class Snapshotter(Protocol):
    """Keeps snapshots. Several threads and processes may use the same store at the same time.

    Every method that takes a key raises `SnapshotError` when there is no such snapshot, when it is of another kind than
    the method needs, or when a new key exists already; a failed method has changed nothing.

    Attributes:
        name: as the user chooses it.
        rebase: whether a layer can be applied without its parent, which is then named only in `commit`: such layers can
            be unpacked all at the same time.
        whiteouts: how a layer's deletions are written in `changes_directory`.
    """

    @property
    def name(self) -> str: ...
    @property
    def rebase(self) -> bool: ...
    @property
    def whiteouts(self) -> Whiteouts: ...

    def prepare(self, key: str, parent: str | None = None, *, labels: Mapping[str, str] | None = None) -> Root:
        """Makes an active snapshot on a committed one, or an empty one. It ends with its owner, this process."""

    def view(self, key: str, parent: str, *, labels: Mapping[str, str] | None = None) -> Root:
        """Makes a read-only snapshot of a committed one, which cannot be removed meanwhile."""

    def root(self, key: str) -> Root:
        """What `prepare` or `view` gave."""

    def commit(
        self, name: str, key: str, *, parent: str | None = None, usage: Usage | None = None, flushed: bool = False
    ) -> None:
        """The active snapshot `key` becomes the committed one `name`, on the disk when this returns.

        `parent` may be given when the snapshot has been prepared without one and `rebase` is true. `usage` is measured
        when it is not given. With `flushed` the caller has called `flush` since the last change: once for many.
        """

    def flush(self) -> None:
        """Writes the files of all snapshots to the disk."""

    def remove(self, key: str) -> None:
        """Removes a snapshot of any kind. One with children is refused."""

    def stat(self, key: str) -> Info: ...

    def usage(self, key: str) -> Usage:
        """Of an active snapshot it is measured now, of a committed one it is what was recorded, of a view nothing."""

    def walk(self) -> Iterator[Info]:
        """All snapshots, a parent before its children."""

    def changes_directory(self, key: str) -> AbstractContextManager[int]:
        """A descriptor of the directory where a layer is applied, and where a difference is read from.

        For overlay it holds the changes alone, for others the whole tree.
        """

    def tree(self, key: str) -> AbstractContextManager[int]:
        """A descriptor of the whole tree, for reading, of a snapshot of any kind.

        If it takes a mount it is a detached one, which is in no mount table and ends with the descriptor.
        """

    def cleanup(self) -> None:
        """Removes the active snapshots and views of processes that are gone, and files that no record names.

        Safe at any time, also while other processes are at work.
        """

    def close(self) -> None:
        """Gives back what the object holds. Block devices of snapshots that are not in use otherwise end with it."""
