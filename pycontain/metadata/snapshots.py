"""The records of one snapshotter's snapshots: a forest, in which only committed ones have children."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

from pycontain.errors import SnapshotError
from pycontain.metadata.database import Database
from pycontain.metadata.labels import from_text, to_text

if TYPE_CHECKING:
    import sqlite3

Kind = Literal["active", "view", "committed"]

_COLUMNS = "s.id, s.key, p.key, s.kind, s.created, s.labels, s.size, s.inodes, s.owner"
_SELECT = f"SELECT {_COLUMNS} FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent"


@frozen
class SnapshotRecord:
    """One snapshot.

    Attributes:
        id: a number that no other snapshot of the store has or will have.
        key: its name, which `commit` changes.
        parent: the key of the committed snapshot that it is based on, or None.
        created: seconds since the epoch.
        size, inodes: what it uses beyond its parent; 0 before the commit.
        owner: the process that an active snapshot or a view belongs to; None of a committed one.
    """

    id: int
    key: str
    parent: str | None
    kind: Kind
    created: float
    labels: Mapping[str, str]
    size: int
    inodes: int
    owner: str | None


class SnapshotRecords:
    """The records of the snapshotter with that name. Each method is one transaction, or a part of the caller's.

    All raise `SnapshotError` for keys that are not there, are there already, or are of the wrong kind.
    """

    def __init__(self, database: Database, snapshotter: str) -> None:
        self.database = database
        self.snapshotter = snapshotter

    def add(
        self, key: str, kind: Kind, parent: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> SnapshotRecord:
        """A new snapshot. An active one and a view belong to this process."""
        owner = None if kind == "committed" else self.database.owners.current()
        created, text = time.time(), to_text(labels)
        with self.database.write() as connection:
            self._must_be_free(connection, key)
            parent_id = None if parent is None else self._committed(connection, parent)
            number = connection.execute(
                "INSERT INTO snapshots (snapshotter, key, parent, kind, created, labels, owner)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self.snapshotter, key, parent_id, kind, created, text, owner),
            ).lastrowid
        assert number is not None
        return SnapshotRecord(number, key, parent, kind, created, dict(labels or {}), 0, 0, owner)

    def find(self, key: str) -> SnapshotRecord | None:
        with self.database.read() as connection:
            row = connection.execute(_SELECT + " WHERE s.snapshotter = ? AND s.key = ?", (self.snapshotter, key))
            return next(map(_record, row), None)

    def get(self, key: str) -> SnapshotRecord:
        record = self.find(key)
        if record is None:
            raise SnapshotError(f"there is no snapshot {key!r} in {self.snapshotter}")
        return record

    def commit(
        self, name: str, key: str, *, size: int, inodes: int, parent: str | None = None, durable: bool = False
    ) -> SnapshotRecord:
        """Makes the active snapshot `key` the committed one `name`. `parent`: for one that was made without."""
        with self.database.write(durable=durable) as connection:
            active = self.get(key)
            if active.kind != "active":
                raise SnapshotError(f"the snapshot {key!r} is {active.kind}, and only an active one can be committed")
            if parent is not None and active.parent is not None and parent != active.parent:
                raise SnapshotError(f"the snapshot {key!r} has the parent {active.parent!r}, not {parent!r}")
            self._must_be_free(connection, name)
            parent = active.parent if parent is None else parent
            parent_id = None if parent is None else self._committed(connection, parent)
            connection.execute(
                "UPDATE snapshots SET key = ?, kind = 'committed', parent = ?, size = ?, inodes = ?, owner = NULL"
                " WHERE id = ?",
                (name, parent_id, size, inodes, active.id),
            )
            return self.get(name)

    def remove(self, key: str) -> SnapshotRecord:
        """Removes the record and returns what it was. Refused while it has children.

        Durable for a committed one, whose files are removed next: a record must not come back without them.
        """
        durable = self.get(key).kind == "committed"
        with self.database.write(durable=durable) as connection:
            record = self.get(key)
            children = self.children(key)
            if children:
                more = f" and {len(children) - 1} more" if len(children) > 1 else ""
                raise SnapshotError(f"the snapshot {key!r} is the parent of {children[0]!r}{more}")
            connection.execute("DELETE FROM snapshots WHERE id = ?", (record.id,))
        return record

    def remove_all(self, records: Iterable[SnapshotRecord]) -> None:
        """Removes records in any order, durably, with all of their children among them."""
        with self.database.write(durable=True) as connection:
            connection.executemany("DELETE FROM snapshots WHERE id = ?", ((record.id,) for record in records))

    def children(self, key: str) -> list[str]:
        """The keys of the snapshots that have this one as their parent."""
        with self.database.read() as connection:
            rows = connection.execute(
                "SELECT c.key FROM snapshots s JOIN snapshots c ON c.parent = s.id"
                " WHERE s.snapshotter = ? AND s.key = ? ORDER BY c.id", (self.snapshotter, key),
            )
            return [child for (child,) in rows]

    def chain(self, key: str) -> list[int]:
        """The ids of the snapshot and of all that it is based on, the topmost first."""
        with self.database.read() as connection:
            rows = connection.execute(
                "WITH RECURSIVE chain (id, parent, depth) AS ("
                " SELECT id, parent, 0 FROM snapshots WHERE snapshotter = ? AND key = ?"
                " UNION ALL SELECT s.id, s.parent, depth + 1 FROM chain JOIN snapshots s ON s.id = chain.parent"
                ") SELECT id FROM chain ORDER BY depth", (self.snapshotter, key),
            )
            chain = [number for (number,) in rows]
        if not chain:
            raise SnapshotError(f"there is no snapshot {key!r} in {self.snapshotter}")
        return chain

    def abandoned(self) -> list[SnapshotRecord]:
        """The active ones and views whose process is gone."""
        with self.database.read() as connection:
            owners = connection.execute(
                "SELECT DISTINCT owner FROM snapshots WHERE owner IS NOT NULL AND snapshotter = ?", (self.snapshotter,)
            ).fetchall()
            return [
                _record(row)
                for owner in self.database.owners.gone(owner for (owner,) in owners)
                for row in connection.execute(
                    _SELECT + " WHERE s.owner = ? AND s.snapshotter = ? ORDER BY s.id", (owner, self.snapshotter)
                )
            ]

    def list(self) -> list[SnapshotRecord]:
        """All, in the order in which they were made. A layer may be older than its parent, which `commit` gave it."""
        with self.database.read() as connection:
            rows = connection.execute(_SELECT + " WHERE s.snapshotter = ? ORDER BY s.id", (self.snapshotter,))
            return [_record(row) for row in rows]

    def _must_be_free(self, connection: sqlite3.Connection, key: str) -> None:
        if self.find(key) is not None:
            raise SnapshotError(f"the snapshot {key!r} exists already in {self.snapshotter}")

    def _committed(self, connection: sqlite3.Connection, key: str) -> int:
        record = self.get(key)
        if record.kind != "committed":
            raise SnapshotError(f"the snapshot {key!r} is {record.kind}, and only a committed one can be a parent")
        return record.id


def _record(row: tuple[Any, ...]) -> SnapshotRecord:
    number, key, parent, kind, created, labels, size, inodes, owner = row
    return SnapshotRecord(number, key, parent, kind, created, from_text(labels), size, inodes, owner)
