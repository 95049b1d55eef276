"""The database under faults: killed writers, many writers, forks, full and read-only disks, loss of power. Each runs in
a process of its own, whose mounts are its own too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from programs import run

from pycontain.metadata import Database

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts file systems")

COMMON = """
import os, random, signal, sys, threading, time
from pycontain.errors import StoreError
from pycontain.metadata import *

def forked(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return pid

def write(database, key, *, durable=False):
    # A snapshot and a container, both or none.
    with database.write(durable=durable):
        SnapshotRecords(database, "overlay").add(key, "active")
        ContainerRecords(database).add(ContainerRecord(key, "image", "sha256:1", "overlay", key))

def written(database):
    with database.read():
        snapshots = [record.key for record in SnapshotRecords(database, "overlay").list()]
        containers = [record.id for record in ContainerRecords(database).list()]
    assert sorted(snapshots) == sorted(containers), (snapshots, containers)
    return set(snapshots)

def sound(database):
    with database.read() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
"""

KILLS = COMMON + """
choose = random.Random(5)
path = sys.argv[1] + "/metadata.db"
said, say = os.pipe()
confirmed = 0

def writer():
    database = Database(path)
    for number in range(10_000):
        write(database, f"{os.getpid()}-{number}", durable=choose.random() < 0.05)
        os.write(say, b".")

for turn in range(25):
    pid = forked(writer)
    time.sleep(choose.uniform(0.001, 0.06))
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    os.write(say, b"|")
    with Database(path) as database:
        own = [key for key in written(database) if key.startswith(f"{pid}-")]
        confirmed = os.read(said, 1 << 20).count(b".")
        assert confirmed <= len(own) <= confirmed + 1, (confirmed, len(own))
        assert len(SnapshotRecords(database, "overlay").abandoned()) == len(written(database))
        sound(database)
print(len(written(Database(path))))
"""


def test_a_writer_that_is_killed_has_written_what_it_had_confirmed_and_nothing_by_halves(tmp_path: Path) -> None:
    assert int(run(KILLS, tmp_path).stdout) > 0


MANY = COMMON + """
path = sys.argv[1] + "/metadata.db"

def many():
    database = Database(path)
    failures = []
    def one(number):
        try:
            for turn in range(10):
                write(database, f"{os.getpid()}-{number}-{turn}", durable=turn == 5)
                written(database)
        except BaseException as error:
            failures.append(error)
            raise
    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    database.close()

pids = [forked(many) for _ in range(4)]
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
database = Database(path)
sound(database)
print(len(written(database)))
"""


def test_many_threads_of_many_processes_write_at_once(tmp_path: Path) -> None:
    assert run(MANY, tmp_path).stdout == "640\n"


FORKS = COMMON + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads, from Python 3.12 on: it is what is tested

database = Database(sys.argv[1] + "/metadata.db")
mine = database.owners.current()
stop = threading.Event()

def busy(number):
    turn = 0
    while not stop.is_set():
        write(database, f"{number}-{turn}")
        turn += 1

threads = [threading.Thread(target=busy, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()

def child():
    assert not database.owners.is_current(mine) and database.owners.is_living(mine)
    for turn in range(5):
        write(database, f"{os.getpid()}-{turn}")
    own = {record.owner for record in SnapshotRecords(database, "overlay").list()}
    assert database.owners.current() != mine and len(own) >= 2

pids = [forked(child) for _ in range(20)]
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 20
stop.set()
for thread in threads:
    thread.join()
names = written(database)
assert all(f"{pid}-{turn}" in names for pid in pids for turn in range(5))
sound(database)
assert len(os.listdir(database.owners.directory)) == 21  # the children have left by os._exit
database.owners.sweep()
assert os.listdir(database.owners.directory) == [mine]
"""


def test_a_process_with_threads_that_write_can_be_forked(tmp_path: Path) -> None:
    run(FORKS, tmp_path)
    assert os.listdir(tmp_path / "owners") == []  # removed at exit


FORK_WITHIN = COMMON + """
database = Database(sys.argv[1] + "/metadata.db")
write(database, "before")
try:
    with database.write() as connection:
        connection.execute("DELETE FROM containers")
        pid = forked(lambda: written(database))
    raise AssertionError("not reached")
except StoreError as error:
    assert "Fork outside of transactions" in str(error), error
assert os.waitpid(pid, 0)[1] == 1 << 8  # there it says the same
assert written(database) == {"before"}

with Leases(database).hold() as lease:
    lease.add("blob", "sha256:1")
    def child():
        lease.__exit__(None, None, None)  # as when the child leaves the block
        assert Leases(database).items() == {("blob", "sha256:1")}
    assert os.waitpid(forked(child), 0)[1] == 0
    assert Leases(database).items() == {("blob", "sha256:1")}
assert Leases(database).items() == set()
"""


def test_a_fork_within_a_transaction_undoes_it_and_within_a_lease_leaves_it(tmp_path: Path) -> None:
    run(FORK_WITHIN, tmp_path)


FULL = COMMON + """
import errno
from pycontain.linux.mounts import MountFlag, mount, umount
from pycontain.linux.namespaces import NamespaceType, unshare

unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
where = sys.argv[1]

def attempt(limit):
    mount("tmpfs", where, "tmpfs", MountFlag(0), limit)
    database = Database(where + "/metadata.db")
    done = set()
    try:
        for number in range(30):
            write(database, str(number), durable=number % 5 == 0)
            done.add(str(number))
    except StoreError as error:
        assert error.errno == errno.ENOSPC, repr(error)
        assert "Free space" in str(error), error
    mount("tmpfs", where, "tmpfs", MountFlag.REMOUNT, "size=2M,nr_inodes=100")
    assert written(database) == done, (limit, done)
    write(database, "after")
    sound(database)
    database.close()
    database.owners.release()
    umount(where)
    return len(done) == 30

refused = [limit for limit in (
    *(f"size={pages * 4096},nr_inodes=100" for pages in range(1, 100, 3)),
    *(f"size=1M,nr_inodes={inodes}" for inodes in range(1, 8)),
) if not attempt(limit)]
print(len(refused))
"""


@needs_root
def test_a_full_disk_is_told_and_nothing_is_lost_and_it_goes_on_when_there_is_space(tmp_path: Path) -> None:
    assert int(run(FULL, tmp_path).stdout) > 20


POWER = COMMON + """
import fcntl, shutil, struct, subprocess
from pycontain.linux.mounts import MountFlag, mount
from pycontain.linux.namespaces import NamespaceType, unshare

unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
choose = random.Random(2)
image, where, promised = (f"{sys.argv[1]}/{name}" for name in ("image", "mounted", "promised"))
os.mkdir(where)

def command(*words):
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

def lose_power():
    # EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: what has not reached the disk by now never does.
    fd = os.open(where, os.O_RDONLY)
    fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 2))
    os.close(fd)
    command("umount", where)

def said():
    with open(promised) as file:
        return file.read().split()

def publish():
    database = Database(where + "/metadata.db")
    for number in range(1000):
        write(database, f"{os.getpid()}-{number}")
        if number % 7 == 3:
            Images(database).put(ImageRecord(f"{os.getpid()}-{number}", "type", "sha256:1", 1))
            with open(promised, "a") as file:
                file.write(f"{os.getpid()}-{number} ")

with open(image, "wb") as file:
    file.truncate(24 << 20)
command("mkfs.ext4", "-q", "-F", image)
open(promised, "w").close()
lost = 0
for turn in range(10):
    command("mount", "-o", "loop", image, where)
    pid = forked(publish)
    time.sleep(choose.uniform(0, 0.15))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    lose_power()
    command("mount", "-o", "loop", image, where)
    with Database(where + "/metadata.db") as database, database.read():
        sound(database)
        images, there = {image.name for image in Images(database).list()}, written(database)
        assert images <= there  # what was committed before is durable with it
        assert set(said()) <= images
    command("umount", where)
print(len(images))
"""


@needs_root
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4 (Debian: e2fsprogs)")
@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="needs loop devices")
def test_after_a_loss_of_power_what_was_durable_is_there_with_all_before_it(tmp_path: Path) -> None:
    assert int(run(POWER, tmp_path).stdout) > 0


READ_ONLY = COMMON + """
from pycontain.linux.mounts import MountFlag, mount
from pycontain.linux.namespaces import NamespaceType, unshare

with Database(f"{sys.argv[1]}/old/metadata.db") as database:
    Images(database).put(ImageRecord("one", "type", "sha256:1", 1))
unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
mount(sys.argv[1], sys.argv[1], None, MountFlag.BIND)
mount(None, sys.argv[1], None, MountFlag.BIND | MountFlag.REMOUNT | MountFlag.RDONLY)
for place in ("old", "new"):
    database = Database(f"{sys.argv[1]}/{place}/metadata.db")
    for use in (Images(database).list, lambda: Images(database).remove("one"), database.owners.current):
        try:
            use()
            raise AssertionError("not refused")
        except StoreError as error:
            assert "PYCONTAIN_STORE" in str(error), error
            assert sys.argv[1] in str(error), error
"""


@needs_root
def test_a_file_system_that_is_read_only_is_refused_with_what_helps(tmp_path: Path) -> None:
    run(READ_ONLY, tmp_path)


OF_ANOTHER = """
import sys
from pycontain.errors import StoreError
from pycontain.metadata import Database, Images

try:
    Images(Database(sys.argv[1] + "/metadata.db")).list()
except StoreError as error:
    assert "PYCONTAIN_STORE" in str(error), error
else:
    raise AssertionError("not refused")
"""


@needs_root
def test_the_store_of_another_user_is_refused_with_what_helps(public_path: Path) -> None:
    with Database(str(public_path / "store" / "metadata.db")) as database, database.read():
        pass
    run(OF_ANOTHER, public_path / "store", as_nobody=True)
    run(OF_ANOTHER, public_path / "new", as_nobody=True)
