"""Where systemd's groups are on this machine, as the layout in which the cgroupfs driver makes groups below them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from pycontain.cgroups import files, parse
from pycontain.cgroups.driver import Reason
from pycontain.cgroups.hierarchy import Hierarchy, Layout, is_visible
from pycontain.errors import NotSupported

# Those that systemd gives to units (CGROUP_MASK_V1 and CGROUP_MASK_V2 in its src/basic/cgroup-util.h).
_CONTROLLERS_V1 = frozenset(("cpu", "cpuacct", "blkio", "memory", "devices", "pids"))
_DELEGATED = frozenset(("cpu", "cpuset", "io", "memory", "pids"))


def system_layout(layout: Layout, root: str, place: str) -> Layout:
    """The hierarchies as root sees them; groups are made in the slice whose directory is `place`."""
    parent = f"{root}/{place}".strip("/")
    return layout._replace(hierarchies=tuple(_in_slice(hierarchy, parent) for hierarchy in layout.hierarchies))


def user_layout(layout: Layout, root: str, place: str) -> Layout:
    """The part of the v2 hierarchy that belongs to the systemd of an unprivileged user, whose group is `root`.

    Raises `NotSupported` on v1, where that can set no limits.
    """
    mount = unified_mount()
    if mount is None or layout.kind != "v2":
        raise NotSupported(
            "the systemd of an unprivileged user can set limits on cgroup v2 only",
            remedy="Boot with systemd.unified_cgroup_hierarchy=1, or run as root",
        )
    base = f"{mount}{root}"
    controllers = frozenset(files.read(f"{base}/cgroup.controllers").split())
    return layout._replace(hierarchies=(_in_slice(Hierarchy(2, base, controllers, controllers), place),))


def unified_mount() -> str | None:
    """Where all of the v2 hierarchy is mounted."""
    return next((mount.mount_point for mount in _mounts() if mount.file_system == "cgroup2"), None)


def named_hierarchy(root: str, place: str) -> str | None:
    """The directory of the slice in the v1 hierarchy without controllers, where systemd has its units; None on v2."""
    for mount in _mounts():
        if "name=systemd" in mount.super_options:
            return f"{mount.mount_point}{root}/{place}"
    return None


def is_systemds(controllers: frozenset[str]) -> bool:
    """Whether systemd makes groups in the hierarchy of these controllers: not in v1's cpuset, freezer, hugetlb."""
    return not controllers or not controllers.isdisjoint(_CONTROLLERS_V1 | _DELEGATED - {"cpuset"})


def remove_empty(base: str, parent: str) -> None:
    """Removes the directory `parent` below `base` and those above it up to `base`, as far as they are empty."""
    while parent:
        try:
            os.rmdir(f"{base}/{parent}")
        except OSError as error:
            if error.errno != errno.ENOENT:
                return
        parent = parent.rpartition("/")[0]


def _in_slice(hierarchy: Hierarchy, parent: str) -> Hierarchy:
    if hierarchy.version == 1 or hierarchy.obstacle:
        return hierarchy._replace(parent=parent)
    return hierarchy._replace(
        parent=parent, usable=hierarchy.usable & _DELEGATED,
        controllers_obstacle=Reason(
            f"systemd delegates no other controllers than {', '.join(sorted(_DELEGATED))}", "Use the driver cgroupfs"
        ),
    )


def _mounts() -> Iterator[parse.Mount]:
    for mount in parse.mountinfo(files.read("/proc/self/mountinfo")):
        if mount.file_system in ("cgroup", "cgroup2") and mount.root == "/" and is_visible(mount):
            yield mount
