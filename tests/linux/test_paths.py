"""Paths inside a directory that an adversary filled never lead outside of it, and never block."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from isolated import needs_root, open_descriptors

from pycontain.errors import InvalidArgument
from pycontain.linux.paths import Resolve, open_beneath, open_in_root, openat2, read_file_in_root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A directory with a secret beside it, and the descriptor of it."""
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "secret").write_text("inside")
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


ESCAPES = ["/secret", "../secret", "etc/../../secret", "absolute", "relative", "chain", "up/secret"]


@pytest.fixture
def escapes(root: int, tmp_path: Path) -> None:
    os.symlink(tmp_path / "secret", "absolute", dir_fd=root)
    os.symlink("../../../../../secret", "relative", dir_fd=root)
    os.symlink("/etc/../relative", "chain", dir_fd=root)
    os.symlink("..", "up", dir_fd=root)


@pytest.mark.usefixtures("escapes")
@pytest.mark.parametrize("path", ESCAPES)
def test_in_a_root_every_path_ends_inside(root: int, path: str) -> None:
    try:
        assert read_file_in_root(root, path, 100) == b"inside"
    except FileNotFoundError:
        assert path == "absolute"  # the same path does not exist inside


@pytest.mark.usefixtures("escapes")
@pytest.mark.parametrize("path", ESCAPES)
def test_beneath_a_directory_every_escape_is_an_error(root: int, path: str) -> None:
    with pytest.raises(OSError, match="openat2") as caught:
        open_beneath(root, path, os.O_RDONLY)
    assert caught.value.errno == errno.EXDEV


def test_beneath_a_directory_its_files_are_opened_and_created(root: int) -> None:
    with open(open_beneath(root, "etc/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w") as file:
        file.write("x")
    assert os.stat("etc/new", dir_fd=root).st_mode & 0o777 == 0o640
    fd = open_beneath(root, "etc/../secret", os.O_RDONLY)
    assert os.read(fd, 10) == b"inside"
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_magic_links_are_refused() -> None:
    proc = os.open("/proc", os.O_PATH)
    for opener in (open_in_root, open_beneath):
        with pytest.raises(OSError, match="Too many levels") as caught:
            opener(proc, "self/cwd", os.O_PATH)
        assert caught.value.errno == errno.ELOOP
    os.close(proc)


def test_the_message_names_path_and_resolution(root: int) -> None:
    with pytest.raises(FileNotFoundError, match=r"openat2\(\d+, 'nothing', \d+, NO_MAGICLINKS\|IN_ROOT\): No such"):
        open_in_root(root, "nothing", os.O_RDONLY)
    with pytest.raises(InvalidArgument, match="NUL"):
        open_in_root(root, "a\0b", os.O_RDONLY)


def test_symbolic_links_can_be_refused(root: int) -> None:
    os.symlink("secret", "link", dir_fd=root)
    with pytest.raises(OSError, match="NO_SYMLINKS"):
        openat2(root, "link", os.O_RDONLY, resolve=Resolve.NO_SYMLINKS)


def test_renames_at_the_same_time_do_not_fail_the_opening(root: int) -> None:
    """They make the kernel answer EAGAIN, which is tried again."""
    os.makedirs(f"/proc/self/fd/{root}/a/b")
    stop = threading.Event()

    def rename() -> None:
        while not stop.is_set():
            os.rename("a", "c", src_dir_fd=root, dst_dir_fd=root)
            os.rename("c", "a", src_dir_fd=root, dst_dir_fd=root)

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        for _ in range(2000):
            os.close(open_in_root(root, "etc/../etc/../secret", os.O_RDONLY))
    finally:
        stop.set()
        thread.join()


def test_a_file_is_read_up_to_the_limit(root: int) -> None:
    assert read_file_in_root(root, "/secret", 6) == b"inside"
    with pytest.raises(OSError, match="more than 5 bytes") as caught:
        read_file_in_root(root, "/secret", 5)
    assert caught.value.errno == errno.EFBIG


def test_an_endless_file_is_not_read_to_its_end(root: int) -> None:
    with open(open_beneath(root, "huge", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match=f"more than {1 << 20} bytes"):
        read_file_in_root(root, "huge", 1 << 20)


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "device"])
def test_what_is_not_a_regular_file_is_refused_without_opening_it(root: int, kind: str) -> None:
    before = open_descriptors()
    if kind == "fifo":
        os.mkfifo("object", dir_fd=root)
    elif kind == "directory":
        os.mkdir("object", dir_fd=root)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{root}/object")
    elif os.geteuid() == 0:
        os.mknod("object", 0o20600, os.makedev(1, 5), dir_fd=root)
    else:
        pytest.skip("needs root: mknod")
    with pytest.raises(OSError, match="not a regular file") as caught:
        read_file_in_root(root, "object", 100)
    assert caught.value.errno == errno.EINVAL
    assert open_descriptors() == before


@needs_root
def test_a_root_of_another_owner_is_read_too(root: int) -> None:
    os.chown("secret", 1234, 1234, dir_fd=root)
    os.chmod("secret", 0o000, dir_fd=root)
    assert read_file_in_root(root, "secret", 100) == b"inside"
