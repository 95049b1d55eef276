"""Which process is there: the files of owners."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from programs import popen, run

from pycontain.metadata import Database
from pycontain.metadata.owners import Owners

LIVES = """
import sys
from pycontain.metadata.owners import Owners

print(Owners(sys.argv[1]).current(), flush=True)
sys.stdin.read()
"""


def test_all_threads_of_a_process_are_one_owner(database: Database) -> None:
    found = []
    threads = [threading.Thread(target=lambda: found.append(database.owners.current())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [database.owners.current()] * 16
    assert os.listdir(database.owners.directory) == found[:1]


def test_two_objects_for_one_store_are_one_owner_and_stores_are_apart(database: Database, tmp_path: Path) -> None:
    other = Owners(str(tmp_path / "other"))
    assert Owners(database.owners.directory).current() == database.owners.current()
    assert other.current() != database.owners.current()
    other.release()


def test_its_file_says_who_it_is(database: Database) -> None:
    lines = Path(database.owners.directory, database.owners.current()).read_text().splitlines()
    assert lines[0] == f"pid {os.getpid()}"
    assert [line.split()[0] for line in lines] == ["pid", "started", "boot"]


def test_a_process_is_living_until_it_ends_in_whatever_way(database: Database) -> None:
    owners = database.owners
    for kill in (False, True):
        with popen(LIVES, owners.directory, stdin=-1) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            name = process.stdout.readline().strip()
            assert owners.is_living(name)
            assert not owners.is_current(name)
            owners.sweep()
            assert owners.is_living(name)
            if kill:
                process.kill()
            else:
                process.stdin.close()
            process.wait()
        assert not owners.is_living(name)
        assert os.path.exists(f"{owners.directory}/{name}") is kill  # removed at exit
        assert owners.gone([name, owners.current()]) == [name]
        owners.sweep()
        assert os.listdir(owners.directory) == [owners.current()]


def test_a_name_that_never_was_is_gone(database: Database) -> None:
    assert not database.owners.is_living("nobody")


def test_a_file_that_is_being_made_is_left_alone_until_its_maker_cannot_be_there(database: Database) -> None:
    owners = database.owners
    owners.current()
    for name, age in ((".new", 0), (".old", 1000)):
        path = f"{owners.directory}/{name}"
        Path(path).touch()
        os.utime(path, (time.time() - age,) * 2)
    owners.sweep()
    assert sorted(os.listdir(owners.directory)) == [".new", owners.current()]


FORKED = """
import os, sys, time
from pycontain.metadata.owners import Owners

owners = Owners(sys.argv[1])
parent = owners.current()
print(parent, flush=True)
read_end, write_end = os.pipe()
child = os.fork()
if child:
    os.close(write_end)
    os.read(read_end, 1)  # until the child says that it is one of its own
    os._exit(0)
assert not owners.is_current(parent)
print(owners.current(), flush=True)
os.close(write_end)
sys.stdin.read()
"""


def test_a_child_that_outlives_its_parent_does_not_keep_it_living(database: Database) -> None:
    owners = database.owners
    with popen(FORKED, owners.directory, stdin=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        parent, child = (process.stdout.readline().strip() for _ in range(2))
        process.wait()
        assert owners.is_living(child)
        assert not owners.is_living(parent)
        process.stdin.close()
        process.stdout.read()  # until the child has ended
    assert not os.path.exists(f"{owners.directory}/{child}")
    owners.sweep()


def test_an_import_makes_nothing_and_needs_no_sqlite(tmp_path: Path) -> None:
    program = (
        "import sys; from pycontain.metadata import Database, Images; Database(sys.argv[1] + '/metadata.db')\n"
        "print(sorted({'sqlite3', 'json', 'tempfile', 'asyncio'} & set(sys.modules)))"
    )
    assert run(program, tmp_path).stdout == "[]\n"
    assert os.listdir(tmp_path) == []
