"""Directories that a layer implies, when it was applied without the layers below: they get what these have."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from pycontain.layers.xattrs import carried_xattrs
from pycontain.linux.paths import open_in_root


def adopt(root: int, implied: Iterable[str], lower: int) -> list[str]:
    """Gives the `implied` directories of `root` owner, mode, times and attributes of those in the tree `lower`.

    `implied` is what `apply_layer` has returned; `root` and `lower` are descriptors of directories. Returns the paths
    that are something else in `lower`, for example a link to a directory that the layer's files belong to: such a layer
    has to be applied to the tree itself, by `Whiteouts.REMOVE`, since alone it would hide the link.
    """
    unlike = []
    for path in implied:
        try:
            below = open_in_root(lower, path, os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            unlike.append(path)
            continue
        try:
            if stat.S_ISDIR(os.fstat(below).st_mode):
                _copy(root, path, below)
            else:
                unlike.append(path)
        finally:
            os.close(below)
    return unlike


def _copy(root: int, path: str, below: int) -> None:
    info = os.fstat(below)
    fd = open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if os.geteuid() == 0:
            os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
        for name, value in carried_xattrs(f"/proc/self/fd/{below}", follow=True).items():
            os.setxattr(fd, name, value)
        os.utime(fd, ns=(info.st_mtime_ns, info.st_mtime_ns))
    finally:
        os.close(fd)
