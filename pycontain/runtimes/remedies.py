"""What helps against the kernel's refusals: texts that the errors and `pycontain doctor` share."""

from __future__ import annotations

import errno
import os

ROOT_NEEDED = "Run as root, or with a user namespace of its own: with_userns()"
DESCRIPTORS = "Raise the limit of open files (ulimit -n, RLIMIT_NOFILE)"
PROCESSES = "Raise the limit of processes (ulimit -u, kernel.pid_max, pids.max of the caller's cgroup)"
NAMESPACES = "Raise the sysctls user.max_*_namespaces"
FORBIDDEN = "A security module (LSM), a seccomp filter or the file's mode forbids it"
OLD_KERNEL = "pycontain needs Linux 5.12 or newer, and a seccomp profile that lets it make namespaces"


def remedy_for(syscall: str, code: int, step: str = "") -> str | None:
    """A sentence on what helps when `syscall` answers `code` in the step `step`, or None."""
    if code in (errno.EMFILE, errno.ENFILE):
        return DESCRIPTORS
    if code == errno.ENOSYS:
        return OLD_KERNEL
    if syscall in ("clone3", "unshare"):
        return _namespace_remedy(code)
    if syscall in ("openat2", "open_tree") and code == errno.ENOENT:
        return "The path does not exist"
    if code in (errno.EPERM, errno.EACCES):
        return ROOT_NEEDED if os.geteuid() != 0 else FORBIDDEN
    if code == errno.ENODEV:
        return "This kernel does not have that file system"
    return None


def _namespace_remedy(code: int) -> str | None:
    return {
        errno.EPERM: ROOT_NEEDED,
        errno.EAGAIN: PROCESSES,
        errno.ENOSPC: NAMESPACES,
        errno.EUSERS: NAMESPACES,
        errno.EINVAL: "This kernel lacks one of the namespace types that were asked for",
        errno.EBUSY: "The cgroup cannot take processes: it has children with controllers (no-internal-processes rule)",
    }.get(code)
