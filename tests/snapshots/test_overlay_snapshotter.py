"""What the overlay snapshotter alone has: layers that are applied one beside the other, long chains, other users."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from confined import NOBODY, run
from stores import Place, Store

from pycontain.errors import SnapshotError
from pycontain.layers.whiteouts import Whiteouts
from pycontain.metadata import Database
from pycontain.snapshots.base import Directory, Overlay
from pycontain.snapshots.choose import probe


@pytest.fixture
def overlay(tmpfs: Place, overlay_works: None, database: Database) -> Store:
    return Store.new("overlay", tmpfs, database)


@pytest.fixture(params=["overlay", "erofs"])
def name(request: pytest.FixtureRequest) -> str:
    """Both put layers together by overlayfs."""
    return str(request.param)


def apply(store: Store, key: str, *, files: tuple[str, ...] = (), whiteouts: tuple[str, ...] = ()) -> None:
    """What applying a layer does: into the directory of the changes alone."""
    with store.snapshots.changes_directory(key) as fd:
        for path in (*files, *whiteouts):
            os.makedirs(f"/proc/self/fd/{fd}/{os.path.dirname(path)}", exist_ok=True)
        for path in files:
            Path(f"/proc/self/fd/{fd}/{path}").write_text(key)
        for path in whiteouts:
            os.mknod(path, stat.S_IFCHR, 0, dir_fd=fd)


def test_layers_are_applied_in_any_order_and_put_together_by_commit(store: Store) -> None:
    assert store.snapshots.rebase
    assert store.snapshots.whiteouts is Whiteouts.OVERLAY
    for key in ("third", "second", "first"):
        store.snapshots.prepare(key)
    apply(store, "third", files=("etc/b",), whiteouts=("etc/c",))
    apply(store, "first", files=("etc/a", "etc/c"))
    apply(store, "second", files=("etc/a",))
    store.snapshots.commit("1", "first")
    store.snapshots.commit("2", "second", parent="1")
    store.snapshots.commit("3", "third", parent="2")
    assert store.texts("3") == {"etc/a": "second", "etc/b": "third"}
    assert store.texts("2") == {"etc/a": "second", "etc/c": "first"}


def test_a_layer_without_a_word_about_the_root_directory_has_that_of_its_parent(store: Store) -> None:
    for key in ("first", "second", "third"):
        store.snapshots.prepare(key)
        apply(store, key, files=(key,))
    with store.snapshots.changes_directory("first") as fd:
        os.chmod(fd, 0o700)
        os.chown(fd, 8, 9)
        os.setxattr(fd, "user.mark", b"1")
        os.utime(fd, ns=(1, 2))
    with store.snapshots.changes_directory("third") as fd:
        os.chmod(fd, 0o755)  # the layer says so
    store.snapshots.commit("1", "first")
    store.snapshots.commit("2", "second", parent="1")
    store.snapshots.commit("3", "third", parent="2")
    with store.snapshots.tree("2") as fd:
        info = os.stat(fd)
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (8, 9, 0o700, 2)
    assert store.seen("1")["."] == store.seen("2")["."]
    third = store.seen("3")["."]
    assert (third.uid, third.mode & 0o7777, third.attributes) == (0, 0o755, ())


def test_a_chain_of_500_layers_is_one_tree(overlay: Store) -> None:
    parent = None
    with overlay.database.write(durable=True):  # 500 transactions would wait for the disk 500 times
        for number in range(500):
            overlay.snapshots.prepare("making", parent)
            apply(overlay, "making", files=("all", f"{number}"))
            overlay.snapshots.commit(f"layer {number}", "making")
            parent = f"layer {number}"
    root = overlay.snapshots.prepare("box", parent)
    assert isinstance(root, Overlay)
    assert len(root.lowers) == 500
    assert max(len(str(lower)) for lower in root.lowers) - len(overlay.snapshots.directory) <= len("/zz/fs")
    with overlay.inside("box") as path:
        assert len(os.listdir(path)) == 501
        (path / "new").write_text("new")
        assert (path / "all").read_text() == "making"
    assert len(overlay.texts("layer 499")) == 501
    overlay.snapshots.commit("one more", "box")
    before = overlay.directories()
    with pytest.raises(SnapshotError, match=r"at most 500 layers together.*native or btrfs"):
        overlay.snapshots.prepare("too much", "one more")
    assert overlay.directories() == before


def test_a_container_of_a_chain_writes_into_one_directory(overlay: Store) -> None:
    overlay.layer("base", None, {"file": "text"})
    root = overlay.snapshots.prepare("box", "base")
    assert isinstance(root, Overlay)
    assert root.directory is not None
    assert sorted(os.listdir(root.directory)) == ["fs", "work"]
    assert root.lowers == (overlay.snapshots.directory + "/1/fs",)
    assert overlay.snapshots.prepare("first layer") == Directory(overlay.snapshots.directory + "/3/fs")


def test_marks_of_overlayfs_on_the_root_directory_are_not_carried_over(overlay: Store) -> None:
    overlay.snapshots.prepare("making")
    with overlay.snapshots.changes_directory("making") as fd:
        os.chmod(fd, 0o755)
        os.setxattr(fd, "trusted.overlay.opaque", b"y")
    overlay.snapshots.commit("base", "making")
    overlay.snapshots.prepare("box", "base")
    with overlay.snapshots.changes_directory("box") as fd:
        assert os.listxattr(fd) == []


UNPRIVILEGED = """
import sqlite3
become_nobody()
from pycontain.errors import SnapshotError
from pycontain.metadata import Database
from pycontain.snapshots.choose import probe, snapshotter
directory = sys.argv[1]
for name in ("overlay", "native"):
    assert probe(name, directory + "/snapshots") is None, probe(name, directory + "/snapshots")
assert "root" in probe("erofs", directory + "/snapshots")
with Database(directory + "/metadata.db") as database:
    for name in (None, "native"):
        snapshots = snapshotter(name, directory + "/snapshots", database)
        print(snapshots.name, snapshots.whiteouts.name)
        snapshots.prepare("making")
        with snapshots.changes_directory("making") as fd:
            os.mkdir("private", 0o700, dir_fd=fd)
            os.close(os.open("private/file", os.O_CREAT | os.O_WRONLY, 0o400, dir_fd=fd))
        snapshots.commit("base", "making")
        print(getattr(snapshots.prepare("box", "base"), "userxattr", None))
        with snapshots.changes_directory("box") as fd:
            os.makedirs(f"/proc/self/fd/{fd}/a/b")
            for path in ("a/b", "a"):
                os.chmod(path, 0, dir_fd=fd)
        if name is None:
            try:
                with snapshots.tree("box"):
                    pass
            except SnapshotError as error:
                print(error.errno == errno.EPERM)
        for key in ("box", "base"):
            snapshots.remove(key)
        snapshots.cleanup()
        assert not [name for name in os.listdir(snapshots.directory) if not name.startswith("_")]
"""


def test_an_unprivileged_user_keeps_the_marks_in_attributes_of_users(public_path: Path, root_user: None) -> None:
    if (reason := probe("overlay", str(public_path))) is not None:
        pytest.skip(f"overlay cannot be used: {reason}")
    os.chown(public_path, NOBODY, NOBODY)
    printed = run(UNPRIVILEGED, str(public_path))
    assert printed.split() == ["overlay", "OVERLAY_USER", "True", "True", "native", "REMOVE", "None"]
