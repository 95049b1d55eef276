"""`pycontain.doctor()`: what this machine and this user can do, found out by doing it, and what helps otherwise.

The package does not have the name of the function, which it would hide: importing a module sets it as an attribute of
its package.
"""

from __future__ import annotations

from pycontain.preflight import caller, containers, filesystems, groups, kernel, namespaces
from pycontain.preflight.report import Finding, Report

__all__ = ["Finding", "Report", "doctor"]


def doctor() -> Report:
    """Looks at the kernel, the namespaces, the file systems, the cgroups and the caller, and tries a container.

    Takes about 0.1 s. Nothing stays behind. Raises nothing: what cannot be done is a finding. Trying a container makes
    the run directory and sweeps what dead processes left, as every first use of the library does.
    """
    return Report(
        tuple(
            finding
            for part in (kernel, caller, namespaces, filesystems, groups, containers)
            for finding in part.findings()
        )
    )
