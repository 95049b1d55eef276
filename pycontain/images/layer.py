"""The read-write layer of one container of an image: an active snapshot on the image's topmost layer."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING

from attrs import define

from pycontain.errors import SnapshotError
from pycontain.images.sweep import sweep_once
from pycontain.metadata import ContainerRecord

if TYPE_CHECKING:
    from pycontain.images.image import Image
    from pycontain.images.store import Store
    from pycontain.layers.diff import Change
    from pycontain.snapshots.base import Root, Snapshotter


@define(eq=False)
class WritableLayer:
    """Made by `prepare`. It belongs to this process, and is removed with it whatever happens.

    Attributes:
        root: what the container's root is made of.
        key: its name in the snapshotter.
    """

    image: Image
    snapshotter: Snapshotter
    key: str
    root: Root
    _owner: str
    _removed: bool = False

    @classmethod
    def prepare(cls, image: Image, snapshotter: str | None = None) -> WritableLayer:
        """Makes it; unpacks the image before, where this snapshotter does not have it yet.

        Raises `StoreError`, `ImageNotFound`, `LayerError`, `BlobDamaged`.
        """
        store, contents = image.store, image.contents
        _remove_abandoned()
        sweep_once(store)
        chosen = store.snapshotter(snapshotter)
        key = f"container-{os.urandom(8).hex()}"
        parent = contents.chain_ids[-1] if contents.chain_ids else None
        record = ContainerRecord(key, image.name, image.digest, chosen.name, key)
        try:
            root = _add(store, chosen, record, parent)
        except SnapshotError:  # not unpacked yet, for this snapshotter
            from pycontain.images.pull import ensure_unpacked

            ensure_unpacked(store, contents, snapshotter)
            root = _add(store, chosen, record, parent)
        return cls(image, chosen, key, root, store.database.owners.current())

    @property
    def directory(self) -> str | None:
        """What a start opens and the container writes to; None where it is a device."""
        from pycontain.snapshots.base import Directory, Overlay

        if isinstance(self.root, Overlay):
            return self.root.directory
        return self.root.path if isinstance(self.root, Directory) else None

    @property
    def plan_key(self) -> object:
        """What containers have in common that can be started by the same plan."""
        from pycontain.snapshots.base import Directory, Overlay

        if isinstance(self.root, Overlay):
            return self.image.digest, self.root.lowers
        return self.image.digest, None if isinstance(self.root, Directory) else self.root

    def changes(self) -> list[Change]:
        """What has been written to it, compared with the image; sorted by path."""
        from contextlib import nullcontext

        from pycontain.layers.diff import changes_between, changes_of_upper
        from pycontain.layers.whiteouts import Whiteouts

        chain = self.image.contents.chain_ids
        below = self.snapshotter.tree(chain[-1]) if chain else nullcontext(None)
        with below as lower, self.snapshotter.changes_directory(self.key) as upper:
            if self.snapshotter.whiteouts is Whiteouts.REMOVE:
                return changes_between(lower, upper)
            return changes_of_upper(upper, lower)

    def abandon(self) -> None:
        """Leaves it to the next `prepare`, or to the end of this process: whoever collects garbage may be in the midst
        of anything, a transaction of the store included."""
        _abandoned.append(self)

    def remove(self) -> None:
        """Removes it with all that was written. Without effect when that was done, and in a forked child."""
        store = self.image.store
        if self._removed or not store.database.owners.is_current(self._owner):
            return
        self._removed = True
        self.snapshotter.remove(self.key)
        store.containers.remove(self.key)


_abandoned: list[WritableLayer] = []


def _remove_abandoned() -> None:
    while _abandoned:
        try:
            layer = _abandoned.pop()
        except IndexError:  # another thread was faster
            break
        layer.remove()


atexit.register(_remove_abandoned)


def _add(store: Store, snapshotter: Snapshotter, record: ContainerRecord, parent: str | None) -> Root:
    with store.database.write():
        root = snapshotter.prepare(record.snapshot, parent)
        store.containers.add(record)
    return root
