"""The keeper: the process that starts a machine, and that clears it away when its caller has ended in whatever way."""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple


class Launch(NamedTuple):
    """How a backend starts a machine, and what has to go with it."""

    argv: list[str]
    ports: dict[str, int]  # our ends of control, out and err
    passed: Sequence[int] = ()  # the descriptors that the program gets
    groups: Sequence[Path] = ()  # its cgroups
    environment: Mapping[str, str] = MappingProxyType({})


def keep(launch: Launch, folder: Path) -> socket.socket:
    """Starts a machine. To close the socket is to kill it; the other side closes when nothing of it is left."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        status = 1
        try:
            ours.close()
            os.setsid()  # so that Ctrl-C and the end of a terminal do not reach it
            _machine(launch, folder, theirs)
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    for number in launch.passed:
        os.close(number)
    return ours


def _machine(launch: Launch, folder: Path, caller: socket.socket) -> None:
    for number in launch.ports.values():
        os.close(number)
    try:
        with open(folder / "log", "ab") as log:
            program = subprocess.Popen(
                launch.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=launch.passed,
                env={**os.environ, **launch.environment},
            )
        for number in launch.passed:
            os.close(number)
        with selectors.DefaultSelector() as selector:
            selector.register(os.pidfd_open(program.pid), selectors.EVENT_READ)
            selector.register(caller, selectors.EVENT_READ)
            selector.select()
        program.kill()  # `unshare --kill-child` takes process 1 with it, and that all others
        program.wait()
    finally:
        for group in launch.groups:
            _remove(group)
        shutil.rmtree(folder)


def _remove(group: Path) -> None:
    """Removes a cgroup and those below it. The last processes may take a moment to leave."""
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        for path, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                time.sleep(0.01)
    if group.exists():
        print(f"tools/vm: {group} cannot be removed", file=sys.stderr, flush=True)
