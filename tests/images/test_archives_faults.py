"""Saving and loading archives of images on a full disk, and when they are killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from programs import run

COMMON = """
import errno, os, random, signal, sys, time
sys.path.append(sys.argv[2])
from archives_made import FILES, NAME, SAVE
from small_images import put_image
from pycontain.content import ContentStore
from pycontain.errors import StoreError
from pycontain.images.archives import load_archive, save_oci_archive
from pycontain.images.layout import load_layout
from pycontain.linux.mounts import MountFlag, mount, umount
from pycontain.linux.namespaces import NamespaceType, unshare

choose = random.Random(5)
where = sys.argv[1]
store = ContentStore(where + "/content")
image = put_image(store, [*FILES, {"random": choose.randbytes(100_000)}])

def load(kind, target, path):
    return (load_layout if kind == "layout" else load_archive)(target, path, keep=lambda digest: None)
"""

FULL = COMMON + """
unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
small = where + "/small"
os.mkdir(small)
refused = 0
for kind, save in SAVE.items():
    archive = f"{where}/{kind}"
    save(store, [(NAME, image)], archive)
    for pages in (1, 2, 3, 5, 10, 20):
        mount("tmpfs", small, "tmpfs", MountFlag(0), f"size={pages * 4096}")
        target = ContentStore(small + "/content")
        for act in (lambda: save(store, [(NAME, image)], small + "/saved"), lambda: load(kind, target, archive)):
            try:
                act()
            except StoreError as error:
                assert error.errno == errno.ENOSPC, error
                assert "Free space on the file system" in str(error), error
                refused += 1
        assert set(os.listdir(small)) <= {"content"}, os.listdir(small)
        ingests = target.path + "/ingest"
        assert not os.path.exists(ingests) or os.listdir(ingests) == []
        assert all(target.verify(blob.digest, blob.size) for blob in target.walk())
        umount(small)
print(refused)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts file systems")
def test_a_full_disk_leaves_no_archive_and_nothing_half_loaded(tmp_path: Path) -> None:
    assert int(run(FULL, tmp_path, os.path.dirname(__file__)).stdout) == 36


KILLS = COMMON + """
archive = where + "/archive"
save_oci_archive(store, [(NAME, image)], archive)
killed = 0
for number in range(30):
    target = ContentStore(f"{where}/target-{number // 3}")
    pid = os.fork()
    if pid == 0:
        try:
            load("oci-archive", target, archive)
            save_oci_archive(store, [(NAME, image)], archive)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    time.sleep(choose.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    killed += status != 0
    assert all(target.verify(blob.digest, blob.size) for blob in target.walk())
    if number % 3 == 2:
        assert load("oci-archive", target, archive) == [(NAME, image)]
        target.clean_ingests()
        assert os.listdir(target.path + "/ingest") == []
print(killed)
"""


def test_a_load_or_a_save_that_is_killed_leaves_nothing_torn_and_the_next_succeeds(tmp_path: Path) -> None:
    assert int(run(KILLS, tmp_path, os.path.dirname(__file__)).stdout) > 0
