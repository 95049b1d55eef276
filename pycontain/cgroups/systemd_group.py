"""One task's group of the systemd driver: a scope, which is systemd's, and in it the task's group, which is ours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pycontain.cgroups import files
from pycontain.cgroups.driver import CgroupUsage
from pycontain.cgroups.group import CgroupfsGroup
from pycontain.cgroups.systemd_pause import Pause

if TYPE_CHECKING:
    from pycontain.cgroups.oom import OomWatch
    from pycontain.cgroups.stats import Stats
    from pycontain.cgroups.systemd import SystemdDriver
    from pycontain.spec import Resources


class SystemdGroup:
    """Made by `SystemdDriver.create` and `open`. See the protocol `Cgroup`.

    Attributes:
        unit: the scope, such as `pycontain-NAME.scope`.
        scope: its directories. Nothing is written there.
        task: the directories of the task below them. In a scope that was opened it is the scope itself.
    """

    __slots__ = ("_driver", "_named_tasks", "_pause", "_subgroup", "name", "scope", "task", "unit")

    def __init__(
        self, driver: SystemdDriver, name: str, scope: CgroupfsGroup, task: CgroupfsGroup, pause: Pause | None = None,
        named_tasks: int | None = None, subgroup: str | None = None,
    ) -> None:
        self._driver = driver
        self._pause = pause
        self._named_tasks = named_tasks  # the descriptor of `tasks` in v1's hierarchy without controllers
        self._subgroup = subgroup  # where systemd has to put the first process
        self.name = name
        self.unit: str = scope.name
        self.scope = scope
        self.task = task
        if subgroup is not None:
            task.close_fds()

    def __repr__(self) -> str:
        return f"<cgroup {self.name} of {self.unit}: {' '.join(self.paths) or 'no directories'}>"

    @property
    def paths(self) -> tuple[str, ...]:
        return self.task.paths

    @property
    def into_fd(self) -> int | None:
        return self.task.into_fd

    @property
    def attach_fds(self) -> tuple[int, ...]:
        named = () if self._named_tasks is None else (self._named_tasks,)
        return (*self.task.attach_fds, *named)

    def adopt(self, pid: int) -> None:
        if self._subgroup is not None:
            self._driver.attach(self.unit, self._subgroup, pid)

    def close_fds(self) -> None:
        self.task.close_fds()
        fd, self._named_tasks = self._named_tasks, None
        if fd is not None:
            os.close(fd)

    def usage(self, oom_kills: bool = True) -> CgroupUsage:
        return self.task.usage(oom_kills)

    def stats(self) -> Stats:
        return self.task.stats()

    def watch_oom(self) -> OomWatch:
        return self.task.watch_oom()

    def kill(self, timeout: float = 10.0) -> None:
        self.task.kill(timeout)

    def update(self, resources: Resources) -> None:
        """First in our own group, where the kernel says what it does not take, then in the unit."""
        properties = self._driver.properties(resources)
        self.task.update(resources)
        if properties:
            self._driver.set_properties(self.unit, properties)

    @property
    def frozen(self) -> bool:
        return self.task.frozen

    def freeze(self, timeout: float = 10.0) -> None:
        """Not by FreezeUnit: that would stop the pause process as well, and systemd has it on v2 only."""
        self.task.freeze(timeout)

    def thaw(self) -> None:
        self.task.thaw()

    def child(self, name: str, resources: Resources | None = None) -> CgroupfsGroup:
        """Limited by its files: it is in what systemd has delegated."""
        return self.task.child(name, resources)

    def remove(self, timeout: float = 2.0) -> None:
        self.close_fds()
        if self.task is not self.scope:
            self.task.remove(timeout)
        else:
            self._driver.await_end(self, timeout)
        self.end()

    def end(self) -> None:
        """Ends the pause process and the unit, in which there is nothing else any more."""
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.end()
        if any(map(os.path.isdir, self.scope.paths)):
            self._driver.stop(self.unit)
            # In hierarchies that systemd does not use (v1's cpuset, freezer, hugetlb) the scope's directory is ours.
            self.scope.remove()

    def processes(self) -> set[int]:
        return files.processes(self.paths)
