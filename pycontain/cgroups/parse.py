"""Parsers of the kernel's cgroup texts: /proc/self/mountinfo, /proc/self/cgroup, /proc/cgroups, keyed files.
Pure functions. A line that does not have the documented form is skipped, never an error."""

from __future__ import annotations

import re
from typing import NamedTuple

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    major: int
    minor: int
    root: str  # the directory of the file system that is mounted: not "/" for a bind mount of a part
    mount_point: str
    options: frozenset[str]  # of this mount
    file_system: str
    super_options: frozenset[str]  # of the file system; a v1 hierarchy names its controllers here


def mountinfo(text: str) -> list[Mount]:
    """The mounts in the order of the text, which is the order of mounting."""
    mounts = []
    for line in text.split("\n"):
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 3:
            continue
        major, colon, minor = fields[2].partition(":")
        if not (colon and _is_number(major) and _is_number(minor)):
            continue
        mounts.append(Mount(
            int(major), int(minor), _unescape(fields[3]), _unescape(fields[4]), frozenset(fields[5].split(",")),
            _unescape(tail[0]), frozenset(tail[2].split(",")),
        ))
    return mounts


def own_groups(text: str) -> dict[str, str]:
    """/proc/self/cgroup as `{controller: path}`; the v2 group has the key "" (cgroups(7))."""
    groups = {}
    for line in text.split("\n"):
        fields = line.split(":", 2)
        if len(fields) == 3 and fields[2].startswith("/"):
            for controller in fields[1].split(","):
                groups[controller] = fields[2]
    return groups


def kernel_controllers(text: str) -> dict[str, bool]:
    """/proc/cgroups as `{controller: enabled}`; False is what `cgroup_disable=` on the kernel command line did."""
    controllers = {}
    for line in text.split("\n"):
        fields = line.split()
        if len(fields) == 4 and not line.startswith("#"):
            controllers[fields[0]] = fields[3] == "1"
    return controllers


def flat_keyed(text: str) -> dict[str, int]:
    """A flat keyed file (`memory.events`, `cgroup.events`, v1's `memory.oom_control`): lines of `KEY NUMBER`."""
    values = {}
    for line in text.split("\n"):
        key, separator, value = line.partition(" ")
        if separator and key and _is_number(value):
            values[key] = int(value)
    return values


def processes(text: str) -> list[int]:
    """`cgroup.procs`. The kernel writes 0 for a process outside the reader's pid namespace: left out, since a signal
    to 0 would reach the caller's own process group."""
    return [int(line) for line in text.split("\n") if _is_number(line) and int(line) > 0]


def _unescape(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field) if "\\" in field else field


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
