"""The store: where images, layers and what is known of them are kept, and all processes of a user share.

    content/      blobs by digest, an OCI image layout that other tools can read in place
    metadata.db   which images, snapshots and containers there are, and whose
    snapshots/    the unpacked layers and the read-write layers of containers, a directory for each snapshotter
    owners/       a locked file for each process that uses the store
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from attrs import define, field

from pycontain.metadata import ContainerRecords, Database, Images, Leases

if TYPE_CHECKING:
    from pycontain.content.store import ContentStore
    from pycontain.snapshots.base import Snapshotter

_stores: dict[str, Store] = {}


@define(eq=False)
class Store:
    """One store, for all threads. Made by `Store.at`; nothing is written before the first use.

    Attributes:
        path: its directory.
        database: the metadata.
        images, leases, containers: its parts.
    """

    path: str
    database: Database
    images: Images
    leases: Leases
    containers: ContainerRecords
    _content: ContentStore | None = None
    _snapshotters: dict[str | None, Snapshotter] = field(factory=dict)

    @classmethod
    def at(cls, path: str | None = None) -> Store:
        """The store in a directory; without one, that of `PYCONTAIN_STORE`, or the user's own.

        That is `/var/lib/pycontain` for root, `$XDG_DATA_HOME/pycontain` for others.
        """
        path = os.path.abspath(path or default_path())
        store = _stores.get(path)
        if store is None:
            database = Database(os.path.join(path, "metadata.db"))
            store = cls(path, database, Images(database), Leases(database), ContainerRecords(database))
            store = _stores.setdefault(path, store)
        return store

    @property
    def content(self) -> ContentStore:
        """The blobs. Containers start without them."""
        if self._content is None:
            from pycontain.content.store import ContentStore

            self._content = ContentStore(os.path.join(self.path, "content"))
        return self._content

    def snapshotter(self, name: str | None = None) -> Snapshotter:
        """The snapshotter of that name, or the one that fits this machine best.

        Raises `NotSupported` when it cannot be used here.
        """
        found = self._snapshotters.get(name)
        if found is None:
            from pycontain.snapshots.choose import snapshotter

            found = snapshotter(name, os.path.join(self.path, "snapshots"), self.database)
            found = self._snapshotters.setdefault(name, found)
        return found

    def close(self) -> None:
        """Closes the database and gives up this process's place. Its containers must have been removed."""
        _stores.pop(self.path, None)
        self.database.close()
        self.database.owners.release()


def default_path() -> str:
    """Where the store of this user is."""
    if path := os.environ.get("PYCONTAIN_STORE"):
        return path
    if os.geteuid() == 0:
        return "/var/lib/pycontain"
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "pycontain")
