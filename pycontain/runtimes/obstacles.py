"""What stands in the way of this process when the kernel refuses it: sysctls, missing capabilities, security modules, a
seccomp filter, a chroot. Looked for when something was refused, and by `pycontain doctor`; each is a `Reason`."""

from __future__ import annotations

import errno
import os

from pycontain._native._core import lib
from pycontain.cgroups import Reason
from pycontain.linux import capabilities as caps

FILTER_REMEDY = (
    "If this is a container, start it with a filter that allows clone3, unshare and mount (such as with --security-opt "
    "seccomp=unconfined; for one of pycontain --cap-add SYS_ADMIN, NET_ADMIN and MKNOD are enough)"
)
INITIAL_MAP = ["0", "0", "4294967295"]
OVERFLOW_ID = 65534
NEEDED_BESIDE_ADMIN = ("CAP_MKNOD", "CAP_NET_ADMIN")  # for /dev and the loopback device, but in user namespaces


def user_namespaces() -> Reason | None:
    """Why this process cannot make a user namespace, or gains nothing in one. None when nothing is known to forbid it.

    What certainly forbids it comes before what possibly does; see user_namespaces(7).
    """
    privileged = has_capability("CAP_SYS_ADMIN")
    settings = (number_of_user_namespaces,) if privileged else SETTINGS
    for look in (*settings, chroot, unmapped_user, filtered_calls, apparmor_profile, selinux):
        reason: Reason | None = look()
        if reason:
            return reason
    return None


def privileges() -> Reason | None:
    """Why this process may not make mounts and namespaces directly, without a user namespace. None when it may."""
    if has_capability("CAP_SYS_ADMIN") or filtered_calls():
        return filtered_calls()
    if os.geteuid() == 0:
        return Reason(
            "the process runs as root but without CAP_SYS_ADMIN",
            "If this is a container, start it with --cap-add SYS_ADMIN; or use a user namespace: with_userns()",
        )
    obstacle = user_namespaces()
    if obstacle is None:
        return Reason(
            f"user {os.geteuid()} has no privileges here",
            "Run as root, or with a user namespace of its own: with_userns()",
        )
    return Reason(
        f"user {os.geteuid()} has no privileges here, and {obstacle.cause}",
        f"Run as root; or make user namespaces possible, and use with_userns(). {obstacle.remedy}",
    )


def confinement() -> Reason | None:
    """What forbids things to a process that has the privileges: a seccomp filter or a security module."""
    return filtered_calls() or apparmor_profile() or selinux() or filter_present()


# ---- each of them


def clone_switch() -> Reason | None:
    """A switch that Debian's and Ubuntu's kernels have, for processes without CAP_SYS_ADMIN."""
    if sysctl("kernel/unprivileged_userns_clone") != "0":
        return None
    return Reason(
        "the sysctl kernel.unprivileged_userns_clone is 0",
        "Run as root: sysctl -w kernel.unprivileged_userns_clone=1 (and put the setting in /etc/sysctl.d)",
    )


def number_of_user_namespaces() -> Reason | None:
    if sysctl("user/max_user_namespaces") != "0":
        return None
    return Reason(
        "the sysctl user.max_user_namespaces is 0",
        "Run as root: sysctl -w user.max_user_namespaces=15000 (and put the setting in /etc/sysctl.d)",
    )


def chroot() -> Reason | None:
    """The kernel makes no user namespace for a process in a chroot (EPERM, clone(2)); nor can pivot_root leave it."""
    if not in_chroot():
        return None
    return Reason(
        "the process is in a chroot",
        "Enter the directory otherwise: Container.from_spec with it as the root, `unshare --mount` and pivot_root, or "
        "systemd-nspawn",
    )


def unmapped_user() -> Reason | None:
    if os.geteuid() != OVERFLOW_ID or _maps(OVERFLOW_ID):
        return None
    return Reason(
        "the user and group of this process are not mapped in its own user namespace",
        "Map them where that namespace is made (unshare --map-root-user)",
    )


def apparmor_restriction() -> Reason | None:
    """Ubuntu since 23.10, for processes without CAP_SYS_ADMIN: a new user namespace gives no capabilities unless a
    profile allows `userns`."""
    if sysctl("kernel/apparmor_restrict_unprivileged_userns") != "1":
        return None
    program = os.path.realpath("/proc/self/exe")
    return Reason(
        "AppArmor gives unprivileged user namespaces no capabilities (the sysctl "
        "kernel.apparmor_restrict_unprivileged_userns is 1)",
        f"Load a profile: `abi <abi/4.0>, profile pycontain {program} flags=(unconfined) {{ userns, }}`; or run as "
        "root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    )


def filtered_calls() -> Reason | None:
    """A seccomp filter that answers for unshare(2): without flags the kernel never refuses that call."""
    answer: int = lib.pc_unshare(0)
    if answer not in (-errno.EPERM, -errno.ENOSYS, -errno.EACCES):
        return None
    return Reason(
        "a seccomp filter of the process forbids unshare, and with it new namespaces", FILTER_REMEDY,
    )


def filter_present() -> Reason | None:
    if status("Seccomp") != "2":
        return None
    return Reason("the process has a seccomp filter, which may forbid it", FILTER_REMEDY)


def apparmor_profile() -> Reason | None:
    """A profile that confines this process."""
    label = _read("/proc/self/attr/apparmor/current") or (
        _read("/proc/self/attr/current") if os.path.isdir("/sys/module/apparmor") else ""
    )
    if not label.endswith(")") or label.endswith("(unconfined)"):  # "NAME (MODE)"; others have labels of another form
        return None
    return Reason(
        f"the process is confined by the AppArmor profile {label}",
        "Add the lines `userns,` `mount,` `umount,` `pivot_root,` and `capability,` to the profile; if this is a "
        "container, start it with --security-opt apparmor=unconfined",
    )


def selinux() -> Reason | None:
    if _read("/sys/fs/selinux/enforce") != "1":
        return None
    label = (_read("/proc/self/attr/current") or "unknown").rstrip("\0")
    if ":unconfined_t:" in label:
        return None
    return Reason(
        f"SELinux enforces its policy on the process ({label})",
        "Look for the refusal with `ausearch -m avc -ts recent`; if this is a container, start it with "
        "--security-opt label=disable",
    )


# What root can set to forbid user namespaces to all who have no privileges.
SETTINGS = (clone_switch, number_of_user_namespaces, apparmor_restriction)


# ---- facts about this process


def has_capability(name: str) -> bool:
    """Whether the capability is in the effective set of this process, in its own user namespace."""
    try:
        return bool(caps.of_process().effective >> caps.parse(name) & 1)
    except OSError:  # no /proc
        return os.geteuid() == 0


def missing_capability(name: str) -> Reason | None:
    """A capability that a start as root needs, and that a container often does not have."""
    if has_capability(name):
        return None
    short = name.removeprefix("CAP_")
    return Reason(
        f"the process does not have {name}",
        f"If this is a container, start it with --cap-add {short}; or use a user namespace: with_userns()",
    )


def in_user_namespace() -> bool:
    """Whether this process is in another than the initial user namespace."""
    lines = _read("/proc/self/uid_map").splitlines()
    return bool(lines) and lines[0].split() != INITIAL_MAP


def setgroups_denied() -> bool:
    """Whether the groups of a process cannot be changed in the user namespace of this one (user_namespaces(7))."""
    return _read("/proc/self/setgroups") == "deny"


def in_chroot() -> bool:
    """Whether the root of this process is not that of its mount namespace.

    Such a root is no mount point, or one that process 1, in the same namespace, sees elsewhere.
    """
    own = [line.split() for line in _read("/proc/self/mountinfo").splitlines()]
    if not own:
        return False
    roots = [fields for fields in own if fields[4] == "/"]
    if not roots:
        return True
    for line in _read("/proc/1/mountinfo").splitlines():
        fields = line.split()
        if fields[0] == roots[-1][0]:  # the same mount: its number is unique on the machine
            return fields[4] != "/"
    return False


def status(name: str) -> str:
    """A field of /proc/self/status, "" when there is none."""
    for line in _read("/proc/self/status").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def sysctl(name: str) -> str:
    """A sysctl by its path below /proc/sys, "" where this kernel does not have it."""
    return _read(f"/proc/sys/{name}")


def _maps(uid: int) -> bool:
    for line in _read("/proc/self/uid_map").splitlines():
        first, _, size = (int(word) for word in line.split())
        if first <= uid < first + size:
            return True
    return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""
