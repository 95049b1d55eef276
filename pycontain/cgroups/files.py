"""Reading and writing cgroup files with as few system calls as possible, and walking a group's directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from pycontain.cgroups import parse

# Whole files of the size that is read here are given in one read by kernfs; only `cgroup.procs` needs more.
_CHUNK = 1 << 16

GONE = (errno.ENOENT, errno.ENODEV)  # ENODEV: the directory was removed while its file was open


def write(path: str, value: str) -> None:
    """Writes `value` in one write, as the kernel's parsers want it. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """The whole file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = [os.read(fd, _CHUNK)]
        while len(chunks[-1]):
            chunks.append(os.read(fd, _CHUNK))
    finally:
        os.close(fd)
    return os.fsdecode(b"".join(chunks))


def read_short(path: str) -> str | None:
    """A file of less than a page in a single read, or None where there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, 4096).decode()
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    finally:
        os.close(fd)


def subdirectories(path: str) -> list[str]:
    """The names of the groups directly below; empty where there is no such group."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def descend(path: str) -> Iterator[str]:
    """The group and all groups below it, children before their parents."""
    for name in subdirectories(path):
        yield from descend(f"{path}/{name}")
    yield path


def processes(paths: Iterable[str]) -> set[int]:
    """The pids in these groups and below. Zombies are not among them: they left their group when they ended."""
    pids: set[int] = set()
    for path in paths:
        for directory in descend(path):
            try:
                pids.update(parse.processes(read(f"{directory}/cgroup.procs")))
            except OSError as error:
                if error.errno not in GONE:
                    raise
    return pids
