"""Containers that run from an image: which snapshot and which process each belongs to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen

from pycontain.metadata.database import Database
from pycontain.metadata.labels import from_text, to_text

_SELECT = "SELECT id, image, digest, snapshotter, snapshot, owner, created, labels FROM containers"


@frozen
class ContainerRecord:
    """A container of an image.

    Attributes:
        id: unique in the store.
        image: the name of the image at the time of the start.
        digest: of its manifest.
        snapshotter, snapshot: its root, by the snapshot's key.
        owner: the process that it belongs to; by default `Owners.current()` when it is added.
        created: seconds since the epoch.
    """

    id: str
    image: str
    digest: str
    snapshotter: str
    snapshot: str
    owner: str = ""
    created: float = Factory(time.time)
    labels: Mapping[str, str] = Factory(dict)


class ContainerRecords:
    """The containers of a store. Each method is one transaction, or a part of the caller's."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, record: ContainerRecord) -> None:
        owner = record.owner or self.database.owners.current()
        with self.database.write() as connection:
            connection.execute(
                "INSERT INTO containers (id, image, digest, snapshotter, snapshot, owner, created, labels)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (record.id, record.image, record.digest, record.snapshotter, record.snapshot, owner, record.created,
                 to_text(record.labels)),
            )

    def get(self, identifier: str) -> ContainerRecord | None:
        with self.database.read() as connection:
            row = connection.execute(_SELECT + " WHERE id = ?", (identifier,)).fetchone()
        return None if row is None else _record(row)

    def remove(self, identifier: str) -> bool:
        """Whether it was there."""
        with self.database.write() as connection:
            return connection.execute("DELETE FROM containers WHERE id = ?", (identifier,)).rowcount > 0

    def list(self) -> list[ContainerRecord]:
        """All, the oldest first."""
        with self.database.read() as connection:
            return [_record(row) for row in connection.execute(_SELECT + " ORDER BY created, id")]

    def sweep(self) -> None:
        """Removes the records whose process is gone."""
        with self.database.read() as connection:
            owners = [owner for (owner,) in connection.execute("SELECT DISTINCT owner FROM containers")]
        for owner in self.database.owners.gone(owners):
            with self.database.write() as connection:
                connection.execute("DELETE FROM containers WHERE owner = ?", (owner,))


def _record(row: tuple[Any, ...]) -> ContainerRecord:
    identifier, image, digest, snapshotter, snapshot, owner, created, labels = row
    return ContainerRecord(identifier, image, digest, snapshotter, snapshot, owner, created, from_text(labels))
