"""What a privileged container has beside its privileges: every device, and nothing hidden or read-only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Literal

from attrs import evolve

from pycontain import defaults
from pycontain.cgroups.devices import ALLOW_ALL
from pycontain.runtimes.cgroupmount import usable_hierarchies
from pycontain.spec import Device, Linux, Mount, Resources, Spec

_KERNEL = ("proc", "sysfs", "cgroup", "cgroup2")
# Directories of /dev that a container has of its own, and links into its own processes.
_OWN = frozenset(("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd"))
_OWN_NODES = frozenset(("/dev/console", "/dev/ptmx", "/dev/tty"))


def privileged(spec: Spec) -> Spec:
    """The specification with all devices of the host as they are now, and with a writable view of the kernel."""
    linux = spec.linux or Linux()
    resources = evolve(linux.resources or Resources(), devices=(ALLOW_ALL,))
    named = {device.path for device in linux.devices}
    nodes = tuple(device for device in host_devices() if device.path not in named)
    linux = evolve(linux, masked_paths=(), readonly_paths=(), devices=linux.devices + nodes, resources=resources)
    mounts = tuple(_writable(mount) for mount in spec.mounts)
    if usable_hierarchies() and all(mount.destination != defaults.CGROUP_MOUNT.destination for mount in mounts):
        mounts = (*mounts, _writable(defaults.CGROUP_MOUNT))
    return evolve(spec, mounts=mounts, linux=linux)


def _writable(mount: Mount) -> Mount:
    if mount.type not in _KERNEL:
        return mount
    return evolve(mount, options=tuple(option for option in mount.options if option != "ro"))


def host_devices() -> Iterator[Device]:
    """The device nodes below /dev but the terminals of others, with their modes."""
    for directory, names, files in os.walk("/dev"):
        names[:] = sorted(name for name in names if os.path.join(directory, name) not in _OWN)
        for path in (os.path.join(directory, name) for name in sorted(files)):
            try:
                info = os.lstat(path)
            except FileNotFoundError:  # devices come and go
                continue
            if path not in _OWN_NODES and (stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode)):
                kind: Literal["b", "c"] = "b" if stat.S_ISBLK(info.st_mode) else "c"
                numbers = os.major(info.st_rdev), os.minor(info.st_rdev)
                yield Device(kind, path, *numbers, file_mode=stat.S_IMODE(info.st_mode))
