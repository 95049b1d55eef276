"""One task's group of the cgroupfs driver: its directories in all hierarchies that are used."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from pycontain.cgroups import files
from pycontain.cgroups.driver import CgroupUsage
from pycontain.cgroups.freezer import Freezer
from pycontain.cgroups.kill import kill_all, pauses
from pycontain.cgroups.v1 import LegacySubtree
from pycontain.cgroups.v2 import UnifiedSubtree
from pycontain.errors import CgroupError, NotSupported

if TYPE_CHECKING:
    from pycontain.cgroups.cgroupfs import CgroupfsDriver
    from pycontain.cgroups.oom import OomWatch
    from pycontain.cgroups.stats import Stats
    from pycontain.spec import Resources

Subtree = LegacySubtree | UnifiedSubtree


class CgroupfsGroup:
    """Made by `CgroupfsDriver.create` and `open`. See the protocol `Cgroup`."""

    __slots__ = ("_driver", "attach_fds", "into_fd", "name", "parent", "subtrees")

    def __init__(self, driver: CgroupfsDriver, name: str, parent: CgroupfsGroup | None = None) -> None:
        self._driver = driver
        self.parent = parent
        self.name: str = f"{parent.name}/{name}" if parent else name
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

    adopts = False

    def adopt(self, pid: int) -> None:
        """Nothing: the process is in the group from its birth or has put itself there."""

    def close_fds(self) -> None:
        fds = self.attach_fds if self.into_fd is None else (*self.attach_fds, self.into_fd)
        self.attach_fds, self.into_fd = (), None
        for fd in fds:
            os.close(fd)

    def usage(self, oom_kills: bool = True) -> CgroupUsage:
        memory_peak = pids_peak = None
        stalls: tuple[float | None, ...] = (None, None, None)
        killed = 0
        for subtree in self.subtrees:
            path = self.path_in(subtree)
            if subtree.version == 2:
                stalls = tuple(_stall_time(f"{path}/{resource}.pressure") for resource in ("cpu", "memory", "io"))
            if "memory" in subtree.controllers:
                memory_peak = subtree.memory_peak(path)
                killed = subtree.oom_kills(path) if oom_kills else 0
            if "pids" in subtree.controllers:
                text = files.read_short(f"{path}/pids.peak")
                pids_peak = None if text is None else int(text)
        return CgroupUsage(memory_peak, pids_peak, killed, *stalls)

    def stats(self) -> Stats:
        from pycontain.cgroups.stats import Place, read_stats

        return read_stats(Place(s.version, s.controllers, self.path_in(s)) for s in self.subtrees)

    def watch_oom(self) -> OomWatch:
        from pycontain.cgroups.oom import OomWatch

        for subtree in self.subtrees:
            if "memory" in subtree.controllers:
                return OomWatch(self.path_in(subtree), subtree.version)
        raise NotSupported(
            f"the cgroup {self.name} has no memory controller, whose events could be watched",
            remedy="Run as root, or in a delegated group that has it",
        )

    def kill(self, timeout: float = 10.0) -> None:
        kill_all(self.name, self.paths, timeout)

    def update(self, resources: Resources) -> None:
        self._driver.update(self, resources)

    def child(self, name: str, resources: Resources | None = None) -> CgroupfsGroup:
        return self._driver.create_child(self, name, resources)

    @property
    def freezer(self) -> Freezer | None:
        """On v2 where the group is in that hierarchy: it also wakes what must die."""
        found = [subtree for subtree in self.subtrees if subtree.version == 2 or "freezer" in subtree.controllers]
        best = max(found, key=lambda subtree: subtree.version, default=None)
        return Freezer(self.path_in(best), best.version) if best else None

    @property
    def frozen(self) -> bool:
        freezer = self.freezer
        return freezer is not None and freezer.frozen

    def freeze(self, timeout: float = 10.0) -> None:
        (self.freezer or self._driver.join_freezer(self)).freeze(self.name, timeout)

    def thaw(self) -> None:
        freezer = self.freezer
        if freezer is not None:
            freezer.thaw()

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


def _stall_time(path: str) -> float | None:
    """The last word of the first line, "some": seconds from microseconds; None without pressure stall information."""
    try:
        text = files.read_short(path)
    except OSError:  # EOPNOTSUPP: the kernel was started with psi=0
        return None
    return int(text.partition("\n")[0].rpartition("total=")[2]) / 1e6 if text else None


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


def open_descriptors(group: CgroupfsGroup, subtree: Subtree) -> None:
    """Opens what the first process is put into the group with."""
    path = group.path_in(subtree)
    if subtree.version == 2:
        group.into_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        group.attach_fds = (*group.attach_fds, os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC))
