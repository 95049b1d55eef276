"""One task's group of the systemd driver: a scope, which is systemd's, and in it the task's group, which is ours."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pycontain.cgroups.driver import CgroupUsage
from pycontain.cgroups.group import CgroupfsGroup
from pycontain.cgroups.kill import pauses
from pycontain.cgroups.systemd_layout import is_systemds
from pycontain.cgroups.systemd_pause import Pause
from pycontain.errors import PycontainError
from pycontain.spec import CPU, Resources

if TYPE_CHECKING:
    from pycontain.cgroups.oom import OomWatch
    from pycontain.cgroups.stats import Stats
    from pycontain.cgroups.systemd import SystemdDriver


class DelegatedGroup:
    """A group in a scope: the task's, or one below that (`child`). See the protocol `Cgroup`.

    Attributes:
        unit: the scope, such as `pycontain-NAME.scope`.
        task: the directories.
    """

    __slots__ = ("_driver", "_named_tasks", "_subgroup", "name", "task", "unit")

    def __init__(self, driver: SystemdDriver, unit: str, name: str, task: CgroupfsGroup, subgroup: str) -> None:
        self._driver = driver
        self._subgroup = subgroup  # below the scope
        self._named_tasks = driver.open_named_tasks(unit) if task.attach_fds else None
        self.name = name
        self.task = task
        self.unit = unit
        if driver.must_move(unit):
            task.close_fds()

    def __repr__(self) -> str:
        return f"<cgroup {self.name} in {self.unit}: {' '.join(self.paths) or 'no directories'}>"

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

    @property
    def adopts(self) -> bool:
        return self._driver.must_move(self.unit)

    def adopt(self, pid: int) -> None:
        if self._driver.must_move(self.unit):
            self._driver.move(pid, self.unit, self._subgroup)

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
        self.task.update(resources)

    @property
    def frozen(self) -> bool:
        return self.task.frozen

    def freeze(self, timeout: float = 10.0) -> None:
        """Not by FreezeUnit: that would stop the pause process as well, and systemd has it on v2 only."""
        self.task.freeze(timeout)

    def thaw(self) -> None:
        self.task.thaw()

    def child(self, name: str, resources: Resources | None = None) -> DelegatedGroup:
        """Limited by its files alone: it is in what systemd has delegated."""
        task = self.task.child(name, resources)
        return DelegatedGroup(self._driver, self.unit, f"{self.name}/{name}", task, f"{self._subgroup}/{name}")

    def remove(self, timeout: float = 2.0) -> None:
        self.close_fds()
        self.task.remove(timeout)


class SystemdGroup(DelegatedGroup):
    """A scope with the group of its task. Made by `SystemdDriver.create` and `open`.

    Attributes:
        scope: the scope's directories. Nothing is written there.
    """

    __slots__ = ("_pause", "scope")

    def __init__(
        self, driver: SystemdDriver, name: str, scope: CgroupfsGroup, task: CgroupfsGroup, pause: Pause | None = None,
    ) -> None:
        super().__init__(driver, scope.name, name, task, f"/{name}")
        self._pause = pause
        self.scope = scope

    def update(self, resources: Resources) -> None:
        """First in our own group, where the kernel says what it does not take, then in the unit."""
        properties = self._driver.properties(resources)
        if self._driver.hierarchy != "v2" and resources.cpu is not None and resources.cpu.quota:
            # v1 takes no quota above that of the group above, nor one below that of a group below; -1 is neither.
            self.task.update(Resources(cpu=CPU(quota=-1)))
            self._driver.set_properties(self.unit, properties)
            self.task.update(resources)
            return
        self.task.update(resources)
        if properties:
            self._driver.set_properties(self.unit, properties)

    def remove(self, timeout: float = 2.0) -> None:
        super().remove(timeout)
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.end()
        if any(map(os.path.isdir, self.scope.paths)):
            try:
                self._driver.stop(self.unit)
            except PycontainError:
                if not self._vanishes(timeout):
                    raise
            # In hierarchies that systemd does not use (v1's cpuset, freezer, hugetlb) the scope's directory is ours.
            self.scope.remove()

    def _vanishes(self, timeout: float) -> bool:
        """Whether systemd, which cannot be asked, has removed the scope by itself, as it does with an empty one."""
        paths = [self.scope.path_in(subtree) for subtree in self.scope.subtrees if is_systemds(subtree.controllers)]
        return any(not any(map(os.path.isdir, paths)) for _ in pauses(time.monotonic() + timeout))
