"""A thousand tasks alive at once in one interpreter: is the last start as fast as the first, is anything left after?

python benchmarks/scale.py [--tasks 1000]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from attrs import asdict, frozen
from harness import CGROUPS, MEMORY_LIMIT, PIDS_LIMIT, Workspace, markdown, median_us

from pycontain import Container

EDGE = 100


@frozen
class State:
    """What a task could leave behind; threads as the kernel counts them."""

    descriptors: int
    threads: int
    children: int
    zombies: int
    mounts: int
    cgroups: int

    @classmethod
    def now(cls) -> State:
        states = child_states()
        return cls(
            descriptors=len(os.listdir("/proc/self/fd")),
            threads=len(os.listdir("/proc/self/task")),
            children=len(states),
            zombies=states.count("Z"),
            mounts=len(Path("/proc/self/mountinfo").read_text().splitlines()),
            cgroups=sum(len(below) for _, below, _ in os.walk(CGROUPS)),
        )


def child_states() -> list[str]:
    """The state letter (proc_pid_stat(5)) of each child of this process, whichever thread started it."""
    states = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == os.getpid():
                states.append(fields[0])
    return states


def start_all(container: Container, count: int) -> tuple[list[int], State, list[int]]:
    """Nanoseconds of each start, the state while all are alive, and the nanoseconds of each kill with its wait."""
    tasks, starts, ends = [], [], []
    try:
        for _ in range(count):
            began = time.perf_counter_ns()
            tasks.append(container.start(["sleep", "1000"]))
            starts.append(time.perf_counter_ns() - began)
        alive = State.now()
    finally:
        for task in tasks:
            began = time.perf_counter_ns()
            task.kill()
            task.wait()
            ends.append(time.perf_counter_ns() - began)
    return starts, alive, ends


def main() -> int:
    parser = argparse.ArgumentParser(description="Many tasks alive at once in one interpreter.")
    parser.add_argument("--tasks", type=int, default=1000)
    count = parser.parse_args().tasks
    with Workspace() as workspace:
        container = (
            Container.from_rootfs(workspace.root).with_limits(memory=MEMORY_LIMIT, pids=PIDS_LIMIT).with_network("none")
        )
        container.run(["true"])  # what the library keeps for its own life is there before the first count
        before = State.now()
        starts, alive, ends = start_all(container, count)
        after = State.now()
    first, last = median_us(starts[:EDGE]), median_us(starts[-EDGE:])
    print(f"start, median of the first {EDGE}: {first:,.0f} µs, of the last {EDGE}: {last:,.0f} µs, ", end="")
    print(f"ratio {last / first:.2f}")
    print(f"kill and wait, median: {median_us(ends):,.0f} µs\n")
    columns = [asdict(state) for state in (before, alive, after)]
    rows = [[what, *(str(column[what]) for column in columns)] for what in columns[0]]
    print(markdown(["", "before", f"{count} alive", "after"], rows))
    return 0 if before == after else 1


if __name__ == "__main__":
    sys.exit(main())
