"""Containers as a whole, by running one."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pycontain.cgroups import Reason
from pycontain.container import Container
from pycontain.errors import CommandNotFound, PycontainError
from pycontain.preflight.report import Finding, no, yes

COMMAND = ["true"]
LIMIT = 10.0  # seconds


def findings() -> Iterator[Finding]:
    container = Container.from_host()
    yield _run("container", container, required=True)
    yield _run("container with a user namespace", container.with_userns())
    yield _time_namespace()


def _run(name: str, container: Container, *, required: bool = False) -> Finding:
    try:
        result = container.run(COMMAND, timeout=LIMIT)
    except CommandNotFound:  # all but the command is there
        return yes(name, required=required)
    except PycontainError as error:
        return no(name, Reason(error.message, error.remedy or ""), required=required)
    if result.exit_code != 0:
        return no(name, Reason(f"`true` {result.describe()}", "Look at the kernel log (dmesg)"), required=required)
    return yes(name, f"ran `true` in {result.usage.wall_time * 1000:.1f} ms", required=required)


def _time_namespace() -> Finding:
    """Whether exec moves a process into the time namespace that it has unshared: a container's own clocks need that."""
    name = "time namespace at exec"
    bare = Container.from_host().with_namespace("mount", "host").with_namespace("time", "new")
    for container in (bare, bare.with_userns()):
        try:
            inside = container.run(["readlink", "/proc/self/ns/time"], timeout=LIMIT).text.strip()
        except PycontainError as error:
            reason = Reason(error.message, error.remedy or "")
            continue
        if inside != os.readlink("/proc/self/ns/time"):
            return yes(name, "Linux 6.3")
        reason = Reason("the command stays in the time namespace of the caller", "Use Linux 6.3 or newer")
    return no(name, reason)
