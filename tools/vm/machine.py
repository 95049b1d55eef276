"""Runs one job in a machine: starts it, passes on what the command prints, and waits for its exit status."""

from __future__ import annotations

import os
import selectors
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from job import Job
from keeper import Launch, keep

PORTS = ("control", "out", "err")
OUT_OF_TIME = 124  # as timeout(1) has it


class MachineError(Exception):
    """There is no machine, or it ended before the command did."""


def run(launch: Callable[[Path, Path], Launch], image: Path, job: Job, timeout: float) -> int:
    """The exit status of the job's command, run in a machine that `launch` starts from the image in a folder."""
    folder = Path(tempfile.mkdtemp(prefix="pycontain-vm-"))
    with open(folder / "log", "w+b") as log:
        try:
            job.write(folder / "job.tar")
            launched = launch(image, folder)
        except BaseException:
            shutil.rmtree(folder)
            raise
        with keep(launched, folder) as keeper:
            relay = _Relay(launched.ports)
            in_time = relay.until_closed(keeper.fileno(), time.monotonic() + timeout)
        if not in_time:
            print(f"tools/vm: ended after {timeout:g} s", file=sys.stderr)
            return OUT_OF_TIME
        words = relay.control.split()
        if words[-2:-1] != [b"status"]:
            log.seek(0)
            last = log.read()[-4000:].decode(errors="replace")
            raise MachineError(f"the machine ended {'during' if words else 'before'} the command. It said:\n{last}")
        return int(words[-1])


class _Relay:
    """Copies `out` and `err` to ours, and keeps what comes by `control`."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = {number: name for name, number in ports.items()}
        self.control = b""

    def until_closed(self, keeper: int, deadline: float) -> bool:
        """Until the keeper has closed its side. False when the deadline came first."""
        with selectors.DefaultSelector() as selector:
            for number in (keeper, *self._ports):
                selector.register(number, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
                for number in ready & self._ports.keys():
                    if not self._pass_on(number):
                        selector.unregister(number)
                if keeper in ready:
                    self._drain()
                    return True
                if not ready and time.monotonic() >= deadline:
                    return False

    def _drain(self) -> None:
        for number in self._ports:
            while self._pass_on(number):
                pass

    def _pass_on(self, number: int) -> bool:
        """Copies a piece. False when there is nothing (more)."""
        try:
            data = os.read(number, 1 << 16)
        except BlockingIOError:
            return False
        if self._ports[number] == "control":
            self.control += data
        else:
            stream = sys.stdout.buffer if self._ports[number] == "out" else sys.stderr.buffer
            stream.write(data)
            stream.flush()
        return bool(data)
