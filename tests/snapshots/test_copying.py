"""Copies of trees, and what trees take."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from stores import Place, Unavailable, entries, formatted

from pycontain.linux.syncfs import syncfs
from pycontain.snapshots.base import Usage
from pycontain.snapshots.copying import copy_tree
from pycontain.snapshots.files import empty_directory, usage_of, walk


def make_tree(root: Path) -> None:
    """A bit of everything."""
    (root / "dir/empty").mkdir(parents=True)
    (root / "dir/file").write_bytes(os.urandom(100_000))
    (root / "none").write_bytes(b"")
    os.link(root / "dir/file", root / "again")
    (root / "link").symlink_to("dir/file")
    (root / "dangling").symlink_to("/nowhere/at/all")
    os.mkfifo(root / "fifo")
    with open(root / "sparse", "wb") as file:
        file.truncate(1 << 20)
        for position in (100_000, 500_000):
            file.seek(position)
            file.write(b"data")
    for path in (root / "dir", root / "dir/file"):
        os.setxattr(path, "user.mark", b"1")
        os.utime(path, ns=(1, 999_999_999))
    os.chmod(root / "dir", 0o750)


def places(tmpfs: Place, tmp_path: Path) -> list[str]:
    return [tmpfs.new(), str(tmp_path)]


def test_a_copy_is_like_the_original(tmpfs: Place, tmp_path: Path) -> None:
    for directory in places(tmpfs, tmp_path):
        source, target = f"{directory}/source", f"{directory}/target"
        os.mkdir(source)
        os.mkdir(target)
        make_tree(Path(source))
        copy_tree(source, target)
        assert entries(target) == entries(source)
        assert os.stat(f"{target}/dir").st_mtime_ns == 999_999_999
        assert os.stat(f"{target}/sparse").st_blocks * 512 < 100_000


def test_a_copy_shares_the_data_where_the_file_system_can(tmp_path: Path, btrfs: Place | str) -> None:
    if isinstance(btrfs, str):
        pytest.skip(btrfs)
    directory = btrfs.new()
    os.mkdir(f"{directory}/source")
    os.mkdir(f"{directory}/target")
    Path(directory, "source/big").write_bytes(os.urandom(1 << 20) * 10)
    free = free_blocks(directory)
    copy_tree(f"{directory}/source", f"{directory}/target")
    assert (free - free_blocks(directory)) * 4096 < 4 << 20
    assert entries(f"{directory}/target").keys() == {".", "big"}
    shutil.rmtree(directory)


def free_blocks(directory: str) -> int:
    fd = os.open(directory, os.O_RDONLY)
    try:
        syncfs(fd)
        return os.fstatvfs(fd).f_bfree
    finally:
        os.close(fd)


def test_a_copy_without_the_kernels_help_is_like_the_original(tmp_path: Path, root_user: None) -> None:
    """ext4 without extents has holes, but no sharing and no preallocation."""
    try:
        with formatted("ext4", tmp_path, "-O", "^extents,^64bit", size=8 << 20) as place:
            source, target = place.new(), place.new()
            make_tree(Path(source))
            copy_tree(source, target)
            assert entries(target) == entries(source)
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_a_path_that_is_too_long_is_refused(tmpfs: Place) -> None:
    source, target = tmpfs.new(), tmpfs.new()
    fd = os.open(source, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("x" * 200, dir_fd=fd)
        inner = os.open("x" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(OSError, match="File name too long"):
        copy_tree(source, target)
    assert usage_of(source).inodes == 31
    walking = walk(source)  # what is open in the middle of it is closed with it
    for _ in range(25):
        next(walking)
    walking.close()


def test_each_inode_is_counted_once(tmpfs: Place) -> None:
    directory = tmpfs.new()
    Path(directory, "file").write_bytes(b"x" * 8192)
    os.link(f"{directory}/file", f"{directory}/again")
    os.symlink("x" * 100, f"{directory}/link")
    assert usage_of(directory) == Usage(8192, 3)


def test_an_emptied_directory_is_still_there(tmpfs: Place) -> None:
    directory = tmpfs.new()
    make_tree(Path(directory))
    os.chmod(directory, 0o711)
    empty_directory(directory)
    assert os.listdir(directory) == []
    assert os.stat(directory).st_mode & 0o7777 == 0o711
