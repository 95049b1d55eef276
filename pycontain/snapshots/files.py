"""Trees of files: emptying and measuring them, and carrying the attributes of one entry over to another.

The trees were filled by layers and containers: they may be deep, unreadable, or full of names that mean something.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from pycontain.linux.trees import remove_tree
from pycontain.snapshots.base import Usage

LONGEST = 3000  # bytes of a path; the kernel takes 4095
OVERLAY_MARKS = ("trusted.overlay.", "user.overlay.")  # what overlayfs notes about an entry is not the entry's own

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def empty_directory(path: str) -> None:
    """Removes all that is in a directory but not the directory itself, whose attributes stay."""
    for entry in os.listdir(path):
        inside = os.path.join(path, entry)
        try:
            os.unlink(inside)
        except FileNotFoundError:  # others do the same
            continue
        except IsADirectoryError:
            remove_tree(inside)


def walk(path: str) -> Iterator[os.DirEntry[bytes]]:
    """All entries below a directory, each directory before what is in it. Links are not followed.

    Directories that a container removes meanwhile are left out.
    """
    pending: list[bytes | int] = [os.fsencode(path)]  # directories, and descriptors to close after what is above them
    try:
        while pending:
            directory = pending.pop()
            if isinstance(directory, int):
                os.close(directory)
                continue
            if len(directory) > LONGEST:
                anchor = os.open(directory, _DIRECTORY)
                pending.append(anchor)
                directory = b"/proc/self/fd/%d" % anchor
            try:
                entries = os.scandir(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    yield entry
    finally:
        for item in pending:
            if isinstance(item, int):
                os.close(item)


def usage_of(path: str, known: Collection[tuple[int, int]] = ()) -> Usage:
    """What a directory and all that is in it take: space as du(1) counts it, each inode once.

    Inodes in `known` (inode number and change time) are shared with another tree, and not counted.
    """
    seen: set[int] = set()
    size = 0
    for info in _inodes(path):
        if info.st_ino not in seen and (info.st_ino, info.st_ctime_ns) not in known:
            seen.add(info.st_ino)
            size += info.st_blocks * 512
    return Usage(size, len(seen))


def inodes_of(path: str) -> set[tuple[int, int]]:
    """Of a tree, as `usage_of` takes them."""
    return {(info.st_ino, info.st_ctime_ns) for info in _inodes(path)}


def copy_attributes(source: str | bytes | int, target: str | bytes | int, *, without: tuple[str, ...] = ()) -> None:
    """Gives `target` the owner, mode, extended attributes and times of `source`, which are both no symbolic links.

    In this order: chown(2) clears set-user-ID bits and file capabilities, everything else changes times. Attributes
    whose name begins with one of `without` stay behind.
    """
    info = os.stat(source)
    os.chown(target, info.st_uid, info.st_gid)
    os.chmod(target, info.st_mode & 0o7777)
    for name in os.listxattr(source):
        if not name.startswith(without):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _inodes(path: str) -> Iterator[os.stat_result]:
    yield os.lstat(path)
    for entry in walk(path):
        try:
            yield entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # a container is at work in it
            continue
