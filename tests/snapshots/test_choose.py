"""Which snapshotter is chosen, and why one is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stores import Place, Unavailable, formatted, mounted

from pycontain.errors import InvalidArgument, NotSupported
from pycontain.metadata import Database
from pycontain.snapshots.base import Snapshotter
from pycontain.snapshots.choose import AUTOMATIC, NAMES, best, probe, snapshotter


def test_overlay_is_chosen_where_it_works(tmpfs: Place, overlay_works: None, database: Database) -> None:
    directory = tmpfs.new()
    chosen: Snapshotter = snapshotter(None, directory, database)
    assert chosen.name == best(directory) == "overlay"
    assert os.listdir(directory) == ["overlay"]


def test_native_is_chosen_where_overlay_does_not_work(tmpfs: Place, database: Database) -> None:
    with mounted("ramfs") as place:
        directory = place.new()
        assert snapshotter(None, directory, database).name == best(directory) == "native"


def test_what_a_store_has_is_kept(tmpfs: Place, overlay_works: None, database: Database) -> None:
    directory = tmpfs.new()
    assert snapshotter("native", directory, database).name == "native"
    assert snapshotter(None, directory, database).name == "native"
    assert snapshotter("overlay", directory, database).name == "overlay"
    assert snapshotter(None, directory, database).name == "overlay"


def test_the_directory_of_the_store_is_made(tmpfs: Place, database: Database) -> None:
    directory = f"{tmpfs.new()}/a/b"
    snapshotter("native", directory, database).prepare("box")
    assert os.listdir(directory) == ["native"]


def test_an_unknown_name_is_refused_with_those_that_are_known(database: Database, tmp_path: Path) -> None:
    for name in ("zfs", "", "../overlay"):
        with pytest.raises(InvalidArgument, match="overlay, native"):
            snapshotter(name, str(tmp_path), database)
        with pytest.raises(InvalidArgument, match="overlay, native"):
            probe(name, str(tmp_path))
    assert set(AUTOMATIC) <= set(NAMES)


def test_aufs_is_refused_with_its_reason(database: Database, tmp_path: Path) -> None:
    assert "never part of Linux" in str(probe("aufs", str(tmp_path)))
    with pytest.raises(NotSupported, match=r"no current kernel has AUFS.*Use overlay"):
        snapshotter("aufs", str(tmp_path), database)


def test_overlay_is_refused_on_an_overlay(tmpfs: Place, overlay_works: None, database: Database) -> None:
    directory = tmpfs.new()
    for name in ("lower", "upper", "work"):
        os.mkdir(f"{directory}/{name}")
    with mounted("overlay", *((f"{name}dir", f"{directory}/{name}") for name in ("lower", "upper", "work"))) as place:
        assert "it is an overlay itself" in str(probe("overlay", place.path))
        with pytest.raises(NotSupported, match=r"overlay cannot be used: .*Use native"):
            snapshotter("overlay", place.path, database)
        assert best(place.path) == "native"
        assert os.listdir(place.path) == []


def test_overlay_is_refused_without_extended_attributes(root_user: None) -> None:
    with mounted("ramfs") as place:
        assert "extended attributes" in str(probe("overlay", place.path))
        assert os.listdir(place.path) == []


def test_overlay_is_refused_where_directories_do_not_tell_types(tmp_path: Path, root_user: None) -> None:
    try:
        with formatted("ext4", tmp_path, "-O", "^filetype", size=8 << 20) as place:
            assert "d_type" in str(probe("overlay", place.path))
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_btrfs_is_refused_elsewhere(tmpfs: Place, database: Database) -> None:
    assert "is not on a btrfs file system" in str(probe("btrfs", tmpfs.path))
    with pytest.raises(NotSupported, match="Use overlay or native"):
        snapshotter("btrfs", tmpfs.path, database)


def test_erofs_is_refused_without_its_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Debian: erofs-utils" in str(probe("erofs", str(tmp_path)))


def test_erofs_is_refused_on_a_tmpfs(tmp_path: Path, root_user: None) -> None:
    if probe("erofs", str(tmp_path)) is not None:
        pytest.skip("there is no erofs here at all")
    directory = "/dev/shm"
    with open("/proc/self/mounts") as mounts:
        if not any(line.split()[1:3] == [directory, "tmpfs"] for line in mounts):
            pytest.skip("/dev/shm is no tmpfs")
    before = os.listdir(directory)
    assert "not on a tmpfs" in str(probe("erofs", directory))
    assert not [name for name in set(os.listdir(directory)) - set(before) if name.startswith(".probe")]


def test_devicemapper_is_refused_without_it(tmp_path: Path) -> None:
    if os.path.exists("/dev/mapper/control"):
        pytest.skip("there is a device-mapper here")
    assert "no device-mapper" in str(probe("devicemapper", str(tmp_path)))


def test_a_place_that_cannot_be_written_is_refused(root_user: None) -> None:
    with mounted("tmpfs", ("ro", None)) as place:
        for name in NAMES:
            assert probe(name, place.path) is not None
            assert "cannot be made" in str(probe(name, f"{place.path}/below"))
