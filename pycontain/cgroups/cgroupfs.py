"""The cgroupfs driver: makes groups by mkdir and writes their files itself, on v1, v2 and hybrid machines.

Only controllers that are used are touched, since each costs time: memory and pids where they can be had, for the
figures; cpu for a cpu limit; one more for a complete kill. A group is the directory NAME below our parent in each.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pycontain.cgroups import files, v1, v2
from pycontain.cgroups.driver import Reason
from pycontain.cgroups.group import CgroupfsGroup, Subtree, join
from pycontain.cgroups.hierarchy import Layout
from pycontain.cgroups.limits import Setting, Translation, translate
from pycontain.errors import CgroupError, InvalidArgument, LimitNotSupported, NotSupported

if TYPE_CHECKING:
    from pycontain.spec import Resources

# How often a parent directory is made again that another process removes between our two calls.
_ATTEMPTS = 50

_MEASURED = ("memory", "pids")

Wanted = dict[Subtree, frozenset[str]]


class CgroupfsDriver:
    """See the protocol `CgroupDriver`. Holds no descriptors and no lock; what it remembers is only what it made sure
    of before, and is made sure of again when the kernel says otherwise."""

    name = "cgroupfs"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.hierarchy = layout.kind
        self._unified: v2.UnifiedSubtree | None = None
        self._of: dict[str, Subtree] = {}
        self._subtrees: list[Subtree] = []
        for hierarchy in layout.hierarchies:
            if hierarchy.obstacle:
                continue
            subtree: Subtree
            if hierarchy.version == 2:
                subtree = self._unified = v2.UnifiedSubtree(hierarchy)
            else:
                subtree = v1.LegacySubtree(hierarchy)
            self._subtrees.append(subtree)
            self._of.update(dict.fromkeys(hierarchy.usable, subtree))
        self.controllers = frozenset(self._of)
        self._translation = Translation(
            self._version("memory").memory, self._version("cpu").cpu, self._version("pids").pids,
        )
        self._wanted: dict[tuple[bool, bool], Wanted] = {}

    def reason(self, controller: str) -> Reason | None:
        return self._layout.reason(controller)

    def create(self, name: str, resources: Resources | None, kill: bool = False) -> CgroupfsGroup:
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise InvalidArgument(f"not a name for a cgroup: {name!r}")
        settings = self._settings(resources)
        cpu = any(setting.controller == "cpu" for setting in settings)
        wanted = self._wanted.get((cpu, kill))
        if wanted is None:
            wanted = self._wanted[cpu, kill] = self._choose(cpu, kill)
        group = CgroupfsGroup(self, name)
        try:
            for subtree, controllers in wanted.items():
                self._make(group, subtree, controllers)
                _open(group, subtree)
            for setting in settings:
                self._apply(group, setting)
        except BaseException:
            group.remove()
            raise
        return group

    def update(self, group: CgroupfsGroup, resources: Resources) -> None:
        """Changes the limits of a running group (`Cgroup.update`)."""
        cpu = resources.cpu
        if cpu is not None and cpu.period and not cpu.quota:
            raise InvalidArgument("cpu.period alone does not change a running group: give cpu.quota with it")
        settings = self._settings(resources)
        for setting in settings:
            self._join(group, self._of[setting.controller], setting.controller)
        # v1 wants memory below memory+swap at every moment: which of the two is first depends on the direction.
        again = [setting for setting in settings if not self._apply(group, setting, postpone=True)]
        for setting in again:
            self._apply(group, setting)

    def names(self) -> set[str]:
        return {name for subtree in self._subtrees for name in files.subdirectories(subtree.parent)}

    def open(self, name: str) -> CgroupfsGroup:
        group = CgroupfsGroup(self, name)
        group.subtrees = [subtree for subtree in self._subtrees if os.path.isdir(group.path_in(subtree))]
        return group

    def remove_parent_if_empty(self) -> None:
        for subtree in self._subtrees:
            try:
                os.rmdir(subtree.parent)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                    raise CgroupError(f"{subtree.parent} cannot be removed", errno=error.errno) from error
            subtree.forget()

    def _version(self, controller: str) -> Translation:
        subtree = self._of.get(controller)
        unified = subtree is self._unified if subtree else self.hierarchy == "v2"
        return v2.TRANSLATION if unified else v1.TRANSLATION

    def _settings(self, resources: Resources | None) -> list[Setting]:
        """The writes for these limits. Raises before anything is made when one of them cannot be enforced."""
        if resources is None:
            return []
        settings = translate(resources, self._translation)
        for setting in settings:
            if setting.controller not in self._of:
                reason = self.reason(setting.controller)
                cause, remedy = reason or Reason(f"the {setting.controller} controller cannot be used", "")
                raise LimitNotSupported(f"the limit {setting.limit} cannot be enforced: {cause}", remedy=remedy)
        return settings

    def _choose(self, cpu: bool, kill: bool) -> Wanted:
        """The hierarchies in which a group is made, with the controllers that it needs there."""
        wanted: Wanted = {}

        def want(subtree: Subtree, *controllers: str) -> None:
            wanted[subtree] = wanted.get(subtree, frozenset()).union(controllers)

        for controller in (*_MEASURED, "cpu") if cpu else _MEASURED:
            if controller in self._of:
                want(self._of[controller], controller)
        if kill:
            if self._unified:
                want(self._unified)
            elif "freezer" in self._of:
                want(self._of["freezer"], "freezer")
            elif "pids" not in self._of:
                cause, remedy = self.reason("freezer") or self.reason("pids") or Reason("no cgroups", "")
                raise NotSupported(f"a complete kill without a pid namespace needs a cgroup: {cause}", remedy=remedy)
        return wanted

    def _make(self, group: CgroupfsGroup, subtree: Subtree, controllers: frozenset[str]) -> None:
        """Makes the directory in one hierarchy, and the parent when it is not there (any more)."""
        path = group.path_in(subtree)
        gone: OSError | None = None
        for _ in range(_ATTEMPTS):
            try:
                if subtree.ready is None or not controllers <= subtree.ready:
                    subtree.prepare(controllers)
                os.mkdir(path, 0o755)
            except FileExistsError as error:
                raise CgroupError(
                    f"the cgroup {path} cannot be made", errno=error.errno, remedy="Take another name, or remove it",
                ) from error
            except OSError as error:
                if error.errno not in files.GONE:
                    raise CgroupError(f"the cgroup {path} cannot be made", errno=error.errno) from error
                subtree.forget()
                gone = error
            else:
                group.subtrees.append(subtree)
                return
        raise CgroupError(f"the cgroup {path} cannot be made: its parent keeps vanishing") from gone

    def _join(self, group: CgroupfsGroup, subtree: Subtree, controller: str) -> None:
        """Gives a running group a controller that its limits did not need so far."""
        if subtree in group.subtrees:
            if subtree.ready is None or controller not in subtree.ready:
                subtree.prepare(frozenset((controller,)))
            return
        others = group.paths
        self._make(group, subtree, frozenset((controller,)))
        join(group.path_in(subtree), others)

    def _apply(self, group: CgroupfsGroup, setting: Setting, postpone: bool = False) -> bool:
        """Writes one setting. False when the kernel refuses the value and `postpone` says that it may yet take it."""
        subtree = self._of[setting.controller]
        path = f"{group.path_in(subtree)}/{setting.file}"
        try:
            try:
                files.write(path, setting.value)
            except FileNotFoundError:
                # On v2 the file is missing too when another process made the parent without this controller.
                subtree.forget()
                subtree.prepare(frozenset((setting.controller,)))
                files.write(path, setting.value)
        except OSError as error:
            if postpone and error.errno == errno.EINVAL:
                return False
            if error.errno == errno.ENOENT and setting.limit == "memory.swap" and (setting.implied or not _has_swap()):
                return True
            raise _refused(setting, error) from error
        return True


def _open(group: CgroupfsGroup, subtree: Subtree) -> None:
    """Opens what the first process is put into the group with."""
    path = group.path_in(subtree)
    if subtree.version == 2:
        group.into_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        group.attach_fds = (*group.attach_fds, os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC))


def _has_swap() -> bool:
    return files.read("/proc/swaps").count("\n") > 1


def _refused(setting: Setting, error: OSError) -> LimitNotSupported:
    """The error for a setting that the kernel does not take, with what helps for each errno."""
    message = f"the limit {setting.limit} cannot be enforced"
    if error.errno == errno.ENOENT:
        remedy = "Boot with swapaccount=1" if setting.limit == "memory.swap" else "Use a newer kernel, or leave it out"
        return LimitNotSupported(f"{message}: this kernel has no {setting.file}", remedy=remedy)
    text = f"{message}: {setting.file} does not take {setting.value}: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EBUSY:
        return LimitNotSupported(text, remedy="More than that is in use and cannot be reclaimed: take a higher limit")
    if setting.controller == "cpu":
        return LimitNotSupported(text, remedy="cpu.quota is at least 1000, and cpu.period 1000 to 1000000 microseconds")
    return LimitNotSupported(text, remedy=f"Choose another value for {setting.limit}, or leave it out")
