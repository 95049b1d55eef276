"""What a container sees of cgroups: its own group in each hierarchy, by its cgroup namespace (cgroup_namespaces(7)).

Writable, it can make groups in it, such as for containers of its own: it is then given a group in every hierarchy,
since those in which it had none would show the caller's. The same holds for any view of v1.
"""

from __future__ import annotations

import os

from pycontain.cgroups.hierarchy import Hierarchy, read_layout
from pycontain.errors import NotSupported
from pycontain.linux import plan as steps
from pycontain.linux.mounts import MountAttr
from pycontain.linux.plan import Step
from pycontain.spec import Mount, Spec

UNIFIED = "/sys/fs/cgroup/cgroup.controllers"  # there when cgroup v2 is mounted at the usual place
KINDS = ("cgroup", "cgroup2")


def delegates(spec: Spec) -> bool:
    """Whether the container needs a group of its own in every hierarchy."""
    mounts = [mount for mount in spec.mounts if mount.type in KINDS]
    return any("ro" not in mount.options or _is_legacy(mount) for mount in mounts)


def cgroup_mount(spec: Spec, mount: Mount, attr: MountAttr, out: str) -> list[Step]:
    """The steps that mount the hierarchies; `out` is the mount at the destination.

    With v1 it is a tmpfs that holds each hierarchy under its usual name, and v2 as `unified`.
    """
    if spec.linux is None or all(namespace.type != "cgroup" for namespace in spec.linux.namespaces):
        raise NotSupported(f"the mount on {mount.destination} would show the host's cgroups: no cgroup namespace")
    if not _is_legacy(mount):
        return [
            steps.file_system("cgroup2", out, [("source", mount.source or "cgroup2")], attr),
            steps.attach(out, mount.destination, root="root"),
        ]
    hierarchies = usable_hierarchies()
    if not hierarchies:
        raise NotSupported(
            f"there is no cgroup to show on {mount.destination}", remedy="Mount a hierarchy here, writable"
        )
    result = [
        steps.file_system("tmpfs", out, [("source", "cgroup"), ("mode", "0755")], attr & ~MountAttr.RDONLY),
        steps.attach(out, mount.destination, root="root"),
    ]
    for index, hierarchy in enumerate(hierarchies):
        part = f"{out}-{index}"
        if hierarchy.version == 2:
            kind, name, options = "cgroup2", "unified", [("source", "cgroup2")]
        else:
            kind, name = "cgroup", os.path.basename(hierarchy.base)
            options = [("source", "cgroup"), *((controller, "") for controller in sorted(hierarchy.controllers))]
        result += [
            steps.file_system(kind, part, options, attr),
            steps.attach(part, f"{mount.destination.rstrip('/')}/{name}", root="root"),
        ]
    if attr & MountAttr.RDONLY:
        result.append(steps.setattr_mount(out, MountAttr.RDONLY, about=mount.destination))
    return result


def usable_hierarchies() -> list[Hierarchy]:
    """Those in which the caller can make groups."""
    return [hierarchy for hierarchy in read_layout().hierarchies if hierarchy.obstacle is None]


def _is_legacy(mount: Mount) -> bool:
    return mount.type == "cgroup" and not os.path.exists(UNIFIED)
