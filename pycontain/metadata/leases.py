"""Leases: what a process needs while no image names it yet, so that nobody removes it meanwhile."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Literal

from pycontain.metadata.database import Database

Leased = Literal["blob", "snapshot"]


class Leases:
    """The leases of a store."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def hold(self) -> Lease:
        """A block with a lease that belongs to this process; it ends with the block or the process."""
        return Lease(self.database)

    def items(self) -> set[tuple[str, str]]:
        """The kinds and items of all leases."""
        with self.database.read() as connection:
            return set(connection.execute("SELECT DISTINCT kind, item FROM leased"))

    def sweep(self) -> None:
        """Removes the leases of processes that are gone."""
        with self.database.read() as connection:
            owners = [owner for (owner,) in connection.execute("SELECT DISTINCT owner FROM leases")]
        for owner in self.database.owners.gone(owners):
            with self.database.write() as connection:
                connection.execute("DELETE FROM leases WHERE owner = ?", (owner,))


class Lease:
    """A lease, in use within its block."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owner = ""
        self._id = 0

    def add(self, kind: Leased, item: str) -> None:
        """Keeps a blob (by its digest) or a snapshot (snapshotter, slash, key), whether it is there already or not.

        Once this has returned, what is there stays: add first, then look.
        """
        with self._database.write() as connection:
            connection.execute("INSERT OR IGNORE INTO leased VALUES (?, ?, ?)", (self._id, kind, item))

    def __enter__(self) -> Lease:
        self._owner = self._database.owners.current()
        with self._database.write() as connection:
            number = connection.execute(
                "INSERT INTO leases (owner, created) VALUES (?, ?)", (self._owner, time.time())
            ).lastrowid
        assert number is not None
        self._id = number
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._database.owners.is_current(self._owner):  # not in a forked child, which leaves the block as well
            with self._database.write() as connection:
                connection.execute("DELETE FROM leases WHERE id = ?", (self._id,))
