"""A Python subject: starts a program with pycontain or subprocess in this process, in lock step with the harness.

    python worker.py pycontain|subprocess|show ROOT PROGRAM...

`show` runs the program once with pycontain and passes its output on.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from harness import MEMORY_LIMIT, PIDS_LIMIT


def with_pycontain(root: str, program: list[str]) -> Callable[[], bytes]:
    from pycontain import Container

    container = Container.from_rootfs(root).with_limits(memory=MEMORY_LIMIT, pids=PIDS_LIMIT).with_network("none")

    def start() -> bytes:
        result = container.run(program)
        if result.exit_code != 0:
            raise SystemExit(f"exit code {result.exit_code}: {result.stderr!r}")
        return result.stdout

    return start


def with_subprocess(root: str, program: list[str]) -> Callable[[], bytes]:
    command = [root + program[0], *program[1:]]
    return lambda: subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


def serve(start: Callable[[], bytes]) -> None:
    """Answers "COUNT MIB" by the nanoseconds of COUNT starts, while MIB of touched memory are held."""
    for line in sys.stdin:
        count, mib = map(int, line.split())
        ballast = bytearray(b"\1") * (mib << 20)
        times = []
        for _ in range(count):
            began = time.perf_counter_ns()
            start()
            times.append(time.perf_counter_ns() - began)
        del ballast
        print(*times, flush=True)


def main() -> None:
    kind, root, *program = sys.argv[1:]
    if kind == "show":
        sys.stdout.buffer.write(with_pycontain(root, program)())
    else:
        serve({"pycontain": with_pycontain, "subprocess": with_subprocess}[kind](root, program))


if __name__ == "__main__":
    main()
