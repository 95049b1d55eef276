"""The systemd driver: asks systemd over D-Bus for a transient scope for each task, with its limits as properties.

A scope is delegated (`Delegate=yes`, https://systemd.io/CGROUP_DELEGATION/): its own files are systemd's, what is below
is ours. The task is in a group below it, made by the cgroupfs driver, which writes the limits there once more: exactly,
where systemd rounds, and with the kernel's word for it, where systemd passes over what the kernel does not take.

    machine.slice/                     systemd's
      pycontain-NAME.scope/            systemd's, with the limits as properties
        pause/                         the pause process, without which systemd would remove the scope (v2)
        NAME/                          the task
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pycontain.cgroups import files, parse, systemd_properties, v2
from pycontain.cgroups.cgroupfs import CgroupfsDriver
from pycontain.cgroups.driver import Reason
from pycontain.cgroups.group import CgroupfsGroup
from pycontain.cgroups.hierarchy import read_layout
from pycontain.cgroups.systemd_bus import CallRefused, Property, bus_at
from pycontain.cgroups.systemd_group import SystemdGroup
from pycontain.cgroups.systemd_layout import (
    is_systemds,
    named_hierarchy,
    remove_empty,
    system_layout,
    unified_mount,
    user_layout,
)
from pycontain.cgroups.systemd_pause import Pause
from pycontain.cgroups.systemd_units import PREFIX, SUFFIX, name_of, slice_path, unit_of
from pycontain.errors import CgroupError, InvalidArgument, LimitNotSupported, NotSupported, PycontainError

if TYPE_CHECKING:
    from pycontain.spec import Resources

_MEASURED = ("memory", "pids")
_OLDEST = 252  # the oldest version that is tested


class SystemdDriver:
    """See the protocol `CgroupDriver`. `parent` is a slice: machine.slice, or app.slice for an unprivileged user, whose
    own systemd is asked (`systemctl --user`).

    Raises `NotSupported` where systemd cannot be used, `InvalidArgument` for a parent that is no slice.
    """

    name = "systemd"

    def __init__(self, parent: str | None = None) -> None:
        if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
            raise NotSupported("this machine does not run systemd", remedy="Use the driver cgroupfs")
        user = os.geteuid() != 0
        self.slice = parent or ("app.slice" if user else "machine.slice")
        place = slice_path(self.slice)
        self._bus = bus_at(_address(user))
        self.version = self._property("Version")
        root, layout = self._property("ControlGroup"), read_layout()
        self._layout = user_layout(layout, root, place) if user else system_layout(layout, root, place)
        self.hierarchy = self._layout.kind
        self._groups = CgroupfsDriver(self._layout)
        unified = next((h for h in self._layout.hierarchies if h.version == 2), None)
        self._unified = f"{unified.base}/{unified.parent}" if unified else None
        self._delegated = unified.usable if unified else frozenset()
        self._named = named_hierarchy(root, place)
        self._mount = unified_mount() if user else None

    def __repr__(self) -> str:
        return f"<systemd {self.version}, {self.slice}>"

    @property
    def controllers(self) -> frozenset[str]:
        return self._groups.controllers

    def reason(self, controller: str) -> Reason | None:
        return self._groups.reason(controller)

    def create(
        self, name: str, resources: Resources | None, kill: bool = False, delegate: bool = False
    ) -> SystemdGroup:
        if not name or "/" in name or "\0" in name or name in (".", "..", "pause"):
            raise InvalidArgument(f"not a name for a cgroup: {name!r}")
        unit = unit_of(name)
        properties = self.properties(resources)
        pause = Pause()
        try:
            self._start(name, unit, pause, properties)
            return self._fill(name, unit, resources, pause, kill, delegate)
        except BaseException as error:
            pause.end()
            if not isinstance(error, _NameTaken):
                self._give_up(unit)
            raise

    def properties(self, resources: Resources | None) -> list[Property]:
        """The limits as properties. Raises as `create` does for limits that cannot be enforced."""
        return systemd_properties.properties(self._groups.limits(resources).settings)

    def must_move(self, unit: str) -> bool:
        """Whether the kernel forbids this user to start a process in the scope: `cgroup.procs` of the nearest group
        above both must be writable (cgroup-v2.rst, "Delegation Containment"), and for a login session that is root's.
        """
        if self._mount is None or self._unified is None:
            return False
        own = parse.own_groups(files.read("/proc/self/cgroup")).get("", "/")
        common = os.path.commonpath((own, f"{self._unified}/{unit}"[len(self._mount):]))
        return not os.access(f"{self._mount}{common}/cgroup.procs", os.W_OK, effective_ids=True)

    def move(self, pid: int, unit: str, subgroup: str) -> None:
        """Has systemd move a process of this user."""
        self._bus.call("AttachProcessesToUnit", "ssau", (unit, subgroup, [pid]))

    def open_named_tasks(self, unit: str) -> int | None:
        """The `tasks` of a scope in v1's hierarchy without controllers, where systemd counts its processes."""
        return None if self._named is None else os.open(f"{self._named}/{unit}/tasks", os.O_WRONLY | os.O_CLOEXEC)

    def set_properties(self, unit: str, properties: list[Property]) -> None:
        try:
            self._bus.call("SetUnitProperties", "sba(sv)", (unit, True, properties))
        except CallRefused as error:
            raise self._unknown_property(error) or error from None

    def stop(self, unit: str) -> None:
        """Returns when the unit is gone; nothing happens when it is gone already."""
        try:
            result = self._bus.run_job(unit, "StopUnit", "ss", (unit, "replace"))
        except CallRefused as error:
            if not error.name.endswith(".NoSuchUnit"):
                raise
        else:
            if result not in ("done", "canceled"):
                raise CgroupError(f"systemd could not stop {unit}: {result}", remedy=f"See `systemctl status {unit}`")

    def names(self) -> set[str]:
        """Of all our scopes, in whichever slice."""
        units, = self._bus.call("ListUnitsByPatterns", "asas", ([], [f"{PREFIX}*{SUFFIX}"]))
        return {name for unit in units if (name := name_of(unit[0])) is not None}

    def open(self, name: str) -> SystemdGroup:
        scope = self._groups.open(unit_of(name))
        task = CgroupfsGroup(self._groups, name, scope)
        task.subtrees = [subtree for subtree in scope.subtrees if os.path.isdir(task.path_in(subtree))]
        return SystemdGroup(self, name, scope, task)

    @property
    def places(self) -> frozenset[str]:
        return self._groups.places

    def remove_parent_if_empty(self) -> None:
        """Removes the slice's directories in v1 hierarchies that systemd does not use, where they are ours. The slice
        stays: to stop it would stop a scope that somebody else starts in it at that moment."""
        for hierarchy in self._layout.hierarchies:
            if hierarchy.version == 1 and not is_systemds(hierarchy.controllers):
                remove_empty(hierarchy.base, hierarchy.parent)
        self._groups.forget_program()

    def _property(self, name: str) -> str:
        interface = "org.freedesktop.DBus.Properties"
        (_, value), = self._bus.call("Get", "ss", ("org.freedesktop.systemd1.Manager", name), interface=interface)
        return str(value)

    def _start(self, name: str, unit: str, pause: Pause, limits: list[Property]) -> None:
        properties: list[Property] = [
            ("Description", ("s", f"pycontain task {name}")),
            ("Slice", ("s", self.slice)),
            ("Delegate", ("b", True)),
            ("CollectMode", ("s", "inactive-or-failed")),  # a failed unit would stay, and its name with it
            ("PIDs", ("au", [pause.pid])),  # 252 knows no PIDFDs
            *limits,
        ]
        try:
            result = self._bus.run_job(unit, "StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", properties, []))
        except CallRefused as error:
            if error.name.endswith(".UnitExists"):
                raise _NameTaken(
                    f"the cgroup {name} cannot be made", errno=errno.EEXIST,
                    remedy=f"Take another name, or remove it (`systemctl status {unit}`)",
                ) from None
            raise self._unknown_property(error) or error from None
        if result != "done":
            raise CgroupError(f"systemd could not start {unit}: {result}", remedy=f"See `journalctl -u {unit}`")

    def _fill(
        self, name: str, unit: str, resources: Resources | None, pause: Pause, kill: bool, delegate: bool
    ) -> SystemdGroup:
        """Makes the group of the task in the new scope."""
        scope = self._groups.open(unit)
        if not scope.paths:
            raise CgroupError(f"systemd has started {unit}, and there is no group of it in {self._unified or 'v1'}")
        if self._delegated:
            limited = self._groups.limits(resources).controllers
            given = self._delegated if delegate else self._delegated.intersection((*_MEASURED, *limited))
            v2.give(f"{self._unified}/{unit}", given, "pause")
        if kill and self.hierarchy == "v1" and "freezer" in self.controllers:
            self._groups.join_freezer(scope)  # which systemd does not use: on hybrid and v2 there is the v2 group
        if delegate and self.hierarchy != "v2":
            self._groups.join_everywhere(scope)
        task = self._groups.create_child(scope, name, resources)
        try:
            return SystemdGroup(self, name, scope, task, pause)
        except BaseException:
            task.remove()
            raise

    def _give_up(self, unit: str) -> None:
        """After a failed start: without the pause process systemd removes the unit by itself, also when it cannot be
        asked to."""
        scope = self._groups.open(unit)
        if not scope.paths:
            return
        try:
            self.stop(unit)
        except PycontainError:
            pass
        scope.remove()

    def _unknown_property(self, error: CallRefused) -> LimitNotSupported | None:
        if not error.name.endswith((".PropertyReadOnly", ".UnknownProperty")):
            return None
        return LimitNotSupported(
            f"systemd {self.version} does not take a limit: {error.text}",
            remedy=f"Use systemd {_OLDEST} or newer, or the driver cgroupfs",
        )


class _NameTaken(CgroupError):
    pass


def _address(user: bool) -> str:
    if not user:
        return "/run/dbus/system_bus_socket"
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}", "bus")
