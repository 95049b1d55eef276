"""A database in a directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pycontain.metadata import Database, SnapshotRecords


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(f"{tmp_path}/metadata.db") as database:
        yield database
    database.owners.release()


@pytest.fixture
def records(database: Database) -> SnapshotRecords:
    return SnapshotRecords(database, "overlay")
