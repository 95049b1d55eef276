"""The backend `native`: systemd in new namespaces, on this host's kernel, in cgroups of its own in each hierarchy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from keeper import Launch
from machine import PORTS, MachineError

INSIDE = Path(__file__).parent / "guest" / "native.sh"

# Options that the kernel shows but a second mount of the same v1 hierarchy must not name.
SHOWN = {"rw", "ro", "relatime", "nosuid", "nodev", "noexec", "clone_children", "xattr"}


class Hierarchy(NamedTuple):
    place: str
    kind: str  # the type of its file system
    options: str


def launch(image: Path, folder: Path) -> Launch:
    if os.geteuid() != 0:
        raise MachineError("the backend native needs root")
    hierarchies = _hierarchies()
    ports = folder / "ports"
    ports.mkdir()
    (folder / "job.tar").rename(ports / "job.tar")
    for name in PORTS:
        os.mkfifo(ports / name)
    groups = [Path(hierarchy.place, folder.name) for hierarchy in hierarchies]
    enter = [command for hierarchy in hierarchies for command in _enter(hierarchy, folder.name)]
    namespaces = ["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--fork", "--kill-child"]
    mounts = [f"{h.place} {h.kind} {h.options}" for h in hierarchies]
    script = "\n".join([*enter, 'exec unshare "$@"'])
    return Launch(
        ["sh", "-ec", script, "sh", *namespaces, "bash", str(INSIDE), str(folder), str(image), *mounts],
        ports={name: os.open(ports / name, os.O_RDONLY | os.O_NONBLOCK) for name in PORTS},
        groups=groups,
    )


def _hierarchies() -> list[Hierarchy]:
    found = []
    with open("/proc/mounts") as table:
        for line in table:
            _, place, kind, options = line.split()[:4]
            if kind == "cgroup2" and place.startswith("/sys/fs/cgroup"):
                found.append(Hierarchy(place, kind, "rw"))
            elif kind == "cgroup" and place.startswith("/sys/fs/cgroup/"):
                named = [o for o in options.split(",") if o not in SHOWN and not o.startswith("release_agent=")]
                if named[0].startswith("name="):
                    named[:0] = ["none", "xattr"]
                found.append(Hierarchy(place, kind, ",".join(named)))
    if not any(h.kind == "cgroup2" or "name=systemd" in h.options for h in found):
        raise MachineError("systemd needs a cgroup2 or the hierarchy name=systemd mounted below /sys/fs/cgroup")
    return found


def _enter(hierarchy: Hierarchy, name: str) -> list[str]:
    """The shell's commands that make a group and put the shell there."""
    group = f"{hierarchy.place}/{name}"
    commands = [f"mkdir {group}"]
    if hierarchy.kind == "cgroup" and "cpuset" in hierarchy.options.split(","):
        for file in ("cpuset.cpus", "cpuset.mems"):  # without them it takes no process, see cpuset(7)
            commands.append(f"cat {hierarchy.place}/{file} >{group}/{file}")
    return [*commands, f"echo $$ >{group}/cgroup.procs"]
