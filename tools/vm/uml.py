"""The backend `uml`: user-mode Linux, a kernel that is a process, with cgroup v2. It needs neither root nor KVM."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from keeper import Launch
from machine import PORTS, MachineError

MEMORY = "2048M"
SOURCE = Path(__file__).with_name("xstate.c")


def launch(image: Path, folder: Path) -> Launch:
    lines = {name: socket.socketpair() for name in PORTS}
    theirs = [line[1].detach() for line in lines.values()]
    console = os.open(folder / "log", os.O_WRONLY | os.O_APPEND)
    namespace = ["--pid", "--mount-proc", "--fork", "--kill-child"]  # each process inside is one of ours
    if os.geteuid() != 0:
        namespace += ["--user", "--map-root-user"]
    return Launch(
        [
            "unshare", *namespace, str(image / "linux.uml"), f"uml_dir={folder}/", f"mem={MEMORY}",
            f"ubd0={folder}/changes,{image}/disk", f"ubd1r={folder}/job.tar", "root=/dev/ubda", "rw", "rootfstype=ext4",
            "init=/lib/systemd/systemd", "con=null", f"con0=null,fd:{console}", "ssl=null",
            *(f"ssl{number}=fd:{fd},fd:{fd}" for number, fd in enumerate(theirs, 1)),
            "panic=-1", "quiet", "systemd.show_status=0", "systemd.unified_cgroup_hierarchy=1",
        ],
        ports={name: line[0].detach() for name, line in lines.items()},
        passed=[console, *theirs],
        environment={"LD_PRELOAD": str(_xstate(folder))} if _has_amx() else {},
    )


def _has_amx() -> bool:
    with open("/proc/cpuinfo") as file:
        return re.search(r"^flags\s.*\bamx_tile\b", file.read(), re.MULTILINE) is not None


def _xstate(folder: Path) -> Path:
    if shutil.which("cc") is None:
        raise MachineError("this processor has AMX, which xstate.c makes usable: there is no cc (Debian: gcc)")
    library = folder / "xstate.so"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return library
