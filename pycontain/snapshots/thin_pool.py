"""A thin pool of device-mapper over two sparse files. See the kernel's admin-guide/device-mapper/thin-provisioning.rst.

The kernel takes everything apart when nobody uses it: a thin device at the last close, the pool after its last thin
device and descriptor, the loop devices after the pool. So nothing is left of a process that is killed. The same files
must never be in two pools: whoever makes one holds the lock, and waits for the loop devices of the one before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from attrs import frozen

from pycontain.linux import devicemapper, loop
from pycontain.linux.devicemapper import SECTOR, Device

DATA, METADATA, LOCK = "_data", "_metadata", "_lock"
DATA_SIZE = 100 << 30  # bytes, of a sparse file: the disk may be full before
METADATA_SIZE = 1 << 30  # enough for 100 GiB in all cases
BLOCK = 128  # sectors: what is allocated, and copied at a write into a snapshot
PATIENCE = 10.0  # seconds; others let go of devices when their last mount ends

T = TypeVar("T")


class ThinPool:
    """The pool in a directory, used from the first call on until `close`. Raises `OSError`."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        info = os.stat(directory)
        self._name = f"pycontain-{info.st_dev:x}-{info.st_ino:x}"
        self._held: Held | None = None

    @staticmethod
    def create(directory: str) -> None:
        """Makes the files of an empty pool."""
        for name, size in ((DATA, DATA_SIZE), (METADATA, METADATA_SIZE), (LOCK, 0)):
            fd = os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(fd, size)
            os.close(fd)

    def make(self, number: int, origin: int | None = None) -> None:
        """Makes the thin device `number`: an empty one, or a snapshot of another that nobody writes."""
        text = f"create_thin {number}" if origin is None else f"create_snap {number} {origin}"
        with self._in_use():
            try:
                devicemapper.message(self._name, text)
            except FileExistsError:  # after a loss of power
                devicemapper.message(self._name, f"delete {number}")
                devicemapper.message(self._name, text)

    def delete(self, number: int) -> None:
        """Removes a thin device, if it is there. EBUSY when it is still in use after a while."""
        with self._in_use():
            _wait_for(lambda: self._is_deleted(number) or None)

    def open(self, number: int, size: int, *, read_only: bool = False) -> Held:
        """A thin device as a block device of `size` bytes. It is there as long as somebody uses it."""
        with self._in_use() as pool:
            name, table = self._name_of(number), f"{pool.path} {number}"
            return _hold(
                name, lambda: devicemapper.create(name, "thin", size // SECTOR, table, read_only=read_only)
            )

    def wait_until_unused(self, number: int) -> None:
        """Waits for the last mount and descriptor of a thin device. EBUSY when there still are some after a while."""
        _wait_for(lambda: _is_removed(self._name_of(number)) or None)

    def close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _name_of(self, number: int) -> str:
        return f"{self._name}-{number}"

    @contextmanager
    def _in_use(self) -> Iterator[Held]:
        """Holds the lock, and the pool beyond it."""
        lock = os.open(f"{self.directory}/{LOCK}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._held is None:
                self._held = _hold(self._name, self._make_pool)
            yield self._held
        finally:
            os.close(lock)

    def _make_pool(self) -> Device | None:
        """None: there are loop devices of the pool before still."""
        files = [os.open(f"{self.directory}/{name}", os.O_RDWR | os.O_CLOEXEC) for name in (METADATA, DATA)]
        devices: list[int] = []
        try:
            if any(loop.backs(file) for file in files):
                return None
            devices += [loop.attach(file) for file in files]
            paths = " ".join(os.readlink(f"/proc/self/fd/{device}") for device in devices)
            table = f"{paths} {BLOCK} 0 2 skip_block_zeroing error_if_no_space"
            return devicemapper.create(self._name, "thin-pool", DATA_SIZE // SECTOR, table)
        finally:
            for fd in (*files, *devices):
                os.close(fd)

    def _is_deleted(self, number: int) -> bool:
        if not _is_removed(self._name_of(number)):
            return False
        try:
            devicemapper.message(self._name, f"delete {number}")
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EBUSY):
                raise
            return error.errno == errno.ENODATA
        return True


@frozen
class Held:
    """A device of device-mapper, and the descriptor that keeps it."""

    fd: int
    path: str

    def close(self) -> None:
        os.close(self.fd)


def _hold(name: str, make: Callable[[], Device | None]) -> Held:
    """Opens a device and has it removed at its last close. `make` is called while there is none of that name."""
    return _wait_for(lambda: _try_to_hold(name, make))


def _try_to_hold(name: str, make: Callable[[], Device | None]) -> Held | None:
    device = devicemapper.status(name)
    if device is not None and not device.live:
        devicemapper.remove(name)  # half made by a process that was killed
        device = None
    device = device or make()
    if device is None:
        return None
    try:
        fd = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENOENT):  # the kernel is removing it
            raise
        return None
    now = devicemapper.status(name)
    if now is None or now.path != device.path:  # it was removed before we had it open
        os.close(fd)
        return None
    devicemapper.remove(name, deferred=True)
    return Held(fd, device.path)


def _is_removed(name: str) -> bool:
    """Removes a device, unless it is in use."""
    try:
        devicemapper.remove(name)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EBUSY):
            raise
        return error.errno == errno.ENXIO
    return True


def _wait_for(attempt: Callable[[], T | None]) -> T:
    """What `attempt` returns at last. EBUSY after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while True:
        outcome = attempt()
        if outcome is not None:
            return outcome
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, "a device is still in use")
        time.sleep(0.005)
