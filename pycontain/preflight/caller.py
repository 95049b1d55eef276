"""The calling process and its user: privileges, what confines it, its ranges of ids, its limits, the run directory."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from pycontain.cgroups import Reason
from pycontain.cgroups.refusals import DESCRIPTORS
from pycontain.errors import NotSupported
from pycontain.linux import capabilities as caps
from pycontain.linux.users import parse_passwd
from pycontain.preflight.report import Finding, no, partly, yes
from pycontain.runtimes import obstacles
from pycontain.runtimes.owner import run_directory
from pycontain.runtimes.remedies import PROCESSES

DESCRIPTORS_A_TASK = 8
USEFUL_TASKS = 64
ID_RANGE = 65536


def findings() -> Iterator[Finding]:
    yield _privileges()
    yield _confinement()
    yield _no_new_privs()
    yield from _id_ranges()
    yield from _id_map_programs()
    yield _run_directory()
    yield _descriptors()
    yield _processes()


def _privileges() -> Finding:
    """The capabilities with which namespaces and mounts are made directly."""
    name = "privileges"
    who = f"user {os.geteuid()}" + (" in a user namespace" if obstacles.in_user_namespace() else "")
    reason = obstacles.privileges()
    if reason is None or obstacles.has_capability("CAP_SYS_ADMIN"):
        for needed in obstacles.NEEDED_BESIDE_ADMIN if not obstacles.in_user_namespace() else ():
            lacking = obstacles.missing_capability(needed)
            if lacking is not None:
                return partly(name, lacking)
        missing = [cap for cap in sorted(caps.DEFAULT) if not obstacles.has_capability(cap)]
        if missing:
            cause = f"{who}, without {', '.join(missing)}, which a container would have"
            return partly(name, Reason(cause, "Ask for fewer capabilities, or run as root with all of them"))
        return yes(name, who)
    return partly(name, reason)


def _confinement() -> Finding:
    """Security modules, a seccomp filter, a chroot: what another program put this process into."""
    reasons = [
        reason
        for look in (obstacles.chroot, obstacles.apparmor_profile, obstacles.selinux, obstacles.filter_present)
        if (reason := look())
    ]
    if not reasons:
        return yes("unconfined", "no chroot, no seccomp filter, no profile of AppArmor or SELinux")
    return partly("unconfined", Reason("; ".join(r.cause for r in reasons), reasons[0].remedy))


def _no_new_privs() -> Finding:
    name = "may gain privileges"
    if obstacles.status("NoNewPrivs") != "1":
        return yes(name, "no_new_privs is not set")
    remedy = "Start the process without no_new_privs (systemd: NoNewPrivileges=no), should more than one id be mapped"
    return partly(name, Reason("no_new_privs is set: newuidmap and other set-user-id programs do not work", remedy))


def _id_ranges() -> Iterator[Finding]:
    """Ranges of subordinate ids, which a user without privileges may map in a user namespace; see subuid(5)."""
    uid = os.getuid()
    names = {entry.name for entry in parse_passwd(_read("/etc/passwd")) if entry.uid == uid} | {str(uid)}
    for kind in ("subuid", "subgid"):
        total, ranges = 0, []
        for line in _read(f"/etc/{kind}").decode("utf-8", "replace").splitlines():
            owner, _, span = line.partition(":")
            first, _, count = span.partition(":")
            if owner in names and first.isdecimal() and count.isdecimal():
                ranges.append(f"{first}+{count}")
                total += int(count)
        if total >= ID_RANGE:
            yield yes(kind, ", ".join(ranges))
        elif uid == 0 and not obstacles.in_user_namespace():
            yield yes(kind, "root can map any ids")
        else:
            user = next(iter(sorted(names - {str(uid)})), str(uid))
            option = {"subuid": "--add-subuids", "subgid": "--add-subgids"}[kind]
            yield partly(
                kind,
                Reason(
                    f"user {user} has {total} subordinate ids: only its own id can be mapped" if not total
                    else f"user {user} has {total} subordinate ids, fewer than the {ID_RANGE} of a usual image",
                    f"Run as root: usermod {option} 100000-165535 {user} (a range that no other user has)",
                ),
            )


def _id_map_programs() -> Iterator[Finding]:
    for program in ("newuidmap", "newgidmap"):
        path = _which(program)
        if path is None:
            remedy = "Install the package uidmap (Debian, Ubuntu) or shadow-utils (others)"
            yield partly(program, Reason("not found: a user without privileges can map its own id only", remedy))
        elif not _privileged_file(path):
            remedy = f"Run as root: chmod u+s {path}; or reinstall its package"
            yield partly(program, Reason(f"{path} is neither set-user-id root nor has file capabilities", remedy))
        else:
            yield yes(program, path)


def _which(program: str) -> str | None:
    for directory in [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/bin", "/usr/local/bin"]:
        path = os.path.join(directory, program)
        if directory and os.access(path, os.X_OK):
            return path
    return None


def _privileged_file(path: str) -> bool:
    info = os.stat(path)
    if info.st_uid == 0 and info.st_mode & 0o4000:
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _run_directory() -> Finding:
    name = "run directory"
    try:
        path = run_directory()
    except NotSupported as error:
        return no(name, Reason(error.message, error.remedy or ""), required=True)
    return yes(name, path, required=True)


def _descriptors() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    tasks = soft // DESCRIPTORS_A_TASK
    detail = f"{soft} for this process, enough for about {tasks} tasks at once"
    if tasks < USEFUL_TASKS:
        return partly("open files", Reason(detail, DESCRIPTORS))
    return yes("open files", detail)


def _processes() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    unlimited = soft == resource.RLIM_INFINITY
    largest = obstacles.sysctl("kernel/pid_max") or "unknown"
    detail = f"{'no limit' if unlimited else soft} for the user, kernel.pid_max is {largest}"
    if not unlimited and soft < USEFUL_TASKS:
        return partly("processes", Reason(detail, PROCESSES))
    return yes("processes", detail)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""
