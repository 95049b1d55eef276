"""The cgroupfs driver: makes groups by mkdir and writes their files itself, on v1, v2 and hybrid machines.

Only controllers that are used are touched, since each costs time: memory and pids where they can be had, for the
figures; those of the limits; one more for a complete kill. A group is the directory NAME below our parent in each.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from pycontain.cgroups import devices, enforcement, files, legacy_limits, unified_limits, v1, v2
from pycontain.cgroups.driver import Reason
from pycontain.cgroups.freezer import Freezer
from pycontain.cgroups.group import CgroupfsGroup, Subtree, open_descriptors
from pycontain.cgroups.hierarchy import Layout, in_initial_user_namespace
from pycontain.cgroups.limits import Setting, Translation, translate
from pycontain.cgroups.move import join
from pycontain.cgroups.refusals import refused
from pycontain.errors import CgroupError, InvalidArgument, LimitNotSupported, NotSupported

if TYPE_CHECKING:
    from pycontain.spec import DeviceRule, Resources

# How often a parent directory is made again that another process removes between our two calls.
_ATTEMPTS = 1000

_MEASURED = ("memory", "pids")

Wanted = dict[Subtree, frozenset[str]]


class Limits(NamedTuple):
    """What resources come to on this machine."""

    settings: tuple[Setting, ...] = ()
    controllers: frozenset[str] = frozenset()
    devices: tuple[DeviceRule, ...] = ()


class CgroupfsDriver:
    """See the protocol `CgroupDriver`. Holds no descriptors but that of a device program; what it remembers is only
    what it made sure of before, and is made sure of again when the kernel says otherwise."""

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
        self._translation = self._choose_translation()
        self._last: tuple[Resources, Limits] | None = None  # a container that is started again has the same resources
        self._lock = threading.Lock()  # for what changes running groups; making one needs none
        self._wanted: dict[tuple[frozenset[str], bool, bool], Wanted] = {}
        self._can_load: bool | None = None  # device programs
        self._initial = in_initial_user_namespace()
        self._program: devices.Program | None = None  # the last one

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(self._of) | ({"devices"} if self._devices_subtree() else frozenset())

    @property
    def places(self) -> frozenset[str]:
        bases = [os.stat(hierarchy.base) for hierarchy in self._layout.hierarchies if not hierarchy.obstacle]
        return frozenset(f"{base.st_dev:x}.{base.st_ino:x}" for base in bases)

    def reason(self, controller: str) -> Reason | None:
        if controller == "devices" and not self._initial:
            return Reason(
                "the kernel lets no user namespace limit devices",
                "Run as root outside of a user namespace (CAP_SYS_ADMIN and CAP_BPF of the machine)",
            )
        if controller == "devices" and controller not in self._of and self._unified:
            return None if self._devices_subtree() else Reason(
                "the devices of a cgroup v2 group need a BPF program, which cannot be loaded here",
                "Run as root outside of a user namespace, on a kernel with CONFIG_CGROUP_BPF",
            )
        return self._layout.reason(controller)

    def create(
        self, name: str, resources: Resources | None, kill: bool = False, delegate: bool = False
    ) -> CgroupfsGroup:
        _check_name(name)
        limits = self.limits(resources)
        key = (limits.controllers, kill, delegate)
        wanted = self._wanted.get(key)
        if wanted is None:
            wanted = self._wanted[key] = self._everything() if delegate else self._choose(limits.controllers, kill)
        group = CgroupfsGroup(self, name)
        try:
            for subtree, controllers in wanted.items():
                self._make(group, subtree, controllers)
                open_descriptors(group, subtree)
            self._write(group, limits)
        except BaseException:
            group.remove()
            raise
        return group

    def create_child(self, parent: CgroupfsGroup, name: str, resources: Resources | None) -> CgroupfsGroup:
        """Makes a group below a running one, in all hierarchies in which that is (`Cgroup.child`)."""
        _check_name(name)
        limits = self.limits(resources)
        group = CgroupfsGroup(self, name, parent)
        try:
            for subtree in self._prepare_below(parent, limits.controllers):
                _make_directory(group, subtree)
                open_descriptors(group, subtree)
            self._write(group, limits)
        except OSError as error:
            group.remove()
            raise CgroupError(f"the cgroup {group.name} cannot be made", errno=error.errno) from error
        except BaseException:
            group.remove()
            raise
        return group

    def _prepare_below(self, parent: CgroupfsGroup, controllers: frozenset[str]) -> tuple[Subtree, ...]:
        """Makes a running group ready for groups below it; where those are made."""
        with self._lock:
            self._join_all(parent, controllers)
            if self._unified in parent.subtrees:
                used = self._unified.controllers.intersection((*_MEASURED, *controllers))
                v2.give(parent.path_in(self._unified), used)
            return tuple(parent.subtrees)

    def join_everywhere(self, group: CgroupfsGroup) -> None:
        """Moves a running group into every hierarchy."""
        with self._lock:
            for subtree in self._subtrees:
                self._join(group, subtree, "")

    def join_freezer(self, group: CgroupfsGroup) -> Freezer:
        """Moves a running group into the hierarchy in which it can be frozen."""
        subtree = self._unified or self._of.get("freezer")
        if subtree is None:
            cause, remedy = self.reason("freezer") or Reason("no cgroups", "")
            raise NotSupported(f"freezing a task needs a cgroup: {cause}", remedy=remedy)
        with self._lock:
            self._join(group, subtree, "freezer")
        return Freezer(group.path_in(subtree), subtree.version)

    def update(self, group: CgroupfsGroup, resources: Resources) -> None:
        """Changes the limits of a running group (`Cgroup.update`)."""
        cpu = resources.cpu
        if cpu is not None and cpu.period and not cpu.quota:
            raise InvalidArgument("cpu.period alone does not change a running group: give cpu.quota with it")
        limits = self.limits(resources)
        with self._lock:
            self._join_all(group, limits.controllers)
        if resources.memory is not None and resources.memory.check_before_update:
            self._check_memory(group, limits)
        # v1 wants memory below memory+swap at every moment, and the kernel a burst below its quota: which is first
        # depends on the direction.
        again = [setting for setting in limits.settings if not self._apply(group, setting, postpone=True)]
        for setting in again:
            self._apply(group, setting)
        if limits.devices:
            self._update_devices(group, limits.devices)

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
        self.forget_program()

    def forget_program(self) -> None:
        """Unloads the device program that is kept for the next group."""
        self._program = None

    def _choose_translation(self) -> Translation:
        def version(controller: str, other: str = "") -> Translation:
            subtree = self._of.get(controller) or self._of.get(other)
            unified = subtree is self._unified if subtree else self.hierarchy == "v2"
            return unified_limits.TRANSLATION if unified else legacy_limits.TRANSLATION

        return Translation(
            version("memory").memory, version("cpu").cpu, version("cpuset").cpuset, version("pids").pids,
            version("io", "blkio").block_io, version("hugetlb").hugepages, version("net_cls", "net_prio").network,
        )

    def limits(self, resources: Resources | None) -> Limits:
        """What `resources` come to here. Raises before anything is made when one of the limits cannot be enforced."""
        if resources is None:
            return Limits()
        last = self._last
        if last is not None and last[0] is resources:
            return last[1]
        translated = translate(resources, self._translation)
        for setting in translated:
            self._check_controller(setting)
        io_root = self._unified.base if self._unified and self._of.get("io") is self._unified else None
        settings = enforcement.require_weights(translated, io_root)
        controllers = frozenset(setting.controller for setting in settings)
        if resources.devices:
            controllers |= self._check_devices(resources.devices)
        enforcement.warn(settings)
        limits = Limits(settings, controllers, resources.devices)
        self._last = resources, limits
        return limits

    def _check_controller(self, setting: Setting) -> None:
        subtree = self._of.get(setting.controller)
        message = f"the limit {setting.limit} cannot be enforced"
        if subtree is None:
            cause, remedy = self.reason(setting.controller) or Reason(f"{setting.controller} cannot be used", "")
            raise LimitNotSupported(f"{message}: {cause}", remedy=remedy)
        if setting.limit.startswith("unified[") and subtree is not self._unified:
            raise LimitNotSupported(
                f"{message}: the {setting.controller} controller is on cgroup v1 here",
                remedy="Use the limits that are not in `unified`, or boot with systemd.unified_cgroup_hierarchy=1",
            )

    def _check_devices(self, rules: tuple[DeviceRule, ...]) -> frozenset[str]:
        read = devices.read_rules(rules)
        subtree = self._devices_subtree()
        if subtree is None:
            cause, remedy = self.reason("devices") or Reason("no cgroups", "")
            raise LimitNotSupported(f"the limit devices cannot be enforced: {cause}", remedy=remedy)
        if subtree.version == 1:
            devices.policy_of(read)
        return frozenset(("devices",))

    def _devices_subtree(self) -> Subtree | None:
        """Where devices are limited: by a program on the v2 group, also on a hybrid machine, else by the v1 controller,
        which costs three times as much and cannot have every list of rules."""
        if self._unified:
            if self._can_load is None:
                self._can_load = devices.can_load()
            if self._can_load:
                return self._unified
        return self._of.get("devices")

    def _subtree(self, controller: str) -> Subtree:
        subtree = self._devices_subtree() if controller == "devices" else self._of[controller]
        if subtree is None:
            raise NotSupported(f"the {controller} controller cannot be used")
        return subtree

    def _everything(self) -> Wanted:
        return {subtree: subtree.controllers for subtree in self._subtrees}

    def _choose(self, limited: frozenset[str], kill: bool) -> Wanted:
        """The hierarchies in which a group is made, with the controllers that it needs there."""
        wanted: Wanted = {}

        def want(subtree: Subtree, controller: str) -> None:
            wanted[subtree] = wanted.get(subtree, frozenset()) | (subtree.controllers & {controller})

        for controller in (*_MEASURED, *sorted(limited.difference(_MEASURED))):
            if controller in limited or controller in self._of:
                want(self._subtree(controller), controller)
        if kill:
            if self._unified:
                want(self._unified, "")
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
                ready = subtree.ready
                if ready is None or not controllers <= ready:
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

    def _join_all(self, group: CgroupfsGroup, controllers: frozenset[str]) -> None:
        for controller in controllers:
            self._join(group, self._subtree(controller), controller)

    def _join(self, group: CgroupfsGroup, subtree: Subtree, controller: str) -> None:
        """Gives a running group a hierarchy or a controller that it did not need so far. The lock is held."""
        controllers = subtree.controllers & {controller}
        if group.parent:
            self._join(group.parent, subtree, controller)
            if controllers and isinstance(subtree, v2.UnifiedSubtree):
                v2.give(group.parent.path_in(subtree), controllers)
        if subtree in group.subtrees:
            ready = subtree.ready
            if ready is None or not controllers <= ready:
                subtree.prepare(controllers)
            return
        others = group.paths
        if group.parent:
            _make_directory(group, subtree)
        else:
            self._make(group, subtree, controllers)
        join(group.path_in(subtree), others)

    def _write(self, group: CgroupfsGroup, limits: Limits) -> None:
        """The limits of a group that has no process yet."""
        for setting in limits.settings:
            self._apply(group, setting)
        if limits.devices:
            self._apply_devices(group, limits.devices)

    def _apply(self, group: CgroupfsGroup, setting: Setting, postpone: bool = False) -> bool:
        """Writes one setting. False when the kernel refuses the value and `postpone` says that it may yet take it."""
        subtree = self._of[setting.controller]
        path = group.path_in(subtree)
        try:
            try:
                if setting.file == "cpu.rt_runtime_us" and isinstance(subtree, v1.LegacySubtree) and not group.parent:
                    subtree.allow_realtime(path, int(setting.value))
                files.write(f"{path}/{setting.file}", setting.value)
            except FileNotFoundError:
                # On v2 the file is missing too when another process made the parent without this controller.
                subtree.forget()
                subtree.prepare(frozenset((setting.controller,)))
                files.write(f"{path}/{setting.file}", setting.value)
        except OSError as error:
            if postpone and error.errno == errno.EINVAL:
                return False
            if setting.implied and error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                return True
            if setting.limit == "memory.swap" and error.errno == errno.ENOENT and not _has_swap():
                return True
            raise refused(setting, error) from error
        enforcement.check_after(path, setting)
        return True

    def _apply_devices(self, group: CgroupfsGroup, rules: tuple[DeviceRule, ...]) -> None:
        subtree = self._subtree("devices")
        path = group.path_in(subtree)
        try:
            if subtree.version == 1:
                devices.apply_legacy(path, rules)
                return
            program = self._program
            if program is None or program.rules is not rules:
                program = self._program = devices.Program(rules)
            program.attach(path)
        except OSError as error:
            raise devices.refused(error, subtree.version) from error

    def _update_devices(self, group: CgroupfsGroup, rules: tuple[DeviceRule, ...]) -> None:
        """On v1 a list is written line by line: nobody may look while neither the old nor the new one holds."""
        stop = self._subtree("devices").version == 1 and not group.frozen
        if stop:
            group.freeze()
        try:
            self._apply_devices(group, rules)
        finally:
            if stop:
                group.thaw()

    def _check_memory(self, group: CgroupfsGroup, limits: Limits) -> None:
        for setting in limits.settings:
            if setting.limit == "memory.limit" and setting.value not in ("max", "-1"):
                path = group.path_in(self._of["memory"])
                text = files.read_short(f"{path}/memory.current") or files.read_short(f"{path}/memory.usage_in_bytes")
                if text and int(text) > int(setting.value):
                    raise LimitNotSupported(
                        f"the limit memory.limit cannot be enforced: {text.strip()} bytes are in use",
                        remedy="Take a higher limit, or leave out memory.check_before_update",
                    )


def _check_name(name: str) -> None:
    if not name or "/" in name or "\0" in name or name in (".", "..", v2.LEAF, v2.CALLER):
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
    if isinstance(subtree, v1.LegacySubtree):
        subtree.fill(path)


def _has_swap() -> bool:
    return files.read("/proc/swaps").count("\n") > 1
