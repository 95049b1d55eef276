"""The snapshotter of a store: the one that was asked for, or the one that suits the place."""

from __future__ import annotations

import os
from importlib import import_module

from pycontain.errors import InvalidArgument, NotSupported, SnapshotError
from pycontain.linux.trees import remove_tree
from pycontain.metadata import Database
from pycontain.snapshots.recorded import RecordedSnapshotter

AUTOMATIC = ("overlay", "native")  # by preference; the last one works everywhere
AUFS = "no current kernel has AUFS: it was never part of Linux, and overlayfs has taken its place"

_CLASSES = {
    "overlay": "OverlaySnapshotter",
    "native": "NativeSnapshotter",
    "btrfs": "BtrfsSnapshotter",
    "erofs": "ErofsSnapshotter",
    "devicemapper": "DevicemapperSnapshotter",
}
NAMES = tuple(_CLASSES)


def snapshotter(name: str | None, directory: str, database: Database) -> RecordedSnapshotter:
    """The snapshotter with that name, or the best one, in its own directory below `directory`.

    Without a name, one that is in use there already is kept. Raises `NotSupported` when it cannot work there,
    `InvalidArgument` for names that are not in `NAMES`.
    """
    if name is None:
        name = next((known for known in AUTOMATIC if os.path.isdir(f"{directory}/{known}")), None) or best(directory)
    path = f"{directory}/{name}"
    kind = _class(name)
    if not os.path.isdir(path):
        _create(kind, directory, path)
    return kind(path, database)


def best(directory: str) -> str:
    """The name of the snapshotter that is chosen for a store that has none. `directory` is made when it is missing."""
    return next((name for name in AUTOMATIC if probe(name, directory) is None), AUTOMATIC[-1])


def probe(name: str, directory: str) -> str | None:
    """Why the snapshotter cannot keep its snapshots below `directory` (made when it is missing); None when it can.

    Raises `InvalidArgument` for names that are not in `NAMES`.
    """
    if name == "aufs":
        return AUFS
    kind = _class(name)
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
    except OSError as error:
        return f"{directory} cannot be made: {error}"
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return f"{directory} cannot be written"
    return kind.probe(directory)


def _class(name: str) -> type[RecordedSnapshotter]:
    if name == "aufs":
        raise NotSupported(f"the snapshotter aufs cannot be used: {AUFS}", remedy="Use overlay")
    if name not in _CLASSES:
        raise InvalidArgument(f"there is no snapshotter {name!r}; known are {', '.join(NAMES)}")
    found: type[RecordedSnapshotter] = getattr(import_module(f"pycontain.snapshots.{name}"), _CLASSES[name])
    return found


def _create(kind: type[RecordedSnapshotter], directory: str, path: str) -> None:
    """Makes the directory under another name first: that it is there means that it is complete."""
    reason = probe(kind.name, directory)
    if reason is not None:
        others = " or ".join(name for name in AUTOMATIC if name != kind.name)
        raise NotSupported(f"the snapshotter {kind.name} cannot be used: {reason}", remedy=f"Use {others}")
    hidden = f"{directory}/.{kind.name}-{os.urandom(6).hex()}"
    try:
        os.mkdir(hidden, 0o700)
        kind.create(hidden)
        os.rename(hidden, path)
    except OSError as error:
        remove_tree(hidden)
        if not os.path.isdir(path):  # otherwise another process has made it meanwhile
            raise SnapshotError(f"the directory {path} cannot be made", errno=error.errno) from error
