"""Control groups: the driver protocol, and the choice of the driver for this machine."""

from __future__ import annotations

from pycontain.cgroups.cgroupfs import CgroupfsDriver
from pycontain.cgroups.driver import Cgroup, CgroupDriver, CgroupUsage, Reason
from pycontain.cgroups.hierarchy import read_layout

__all__ = ["Cgroup", "CgroupDriver", "CgroupUsage", "Reason", "detect"]


def detect() -> CgroupDriver:
    """The driver for this machine and user.

    Where no limit can be set, `controllers` of the driver is empty and `reason` says why. Every call
    reads /proc and looks at the mount points: keep the driver.
    """
    return CgroupfsDriver(read_layout())
