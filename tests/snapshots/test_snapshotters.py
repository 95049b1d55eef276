"""What every snapshotter does: the same tests for all of them.

    None <- base <- middle <- top       committed layers
                       \\<- box          an active snapshot, in which a container writes
"""

from __future__ import annotations

import os
import stat

import pytest
from stores import Store, entries

from pycontain.errors import SnapshotError
from pycontain.snapshots.base import Directory, FileSystem, Overlay, Usage


@pytest.fixture
def layers(store: Store) -> Store:
    """A store with three layers."""
    store.layer("base", None, {"bin/sh": "shell", "etc/name": "base", "etc/old": "old"})
    store.layer("middle", "base", {"etc/name": "middle", "srv/data": "data"})
    store.layer("top", "middle", {"etc/name": "top"})
    return store


# ---- from layers to a tree

def test_an_empty_snapshot_takes_files_and_shows_them(store: Store) -> None:
    store.snapshots.prepare("box")
    assert store.texts("box") == {}
    with store.inside("box") as root:
        (root / "file").write_text("text")
    assert store.texts("box") == {"file": "text"}


def test_each_layer_covers_those_below_it(layers: Store) -> None:
    below = {"bin/sh": "shell", "etc/name": "base", "etc/old": "old"}
    assert layers.texts("base") == below
    assert layers.texts("middle") == {**below, "etc/name": "middle", "srv/data": "data"}
    assert layers.texts("top") == {**below, "etc/name": "top", "srv/data": "data"}


def test_a_container_sees_the_layers_and_what_it_writes(layers: Store) -> None:
    layers.snapshots.prepare("box", "top")
    with layers.inside("box") as root:
        assert (root / "etc/name").read_text() == "top"
        (root / "etc/name").write_text("mine")
        (root / "etc/new").write_text("new")
    assert layers.texts("box") == {**layers.texts("top"), "etc/name": "mine", "etc/new": "new"}


def test_what_one_container_writes_no_other_sees(layers: Store) -> None:
    before = layers.seen("top")
    for key in ("one", "two"):
        layers.snapshots.prepare(key, "top")
    with layers.inside("one") as one, layers.inside("two") as two:
        (one / "etc/name").write_text("one")
        (two / "bin/sh").unlink()
        assert (two / "etc/name").read_text() == "top"
        assert (one / "bin/sh").read_text() == "shell"
    assert layers.seen("top") == before


def test_a_committed_container_is_a_layer_like_others(layers: Store) -> None:
    layers.snapshots.prepare("box", "top")
    with layers.inside("box") as root:
        (root / "etc/name").write_text("mine")
        (root / "etc/old").unlink()
    seen = layers.seen("box")
    layers.snapshots.commit("mine", "box")
    layers.snapshots.prepare("next", "mine")
    assert layers.seen("mine") == layers.seen("next") == seen
    assert "etc/old" not in seen


def test_the_root_of_a_container_is_what_prepare_gave(layers: Store) -> None:
    given = layers.snapshots.prepare("box", "top")
    assert layers.snapshots.root("box") == given
    viewed = layers.snapshots.view("look", "top")
    assert layers.snapshots.root("look") == viewed != given


# ---- views

def test_a_view_shows_what_its_parent_shows_and_cannot_be_written(layers: Store) -> None:
    root = layers.snapshots.view("look", "middle")
    assert layers.seen("look") == layers.seen("middle")
    if isinstance(root, Overlay):
        assert root.directory is None
        with layers.inside("look") as path, pytest.raises(OSError, match="Read-only"):
            (path / "new").write_text("x")
    else:
        assert isinstance(root, (Directory, FileSystem))
        assert root.read_only


def test_a_view_of_a_single_layer_shows_no_whiteouts(store: Store) -> None:
    store.snapshots.prepare("making", None)
    with store.snapshots.changes_directory("making") as fd:
        os.mkdir("etc", dir_fd=fd)
        if store.snapshots.rebase:
            os.mknod("gone", stat.S_IFCHR, 0, dir_fd=fd)
    store.snapshots.commit("base", "making")
    store.snapshots.view("look", "base")
    for key in ("base", "look"):
        assert set(store.seen(key)) == {".", "etc"}
    with store.inside("look") as root:
        assert os.listdir(root) == ["etc"]


def test_a_view_keeps_its_parent(layers: Store) -> None:
    layers.snapshots.view("look", "top")
    with pytest.raises(SnapshotError, match="'top' is the parent of 'look'"):
        layers.snapshots.remove("top")
    layers.snapshots.remove("look")
    layers.snapshots.remove("top")


def test_a_view_has_no_changes_and_is_not_committed(layers: Store) -> None:
    layers.snapshots.view("look", "top")
    with pytest.raises(SnapshotError, match="is view"):
        layers.snapshots.commit("name", "look")
    with pytest.raises(SnapshotError, match="is a view"), layers.snapshots.changes_directory("look"):
        pass


# ---- what is refused

def test_only_what_is_committed_can_be_a_parent(layers: Store) -> None:
    layers.snapshots.prepare("box", "top")
    layers.snapshots.view("look", "top")
    before = list(layers.snapshots.walk()), layers.directories()
    for parent in ("missing", "box", "look"):
        with pytest.raises(SnapshotError, match=repr(parent)):
            layers.snapshots.prepare("new", parent)
        with pytest.raises(SnapshotError, match=repr(parent)):
            layers.snapshots.view("new", parent)
    assert (list(layers.snapshots.walk()), layers.directories()) == before


def test_a_key_is_used_once(layers: Store) -> None:
    layers.snapshots.prepare("box", "top")
    with layers.inside("box") as root:
        (root / "mine").write_text("mine")
    layers.snapshots.view("look", "top")
    before = list(layers.snapshots.walk()), layers.directories(), layers.seen("box")
    for key in ("box", "look", "top"):
        with pytest.raises(SnapshotError, match="exists already"):
            layers.snapshots.prepare(key, "base")
        with pytest.raises(SnapshotError, match="exists already"):
            layers.snapshots.view(key, "base")
        with pytest.raises(SnapshotError, match="exists already"):
            layers.snapshots.commit(key, "box")
    assert (list(layers.snapshots.walk()), layers.directories(), layers.seen("box")) == before


def test_only_an_active_snapshot_is_committed_and_once(layers: Store) -> None:
    for key, reason in (("missing", "there is no"), ("top", "is committed")):
        with pytest.raises(SnapshotError, match=reason):
            layers.snapshots.commit("name", key)
    layers.snapshots.prepare("box", "top")
    layers.snapshots.commit("name", "box")
    with pytest.raises(SnapshotError, match="there is no"):
        layers.snapshots.commit("another", "box")


def test_a_parent_is_given_to_commit_only_where_layers_can_be_applied_alone(layers: Store) -> None:
    layers.snapshots.prepare("alone")
    with layers.inside("alone") as root:
        (root / "etc").mkdir()
        (root / "etc/name").write_text("alone")
    if layers.snapshots.rebase:
        layers.snapshots.commit("upper", "alone", parent="middle")
        assert layers.texts("upper") == {**layers.texts("middle"), "etc/name": "alone"}
        assert layers.snapshots.stat("upper").parent == "middle"
    else:
        with pytest.raises(SnapshotError, match="has no parent"):
            layers.snapshots.commit("upper", "alone", parent="middle")
    layers.snapshots.prepare("box", "base")
    with pytest.raises(SnapshotError, match="has the parent 'base', not 'middle'"):
        layers.snapshots.commit("name", "box", parent="middle")
    layers.snapshots.commit("name", "box", parent="base")


def test_a_failed_commit_leaves_an_active_snapshot_that_can_be_written_and_committed(layers: Store) -> None:
    layers.snapshots.prepare("box", "base")
    with pytest.raises(SnapshotError):
        layers.snapshots.commit("name", "box", parent="missing")
    with layers.inside("box") as root:
        (root / "etc/name").write_text("afterwards")
    assert layers.texts("box")["etc/name"] == "afterwards"
    layers.snapshots.commit("name", "box")
    assert layers.texts("name")["etc/name"] == "afterwards"


def test_every_method_refuses_a_key_that_is_not_there(store: Store) -> None:
    snapshots = store.snapshots
    for method in (snapshots.root, snapshots.stat, snapshots.usage, snapshots.remove):
        with pytest.raises(SnapshotError, match="there is no snapshot 'missing'"):
            method("missing")
    for opening in (snapshots.tree, snapshots.changes_directory):
        with pytest.raises(SnapshotError, match="there is no snapshot 'missing'"), opening("missing"):
            pass


# ---- removal

def test_a_snapshot_with_children_is_not_removed(layers: Store) -> None:
    layers.snapshots.prepare("box", "top")
    before = layers.seen("box")
    for key in ("base", "middle", "top"):
        with pytest.raises(SnapshotError, match=f"{key!r} is the parent of"):
            layers.snapshots.remove(key)
    assert layers.seen("box") == before


def test_nothing_is_left_of_what_is_removed(layers: Store) -> None:
    layers.snapshots.prepare("box", "top")
    with layers.inside("box") as root:
        (root / "etc/name").write_text("mine")
        (root / "secret").mkdir(mode=0)
    layers.snapshots.view("look", "top")
    for key in ("look", "box", "top", "middle", "base"):
        layers.snapshots.remove(key)
    assert list(layers.snapshots.walk()) == []
    assert layers.directories() == set()


def test_a_removed_key_can_be_used_again_and_begins_empty(layers: Store) -> None:
    layers.snapshots.prepare("box", "top")
    with layers.inside("box") as root:
        (root / "mine").write_text("mine")
    layers.snapshots.remove("box")
    layers.snapshots.prepare("box", "middle")
    assert layers.seen("box") == layers.seen("middle")


def test_a_tree_of_any_depth_and_with_any_names_is_removed(store: Store) -> None:
    store.snapshots.prepare("box")
    with store.snapshots.changes_directory("box") as top:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)
        for _ in range(600):
            os.mkdir("deep" * 50, dir_fd=fd)
            inner = os.open("deep" * 50, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.close(fd)
        for name in (b"\xff\xfe", b"new\nline", b"-rf *", b"x" * 255):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=top))
        os.symlink("/etc", "link", dir_fd=top)
    assert store.snapshots.usage("box").inodes == 606
    store.snapshots.remove("box")
    assert store.directories() == set()


# ---- what is recorded

def test_stat_tells_what_was_given(layers: Store) -> None:
    layers.snapshots.prepare("box", "top", labels={"for": "a container"})
    info = layers.snapshots.stat("box")
    assert (info.key, info.parent, info.kind, info.labels) == ("box", "top", "active", {"for": "a container"})
    layers.snapshots.commit("mine", "box")
    committed = layers.snapshots.stat("mine")
    assert (committed.kind, committed.parent, committed.created) == ("committed", "top", info.created)
    layers.snapshots.view("look", "mine")
    assert layers.snapshots.stat("look").kind == "view"


def test_walk_gives_parents_before_children(layers: Store) -> None:
    layers.snapshots.prepare("box", "middle")
    if layers.snapshots.rebase:  # made before its parent is
        layers.snapshots.prepare("early")
        layers.layer("late", "top", {"file": ""})
        layers.snapshots.commit("upper", "early", parent="late")
    keys = [info.key for info in layers.snapshots.walk()]
    assert sorted(keys) == sorted(set(keys))
    assert {"base", "middle", "top", "box"} <= set(keys)
    for info in layers.snapshots.walk():
        assert info.parent is None or keys.index(info.parent) < keys.index(info.key)


def test_any_text_can_be_a_key(store: Store) -> None:
    keys = ["sha256:" + "0" * 64, "../../x", "a/b", "/", ".", "ä\n☃", "x" * 1000, "' OR 1=1 --"]
    for key in keys:
        store.layer(key, None, {"file": key})
    assert [info.key for info in store.snapshots.walk()] == keys
    assert [store.texts(key) for key in keys] == [{"file": key} for key in keys]
    assert os.listdir(store.directory) == [store.snapshots.name]


def test_usage_counts_what_a_snapshot_has_of_its_own(store: Store) -> None:
    store.layer("base", None, {"big": "x" * 1_000_000})
    base = store.snapshots.usage("base")
    store.snapshots.prepare("box", "base")
    empty = store.snapshots.usage("box")
    with store.inside("box") as root:
        (root / "mine").write_bytes(os.urandom(500_000))
        os.link(root / "mine", root / "again")
    used = store.snapshots.usage("box")
    assert 500_000 <= used.size - empty.size < 600_000
    assert 1 <= used.inodes - empty.inodes <= 2  # of btrfs, whose snapshots share the directory until it is changed
    if store.snapshots.name == "native":  # whose snapshots share nothing
        assert empty == base
    else:
        assert empty.size < 100_000
    store.snapshots.commit("mine", "box")
    if store.snapshots.name == "erofs":
        assert 500_000 <= store.snapshots.usage("mine").size < 600_000
    else:
        assert base.size >= 1_000_000
        assert store.snapshots.usage("mine") == used
    store.snapshots.view("look", "mine")
    assert store.snapshots.usage("look") == Usage(0, 0)


def test_usage_that_was_measured_elsewhere_is_recorded(store: Store) -> None:
    store.snapshots.prepare("box")
    store.snapshots.commit("base", "box", usage=Usage(12345, 7))
    if store.snapshots.name != "erofs":  # where the image counts
        assert store.snapshots.usage("base") == Usage(12345, 7)


def test_another_object_on_the_same_store_sees_the_same(layers: Store) -> None:
    other = type(layers.snapshots)(layers.snapshots.directory, layers.database)
    assert list(other.walk()) == list(layers.snapshots.walk())
    assert other.prepare("box", "top") == layers.snapshots.root("box")
    other.close()


def test_the_changes_of_a_layer_can_be_read_after_it_was_committed(layers: Store) -> None:
    with layers.snapshots.changes_directory("top") as fd:
        found = entries(f"/proc/self/fd/{fd}")
    files = {path for path, entry in found.items() if stat.S_ISREG(entry.mode)}
    assert files == ({"etc/name"} if layers.snapshots.rebase else set(layers.texts("top")))
