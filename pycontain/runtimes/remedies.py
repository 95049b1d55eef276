"""Why the kernel refused something and what helps: texts that the errors and `pycontain doctor` share.

The cause is looked for only when something has been refused (`obstacles`).
"""

from __future__ import annotations

import errno

from pycontain.cgroups import Reason
from pycontain.cgroups.refusals import DESCRIPTORS, NO_DESCRIPTOR
from pycontain.linux.plan import loopback
from pycontain.runtimes import obstacles
from pycontain.runtimes.labels import ATTRIBUTES

PROCESSES = "Raise the limit of processes (ulimit -u, kernel.pid_max, pids.max of the caller's cgroup)"
MOUNTS = "Raise the sysctl fs.mount-max"
OLD_KERNEL = "Use Linux 5.12 or newer, and a seccomp filter that allows namespaces and mounts"
NEW_TYPE = "Use a kernel that is built with all types of namespaces (CONFIG_NAMESPACES and its options)"

PROC_COVERED = Reason(
    "parts of /proc are covered here, and the kernel shows a user namespace no proc with more in it",
    "If this is a container, start it with an uncovered /proc (docker --security-opt systempaths=unconfined, podman "
    "--security-opt unmask=ALL)",
)
SYS_COVERED = Reason(
    "parts of /sys are covered here or the network is another user's, and the kernel shows a user namespace no sysfs "
    "with more in it",
    "Give the container a new network namespace; if this is a container, start it with an uncovered /sys",
)
LOCKED_MOUNTS = Reason(
    "in a user namespace overlayfs cannot be put on a directory in which other file systems are mounted",
    "Use a directory without mounts in it as the root",
)
NO_ROOT_MOUNT = Reason(
    "the root directory of this process is not a mount point: it is in a chroot or on the initial ramdisk",
    "Leave the chroot; or make its directory a mount point before entering it (mount --bind DIR DIR)",
)
UNKNOWN_OBSTACLE = Reason(
    "a chroot or a security module forbids it", "Leave the chroot, or look for the refusal in the kernel log (dmesg)"
)
SETGROUPS = Reason(
    "the groups cannot be changed in the caller's user namespace",
    "Make that namespace with newgidmap (`unshare --map-auto --map-root-user`), or run outside of it",
)
UNMAPPED = Reason(
    "the container's user namespace does not map this id",
    "Map it with the maps of with_userns(), or run as a user that is mapped",
)
SAME_USER_NAMESPACE = Reason(
    "the caller is in that user namespace already (setns(2))",
    "Leave it out: a user namespace that is not named is the caller's",
)

LOOPBACK = loopback().text
NAMESPACE_CALLS = ("clone3", "unshare", "setns")


def reason_for(syscall: str, code: int, step: str = "", user_namespace: bool = False) -> Reason | None:
    """Why `syscall` answers `code` in the step `step`, and what helps; None when nothing is known.

    `user_namespace` says that the container was to have a user namespace of its own. An empty cause says no more than
    errno does.
    """
    if code in NO_DESCRIPTOR:
        return Reason("", DESCRIPTORS)
    if code == errno.ENOMEM:
        return Reason("there is no memory for the start itself", "Raise the container's memory limit, or free memory")
    if code == errno.EDQUOT and syscall == "keyctl":
        return Reason("this user has too many keyrings, one for each container", "Raise the sysctl kernel.keys.maxkeys")
    if code == errno.ENOSYS:
        return obstacles.filtered_calls() or Reason("", OLD_KERNEL)
    if f" to {ATTRIBUTES}" in step:
        return Reason("the security module does not take that label", "Load the profile or policy that has it")
    if code == errno.ENODEV:
        return missing_file_system(step)
    if syscall == "setns" and code == errno.EINVAL and step == "setns user namespace":
        return SAME_USER_NAMESPACE
    if syscall in NAMESPACE_CALLS:
        return _namespace_reason(code, user_namespace)
    if code == errno.EINVAL:
        return _invalid(syscall, step, user_namespace)
    if code == errno.ENOSPC and syscall in ("move_mount", "open_tree", "mount"):
        return Reason("the mount namespace is full", MOUNTS)
    if code == errno.ENOENT and syscall in ("openat2", "open_tree"):
        return Reason("", "The path does not exist")
    if code in (errno.EPERM, errno.EACCES):
        return _refused(syscall, step, user_namespace)
    return None


def missing_file_system(step: str) -> Reason:
    """For ENODEV: `step` is the line of the plan that names the file system."""
    words = step.split()
    name = words[1] if len(words) > 1 and words[0] == "fsopen" else ""
    return Reason(
        f"this kernel does not have the file system {name}" if name else "",
        f"Load its module as root (modprobe {name}), or use a kernel that has it" if name
        else "Use a kernel that has that file system",
    )


def _namespace_reason(code: int, user_namespace: bool) -> Reason | None:
    if code in (errno.EPERM, errno.EACCES):
        found = obstacles.user_namespaces() if user_namespace else obstacles.privileges()
        return found or obstacles.confinement() or UNKNOWN_OBSTACLE
    if code in (errno.ENOSPC, errno.EUSERS):
        return (obstacles.number_of_user_namespaces() if user_namespace else None) or Reason(
            "a limit of namespaces, or of their nesting (32 deep), is reached",
            "Raise the sysctls user.max_*_namespaces",
        )
    return {
        errno.EAGAIN: Reason("a limit of processes is reached", PROCESSES),
        errno.EINVAL: Reason("this kernel lacks one of the namespace types that were asked for", NEW_TYPE),
        errno.EBUSY: Reason(
            "the cgroup has children with controllers, and takes no processes (cgroup-v2.rst, no internal processes)",
            "Give pycontain a cgroup without controllers in its cgroup.subtree_control",
        ),
    }.get(code)


def _invalid(syscall: str, step: str, user_namespace: bool) -> Reason | None:
    """EINVAL, where one cause is by far the likeliest."""
    inside = user_namespace or obstacles.in_user_namespace()
    if inside and (step.startswith("fsopen overlay") or syscall == "open_tree"):
        return LOCKED_MOUNTS
    if syscall == "pivot_root" or (syscall == "mount" and step.startswith("make /")):
        return NO_ROOT_MOUNT
    if syscall in ("setgroups", "setresgid", "setresuid"):
        return UNMAPPED
    if syscall == "move_mount":
        return Reason("a directory cannot be mounted on a file, nor a file on a directory", "Choose another target")
    if syscall == "seccomp":
        return Reason("", "Use a kernel with CONFIG_SECCOMP_FILTER")
    return None


def _refused(syscall: str, step: str, user_namespace: bool) -> Reason | None:
    """EPERM or EACCES of a step in the child."""
    inside = user_namespace or obstacles.in_user_namespace()
    if inside and step.startswith("fsopen proc"):
        return PROC_COVERED
    if inside and step.startswith("fsopen sysfs"):
        return SYS_COVERED
    if syscall == "setgroups" and obstacles.setgroups_denied():
        return SETGROUPS
    if syscall == "prlimit64":
        return Reason(
            "the hard limit of the caller is lower, and it may not raise it",
            "Ask for less, or raise the caller's limit",
        )
    if syscall == "capset":
        return Reason(
            "a capability was asked for that the caller does not have", "Ask for fewer, or run the caller with more"
        )
    needed = "CAP_MKNOD" if syscall == "mknodat" else "CAP_NET_ADMIN" if step == LOOPBACK else None
    if needed is not None and not inside:
        missing = obstacles.missing_capability(needed)
        if missing is not None:
            return missing
    if user_namespace:  # inside it has all capabilities, unless somebody takes them away
        return obstacles.user_namespaces() or obstacles.confinement() or FORBIDDEN
    return obstacles.privileges() or obstacles.confinement() or FORBIDDEN


FORBIDDEN = Reason("", "The mode of the file, or a security module (see the kernel log), forbids it")
