"""The cgroups: hierarchy, driver, and each controller."""

from __future__ import annotations

from collections.abc import Iterator

from pycontain.cgroups import Reason, detect
from pycontain.preflight.report import Finding, no, partly, yes

LIMITS = ("memory", "cpu", "pids")  # those that `with_limits` uses
OTHERS = {"v2": ("cpuset", "io")}
OTHERS_V1 = ("cpuset", "blkio", "devices", "freezer")


def findings() -> Iterator[Finding]:
    driver = detect()
    hierarchy = driver.hierarchy
    if hierarchy == "none":
        cause, remedy = driver.reason("memory") or Reason("", "")
        yield no("cgroup hierarchy", Reason(cause, remedy))
    else:
        yield yes("cgroup hierarchy", f"{hierarchy}, driver {driver.name}")
    for controller in LIMITS:
        reason = driver.reason(controller)
        yield no(f"limit: {controller}", reason) if reason else yes(f"limit: {controller}")
    for controller in OTHERS.get(hierarchy, OTHERS_V1):
        reason = driver.reason(controller)
        yield partly(f"controller: {controller}", reason) if reason else yes(f"controller: {controller}")
