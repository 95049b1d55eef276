"""Control groups: the driver protocol, and the choice of the driver for this machine."""

from __future__ import annotations

import os

from pycontain.cgroups.cgroupfs import CgroupfsDriver
from pycontain.cgroups.driver import Cgroup, CgroupDriver, CgroupUsage, Reason
from pycontain.cgroups.hierarchy import read_layout
from pycontain.errors import InvalidArgument, PycontainError

__all__ = ["Cgroup", "CgroupDriver", "CgroupUsage", "Reason", "detect"]


def detect(driver: str | None = None, parent: str | None = None) -> CgroupDriver:
    """The driver for this machine and user. Every call looks at the machine: keep the driver.

    Args:
        driver: `cgroupfs` or `systemd`. None chooses: a parent that ends in `.slice` needs systemd. Root gets cgroupfs,
            as from runc: it costs a start a tenth of what systemd costs, also where systemd runs, which leaves a group
            alone that it did not make. An unprivileged user gets cgroupfs where a group is delegated to the caller, and
            else the user's own systemd, as from podman, if there is one.
        parent: where groups are made: with cgroupfs a group at the top of each hierarchy, `pycontain` by default; with
            systemd a slice, by default machine.slice, for an unprivileged user app.slice.

    Raises:
        NotSupported: a driver was named, or is needed for the parent, and cannot be used here.
        InvalidArgument: there is no such driver, or the parent does not fit it.

    Without arguments raises nothing: where no limit can be set, `controllers` of the driver is empty and `reason` says
    why.
    """
    if driver is None and parent is not None:
        driver = "systemd" if parent.endswith(".slice") else "cgroupfs"
    if driver == "systemd":
        return _systemd(parent)
    if driver not in (None, "cgroupfs"):
        raise InvalidArgument(f"there is no cgroup driver {driver!r}", remedy="Choose cgroupfs or systemd")
    layout = read_layout()
    if parent is not None:
        if parent in ("", ".", "..") or "/" in parent or "\0" in parent or parent.endswith((".slice", ".scope")):
            raise InvalidArgument(
                f"not a parent for groups of the driver cgroupfs: {parent!r}",
                remedy="Give the name of a group of its own (slices need the driver systemd)",
            )
        layout = layout._replace(hierarchies=tuple(h._replace(parent=parent) for h in layout.hierarchies))
    if driver is None and os.geteuid() != 0 and not any(h.usable for h in layout.hierarchies):
        try:
            return _systemd(None)
        except PycontainError:
            pass
    return CgroupfsDriver(layout)


def _systemd(parent: str | None) -> CgroupDriver:
    from pycontain.cgroups.systemd import SystemdDriver

    return SystemdDriver(parent)
