"""Limits of block devices, on a loop device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from pycontain.cgroups.enforcement import BufferedWritesNotLimited
from pycontain.errors import LimitNotSupported
from pycontain.spec import BlockIO, FrozenMap, Resources, ThrottleDevice, WeightDevice

MIB = 1 << 20


class Disk:
    """A loop device of 16 MiB."""

    def __init__(self, path: str) -> None:
        self.path = path
        number = os.stat(path).st_rdev
        self.numbers = {"major": os.major(number), "minor": os.minor(number)}
        self.name = f"{os.major(number)}:{os.minor(number)}"

    @property
    def scheduler(self) -> str:
        return f"/sys/block/{os.path.basename(self.path)}/queue/scheduler"

    def partition(self) -> dict[str, int]:
        """Makes the first partition of it, 4 MiB."""
        subprocess.run([tool("addpart"), self.path, "1", "2048", "8192"], check=True)
        name = os.path.basename(self.path)
        with open(f"/sys/block/{name}/{name}p1/dev") as file:
            major, minor = file.read().split(":")
        return {"major": int(major), "minor": int(minor)}


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    losetup, image = tool("losetup"), tmp_path / "disk"
    image.touch()
    os.truncate(image, 16 * MIB)
    made = subprocess.run([losetup, "-f", "--show", "-P", str(image)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no loop device can be made: {made.stderr.strip()}")
    path = made.stdout.strip()
    disk = Disk(path)
    with open(disk.scheduler) as file:
        before = file.read().partition("[")[2].partition("]")[0] or "none"
    try:
        yield disk
    finally:
        with open(disk.scheduler, "w") as file:
            file.write(before)
        subprocess.run([losetup, "-d", path], check=True)


def io(machine):
    """The name of the controller."""
    name = "io" if machine.version == 2 else "blkio"
    machine.needs(name)
    return name


DIRECT = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], (os.O_RDONLY if sys.argv[2] == "read" else os.O_WRONLY) | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 18)
start = time.monotonic()
for index in range(int(sys.argv[3])):
    if sys.argv[2] == "read":
        os.preadv(fd, [buffer], index << 18)
    else:
        os.pwrite(fd, buffer, (4 << 20) + (index << 18))
print(time.monotonic() - start)
"""


def seconds(machine, group, disk, action, blocks):
    """How long direct input or output of so many blocks of 256 KiB takes in the group."""
    process = machine.popen(group, sys.executable, "-S", "-c", DIRECT, disk.path, action, str(blocks))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return float(output)


@pytest.mark.parametrize("action", ["read", "write"])
def test_direct_io_is_held_to_the_bytes_a_second(machine, disk, action):
    io(machine)
    limit = {f"throttle_{action}_bps_device": (ThrottleDevice(**disk.numbers, rate=MIB),)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BufferedWritesNotLimited)
        group = machine.create(Resources(block_io=BlockIO(**limit)))
    assert seconds(machine, group, disk, action, 8) > 1


def test_direct_io_is_held_to_the_operations_a_second_until_the_limit_is_lifted(machine, disk):
    io(machine)
    limit = ThrottleDevice(**disk.numbers, rate=4)
    group = machine.create(Resources(block_io=BlockIO(throttle_read_iops_device=(limit,))))
    assert seconds(machine, group, disk, "read", 6) > 0.7
    group.update(Resources(block_io=BlockIO(throttle_read_iops_device=(ThrottleDevice(**disk.numbers, rate=0),))))
    file = "io.max" if machine.version == 2 else "blkio.throttle.read_iops_device"
    assert machine.file(group, file) == ""


def test_buffered_writes_are_warned_about_on_v1(machine, disk):
    io(machine)
    limits = BlockIO(throttle_write_bps_device=(ThrottleDevice(**disk.numbers, rate=MIB),))
    if machine.version == 2:
        machine.create(Resources(block_io=limits))
        return
    with pytest.warns(BufferedWritesNotLimited, match="block_io.throttle_write_bps_device holds for direct and"):
        machine.create(Resources(block_io=limits))


def test_a_partition_is_refused_and_its_disk_is_named(machine, disk):
    io(machine)
    limits = BlockIO(throttle_read_bps_device=(ThrottleDevice(**disk.partition(), rate=MIB),))
    with pytest.raises(LimitNotSupported, match=rf"is a partition: limit the whole disk, {disk.name}"):
        machine.create(Resources(block_io=limits))


def test_a_device_that_is_not_there_is_refused(machine):
    io(machine)
    limits = BlockIO(throttle_read_bps_device=(ThrottleDevice(major=240, minor=99, rate=MIB),))
    with pytest.raises(LimitNotSupported, match=r"read_bps_device cannot be enforced: .* no block device 240:99"):
        machine.create(Resources(block_io=limits))


@pytest.mark.serial  # whether a weight can hold depends on the schedulers of all disks
def test_weights_need_a_scheduler_that_knows_them(machine, disk):
    io(machine)
    weights = BlockIO(weight=200, weight_device=(WeightDevice(**disk.numbers, weight=300),))
    with pytest.raises(LimitNotSupported, match=r"echo bfq > /sys/(block/DEVICE|dev/block/\d+:\d+)/queue/scheduler"):
        machine.create(Resources(block_io=weights))
    try:
        with open(disk.scheduler, "w") as file:
            file.write("bfq")
    except OSError as error:
        pytest.skip(f"no BFQ here: {error}")
    try:
        group = machine.create(Resources(block_io=weights))
    except LimitNotSupported as error:
        assert "this kernel has no" in str(error)  # noqa: PT017 (BFQ without CONFIG_BFQ_GROUP_IOSCHED)
        return
    file = "io.bfq.weight" if machine.version == 2 else "blkio.bfq.weight"
    assert machine.file(group, file).split("\n")[0] in ("200", "default 200")


def test_limits_of_a_device_are_written_together_by_unified(machine, disk):
    io(machine)
    if machine.version == 1:
        pytest.skip("unified is for cgroup v2")
    unified = FrozenMap({"io.max": f"{disk.name} rbps=1048576 wiops=10"})
    group = machine.create(Resources(unified=unified))
    assert machine.file(group, "io.max") == f"{disk.name} rbps=1048576 wbps=max riops=max wiops=10"
