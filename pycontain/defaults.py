"""What a container has unless it asks for something else: the safe choices, in the OCI's terms."""

from __future__ import annotations

import os
import sys

from pycontain.linux.capabilities import DEFAULT
from pycontain.runtimes.cgroupmount import UNIFIED
from pycontain.spec import Capabilities, Linux, Mount, Namespace, Process

NAMESPACES = tuple(Namespace(kind) for kind in ("mount", "uts", "pid", "network", "ipc", "cgroup"))

# The OCI's "Default Filesystems" (config-linux.md) with the options that engines give them.
MOUNTS = (
    Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "noexec", "strictatime", "mode=755", "size=65536k")),
    Mount("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    Mount("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)
# A clone of the host does not show the host's sockets and temporary files.
HOST_MOUNTS = (
    *MOUNTS,
    Mount("/run", "tmpfs", "tmpfs", ("nosuid", "nodev", "mode=755")),
    Mount("/tmp", "tmpfs", "tmpfs", ("nosuid", "nodev", "mode=1777")),
)

CGROUP_MOUNT = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "ro"))

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Docker's set without those that reach further than the container: device nodes, which not every driver can limit,
# packets of the host's network, the audit log. It is podman's default too.
CAPABILITIES = tuple(sorted(DEFAULT - {"CAP_MKNOD", "CAP_NET_RAW", "CAP_AUDIT_WRITE"}))

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

LINUX = Linux(namespaces=NAMESPACES, masked_paths=MASKED_PATHS, readonly_paths=READONLY_PATHS)


def process(path: str = PATH) -> Process:
    return Process(
        cwd="/",
        env=(f"PATH={path}",),
        capabilities=Capabilities(bounding=CAPABILITIES, effective=CAPABILITIES, permitted=CAPABILITIES),
        no_new_privileges=True,
    )


def cgroup_mounts() -> tuple[Mount, ...]:
    """Programs look there for their limits. Only cgroup v2 can show a container its own groups and no others."""
    return (CGROUP_MOUNT,) if os.path.exists(UNIFIED) else ()


def interpreter_mounts() -> tuple[Mount, ...]:
    """Where this interpreter and its packages lie in a directory of which a clone of the host has its own."""
    prefixes = dict.fromkeys(os.path.realpath(prefix) for prefix in (sys.base_prefix, sys.prefix))
    hidden = [prefix for prefix in prefixes if prefix.startswith(("/tmp/", "/run/"))]
    return tuple(Mount(prefix, "bind", prefix, ("rbind", "rprivate", "rro")) for prefix in hidden)


def host_path() -> str:
    """The caller's search path, so that a clone of the host finds the same programs; the usual one without it."""
    return os.environ.get("PATH") or PATH
