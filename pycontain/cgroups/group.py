"""One task's group of the cgroupfs driver: its directories in all hierarchies that are used."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pycontain.cgroups import files
from pycontain.cgroups.driver import CgroupUsage
from pycontain.cgroups.kill import kill_all, pauses
from pycontain.cgroups.v1 import LegacySubtree
from pycontain.cgroups.v2 import UnifiedSubtree
from pycontain.errors import CgroupError

if TYPE_CHECKING:
    from pycontain.cgroups.cgroupfs import CgroupfsDriver
    from pycontain.spec import Resources

Subtree = LegacySubtree | UnifiedSubtree


class CgroupfsGroup:
    """Made by `CgroupfsDriver.create` and `open`. See the protocol `Cgroup`."""

    __slots__ = ("_driver", "attach_fds", "into_fd", "name", "subtrees")

    def __init__(self, driver: CgroupfsDriver, name: str) -> None:
        self._driver = driver
        self.name = name
        self.subtrees: list[Subtree] = []
        self.into_fd: int | None = None
        self.attach_fds: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<cgroup {self.name}: {' '.join(self.paths) or 'no directories'}>"

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self.path_in(subtree) for subtree in self.subtrees)

    def path_in(self, subtree: Subtree) -> str:
        return f"{subtree.parent}/{self.name}"

    def close_fds(self) -> None:
        fds = self.attach_fds if self.into_fd is None else (*self.attach_fds, self.into_fd)
        self.attach_fds, self.into_fd = (), None
        for fd in fds:
            os.close(fd)

    def usage(self, oom_kills: bool = True) -> CgroupUsage:
        memory_peak = pids_peak = None
        killed = 0
        for subtree in self.subtrees:
            path = self.path_in(subtree)
            if "memory" in subtree.controllers:
                memory_peak = subtree.memory_peak(path)
                killed = subtree.oom_kills(path) if oom_kills else 0
            if "pids" in subtree.controllers:
                text = files.read_short(f"{path}/pids.peak")
                pids_peak = None if text is None else int(text)
        return CgroupUsage(memory_peak, pids_peak, killed)

    def kill(self, timeout: float = 10.0) -> None:
        kill_all(self.name, self.paths, timeout)

    def update(self, resources: Resources) -> None:
        self._driver.update(self, resources)

    def remove(self, timeout: float = 2.0) -> None:
        self.close_fds()
        deadline = time.monotonic() + timeout
        busy = [path for path in self.paths if not _remove_directory(path, deadline)]
        if busy:
            pids = sorted(files.processes(busy))
            raise CgroupError(
                f"the cgroup {self.name} cannot be removed: processes {pids} are in {', '.join(busy)}",
                errno=errno.EBUSY, remedy="Kill them first (`kill()` ends all of them)",
            )


def _remove_directory(path: str, deadline: float) -> bool:
    """Removes a group and those below it; whether it is gone."""
    for _ in pauses(deadline):
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno in files.GONE:
                return True
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise _stuck(path, error) from error
            _remove_children(path)
        else:
            return True
    return False


def _remove_children(path: str) -> None:
    for directory in files.descend(path):
        if directory != path:
            try:
                os.rmdir(directory)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, *files.GONE):
                    raise _stuck(directory, error) from error


def _stuck(directory: str, error: OSError) -> CgroupError:
    return CgroupError(f"the cgroup directory {directory} cannot be removed", errno=error.errno)


def join(path: str, sources: Sequence[str]) -> None:
    """Moves all processes of the groups `sources` into `path`, those too that they fork meanwhile."""
    for _ in pauses(time.monotonic() + 5):
        missing = files.processes(sources) - files.processes([path])
        if not missing:
            return
        for pid in missing:
            try:
                files.write(f"{path}/cgroup.procs", str(pid))
            except ProcessLookupError:
                pass
    raise CgroupError(f"the processes {sorted(missing)} cannot be moved into {path}: they fork too fast")
