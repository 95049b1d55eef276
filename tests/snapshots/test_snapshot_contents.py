"""What happens to files over several layers: the same with every snapshotter, as if it were one file system."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from stores import Entry, Store

from pycontain.snapshots.overlay import UNTOUCHED

NS = 1_234_567_890_123_456_789


def committed(store: Store, *changes: Callable[[Path], None]) -> dict[str, Entry]:
    """Makes a layer of each change upon the one before, and checks that it is read as it was written.

    Returns what is in the last one."""
    parent = None
    for number, change in enumerate(changes):
        name, key = f"layer {number}", f"making {number}"
        store.snapshots.prepare(key, parent)
        with store.inside(key) as root:
            change(root)
        written = store.seen(key)
        if parent is None and written["."].mode & 0o7777 == UNTOUCHED:
            written["."] = evolve(written["."], mode=stat.S_IFDIR | 0o755)
        store.snapshots.commit(name, key)
        assert store.seen(name) == written
        store.snapshots.prepare(f"box {number}", name)
        assert store.seen(f"box {number}") == written
        parent = name
    return written


def put(path: str, text: str = "") -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    return change


def unlink(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def rmtree(path: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / path)


def mkdir(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).mkdir()


def symlink(path: str, target: str) -> Callable[[Path], None]:
    return lambda root: (root / path).symlink_to(target)


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


# ---- what is gone

def test_a_deleted_file_is_gone_and_can_come_back(store: Store) -> None:
    seen = committed(store, put("etc/a", "1"), unlink("etc/a"), put("etc/a", "2"), unlink("etc/a"), put("etc/b", "3"))
    assert set(seen) == {".", "etc", "etc/b"}


def test_a_deleted_directory_is_gone_with_all_that_was_in_it(store: Store) -> None:
    seen = committed(store, put("a/b/c", "1"), put("a/b/d", "2"), rmtree("a"))
    assert set(seen) == {"."}


def test_a_directory_that_was_made_again_has_nothing_of_the_old_one(store: Store) -> None:
    seen = committed(
        store, put("a/b/old", "1"), put("a/b/older", "2"), both(rmtree("a"), mkdir("a"), mkdir("a/b")),
        put("a/b/new", "3"),
    )
    assert set(seen) == {".", "a", "a/b", "a/b/new"}


@pytest.mark.parametrize(("make", "remove"), [
    (put("x", "file"), unlink("x")), (put("x/y/z", "in a directory"), rmtree("x")), (symlink("x", "/etc"), unlink("x")),
])
@pytest.mark.parametrize("other", [put("x", "other"), put("x/y/other", "other"), symlink("x", "other")])
def test_an_entry_may_become_one_of_another_type(
    store: Store, make: Callable[[Path], None], remove: Callable[[Path], None], other: Callable[[Path], None]
) -> None:
    seen = committed(store, make, both(remove, other))
    assert [path for path, entry in seen.items() if "other" in (entry.content, os.path.basename(path))]
    assert not {path for path in seen if path.endswith("z")}


# ---- what has moved

def test_files_and_directories_can_be_renamed(store: Store) -> None:
    def rename(root: Path) -> None:
        (root / "etc/name").rename(root / "etc/renamed")
        os.rename(root / "other", root / "moved")  # made in the same layer: overlayfs has no copy of lower directories

    seen = committed(store, put("etc/name", "1"), both(put("other/deep/file", "2"), rename))
    assert set(seen) == {".", "etc", "etc/renamed", "moved", "moved/deep", "moved/deep/file"}
    assert (seen["etc/renamed"].content, seen["moved/deep/file"].content) == ("1", "2")


def test_a_file_is_replaced_by_rename(store: Store) -> None:
    def replace(root: Path) -> None:
        (root / "etc/new").write_text("2")
        (root / "etc/new").rename(root / "etc/name")

    seen = committed(store, put("etc/name", "1"), replace, replace)
    assert set(seen) == {".", "etc", "etc/name"}
    assert seen["etc/name"].content == "2"


# ---- what a file is

def test_hard_links_stay_links(store: Store) -> None:
    def link(root: Path) -> None:
        (root / "usr").mkdir()
        (root / "usr/a").write_text("text")
        (root / "etc").mkdir()
        os.link(root / "usr/a", root / "etc/b")
        os.link(root / "usr/a", root / "c")
        os.symlink("/usr/a", root / "d")
        os.link(root / "d", root / "e", follow_symlinks=False)

    seen = committed(store, link, put("other", ""))
    assert seen["c"].links == ("c", "etc/b", "usr/a")
    assert seen["d"].links == ("d", "e")


def test_a_link_that_is_removed_leaves_the_others(store: Store) -> None:
    def link(root: Path) -> None:
        (root / "a").write_text("text")
        os.link(root / "a", root / "b")

    seen = committed(store, link, unlink("a"))
    assert set(seen) == {".", "b"}
    assert seen["b"].content == "text"


def test_owners_modes_and_times_are_kept(store: Store, root_user: None) -> None:
    def make(root: Path) -> None:
        (root / "bin").mkdir()
        for name, mode in (("su", 0o4755), ("mail", 0o2755), ("none", 0), ("all", 0o7777)):
            (root / "bin" / name).write_text(name)
            os.chown(root / "bin" / name, 1000, 4_000_000_000)
            os.chmod(root / "bin" / name, mode)
            os.utime(root / "bin" / name, ns=(NS, NS))
        os.symlink("su", root / "bin/link")
        os.chown(root / "bin/link", 1, 2, follow_symlinks=False)
        os.utime(root / "bin/link", ns=(NS, NS), follow_symlinks=False)
        (root / "tmp").mkdir()
        os.chown(root / "tmp", 5, 6)
        os.chmod(root / "tmp", 0o1777)

    def change(root: Path) -> None:
        os.chmod(root / "bin/su", 0o6700)
        os.chown(root / "bin/none", 0, 7)

    seen = committed(store, make, put("other", ""), change)
    assert [seen[f"bin/{name}"].mode & 0o7777 for name in ("su", "mail", "none", "all")] == [0o6700, 0o2755, 0, 0o7777]
    assert (seen["bin/su"].uid, seen["bin/su"].gid) == (1000, 4_000_000_000)
    assert {seen[f"bin/{name}"].mtime_ns for name in ("su", "mail", "none", "all", "link")} == {NS}
    assert (seen["bin/link"].uid, seen["bin/link"].gid, seen["bin/link"].content) == (1, 2, "su")
    assert (seen["tmp"].uid, seen["tmp"].gid, seen["tmp"].mode & 0o7777) == (5, 6, 0o1777)


def test_attributes_of_the_root_directory_go_down_the_chain(store: Store, root_user: None) -> None:
    def change(root: Path) -> None:
        os.chown(root, 3, 4)
        os.chmod(root, 0o710)
        os.setxattr(root, "user.mark", b"1")

    seen = committed(store, change, put("file", ""), put("other", ""))
    assert (seen["."].uid, seen["."].gid, seen["."].mode & 0o7777) == (3, 4, 0o710)
    assert ("user.mark", b"1") in seen["."].attributes


def test_a_root_directory_that_no_layer_speaks_of_is_as_usual(store: Store) -> None:
    assert committed(store, put("file", ""), put("other", ""))["."].mode & 0o7777 == 0o755


def test_extended_attributes_are_kept(store: Store, root_user: None) -> None:
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # version 2, effective, CAP_NET_BIND_SERVICE

    def make(root: Path) -> None:
        (root / "ping").write_text("x")
        os.chown(root / "ping", 1, 1)
        os.setxattr(root / "ping", "security.capability", capability)
        os.setxattr(root / "ping", "user.empty", b"")
        os.setxattr(root / "ping", "user.long", b"v" * 1000)
        (root / "dir").mkdir()
        os.setxattr(root / "dir", "user.dir", b"\0\xff")
        os.setxattr(root / "dir", "trusted.mark", b"1")

    def change(root: Path) -> None:
        os.removexattr(root / "ping", "user.long")

    seen = committed(store, make, put("other", ""), change)
    assert set(seen["ping"].attributes) == {("security.capability", capability), ("user.empty", b"")}
    assert set(seen["dir"].attributes) == {("trusted.mark", b"1"), ("user.dir", b"\0\xff")}


def test_devices_and_fifos_are_kept_and_sockets_do_no_harm(store: Store, root_user: None) -> None:
    def make(root: Path) -> None:
        os.mkfifo(root / "fifo", 0o640)
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 1 << 19))

    def listen(root: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(root / "socket"))

    seen = committed(store, make, put("other", ""))
    assert stat.S_ISFIFO(seen["fifo"].mode)
    assert (stat.S_IFMT(seen["null"].mode), seen["null"].device) == (stat.S_IFCHR, os.makedev(1, 3))
    assert (stat.S_IFMT(seen["disk"].mode), seen["disk"].device) == (stat.S_IFBLK, os.makedev(259, 1 << 19))
    store.snapshots.prepare("server", "layer 1")
    with store.inside("server") as root:
        listen(root)
    store.snapshots.commit("served", "server")
    store.snapshots.prepare("next", "served")
    assert {path: entry for path, entry in store.seen("next").items() if path != "socket"} == seen


def test_holes_stay_holes(store: Store) -> None:
    def make(root: Path) -> None:
        with open(root / "sparse", "wb") as file:
            file.write(b"begin")
            file.seek(50 << 20)
            file.write(b"end")
            file.truncate(60 << 20)

    seen = committed(store, make)
    assert len(seen["sparse"].content) == 60 << 20
    if store.snapshots.name != "erofs":  # mkfs.erofs of version 1.5 writes zeros
        assert store.snapshots.usage("layer 0").size < 1 << 20
        with store.inside("box 0") as root:
            assert os.stat(root / "sparse").st_blocks * 512 < 1 << 20


def test_names_that_are_not_text_are_kept(store: Store) -> None:
    names = [b"\xff\xfe", b"new\nline", b"'\"$(x)\\", b"-rf", b".wh.", b"\xc3\xa4" * 127, b"*"]

    def make(root: Path) -> None:
        for name in names:
            (root / os.fsdecode(name)).mkdir()
            (root / os.fsdecode(name) / os.fsdecode(name)).write_text("x")

    seen = committed(store, make, put("other", ""))
    assert {os.fsencode(path) for path in seen} == {
        b".", b"other", *names, *(name + b"/" + name for name in names),
    }


def test_a_thousand_files_in_a_directory_are_kept_and_removed(store: Store) -> None:
    def make(root: Path) -> None:
        for number in range(1000):
            (root / f"{number}").write_bytes(b"")

    def remove(root: Path) -> None:
        for number in range(500):
            (root / f"{number}").unlink()

    assert len(committed(store, make, remove)) == 501
