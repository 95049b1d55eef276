"""The file systems of a container, each mounted in namespaces of its own; and how the host's mounts are set up."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pycontain.cgroups import Reason
from pycontain.linux import mountinfo
from pycontain.linux import plan as steps
from pycontain.linux.mounts import MountFlag
from pycontain.linux.namespaces import NamespaceType
from pycontain.linux.plan import Step
from pycontain.preflight.refusals import try_both
from pycontain.preflight.report import Finding, no, partly, yes
from pycontain.runtimes import obstacles
from pycontain.runtimes.features import overlay_on_tmpfs
from pycontain.runtimes.remedies import PROC_COVERED

MOUNT = NamespaceType.MOUNT
HARMLESS = frozenset(("autofs", "binfmt_misc", "nfsd"))  # mounted on empty directories, which hides nothing
# Each belongs to namespaces: a mount of it needs those of the container's own.
KINDS = (
    ("tmpfs", MOUNT, ()),
    ("proc", MOUNT | NamespaceType.PID, ()),
    ("sysfs", MOUNT | NamespaceType.NETWORK, ()),
    ("mqueue", MOUNT | NamespaceType.IPC, ()),
    ("devpts", MOUNT, (("newinstance", ""), ("ptmxmode", "0666"))),
)


def findings() -> Iterator[Finding]:
    yield _overlay()
    for kind, flags, options in KINDS:
        sequence = [*_alone(), steps.file_system(kind, "it", [("source", kind), *options])]
        yield try_both(f"mount: {kind}", sequence, flags, required=True)
    yield _devices()
    yield _propagation()
    yield _visible_processes()


def _alone() -> list[Step]:
    return [steps.propagation(MountFlag.PRIVATE, "private")]


def _overlay() -> Finding:
    """On the root's file system, which may be an overlay itself: two can be stacked, and no more (in a container in a
    container). Then on a tmpfs."""
    finding = _overlay_on(steps.open_path("/etc", "lower", directory=True))
    if finding.state != "no":
        return finding
    base = [steps.file_system("tmpfs", "base"), steps.attach("base", "/tmp", root=None), steps.mkdir("base", "lower")]
    other = _overlay_on(*base, steps.open_path("lower", "lower", root="base", directory=True))
    if other.state == "no":
        return finding
    cause = "not on the file system of /, of which a clone is read-only therefore; on others"
    return partly(finding.name, Reason(cause, "For a clone that can be written to, start it less deep in containers"))


def _overlay_on(*lower: Step) -> Finding:
    nested = obstacles.in_user_namespace()
    return try_both(
        "mount: overlay",
        [*_alone(), *lower, *overlay_on_tmpfs(["lower"], nested)],
        MOUNT,
        [*_alone(), *lower, *overlay_on_tmpfs(["lower"], True)],
        detail="with userxattr" if nested else "",
        required=True,
    )


def _devices() -> Finding:
    """The nodes in /dev: made where that is allowed, in a user namespace bound from the host."""
    sequence = [
        *_alone(), steps.file_system("tmpfs", "dev"), steps.mknod("dev", "null", 0o020666, os.makedev(1, 3)),
    ]
    bound = [*_alone(), steps.tree("/dev/null", "null", recursive=False)]
    finding = try_both("device nodes", sequence, MOUNT, bound)
    if finding.state == "partly":
        return partly(finding.name, Reason("bound from the host's /dev, not made", ""))
    return finding


def _propagation() -> Finding:
    """A container's mounts never reach the host. The host's reach a container that asks for a slave root, if shared."""
    shared = any(mount.shared is not None for mount in mountinfo.read() if mount.mount_point == "/")
    return yes("mount propagation", f"the host's root is {'shared' if shared else 'private'}, a container's is private")


def _visible_processes() -> Finding:
    """The host's /proc: the kernel shows a user namespace no new proc that would reveal more than this one
    (mount_too_revealing in fs/namespace.c)."""
    name, mounts = "host's /proc", mountinfo.read()
    proc = next((mount for mount in reversed(mounts) if mount.mount_point == "/proc"), None)
    if proc is None:
        return no(name, Reason("no proc is mounted on /proc", "Mount it: mount -t proc proc /proc"), required=True)
    hidden = [option for option in proc.super_options if option.startswith("hidepid=") and option != "hidepid=0"]
    if hidden:
        cause = f"it is mounted with {hidden[0]}: processes of other users are not seen"
        return partly(name, Reason(cause, "A container has its own; for the host's: mount -o remount,hidepid=0 /proc"))
    covers = sorted({m.mount_point for m in mounts if m.mount_point.startswith("/proc/") and m.fs_type not in HARMLESS})
    if covers:
        shown = ", ".join(covers[:3]) + (", ..." if len(covers) > 3 else "")
        return partly(name, Reason(f"parts of it are covered: {shown}", PROC_COVERED.remedy))
    return yes(name, "nothing of it is hidden or covered")
