"""Each test of the suite runs with every snapshotter that this machine can have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import Place, Store, Unavailable, formatted, mounted

from pycontain.metadata import Database
from pycontain.metadata.owners import Owners
from pycontain.snapshots.choose import NAMES, probe


def takes_attributes(directory: str) -> bool:
    try:
        os.setxattr(directory, "user.mark", b"1")
    except OSError:
        return False
    return True


# These are made before the first test looks what is open: what they hold is not left behind by it.


@pytest.fixture(scope="session")
def memory() -> Iterator[Place | str]:
    """A tmpfs, or why there is none."""
    try:
        with mounted("tmpfs", ("size", "512m")) as place:
            yield place if takes_attributes(place.path) else "tmpfs has no attributes of users before Linux 6.6"
    except PermissionError as error:
        yield f"file systems cannot be mounted: {error}"


@pytest.fixture(scope="session")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place | str]:
    try:
        with formatted("btrfs", tmp_path_factory.mktemp("btrfs")) as place:
            yield place
    except (Unavailable, PermissionError) as error:
        yield f"there is no btrfs: {error}"


@pytest.fixture(scope="session")
def named(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A directory that has a name for other programs too."""
    return Place(str(tmp_path_factory.mktemp("named")))


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the databases are. This process is noted beside them once, and keeps its file open."""
    directory = tmp_path_factory.mktemp("databases")
    Owners(str(directory / "owners")).current()
    return directory


@pytest.fixture
def database(databases: Path) -> Iterator[Database]:
    with Database(f"{databases}/{os.urandom(4).hex()}.db") as database:
        yield database


@pytest.fixture
def tmpfs(memory: Place | str) -> Place:
    if isinstance(memory, str):
        pytest.skip(memory)
    return memory


@pytest.fixture
def overlay_works(tmpfs: Place) -> None:
    reason = probe("overlay", tmpfs.path)
    if reason is not None:
        pytest.skip(f"overlay cannot be used: {reason}")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(name: str, memory: Place | str, btrfs: Place | str, named: Place) -> Place:
    """A file system for the snapshotter. mkfs.erofs looks for the whole path, which a detached mount does not have."""
    places = {"overlay": memory, "native": named if isinstance(memory, str) else memory, "btrfs": btrfs}
    place = places.get(name, named)
    reason = place if isinstance(place, str) else probe(name, place.path)
    if reason is not None:
        pytest.skip(f"{name} cannot be used: {reason}")
    assert isinstance(place, Place)
    return place


@pytest.fixture
def store(name: str, place: Place, database: Database) -> Iterator[Store]:
    store = Store.new(name, place, database)
    yield store
    store.snapshots.close()
