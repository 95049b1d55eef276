"""The content store under faults: killed writers, full disks, loss of power, and many processes at a time. Each runs in
a process of its own, whose mounts are its own too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from programs import run

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts file systems")

COMMON = """
import os, random, signal, struct, subprocess, sys, time
from pycontain.content import ContentStore, Digest
from pycontain.errors import BlobDamaged, StoreError

PIECE = 1 << 16
DATA = random.Random(1).randbytes(64 * PIECE)
DIGEST = Digest.of(DATA)

def put(store):
    # What is left of a damaged attempt may be damaged too: then once more, from the start.
    with store.ingest(DIGEST, len(DATA)) as ingest:
        if not ingest.done:
            send(ingest)
            try:
                ingest.commit()
            except BlobDamaged:
                assert ingest.resumed
                ingest.reset()
                send(ingest)
                ingest.commit()

def send(ingest):
    for start in range(ingest.offset, len(DATA), PIECE):
        ingest.write(DATA[start:start + PIECE])

def check(store):
    # What has a name among the blobs is whole, always.
    for blob in store.walk():
        assert store.verify(blob.digest, blob.size), blob
    if os.path.exists(f"{store.path}/blobs/sha256"):
        layout = {name: os.path.getsize(f"{store.path}/{name}") for name in os.listdir(store.path)}
        assert layout["oci-layout"] == 30 and layout["index.json"] > 30, layout

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
"""

KILLS = COMMON + """
choose = random.Random(int(sys.argv[2]))
store = ContentStore(f"{sys.argv[1]}/first")
killed = 0
began = time.monotonic()
put(store)
usual = time.monotonic() - began
for number in range(40):
    if number % 3 == 0:
        store.remove(DIGEST)
    if number % 4 == 0:
        store = ContentStore(f"{sys.argv[1]}/{number}")
    pid = forked(lambda: put(store))
    time.sleep(choose.uniform(0, usual * 1.5))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    killed += status == signal.SIGKILL
    if os.path.exists(store.path):
        check(store)
store.remove(DIGEST)
put(store)
assert store.verify(DIGEST, len(DATA))
assert os.listdir(f"{store.path}/ingest") == []
print(killed)
"""


def test_a_writer_that_is_killed_leaves_no_torn_blob_and_the_next_one_succeeds(tmp_path: Path) -> None:
    assert int(run(KILLS, tmp_path / "store", 4).stdout) > 0


MANY = COMMON + """
import threading

store = ContentStore(sys.argv[1])
report, reporter = os.pipe()

def many():
    failures = []
    start = threading.Barrier(4)
    def one():
        try:
            start.wait(60)
            with store.ingest(DIGEST, len(DATA)) as ingest:
                if not ingest.done:
                    os.write(reporter, b"w")
                    send(ingest)
                    ingest.commit()
            with store.open(DIGEST) as file:
                assert file.read() == DATA
        except BaseException as error:
            failures.append(error)
            raise
    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

pids = [forked(many) for _ in range(16)]
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 16
os.close(reporter)
print(len(os.read(report, 1000)))
check(store)
assert os.listdir(f"{store.path}/ingest") == []
"""


def test_of_many_processes_with_many_threads_one_writes(tmp_path: Path) -> None:
    assert run(MANY, tmp_path / "store").stdout == "1\n"


FULL = COMMON + """
import errno
from pycontain.linux.mounts import MountFlag, mount, umount
from pycontain.linux.namespaces import NamespaceType, unshare

unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
DATA = DATA[:8 * 4096]
PIECE = 4096
DIGEST = Digest.of(DATA)
where = sys.argv[1]

def attempt(limit):
    mount("tmpfs", where, "tmpfs", MountFlag(0), limit)
    store = ContentStore(where + "/store")
    try:
        put(store)
        store.write(b"a manifest")
        done = True
    except StoreError as error:
        assert error.errno == errno.ENOSPC, error
        assert "No space left on device. Free space on the file system of the store" in str(error), error
        done = False
        check(store)
        ingests = store.path + "/ingest"
        assert not os.path.exists(ingests) or os.listdir(ingests) == [], os.listdir(ingests)
        mount("tmpfs", where, "tmpfs", MountFlag.REMOUNT, "size=1M,nr_inodes=100")
        put(store)
    check(store)
    assert store.read(DIGEST) == DATA
    umount(where)
    return done

refused = [limit for limit in (
    *(f"size={pages * 4096},nr_inodes=100" for pages in range(1, 13)),
    *(f"size=1M,nr_inodes={inodes}" for inodes in range(2, 11)),
) if not attempt(limit)]
print(len(refused))
"""


@needs_root
def test_a_full_disk_is_an_error_that_leaves_nothing_half_done(tmp_path: Path) -> None:
    assert int(run(FULL, tmp_path).stdout) > 10


POWER = COMMON + """
import fcntl, json, shutil
from pycontain.linux.mounts import MountFlag, mount
from pycontain.linux.namespaces import NamespaceType, unshare
from pycontain.spec import Descriptor

unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
clean, image, where = (f"{sys.argv[1]}/{name}" for name in ("clean", "image", "mounted"))
os.mkdir(where)
choose = random.Random(int(sys.argv[2]))
PIECE = 1 << 14
DATA = DATA[:64 * PIECE]
DIGEST = Digest.of(DATA)

def command(*words):
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

def mounted():
    command("mount", "-o", "loop", image, where)

def lose_power():
    # EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: what has not reached the disk by now never does.
    fd = os.open(where, os.O_RDONLY)
    fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 2))
    os.close(fd)
    command("umount", where)

def write_all():
    store = ContentStore(where + "/store")
    put(store)
    done(b"blob")
    store.set_index({"name": Descriptor("application/vnd.oci.image.manifest.v1+json", str(DIGEST), len(DATA))})
    done(b"index")

def write_a_part():
    with ContentStore(where + "/store").ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:-1])

def done(what):
    with open(sys.argv[1] + "/done", "ab") as file:
        file.write(what + b" ")

with open(clean, "wb") as file:
    file.truncate(24 << 20)
command("mkfs.ext4", "-q", "-F", clean)
lost = 0
for number in range(24):
    shutil.copy(clean, image)
    open(sys.argv[1] + "/done", "wb").close()
    mounted()
    if number == 0:
        began = time.monotonic()
        write_all()
        usual = time.monotonic() - began
    elif number == 1:
        write_a_part()
    else:
        pid = forked(write_all)
        time.sleep(choose.uniform(0, usual * 1.3))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    lose_power()
    mounted()
    store = ContentStore(where + "/store")
    if os.path.exists(store.path):
        check(store)
    with open(sys.argv[1] + "/done", "rb") as file:
        promised = file.read().split()
    there = store.verify(DIGEST, len(DATA))
    assert there or b"blob" not in promised, number
    lost += not there
    if b"index" in promised:
        with open(store.path + "/index.json") as file:
            assert len(json.load(file)["manifests"]) == 1
    put(store)
    assert store.verify(DIGEST, len(DATA))
    store.clean_ingests()
    assert os.listdir(store.path + "/ingest") == []
    command("umount", where)
print(lost)
"""


@needs_root
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4 (Debian: e2fsprogs)")
@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="needs loop devices")
def test_after_a_loss_of_power_what_was_committed_is_there_and_the_rest_is_not_torn(tmp_path: Path) -> None:
    assert int(run(POWER, tmp_path, 3).stdout) > 0
