"""The erofs snapshotter: as overlay, but a committed layer is one file, the image of a read-only file system.

The image is mounted straight from the file (Linux 6.12), without a loop device, and is checked by nothing but its own
structure. What overlayfs notes about entries is kept in it, so that such layers are put together like directories.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import ClassVar

from pycontain.errors import SnapshotError
from pycontain.linux.trees import remove_tree
from pycontain.metadata.snapshots import Kind
from pycontain.snapshots.base import Erofs, Lower, Usage
from pycontain.snapshots.files import empty_directory
from pycontain.snapshots.mounting import mount_erofs, readable
from pycontain.snapshots.overlay import OverlaySnapshotter

IMAGE = "layer.erofs"
MKFS_LIMIT = 3600.0  # seconds for one layer


class ErofsSnapshotter(OverlaySnapshotter):
    """In the directory of a committed snapshot is the image, and `fs` without its content: the root's attributes."""

    name: ClassVar[str] = "erofs"
    seals_durably: ClassVar[bool] = True

    @classmethod
    def probe(cls, directory: str) -> str | None:
        if shutil.which("mkfs.erofs") is None:
            return "mkfs.erofs is not installed (Debian: erofs-utils)"
        trial = f"{directory}/.probe-{os.urandom(6).hex()}"
        try:
            os.makedirs(f"{trial}/fs", 0o700)
            try:
                make_image(trial)
                os.close(mount_erofs(f"{trial}/{IMAGE}"))
            finally:
                remove_tree(trial)
        except (OSError, SnapshotError) as error:
            return f"an erofs image cannot be mounted from its file (root, Linux 6.12, not on a tmpfs): {error}"
        return super().probe(directory)

    def _seal(self, number: int, parents: Sequence[int]) -> Usage | None:
        super()._seal(number, parents)
        make_image(self._path(number))
        for path in (self._image(number), self._files(number), self._path(number), self.directory):
            _write_out(path)
        return Usage(os.stat(self._image(number)).st_blocks * 512, 1)

    def _settle(self, number: int) -> None:
        super()._settle(number)
        files = self._files(number)
        info = os.stat(files)
        empty_directory(files)
        os.utime(files, ns=(info.st_atime_ns, info.st_mtime_ns))

    def _open_changes(self, number: int, kind: Kind) -> int:
        if kind == "committed":
            return readable(mount_erofs(self._image(number)))
        return super()._open_changes(number, kind)

    def _image(self, number: int) -> str:
        return f"{self._path(number)}/{IMAGE}"

    def _lower(self, number: int) -> Lower:
        return Erofs(self._image(number))


def make_image(directory: str) -> None:
    """Writes the tree `fs` in a directory into the image beside it, which is there as a whole or not at all."""
    hidden = f"{IMAGE}.{os.urandom(6).hex()}"
    try:
        done = subprocess.run(
            ["mkfs.erofs", "--quiet", "--preserve-mtime", hidden, "fs"], cwd=directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", timeout=MKFS_LIMIT,
            check=False,
        )
        if done.returncode != 0:
            raise SnapshotError(f"mkfs.erofs has failed with status {done.returncode}: {done.stderr.strip()[-500:]}")
        os.rename(f"{directory}/{hidden}", f"{directory}/{IMAGE}")
    except BaseException:
        if os.path.exists(f"{directory}/{hidden}"):
            os.unlink(f"{directory}/{hidden}")
        raise


def _write_out(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
