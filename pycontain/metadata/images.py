"""The names of images, and the descriptor that each points to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen

from pycontain.metadata.database import Database
from pycontain.metadata.labels import from_text, to_text

_SELECT = "SELECT name, media_type, digest, size, created, labels FROM images"


@frozen
class ImageRecord:
    """A name and its target, the descriptor of a manifest or an index.

    Attributes:
        name: a reference in its canonical form.
        created: when the name was given, in seconds since the epoch; by default now.
    """

    name: str
    media_type: str
    digest: str
    size: int
    created: float = Factory(time.time)
    labels: Mapping[str, str] = Factory(dict)


class Images:
    """The images of a store. Each method is one transaction, or a part of the caller's."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, name: str) -> ImageRecord | None:
        with self.database.read() as connection:
            row = connection.execute(_SELECT + " WHERE name = ?", (name,)).fetchone()
        return None if row is None else _record(row)

    def put(self, record: ImageRecord) -> None:
        """Gives or moves the name, durably: what it points to must be so before. Part of a durable block only."""
        with self.database.write(durable=True) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO images (name, media_type, digest, size, created, labels)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (record.name, record.media_type, record.digest, record.size, record.created, to_text(record.labels)),
            )

    def remove(self, name: str) -> bool:
        """Whether the name was there. Durable, since what it points to may be removed next: as `put`."""
        with self.database.write(durable=True) as connection:
            return connection.execute("DELETE FROM images WHERE name = ?", (name,)).rowcount > 0

    def by_digest(self, digest: str) -> list[ImageRecord]:
        """The names of that manifest or index."""
        with self.database.read() as connection:
            rows = connection.execute(_SELECT + " WHERE digest = ? ORDER BY name", (digest,))
            return [_record(row) for row in rows]

    def list(self) -> list[ImageRecord]:
        """All, by name."""
        with self.database.read() as connection:
            return [_record(row) for row in connection.execute(_SELECT + " ORDER BY name")]


def _record(row: tuple[Any, ...]) -> ImageRecord:
    name, media_type, digest, size, created, labels = row
    return ImageRecord(name, media_type, digest, size, created, from_text(labels))
