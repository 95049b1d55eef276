"""A snapshot's tree as a detached mount: it is in no mount table, and ends with its last descriptor."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack

from pycontain.linux.mounts import MountAttr, fsconfig_create, fsconfig_set, fsmount, fsopen
from pycontain.snapshots.base import Directory, Erofs, FileSystem, Lower, Root

READ_ONLY = MountAttr.RDONLY | MountAttr.NODEV | MountAttr.NOSUID


def open_tree_of(root: Root) -> int:
    """A descriptor of the tree that a read-only `Root` describes. Raises `OSError`."""
    if isinstance(root, Directory):
        return os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if isinstance(root, FileSystem):
        return readable(mount_device(root, READ_ONLY))
    with ExitStack() as opened:
        return readable(mount("overlay", _overlay_options(root.lowers, root.userxattr, opened)))


def mount_erofs(path: str) -> int:
    """A descriptor (O_PATH) of the mount of an erofs image, straight from its file: since Linux 6.12."""
    with ExitStack() as opened:
        return mount("erofs", [("source", _by_descriptor(path, opened)), ("ro", None)])


def mount_device(root: FileSystem, attributes: MountAttr) -> int:
    """A descriptor (O_PATH) of the mount of a block device."""
    options = [("source", root.source), *((key, value or None) for key, value in root.options)]
    if root.read_only:
        options.append(("ro", None))
    return mount(root.type, options, attributes)


def mount(kind: str, options: Iterable[tuple[str, str | None]], attributes: MountAttr = READ_ONLY) -> int:
    """A descriptor (O_PATH) of a detached mount of a new file system, unmounted when it is closed."""
    context = fsopen(kind)
    try:
        for key, value in options:
            fsconfig_set(context, key, value)
        fsconfig_create(context)
        return fsmount(context, attributes)
    finally:
        os.close(context)


def readable(mounted: int) -> int:
    """A descriptor for reading of the root of a detached mount, which lives on with it; closes `mounted`."""
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mounted)
    finally:
        os.close(mounted)


def _overlay_options(
    lowers: Iterable[Lower], userxattr: bool, opened: ExitStack
) -> Iterable[tuple[str, str | None]]:
    for lower in lowers:
        if isinstance(lower, Erofs):
            fd = mount_erofs(lower.path)
            opened.callback(os.close, fd)
            yield "lowerdir+", f"/proc/self/fd/{fd}"
        else:
            yield "lowerdir+", _by_descriptor(lower, opened)
    if userxattr:
        yield "userxattr", None


def _by_descriptor(path: str, opened: ExitStack) -> str:
    """A name for `path` that is short enough for fsconfig(2), which takes 255 bytes."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"
