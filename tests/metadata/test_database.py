"""The database: transactions, several threads, versions of the schema, and files that are none."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from pycontain.errors import StoreError
from pycontain.metadata import (
    ContainerRecords,
    Database,
    ImageRecord,
    Images,
    Leases,
    SnapshotRecords,
    session,
)
from pycontain.metadata.schema import MIGRATIONS

ONE = ImageRecord("one", "type", "sha256:1", 1, 5.0)


def names(database: Database) -> list[str]:
    return [image.name for image in Images(database).list()]


def put(database: Database, name: str) -> None:
    Images(database).put(ImageRecord(name, "type", "sha256:1", 1))


# ---- transactions

def put_and_fail(database: Database, name: str) -> None:
    """In a block of its own, and in one within it."""
    with database.write(durable=True):
        with database.write():
            put(database, name)
        with database.read():
            assert name in names(database)
        raise ZeroDivisionError


def test_a_block_that_is_left_by_an_exception_changes_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        put_and_fail(database, "one")
    assert names(database) == []


def test_a_block_can_go_on_after_an_exception_in_one_within_it(database: Database) -> None:
    with database.write(durable=True):
        put(database, "one")
        with pytest.raises(ZeroDivisionError):
            put_and_fail(database, "two")
        put(database, "three")
    assert names(database) == ["one", "three"]


def test_a_block_that_reads_sees_one_state(database: Database) -> None:
    put(database, "one")
    with database.read():
        assert names(database) == ["one"]
        other = threading.Thread(target=put, args=(database, "two"))
        other.start()
        other.join()
        assert names(database) == ["one"]
    assert names(database) == ["one", "two"]


def test_what_a_block_cannot_do_is_refused_also_within_it(database: Database) -> None:
    with database.read(), pytest.raises(RuntimeError, match="cannot be a part"):
        put(database, "one")
    with database.write(), pytest.raises(RuntimeError, match="cannot be a part"):
        put(database, "one")
    put(database, "one")
    assert names(database) == ["one"]


def test_writers_in_threads_wait_for_each_other(database: Database) -> None:
    seen = []

    def second() -> None:
        with database.write():
            seen.append(names(database))

    with database.write(durable=True):
        thread = threading.Thread(target=second)
        thread.start()
        put(database, "one")
        assert seen == []
    thread.join()
    assert seen == [["one"]]


def test_a_thread_takes_its_connection_along(database: Database) -> None:
    for number in range(20):
        thread = threading.Thread(target=put, args=(database, f"image{number}"))
        thread.start()
        thread.join()
    assert len(names(database)) == 20
    assert len(database._sessions) <= 2


def test_a_closed_database_says_so(database: Database) -> None:
    put(database, "one")
    database.close()
    with pytest.raises(StoreError, match=r"metadata\.db is closed"):
        names(database)


def test_a_mistake_in_the_data_is_not_hidden(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError), database.write() as connection:
        connection.execute("INSERT INTO leased VALUES (1, 'nothing', 'x')")
    with pytest.raises(StoreError, match="no such table"), database.read() as connection:
        connection.execute("SELECT 1 FROM missing")


# ---- versions of the schema

# As version 1 was released: never to be changed.
VERSION_1 = """
CREATE TABLE images (name TEXT PRIMARY KEY, media_type TEXT NOT NULL, digest TEXT NOT NULL,
    size INTEGER NOT NULL CHECK (size >= 0), created REAL NOT NULL, labels TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX images_by_digest ON images (digest);
CREATE TABLE snapshots (id INTEGER PRIMARY KEY AUTOINCREMENT, snapshotter TEXT NOT NULL, key TEXT NOT NULL,
    parent INTEGER REFERENCES snapshots (id) DEFERRABLE INITIALLY DEFERRED,
    kind TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')), created REAL NOT NULL, labels TEXT NOT NULL,
    size INTEGER NOT NULL DEFAULT 0, inodes INTEGER NOT NULL DEFAULT 0, owner TEXT,
    UNIQUE (snapshotter, key), CHECK ((owner IS NULL) = (kind = 'committed'))) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent) WHERE parent IS NOT NULL;
CREATE INDEX snapshots_by_owner ON snapshots (owner) WHERE owner IS NOT NULL;
CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, created REAL NOT NULL) STRICT;
CREATE TABLE leased (lease INTEGER NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('blob', 'snapshot')), item TEXT NOT NULL,
    PRIMARY KEY (lease, kind, item)) STRICT, WITHOUT ROWID;
CREATE TABLE containers (id TEXT PRIMARY KEY, image TEXT NOT NULL, digest TEXT NOT NULL, snapshotter TEXT NOT NULL,
    snapshot TEXT NOT NULL, owner TEXT NOT NULL, created REAL NOT NULL, labels TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO images VALUES ('one', 'type', 'sha256:1', 1, 5.0, '{}'), ('two', 'type', 'sha256:2', 2, 6.0, '{"a": "b"}');
INSERT INTO snapshots VALUES (7, 'overlay', 'base', NULL, 'committed', 5.0, '{}', 10, 2, NULL),
    (9, 'overlay', 'root', 7, 'active', 6.0, '{}', 0, 0, 'gone');
INSERT INTO leases VALUES (3, 'gone', 5.0);
INSERT INTO leased VALUES (3, 'blob', 'sha256:1');
INSERT INTO containers VALUES ('c', 'one', 'sha256:1', 'overlay', 'root', 'gone', 6.0, '{}');
PRAGMA user_version = 1;
"""


def made(path: Path, script: str) -> Database:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(script)
    connection.close()
    return Database(str(path))


def tables(database: Database) -> dict[str, str]:
    """The definitions, without the difference that white space makes."""
    with database.read() as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return {name: "".join(sql.split()) for name, sql in rows}


def test_a_database_of_version_1_is_used_as_it_is(tmp_path: Path) -> None:
    with made(tmp_path / "metadata.db", VERSION_1) as database:
        assert Images(database).list() == [ONE, ImageRecord("two", "type", "sha256:2", 2, 6.0, {"a": "b"})]
        records = SnapshotRecords(database, "overlay")
        assert records.chain("root") == [9, 7]
        assert [record.key for record in records.abandoned()] == ["root"]
        assert ContainerRecords(database).get("c") is not None
        assert Leases(database).items() == {("blob", "sha256:1")}
        ContainerRecords(database).sweep()
        Leases(database).sweep()
        assert ContainerRecords(database).list() == []
        assert Leases(database).items() == set()


def test_a_new_database_is_what_the_versions_make_of_an_old_one(tmp_path: Path, database: Database) -> None:
    with made(tmp_path / "old.db", VERSION_1) as old:
        assert tables(old) == tables(database)


def test_an_older_version_becomes_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ("ALTER TABLE images ADD COLUMN note TEXT NOT NULL DEFAULT 'none'", "CREATE TABLE added (x TEXT) STRICT")
    monkeypatch.setattr(session, "MIGRATIONS", (*MIGRATIONS, step))
    with made(tmp_path / "metadata.db", VERSION_1) as database:
        put(database, "three")
        assert names(database) == ["one", "three", "two"]
        with database.read() as connection:
            assert connection.execute("SELECT DISTINCT note FROM images").fetchall() == [("none",)]
            assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)


def test_a_step_to_a_version_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ("CREATE TABLE added (x TEXT) STRICT", "INSERT INTO missing VALUES (1)")
    with made(tmp_path / "metadata.db", VERSION_1) as database:
        with monkeypatch.context() as changed:
            changed.setattr(session, "MIGRATIONS", (*MIGRATIONS, step))
            with pytest.raises(StoreError, match="no such table"):
                names(database)
        assert names(database) == ["one", "two"]
        assert "added" not in tables(database)


def test_a_newer_version_is_refused_with_what_helps(tmp_path: Path) -> None:
    newer = len(MIGRATIONS) + 1
    with made(tmp_path / "metadata.db", VERSION_1 + f"PRAGMA user_version = {newer};") as database:
        message = _message(database)
        assert f"{database.path} has version {newer} of the schema" in message
        assert "Upgrade pycontain, or set PYCONTAIN_STORE" in message


def _message(database: Database) -> str:
    with pytest.raises(StoreError) as refused:
        names(database)
    return str(refused.value)


# ---- files that are no database

def test_a_file_that_is_no_database_is_refused_with_what_helps(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    path.write_bytes(b"something else " * 1000)
    with Database(str(path)) as database:
        assert "file is not a database. Remove metadata.db" in _message(database)
    assert path.read_bytes() == b"something else " * 1000


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    path.touch()
    with Database(str(path)) as database:
        assert names(database) == []


def test_a_damaged_database_is_refused_with_what_helps(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    made(path, VERSION_1).close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with Database(str(path)) as database:
        assert "malformed. Remove metadata.db" in _message(database)


def test_a_directory_in_its_place_is_refused_with_what_helps(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").mkdir()
    with Database(str(tmp_path / "metadata.db")) as database:
        assert "unable to open" in _message(database)
        assert "PYCONTAIN_STORE" in _message(database)


def test_a_directory_that_is_a_file_is_refused_with_what_helps(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with Database(str(tmp_path / "store" / "metadata.db")) as database:
        assert "cannot be made: File exists" in _message(database)
