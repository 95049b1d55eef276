"""Snapshotters with many users, killed users, and full disks."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from snapshot_worker import FILES
from stores import Store, mounted

from pycontain.errors import SnapshotError
from pycontain.metadata import Database
from pycontain.snapshots.base import Info
from pycontain.snapshots.choose import probe

WORKER = str(Path(__file__).with_name("snapshot_worker.py"))


@contextmanager
def worker(store: Store, what: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that uses the store; killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, WORKER, what, store.snapshots.name, store.directory, store.database.path],
        pass_fds=store.place.inherited, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        yield process
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()


def in_threads(count: int, function: Callable[[int], None]) -> list[BaseException]:
    """Calls a function with 0, 1, ... at the same time. Returns what was raised."""
    raised: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait(60)
        try:
            function(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def check(store: Store, committed: list[str]) -> None:
    """After a clean-up: every committed snapshot is whole, and there is nothing else."""
    infos = sweep(store)
    for key, info in infos.items():
        assert info.kind == "committed"
        chain, parent = [key], info.parent
        while parent is not None:
            chain.append(parent)
            parent = infos[parent].parent
        assert store.texts(key) == {f"{name}-{number}": name for name in chain for number in range(FILES)}
    assert len(store.directories()) == len(infos)
    for name in committed:
        assert name in infos or not name.endswith(".0")  # the first layers stay


def sweep(store: Store) -> dict[str, Info]:
    """Cleans up after users that are gone. A program that such a one was about to start may keep its lock for a moment.
    """
    deadline = time.monotonic() + 10
    while True:
        store.snapshots.cleanup()
        infos = {info.key: info for info in store.snapshots.walk()}
        if all(info.kind == "committed" for info in infos.values()) or time.monotonic() > deadline:
            return infos
        time.sleep(0.01)


def test_many_threads_can_work_at_the_same_time(store: Store) -> None:
    store.layer("base", None, {"file": "base"})

    def use(number: int) -> None:
        for turn in range(3):
            name = f"{number} {turn}"
            store.snapshots.prepare(f"making {name}", "base")
            with store.snapshots.changes_directory(f"making {name}") as fd:
                os.mkdir(name, dir_fd=fd)
            store.snapshots.commit(name, f"making {name}")
            store.snapshots.view(f"view {name}", name)
            assert set(store.seen(f"view {name}")) == {".", "file", name}
            store.snapshots.remove(f"view {name}")
            if turn:
                store.snapshots.remove(name)

    assert in_threads(8, use) == []
    assert {info.key for info in store.snapshots.walk()} == {"base", *(f"{number} 0" for number in range(8))}
    assert len(store.directories()) == 9


def test_of_many_that_want_the_same_key_one_gets_it(store: Store) -> None:
    raised = in_threads(8, lambda number: store.snapshots.prepare("box") and None)
    assert [type(error) for error in raised] == [SnapshotError] * 7
    raised = in_threads(8, lambda number: store.snapshots.commit("base", "box"))
    assert [type(error) for error in raised] == [SnapshotError] * 7
    raised = in_threads(8, lambda number: store.snapshots.remove("base"))
    assert [type(error) for error in raised] == [SnapshotError] * 7
    assert store.directories() == set()


def test_cleaning_up_beside_work_takes_nothing_away(store: Store) -> None:
    def use(number: int) -> None:
        for turn in range(5):
            if number < 2:
                store.snapshots.cleanup()
            else:
                store.layer(f"{number} {turn}", None, {"file": "text"})
                assert store.texts(f"{number} {turn}") == {"file": "text"}

    assert in_threads(6, use) == []
    assert len(store.directories()) == 4 * 5


def test_several_processes_share_a_store(store: Store) -> None:
    committed: list[str] = []
    with worker(store, "work") as one, worker(store, "work") as two:
        for process in (one, two):
            assert process.stdout is not None
            committed += [process.stdout.readline().decode().strip() for _ in range(9)]
    assert len(set(committed)) == 18
    check(store, committed)


def test_what_a_killed_process_had_is_swept_and_what_living_ones_have_is_not(store: Store) -> None:
    store.layer("base", None, {"file": "base"})
    store.snapshots.prepare("mine", "base")
    with worker(store, "hold") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        store.snapshots.cleanup()
        assert {info.key for info in store.snapshots.walk()} == {"base", "mine", "box", "view"}
        process.kill()
        process.wait()
        store.snapshots.cleanup()
    assert {info.key for info in store.snapshots.walk()} == {"base", "mine"}
    assert len(store.directories()) == 2


def test_a_process_that_is_killed_at_any_moment_leaves_a_store_that_works(store: Store) -> None:
    chance = random.Random(5)
    committed: list[str] = []
    for _ in range(6):
        with worker(store, "work") as process:
            time.sleep(chance.uniform(0, 0.03))
            process.kill()
            assert process.stdout is not None
            committed += process.stdout.read().decode().split()
        check(store, committed)
    store.layer("last", None, {"file": "text"})
    assert store.texts("last") == {"file": "text"}


def test_directories_that_no_record_names_are_removed(store: Store) -> None:
    store.layer("base", None, {"file": "text"})
    for name in ("zzz", "garbage-zzz1234"):
        os.makedirs(f"{store.snapshots.directory}/{name}/fs/deep/er")
    store.snapshots.cleanup()
    assert len(store.directories()) == 1
    assert store.texts("base") == {"file": "text"}


def test_what_is_in_the_place_of_a_new_snapshot_is_not_taken_over(store: Store) -> None:
    """Files can survive a loss of power whose record did not."""
    for digit in "123":
        os.makedirs(f"{store.snapshots.directory}/{digit}/fs/old")
    store.layer("base", None, {"file": "text"})
    store.snapshots.prepare("box", "base")
    assert set(store.seen("box")) == {".", "file"}


@pytest.mark.parametrize("name", ["overlay", "native"], indirect=True)
@pytest.mark.parametrize("full", ["bytes", "inodes"])
def test_a_full_disk_is_an_error_that_leaves_nothing(name: str, database: Database, root_user: None, full: str) -> None:
    with mounted("tmpfs", ("size", "1m"), ("nr_inodes", "100")) as place:
        if (reason := probe(name, place.path)) is not None:
            pytest.skip(f"{name} cannot be used: {reason}")
        store = Store.new(name, place, database)
        store.layer("base", None, {"file": "x" * 100_000})
        before = store.directories()
        ballast = Path(place.path, "ballast")
        ballast.mkdir()
        try:
            if full == "bytes":
                (ballast / "bytes").write_bytes(bytes(1 << 21))
            else:
                for number in range(100):
                    (ballast / f"{number}").mkdir()
        except OSError:
            pass  # as much as there was
        with pytest.raises(SnapshotError, match="No space left on device") as caught:
            fill_up(store)
        assert caught.value.remedy == "Free space in the file system of the store"
        keys = {info.key for info in store.snapshots.walk()}
        assert "box" not in keys
        assert len(store.directories()) == len(keys)
        for key in keys - {"base"}:
            store.snapshots.remove(key)
        assert store.directories() == before
        for entry in list(ballast.iterdir()):
            entry.unlink() if full == "bytes" else entry.rmdir()
        store.snapshots.prepare("box", "base")
        assert store.texts("box") == {"file": "x" * 100_000}


def fill_up(store: Store) -> None:
    """Prepares snapshots until there is no space for another one, whose key is "box"."""
    for number in range(300):
        store.snapshots.prepare("box", "base")
        store.snapshots.commit(f"box {number}", "box")
