"""Loop devices, and the ioctls of btrfs where there is no btrfs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from isolated import needs_root

from pycontain.linux import btrfs, loop

no_loop = pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="there are no loop devices")


@needs_root
@no_loop
def test_a_loop_device_has_the_content_of_its_file_and_ends_with_its_last_descriptor(tmp_path: Path) -> None:
    with open(tmp_path / "image", "w+b") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        assert not loop.backs(file.fileno())
        device = loop.attach(file.fileno())
        try:
            assert loop.backs(file.fileno())
            assert os.pread(device, 4096, 8192) == os.pread(file.fileno(), 4096, 8192)
            os.pwrite(device, b"x" * 4096, 0)
            os.fsync(device)
            assert os.pread(file.fileno(), 4096, 0) == b"x" * 4096
        finally:
            os.close(device)
        wait_until_free(file.fileno())


@needs_root
@no_loop
def test_a_read_only_loop_device_is_not_written(tmp_path: Path) -> None:
    with open(tmp_path / "image", "w+b") as file:
        file.truncate(1 << 20)
        device = loop.attach(file.fileno(), read_only=True)
        try:
            with pytest.raises(OSError, match=r"not permitted|Bad file descriptor"):
                os.pwrite(device, b"x" * 4096, 0)
        finally:
            os.close(device)
        wait_until_free(file.fileno())


def wait_until_free(file: int) -> None:
    """Another program of the machine may look into a new device for a moment."""
    deadline = time.monotonic() + 10
    while loop.backs(file) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not loop.backs(file)


def test_what_is_no_btrfs_is_told_by_an_errno(tmp_path: Path) -> None:
    fd = os.open("/proc", os.O_RDONLY)
    try:
        for function in (btrfs.create_subvolume, btrfs.destroy_subvolume):
            with pytest.raises(OSError, match=r"ioctl\(.*BTRFS_IOC_.*'name'\): Inappropriate ioctl"):
                function(fd, "name")
        with pytest.raises(OSError, match="File name too long"):
            btrfs.create_subvolume(fd, "x" * 256)
    finally:
        os.close(fd)
