"""The labels of security modules that a process gets when it executes its command: AppArmor's profile, SELinux's
context. Written while /proc is still the host's, whose files they are (proc_pid_attr(5))."""

from __future__ import annotations

import os

from pycontain.errors import NotSupported
from pycontain.linux import plan as steps
from pycontain.linux.plan import Step
from pycontain.spec import Process

ATTRIBUTES = "/proc/self/attr/"  # how the steps of this module begin, for the remedies


def security_labels(process: Process) -> list[Step]:
    """The steps that set them. Raises `NotSupported` where this machine does not have the module."""
    result = []
    if process.apparmor_profile:
        if not has_apparmor():
            raise NotSupported(
                f"the AppArmor profile {process.apparmor_profile!r} cannot be applied: AppArmor is not enabled here",
                remedy="Leave it out, or boot with lsm=...,apparmor",
            )
        own = f"{ATTRIBUTES}apparmor/exec"  # since Linux 5.8; the other file is the first module's
        path = own if os.path.exists(own) else f"{ATTRIBUTES}exec"
        result.append(steps.write_file(path, f"exec {process.apparmor_profile}"))
    if process.selinux_label:
        if not has_selinux():
            raise NotSupported(
                f"the SELinux context {process.selinux_label!r} cannot be applied: SELinux is not enabled here",
                remedy="Leave it out, or boot with lsm=...,selinux",
            )
        result.append(steps.write_file(f"{ATTRIBUTES}exec", process.selinux_label))
    return result


def has_apparmor() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as file:
            return file.read().startswith("Y")
    except OSError:
        return False


def has_selinux() -> bool:
    """Its file system is registered when it is enabled at boot, wherever it is mounted."""
    try:
        with open("/proc/filesystems", encoding="ascii") as file:
            return "selinuxfs" in file.read().split()
    except OSError:
        return False
