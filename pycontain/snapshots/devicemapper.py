"""The devicemapper snapshotter: each snapshot is a block device with an ext4, a thin snapshot of its parent's.

The directory of a snapshot is empty: it is made before the thin device and removed after it, so that the pool has none
that no directory tells of.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pycontain.errors import SnapshotError
from pycontain.layers.whiteouts import Whiteouts
from pycontain.linux import devicemapper
from pycontain.linux.mounts import MountAttr
from pycontain.linux.trees import remove_tree
from pycontain.metadata import Database
from pycontain.metadata.snapshots import Kind
from pycontain.snapshots.base import FileSystem, Root, Usage
from pycontain.snapshots.files import inodes_of, usage_of
from pycontain.snapshots.mounting import READ_ONLY, mount_device, readable
from pycontain.snapshots.recorded import RecordedSnapshotter
from pycontain.snapshots.thin_pool import Held, ThinPool

DEVICE_SIZE = 10 << 30  # bytes, of which only those that were written take space
MKFS = ("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1")
MKFS_LIMIT = 600.0  # seconds
OPTIONS = (("noinit_itable", ""),)  # which would write into every group of blocks


class DevicemapperSnapshotter(RecordedSnapshotter):
    """The file systems have no journal: an active snapshot does not outlive a loss of power, a committed one is
    written out. An object keeps the devices of the roots that it has given until they are committed or removed."""

    name: ClassVar[str] = "devicemapper"
    whiteouts = Whiteouts.REMOVE

    def __init__(self, directory: str, database: Database) -> None:
        super().__init__(directory, database)
        self._pool = ThinPool(directory)
        self._devices: dict[int, Held] = {}
        self._lock = threading.Lock()

    @classmethod
    def probe(cls, directory: str) -> str | None:
        if os.geteuid() != 0:
            return "it needs root"
        if not os.path.exists(devicemapper.CONTROL):
            return f"the kernel has no device-mapper ({devicemapper.CONTROL} does not exist)"
        if shutil.which("mkfs.ext4") is None:
            return "mkfs.ext4 is not installed (Debian: e2fsprogs)"
        try:
            if not devicemapper.has_target("thin-pool"):
                return "the kernel has no thin pools (dm-thin-pool)"
        except OSError as error:
            return f"device-mapper cannot be used: {error}"
        return None if os.path.exists("/dev/loop-control") else "there are no loop devices (/dev/loop-control)"

    @classmethod
    def create(cls, directory: str) -> None:
        ThinPool.create(directory)

    def _make(self, path: str, kind: Kind, parents: Sequence[int]) -> None:
        number = _number(path)
        os.mkdir(path, 0o700)
        self._pool.make(number, parents[0] if parents else None)
        if not parents:
            self._format(number)
            with self._mounted(number, kind, MountAttr(0)) as directory:
                os.rmdir(f"{directory}/lost+found")

    def _root(self, number: int, kind: Kind, parents: Sequence[int]) -> Root:
        with self._lock:
            if number not in self._devices:
                self._devices[number] = self._open(number, kind)
            return _file_system(self._devices[number], kind)

    def _seal(self, number: int, parents: Sequence[int]) -> Usage | None:
        """Without users the file system is unmounted, and so consistent; then it is written to the disk."""
        self._release(number)
        self._pool.wait_until_unused(number)
        held = self._open(number, "active")
        try:
            os.fsync(held.fd)
        finally:
            held.close()
        return None

    def _measure(self, number: int, parents: Sequence[int]) -> Usage:
        """A snapshot keeps the inode numbers. A file of which a part was written is counted as a whole."""
        known: set[tuple[int, int]] = set()
        if parents:
            with self._mounted(parents[0], "committed") as directory:
                known = inodes_of(directory)
        with self._mounted(number, "active") as directory:
            return usage_of(directory, known)

    def _open_changes(self, number: int, kind: Kind) -> int:
        with self._opened(number, kind) as root:
            return readable(mount_device(root, MountAttr(0)))

    def _open_tree(self, number: int, kind: Kind, parents: Sequence[int]) -> int:
        with self._opened(number, kind) as root:
            return readable(mount_device(root, READ_ONLY))

    def _destroy(self, path: str) -> None:
        if os.path.isdir(path) and os.path.basename(path).isalnum():
            self._release(_number(path))
            self._pool.delete(_number(path))
        remove_tree(path)

    def _set_aside(self, name: str) -> None:
        self._destroy(self._join(name))

    def close(self) -> None:
        for number in list(self._devices):
            self._release(number)
        self._pool.close()

    def _format(self, number: int) -> None:
        """mkfs.ext4 has the descriptor as well: if this process is killed, the path stays that of the same device."""
        held = self._open(number, "active")
        try:
            done = subprocess.run(
                [*MKFS, held.path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True, errors="replace", timeout=MKFS_LIMIT, check=False, pass_fds=(held.fd,),
            )
        finally:
            held.close()
        if done.returncode != 0:
            raise SnapshotError(f"mkfs.ext4 has failed with status {done.returncode}: {done.stderr.strip()[-500:]}")

    def _open(self, number: int, kind: Kind) -> Held:
        return self._pool.open(number, DEVICE_SIZE, read_only=kind != "active")

    def _release(self, number: int) -> None:
        with self._lock:
            held = self._devices.pop(number, None)
        if held is not None:
            held.close()

    @contextmanager
    def _opened(self, number: int, kind: Kind) -> Iterator[FileSystem]:
        held = self._open(number, kind)
        try:
            yield _file_system(held, kind)
        finally:
            held.close()

    @contextmanager
    def _mounted(self, number: int, kind: Kind, attributes: MountAttr = READ_ONLY) -> Iterator[str]:
        with self._opened(number, kind) as root:
            fd = mount_device(root, attributes)
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)


def _file_system(held: Held, kind: Kind) -> FileSystem:
    return FileSystem("ext4", held.path, read_only=kind != "active", options=OPTIONS)


def _number(path: str) -> int:
    return int(os.path.basename(path), 36)
