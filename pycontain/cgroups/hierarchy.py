"""Finding the cgroup hierarchies of this machine, wherever they are mounted, and what this user may do in each.
What cannot be used has a `Reason`, which errors and `doctor` share."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pycontain.cgroups import files, parse
from pycontain.cgroups.driver import Reason

PARENT = "pycontain"

_READ_ONLY_REMEDY = "Mount it read-write (in a container: start that with a writable, delegated cgroup)"
_DELEGATE_REMEDY = (
    "Run as root, or in a delegated group (`systemd-run --user --scope -p Delegate=yes`) whose processes have first "
    "moved to a group of their own below it; with a systemd of the user, `pip install 'pycontain[systemd]'` is enough"
)


# Named tuples, not attrs classes: making those takes 3 ms at import.


class Hierarchy(NamedTuple):
    """One mounted hierarchy. Groups are made in `base`/`parent`."""

    version: int
    base: str
    """The mount point, or for an unprivileged user the delegated v2 group."""
    controllers: frozenset[str]
    """The attached controllers (v1), or those that `base` may give to groups below it (v2)."""
    usable: frozenset[str]
    """Those of `controllers` which can be used for groups in `base`."""
    obstacle: Reason | None = None
    """Why no group can be made in `base`."""
    controllers_obstacle: Reason | None = None
    """Why groups in `base` can have no other controllers than `usable`."""
    parent: str = PARENT
    moves: bool = False
    """Whether processes in `base` have to move to a group below it before that can give controllers to others."""


class Layout(NamedTuple):
    """All hierarchies of the machine, as this process sees them."""

    hierarchies: tuple[Hierarchy, ...] = ()
    kernel: Mapping[str, bool] = MappingProxyType({})
    """/proc/cgroups: controllers that the kernel has, and whether they are enabled."""

    @property
    def kind(self) -> str:
        """`v1`, `v2`, `hybrid` or `none`."""
        v1 = any(h.version == 1 for h in self.hierarchies)
        v2 = any(h.version == 2 for h in self.hierarchies)
        return "hybrid" if v1 and v2 else "v1" if v1 else "v2" if v2 else "none"

    def reason(self, controller: str) -> Reason | None:
        """Why `controller` cannot be used; None when it can."""
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                if hierarchy.obstacle:
                    return hierarchy.obstacle
                return None if controller in hierarchy.usable else hierarchy.controllers_obstacle
        return self._reason_of_absence(controller)

    def _reason_of_absence(self, controller: str) -> Reason:
        enabled = self.kernel.get("blkio" if controller == "io" else controller)
        if enabled is None:
            return Reason(f"this kernel has no {controller} controller", f"Boot a kernel that has {controller}")
        if not enabled:
            return Reason(
                f"the {controller} controller is disabled on the kernel command line",
                f"Boot without cgroup_disable={controller} (some boards also want cgroup_enable={controller})",
            )
        if not self.hierarchies:
            return Reason(
                "no cgroup hierarchy is mounted here",
                "Mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup (in a container: start that with a writable "
                "/sys/fs/cgroup, as with_privileged() does)",
            )
        unified = next((h for h in self.hierarchies if h.version == 2), None)
        if unified and unified.obstacle:
            return unified.obstacle
        if unified and self.kind == "v2":
            return Reason(
                f"the {controller} controller is not delegated to {unified.base}",
                f"Enable {controller} in the cgroup.subtree_control of the groups above it (systemd: Delegate=yes)",
            )
        where = "" if _in_initial_cgroup_namespace() else ", outside of this cgroup namespace, where it is allowed"
        return Reason(
            f"the {controller} controller is in no cgroup hierarchy that is mounted here",
            f"Mount it: mount -t cgroup -o {controller} {controller} /sys/fs/cgroup/{controller}{where}",
        )


def read_layout() -> Layout:
    """The layout of this machine now; without /proc it is empty. Raises OSError only for want of descriptors."""
    try:
        mounts = parse.mountinfo(files.read("/proc/self/mountinfo"))
        own = parse.own_groups(files.read("/proc/self/cgroup"))
        kernel = parse.kernel_controllers(files.read("/proc/cgroups"))
    except OSError as error:
        _raise_shortage(error)
        return Layout()
    found: dict[frozenset[str], Hierarchy] = {}
    for mount in mounts:
        if mount.file_system not in ("cgroup", "cgroup2") or not is_visible(mount):
            continue
        if mount.file_system == "cgroup2":
            key, hierarchy = frozenset({""}), _unified(mount, own.get("", "/"))
        else:
            key = mount.super_options.intersection(kernel)
            hierarchy = _legacy(mount, key)
        # One hierarchy may be mounted several times: the first mount that can be used counts.
        if key and (key not in found or (found[key].obstacle and not hierarchy.obstacle)):
            found[key] = hierarchy
    return Layout(tuple(found.values()), kernel)


def is_visible(mount: parse.Mount) -> bool:
    """Whether the mount point shows this mount, and not another that was mounted over it later."""
    try:
        return os.stat(mount.mount_point).st_dev == os.makedev(mount.major, mount.minor)
    except OSError:
        return False


def _legacy(mount: parse.Mount, controllers: frozenset[str]) -> Hierarchy:
    obstacle = _why_unwritable(mount)
    return Hierarchy(1, mount.mount_point, controllers, frozenset() if obstacle else controllers, obstacle)


def _unified(mount: parse.Mount, own: str) -> Hierarchy:
    obstacle = _why_unwritable(mount)
    base = mount.mount_point
    if obstacle and "ro" not in mount.options | mount.super_options:
        delegated = delegated_group(mount, own)
        if delegated:
            base, obstacle = delegated, None
    controllers = frozenset(_words(f"{base}/cgroup.controllers"))
    if obstacle:
        return Hierarchy(2, base, controllers, frozenset(), obstacle)
    if not _holds_processes(base):
        return Hierarchy(2, base, controllers, controllers)
    # cgroup-v2.rst, "No Internal Process Constraint".
    busy = why_immovable(base)
    if busy is None:
        return Hierarchy(2, base, controllers, controllers, moves=True)
    enabled = controllers.intersection(_words(f"{base}/cgroup.subtree_control"))
    return Hierarchy(2, base, controllers, enabled, None, busy)


def why_immovable(base: str) -> Reason | None:
    """Why the processes of a group cannot be moved to one below it. They can where the group is a container's whole
    (the root of a cgroup namespace), or was delegated with the caller in it."""
    kind = "".join(_words(f"{base}/cgroup.type"))
    if kind != "domain":
        return Reason(
            f"{base} is a threaded group, and those give no group below them the controllers of processes",
            "Use a group above it, or one that is not in threaded mode (cgroup-v2.rst, Threads)",
        )
    seen = "0" not in _words(f"{base}/cgroup.procs")  # which stands for a process of another pid namespace
    if seen and _is_writable(f"{base}/cgroup.procs") and _is_writable(f"{base}/cgroup.subtree_control"):
        return None
    return Reason(
        f"{base} holds processes, and a cgroup v2 group with processes cannot give controllers to groups below it",
        "Move them to a group of their own below it before pycontain is used",
    )


def _why_unwritable(mount: parse.Mount) -> Reason | None:
    if "ro" in mount.options or "ro" in mount.super_options:
        return Reason(f"the cgroup hierarchy at {mount.mount_point} is mounted read-only", _READ_ONLY_REMEDY)
    if not _is_writable(mount.mount_point):
        remedy = _DELEGATE_REMEDY if mount.file_system == "cgroup2" else "Run as root"
        return Reason(f"user {os.geteuid()} may not make groups in {mount.mount_point}", remedy)
    return None


def delegated_group(mount: parse.Mount, own: str) -> str | None:
    """The group above the caller's own when it was delegated to this user; or the caller's own, which it has to leave
    for a group below, where systemd says that it was delegated (`Delegate=yes`).

    systemd's slices belong to systemd, also the user's, whose directories the user could write to
    (https://systemd.io/CGROUP_DELEGATION/).
    """
    inside = own if mount.root == "/" else own[len(mount.root):] if own.startswith(mount.root + "/") else ""
    if "/.." in own:
        return None
    point = mount.mount_point.rstrip("/")
    above = inside.rpartition("/")[0]
    if above and not above.endswith(".slice") and _may_make_groups(point + above):
        return point + above
    return point + inside if inside and _says_delegated(point + inside) and _may_make_groups(point + inside) else None


def _may_make_groups(directory: str) -> bool:
    return all(map(_is_writable, (directory, f"{directory}/cgroup.procs", f"{directory}/cgroup.subtree_control")))


def _says_delegated(directory: str) -> bool:
    """The mark that systemd sets since version 251 (systemd.resource-control(5), Delegate=)."""
    try:
        return os.getxattr(directory, "user.delegate") == b"1"
    except OSError:
        return False


def _is_writable(path: str) -> bool:
    return os.access(path, os.W_OK, effective_ids=True)


def _holds_processes(group: str) -> bool:
    if not os.path.exists(f"{group}/cgroup.type"):
        return False  # the true root, for which the constraint does not hold
    try:
        return bool(files.read(f"{group}/cgroup.procs"))
    except OSError:
        return True  # a threaded group: EOPNOTSUPP


def _words(path: str) -> list[str]:
    try:
        return files.read(path).split()
    except OSError as error:
        _raise_shortage(error)
        return []


def _raise_shortage(error: OSError) -> None:
    """What could not be read for want of descriptors must not be remembered as not there."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise error


def _in_initial_cgroup_namespace() -> bool:
    """Its inode is fixed: PROC_CGROUP_INIT_INO in linux/proc_ns.h. New v1 hierarchies can be mounted from it alone."""
    return os.stat("/proc/self/ns/cgroup").st_ino == 0xEFFFFFFB


def in_initial_user_namespace() -> bool:
    """Whether this process is in the machine's own user namespace, which maps all ids to themselves."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() == ["0", "0", str(2**32 - 1)]
