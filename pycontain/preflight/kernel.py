"""The kernel: its version, the machine, the system calls that are needed, and the newer features that are used."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from pycontain._native._core import ffi, lib
from pycontain.cgroups import Reason
from pycontain.cgroups.hierarchy import read_layout
from pycontain.errors import NotSupported
from pycontain.linux import plan as steps
from pycontain.linux.mounts import MountFlag
from pycontain.linux.namespaces import NamespaceType
from pycontain.linux.pidfd import pidfd_open
from pycontain.linux.seccomp import default_filter
from pycontain.linux.syscall_numbers import MACHINES
from pycontain.preflight.refusals import reason_of
from pycontain.preflight.report import Finding, no, partly, yes
from pycontain.runtimes import obstacles
from pycontain.runtimes.features import attempt, overlay_on_tmpfs
from pycontain.runtimes.remedies import OLD_KERNEL, reason_for

NEEDED = (5, 12)
TOO_OLD = "Use Linux {} or newer"
STATMOUNT = 457  # the same number on all machines; Linux 6.8
INVALID = 1 << 31  # a flag that no call knows


def findings() -> Iterator[Finding]:
    yield _version()
    yield _machine()
    for name, call in CALLS.items():
        yield _call(name, call())
    yield _seccomp()
    yield _overlay_layers()
    yield _cgroup_kill()
    yield _pidfs()
    yield _statmount()


def _version() -> Finding:
    release = f"Linux {os.uname().release}"
    if _numbers() < NEEDED:
        return no("kernel", Reason(release, OLD_KERNEL), required=True)
    return yes("kernel", release, required=True)


def _numbers() -> tuple[int, ...]:
    return tuple(int(word) for word in os.uname().release.split("-")[0].split(".")[:2] if word.isdigit())


def _machine() -> Finding:
    machine = os.uname().machine
    if machine in MACHINES:
        return yes("machine", machine, required=True)
    return no("machine", Reason(machine, f"Use a machine of type {' or '.join(MACHINES)}"), required=True)


# ---- system calls: each is called so that it can only fail, and how tells whether it is there


def _clone3() -> int:
    refused = attempt([], 1 << 63)  # no such flag
    return -refused.errno if refused else 0


CALLS: dict[str, Callable[[], int]] = {
    "clone3": _clone3,
    "unshare": lambda: lib.pc_unshare(0),
    "setns": lambda: lib.pc_setns(-1, 0),
    "openat2": lambda: lib.pc_openat2(-1, b"", 0, 0, INVALID),
    "open_tree": lambda: lib.pc_open_tree(-1, b"", INVALID),
    "move_mount": lambda: lib.pc_move_mount(-1, b"", -1, b"", INVALID),
    "fsopen": lambda: lib.pc_fsopen(b"", INVALID),
    "fsconfig": lambda: lib.pc_fsconfig(-1, 0, ffi.NULL, ffi.NULL, 0),
    "fsmount": lambda: lib.pc_fsmount(-1, INVALID, 0),
    "mount_setattr": lambda: lib.pc_mount_setattr(-1, b"", INVALID, 0, 0, 0, 0),
    "close_range": lambda: lib.pc_close_range(1, 0, 0),
    "pidfd_open": lambda: lib.pc_pidfd_open(-1, 0),
}
# To those who may not mount the kernel refuses these before it looks at anything else: the attempts to mount tell.
ASK_FIRST = frozenset(("move_mount", "fsopen", "fsmount"))


def _call(name: str, answer: int) -> Finding:
    finding = f"system call: {name}"
    if answer == -errno.ENOSYS:
        return no(finding, reason_for(name, errno.ENOSYS) or Reason("", OLD_KERNEL), required=True)
    if answer in (-errno.EPERM, -errno.EACCES) and name not in ASK_FIRST:
        cause = f"it is refused whatever its arguments, as only a seccomp filter does ({os.strerror(-answer)})"
        return no(finding, Reason(cause, obstacles.FILTER_REMEDY), required=True)
    return yes(finding, required=True)


# ---- newer features


def _seccomp() -> Finding:
    try:
        program = default_filter()
    except NotSupported as error:
        return no("seccomp filter", Reason(error.message, error.remedy or ""), required=True)
    refused = attempt([steps.no_new_privs(), steps.seccomp(program)], 0)
    if refused:
        return no("seccomp filter", reason_of(refused), required=True)
    return yes("seccomp filter", f"the default filter of {len(program) // 8} instructions loads", required=True)


def _overlay_layers() -> Finding:
    name = "overlay layers one by one"
    sequence = [
        steps.propagation(MountFlag.PRIVATE, "private"),
        steps.open_path("/etc", "lower", directory=True),
        steps.open_path("/usr", "lower2", directory=True),
    ]
    user_namespace = not obstacles.has_capability("CAP_SYS_ADMIN")
    layers = overlay_on_tmpfs(["lower", "lower2"], user_namespace or obstacles.in_user_namespace())
    refused = attempt([*sequence, *layers], NamespaceType.MOUNT | (NamespaceType.USER if user_namespace else 0))
    if refused is None:
        return yes(name, "lowerdir+ (Linux 6.7)")
    if refused.errno == errno.EINVAL and refused.step.startswith("fsopen overlay"):
        return partly(name, Reason("this kernel has no lowerdir+: an overlay has few layers", TOO_OLD.format("6.7")))
    return no(name, reason_of(refused, user_namespace))


def _cgroup_kill() -> Finding:
    name = "cgroup.kill"
    if all(hierarchy.version != 2 for hierarchy in read_layout().hierarchies):
        remedy = "Mount cgroup v2: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
        return partly(name, Reason("no cgroup v2 hierarchy is mounted here: processes are killed one by one", remedy))
    if _numbers() >= (5, 14):  # the root group, which may be the only one, does not have the file
        return yes(name, "Linux 5.14")
    return partly(name, Reason("processes are killed one by one", TOO_OLD.format("5.14")))


def _pidfs() -> Finding:
    pidfd, anonymous = pidfd_open(os.getpid()), os.eventfd(0, os.EFD_CLOEXEC)
    try:
        own_file_system = os.fstat(pidfd).st_dev != os.fstat(anonymous).st_dev
    finally:
        os.close(pidfd)
        os.close(anonymous)
    if own_file_system:
        return yes("process identity (pidfs)", "Linux 6.9")
    cause = "what a killed owner left is only found through its cgroup, since process ids are used again"
    return partly("process identity (pidfs)", Reason(cause, TOO_OLD.format("6.9")))


def _statmount() -> Finding:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(ctypes.c_long(STATMOUNT), None, None, ctypes.c_long(0), ctypes.c_long(0))
    if ctypes.get_errno() == errno.ENOSYS:
        return partly("statmount", Reason("the mount table is parsed instead", TOO_OLD.format("6.8")))
    return yes("statmount", "Linux 6.8")


