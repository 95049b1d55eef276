"""One thread's connection to the database: opened when it is needed, with the schema made or brought up to date; its
transaction."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from pycontain.errors import NotSupported, StoreError
from pycontain.metadata.failures import BUSY_LIMIT, refused
from pycontain.metadata.schema import MIGRATIONS

if TYPE_CHECKING:
    import sqlite3

OLDEST_SQLITE = (3, 37)  # strict tables


class Session:
    """A connection and the transaction in it.

    Attributes:
        lock: held during a transaction, and by whoever closes the connection from another thread.
        depth: how many blocks the thread is in.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.depth = 0
        self._connection: sqlite3.Connection | None = None
        self._synchronous = False  # whether a commit is durable
        self._write = False

    def begin(self, write: bool, durable: bool) -> sqlite3.Connection:
        """Enters a block. Raises sqlite3's errors, `StoreError`, `NotSupported`."""
        connection = self._connection
        if self.depth == 0:
            if connection is None:
                connection = self._connection = _connect(self.path)
                self._synchronous = False
            if write and durable != self._synchronous:
                connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._synchronous = durable
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            self._write = write
        elif connection is None:
            raise self._lost()
        elif write:
            if not self._write or (durable and not self._synchronous):
                raise RuntimeError("a block that writes, or durably, cannot be a part of one that does not")
            connection.execute(f"SAVEPOINT block{self.depth}")
        self.depth += 1
        return connection

    def end(self, write: bool, commit: bool) -> None:
        """Leaves a block. Raises as `begin`; nothing of the block is kept then."""
        self.depth -= 1
        connection = self._connection
        if connection is None:
            raise self._lost()
        if self.depth == 0:
            self._end_outermost(connection, commit)
        elif write and connection.in_transaction:
            if not commit:
                connection.execute(f"ROLLBACK TO block{self.depth}")
            connection.execute(f"RELEASE block{self.depth}")

    def _end_outermost(self, connection: sqlite3.Connection, commit: bool) -> None:
        try:
            if commit:
                connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        self.close()

    def _lost(self) -> StoreError:
        return StoreError(
            f"a transaction in {self.path} was undone, since its thread forked or closed the database within it",
            remedy="Fork outside of transactions",
        )


def _connect(path: str) -> sqlite3.Connection:
    import sqlite3

    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise NotSupported(
            f"sqlite {sqlite3.sqlite_version} is too old", remedy="Use a Python with sqlite 3.37 or newer"
        )
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
    except OSError as error:
        raise refused(error, f"the directory {directory} cannot be made") from None
    # the thread that closes it may be another, after this one has ended or before a fork
    connection = sqlite3.connect(path, timeout=BUSY_LIMIT, isolation_level=None, check_same_thread=False)
    try:
        if _version(connection) != len(MIGRATIONS):
            _migrate(connection, path)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    """Makes the tables, or changes those of an older version; one process does, the others wait and find it done."""
    _use_log(connection)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise StoreError(
                f"the database {path} has version {version} of the schema; this pycontain knows {len(MIGRATIONS)}",
                remedy="Upgrade pycontain, or set PYCONTAIN_STORE to another directory",
            )
        for migration in MIGRATIONS[version:]:
            for statement in migration:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _use_log(connection: sqlite3.Connection) -> None:
    """The mode is a property of the file. To change it needs a lock for which sqlite itself does not wait."""
    import sqlite3

    deadline = time.monotonic() + BUSY_LIMIT
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
            continue
        if mode != "wal":
            raise NotSupported(
                f"the file system of the store cannot have sqlite's log (the journal mode stays {mode})",
                remedy="Set PYCONTAIN_STORE to a directory of a local file system",
            )
        return
