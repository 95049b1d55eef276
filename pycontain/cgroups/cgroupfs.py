"""The cgroupfs driver: makes groups by mkdir and writes their files itself, on v1, v2 and hybrid machines.

Only controllers that are used are touched, since each costs time: memory and pids where they can be had, for the
figures; cpu for a cpu limit; one more for a complete kill. A group is the directory NAME below our parent in each.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from pycontain.cgroups import files, v1, v2
from pycontain.cgroups.driver import Reason
from pycontain.cgroups.freezer import Freezer
from pycontain.cgroups.group import CgroupfsGroup, Subtree, open_descriptors
from pycontain.cgroups.hierarchy import Layout
from pycontain.cgroups.limits import Setting, Translation, translate
from pycontain.cgroups.move import join
from pycontain.errors import CgroupError, InvalidArgument, LimitNotSupported, NotSupported

if TYPE_CHECKING:
    from pycontain.spec import Resources

# How often a parent directory is made again that another process removes between our two calls.
_ATTEMPTS = 1000

_MEASURED = ("memory", "pids")

Wanted = dict[Subtree, frozenset[str]]


class CgroupfsDriver:
    """See the protocol `CgroupDriver`. Holds no descriptors; what it remembers is only what it made sure of before, and
    is made sure of again when the kernel says otherwise."""

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
        self._lock = threading.Lock()  # for what changes running groups; making one needs none
        self._wanted: dict[tuple[bool, bool], Wanted] = {}

    def reason(self, controller: str) -> Reason | None:
        return self._layout.reason(controller)

    def create(self, name: str, resources: Resources | None, kill: bool = False) -> CgroupfsGroup:
        _check_name(name)
        settings = self._settings(resources)
        cpu = any(setting.controller == "cpu" for setting in settings)
        wanted = self._wanted.get((cpu, kill))
        if wanted is None:
            wanted = self._wanted[cpu, kill] = self._choose(cpu, kill)
        group = CgroupfsGroup(self, name)
        try:
            for subtree, controllers in wanted.items():
                self._make(group, subtree, controllers)
                open_descriptors(group, subtree)
            for setting in settings:
                self._apply(group, setting)
        except BaseException:
            group.remove()
            raise
        return group

    def create_child(self, parent: CgroupfsGroup, name: str, resources: Resources | None) -> CgroupfsGroup:
        """Makes a group below a running one, in all hierarchies in which that is (`Cgroup.child`)."""
        _check_name(name)
        settings = self._settings(resources)
        with self._lock:
            for setting in settings:
                self._join(parent, self._of[setting.controller], setting.controller)
            if self._unified in parent.subtrees:
                used = {*_MEASURED, *(setting.controller for setting in settings)}
                v2.give(parent.path_in(self._unified), used & self._unified.controllers)
            subtrees = tuple(parent.subtrees)
        group = CgroupfsGroup(self, name, parent)
        try:
            for subtree in subtrees:
                _make_directory(group, subtree)
                open_descriptors(group, subtree)
            for setting in settings:
                self._apply(group, setting)
        except OSError as error:
            group.remove()
            raise CgroupError(f"the cgroup {group.name} cannot be made", errno=error.errno) from error
        except BaseException:
            group.remove()
            raise
        return group

    def join_freezer(self, group: CgroupfsGroup) -> Freezer:
        """Moves a running group into the hierarchy in which it can be frozen."""
        subtree = self._unified or self._of.get("freezer")
        if subtree is None:
            cause, remedy = self.reason("freezer") or Reason("no cgroups", "")
            raise NotSupported(f"freezing a task needs a cgroup: {cause}", remedy=remedy)
        with self._lock:
            self._join(group, subtree, None)
        return Freezer(group.path_in(subtree), subtree.version)

    def update(self, group: CgroupfsGroup, resources: Resources) -> None:
        """Changes the limits of a running group (`Cgroup.update`)."""
        cpu = resources.cpu
        if cpu is not None and cpu.period and not cpu.quota:
            raise InvalidArgument("cpu.period alone does not change a running group: give cpu.quota with it")
        settings = self._settings(resources)
        with self._lock:
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
        gone: OSError | None = None
        for _ in range(_ATTEMPTS):
            try:
                if subtree.ready is None or not controllers <= subtree.ready:
                    subtree.prepare(controllers)
                _make_directory(group, subtree)
            except OSError as error:
                if error.errno not in files.GONE:
                    raise CgroupError(
                        f"the cgroup {group.path_in(subtree)} cannot be made", errno=error.errno,
                    ) from error
                subtree.forget()
                gone = error
            else:
                return
        raise CgroupError(
            f"the cgroup {group.path_in(subtree)} cannot be made: its parent keeps vanishing",
        ) from gone

    def _join(self, group: CgroupfsGroup, subtree: Subtree, controller: str | None) -> None:
        """Gives a running group a hierarchy or a controller that it did not need so far. The lock is held."""
        controllers = frozenset((controller,)) if controller else frozenset()
        if group.parent:
            self._join(group.parent, subtree, controller)
            if controllers and isinstance(subtree, v2.UnifiedSubtree):
                v2.give(group.parent.path_in(subtree), controllers)
        if subtree in group.subtrees:
            if subtree.ready is None or not controllers <= subtree.ready:
                subtree.prepare(controllers)
            return
        others = group.paths
        if group.parent:
            _make_directory(group, subtree)
        else:
            self._make(group, subtree, controllers)
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


def _check_name(name: str) -> None:
    if not name or "/" in name or "\0" in name or name in (".", "..", v2.LEAF):
        raise InvalidArgument(f"not a name for a cgroup: {name!r}")


def _make_directory(group: CgroupfsGroup, subtree: Subtree) -> None:
    """Raises OSError, and `CgroupError` when the name is taken."""
    path = group.path_in(subtree)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError as error:
        raise CgroupError(
            f"the cgroup {path} cannot be made", errno=error.errno, remedy="Take another name, or remove it",
        ) from error
    group.subtrees.append(subtree)


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
