"""Removes trees that somebody else filled: they may be deep, unreadable, or full of names that mean something."""

from __future__ import annotations

import errno
import os

DEEPEST = 100  # levels that are open at the same time
PASSES = 1000

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str) -> None:
    """Removes a directory and all that is in it. What is not there, or is removed by others meanwhile, is fine.

    What is `DEEPEST` levels down is moved up and removed in the next pass, so that neither depth nor the length of a
    path matters.
    """
    for _ in range(PASSES):
        try:
            top = _open_directory(path)
            try:
                _empty(top, top, DEEPEST)
            finally:
                os.close(top)
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
    raise OSError(errno.ENOTEMPTY, "others write into it", path)


def _empty(directory: int, top: int, levels: int) -> None:
    for name, is_directory in _entries(directory):
        try:
            if not is_directory:
                os.unlink(name, dir_fd=directory)
            elif levels == 0:
                os.rename(name, os.urandom(8).hex(), src_dir_fd=directory, dst_dir_fd=top)
            else:
                child = _open_directory(name, directory)
                try:
                    _empty(child, top, levels - 1)
                finally:
                    os.close(child)
                os.rmdir(name, dir_fd=directory)
        except FileNotFoundError:
            continue


def _entries(directory: int) -> list[tuple[str, bool]]:
    with os.scandir(directory) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _open_directory(name: str, parent: int | None = None) -> int:
    """Opens a directory so that what is in it can be removed. Unlike root, its owner may need a permission for that."""
    if os.geteuid() != 0:
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)
    return os.open(name, _DIRECTORY, dir_fd=parent)
