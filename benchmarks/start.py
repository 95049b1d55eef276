"""How long a start takes, from the call to the collected result: pycontain, its floor in C, and the peers, interleaved.

    python benchmarks/start.py [--quick] [--json FILE] [--program true|exit] [--only NAME...]
    python benchmarks/start.py --isolation | --steps

Cold: 100 ms of rest before each start, as in an application that starts something now and then. Loop: starts in a row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import peers
from attrs import frozen
from harness import HERE, Subject, UnavailableError, Workspace, machine, markdown, median_us

FLOOR, OURS = "C floor", "pycontain"
COLD_PAUSE = 0.1
# A row of starts: the first ones still pay for what the pause or another subject left cold.
ROW, ROW_WARM_UP = 12, 2
SLOW_US = 50_000
SLOW_ROW = 4
BALLAST_MIB = 2048
# What a program sees of its isolation; each line is "what: value".
PROBE = """
for n in mnt pid net ipc uts cgroup; do echo "$n namespace: $(readlink /proc/self/ns/$n)"; done
echo "pid: $$"; echo "host name: $(hostname)"; echo "root: $(grep -c '^overlay / ' /proc/mounts) overlay"
echo "mounts: $(wc -l < /proc/mounts)"; echo "interfaces: $(ls /sys/class/net | wc -l)"
echo "memory cgroup: $(grep memory: /proc/self/cgroup)"
grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
"""


@frozen
class Entry:
    """A row of the table: `command` for lock step, `show` to run a program once and print what it prints."""

    name: str
    command: Callable[[list[str]], list[str]]
    show: Callable[[list[str]], list[str]]


def entries(workspace: Workspace) -> list[Entry]:
    floor, base, root = str(workspace.floor), str(workspace.base), str(workspace.root)
    container = [base, str(workspace.filter), workspace.cgroup]
    worker = [sys.executable, str(HERE / "worker.py")]

    def spawned(file: str, command: list[str]) -> list[str]:
        return [floor, "spawn", file, *command]

    def peer(name: str, command: Callable[[list[str]], list[str]]) -> Entry:
        return Entry(
            name,
            lambda program: peers.in_own_mounts(spawned("/dev/null", command(program))),
            lambda program: peers.in_own_mounts(command(program)),
        )

    def in_root(program: list[str]) -> list[str]:
        return [root + program[0], *program[1:]]

    def bubblewrap(program: list[str]) -> list[str]:
        return peers.bubblewrap(workspace, program)

    return [
        Entry("vfork and exec", lambda program: spawned("/dev/null", in_root(program)), in_root),
        Entry("subprocess.run", lambda program: [*worker, "subprocess", root, *program], in_root),
        Entry(
            FLOOR,
            lambda program: [floor, "container", *container, *program],
            lambda program: [floor, "show", *container, *program],
        ),
        Entry(
            OURS,
            lambda program: [*worker, "pycontain", root, *program],
            lambda program: [*worker, "show", root, *program],
        ),
        Entry(
            "bwrap",
            lambda program: spawned(str(workspace.filter), bubblewrap(program)),
            lambda program: ["sh", "-c", 'exec 3<"$0"; exec "$@"', str(workspace.filter), *bubblewrap(program)],
        ),
        peer("crun", lambda program: peers.oci("crun", workspace, program)),
        peer("runc", lambda program: peers.oci("runc", workspace, program)),
        peer("podman", lambda program: peers.podman(workspace, program)),
    ]


@frozen
class Samples:
    """Nanoseconds of each start."""

    cold: list[int]
    loop: list[int]


def measure(subjects: list[Subject], cold_starts: int, rows: int) -> dict[str, Samples]:
    samples = {subject.name: Samples([], []) for subject in subjects}
    for _ in range(cold_starts):
        for subject in subjects:
            time.sleep(COLD_PAUSE)
            samples[subject.name].cold.extend(subject.times(1))
    for _ in range(rows):
        for subject in subjects:
            slow = median_us(samples[subject.name].cold) > SLOW_US
            samples[subject.name].loop.extend(subject.times(SLOW_ROW if slow else ROW)[ROW_WARM_UP:])
    return samples


def measure_ballast(subject: Subject, rows: int) -> dict[str, list[int]]:
    """pycontain in a process that holds memory against the same process without, in turns."""
    samples: dict[str, list[int]] = {"0": [], str(BALLAST_MIB): []}
    for _ in range(rows):
        for mib, times in samples.items():
            times.extend(subject.times(ROW, int(mib))[ROW_WARM_UP:])
    return samples


def table(samples: dict[str, Samples], refused: dict[str, str], order: list[str]) -> str:
    def columns(name: str, kind: str) -> list[str]:
        own = median_us(getattr(samples[name], kind))
        ratios = [f"{own / median_us(getattr(samples[to], kind)):.2f}" if to in samples else "" for to in (FLOOR, OURS)]
        return [f"{own:,.0f}", *ratios]

    rows = []
    for name in order:
        if name in samples:
            rows.append([name, *columns(name, "cold"), *columns(name, "loop")])
        elif name in refused:
            rows.append([name, refused[name], "", "", "", "", ""])
    header = ["start", "cold, µs", "x floor", "x pycontain", "loop, µs", "x floor", "x pycontain"]
    return markdown(header, rows)


def show_isolation(workspace: Workspace) -> None:
    """What the same script sees under each subject, one column each."""
    seen: dict[str, dict[str, str]] = {}
    for entry in entries(workspace):
        if entry.name == "subprocess.run":
            continue
        try:
            command = entry.show(["/bin/sh", "-c", PROBE])
        except UnavailableError as reason:
            print(f"{entry.name}: {reason}", file=sys.stderr)
            continue
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if run.returncode:
            print(f"{entry.name}: {run.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        seen[entry.name] = dict(line.split(":", 1) for line in run.stdout.splitlines() if ":" in line)
    host = seen.pop("vfork and exec")
    rows = []
    for what in next(iter(seen.values())):
        values = [answers.get(what, "").strip() for answers in seen.values()]
        if what.endswith("namespace"):
            values = ["the host's" if value == host[what].strip() else "new" for value in values]
        rows.append([what, *values])
    print(markdown(["", *seen], rows))


def show_steps(workspace: Workspace, program: str, starts: int) -> None:
    command = [str(workspace.floor), "steps", str(starts), str(workspace.base), str(workspace.filter), workspace.cgroup]
    lines = subprocess.run([*command, program], check=True, capture_output=True, text=True).stdout.splitlines()
    print(markdown(["step of the floor", "µs"], [line.split("\t")[::-1] for line in lines]))


def run(arguments: argparse.Namespace, workspace: Workspace) -> None:
    program = [f"/bin/{arguments.program}"]
    chosen = [entry for entry in entries(workspace) if not arguments.only or entry.name in arguments.only]
    subjects: list[Subject] = []
    refused: dict[str, str] = {}
    ballast: dict[str, list[int]] = {}
    try:
        for entry in chosen:
            try:
                subjects.append(Subject(entry.name, entry.command(program)))
            except UnavailableError as reason:
                refused[entry.name] = f"not run: {reason}"
        samples = measure(subjects, *((8, 2) if arguments.quick else (40, 8)))
        for subject in subjects:
            if subject.name == OURS:
                ballast = measure_ballast(subject, 2 if arguments.quick else 8)
    finally:
        for subject in subjects:
            subject.close()
    print(table(samples, refused, [entry.name for entry in chosen]))
    if ballast:
        none, much = (median_us(times) for times in ballast.values())
        held = f"{BALLAST_MIB} MiB touched in the caller"
        print(f"\n{OURS} with {held}: {much:,.0f} µs, without: {none:,.0f} µs, ratio {much / none:.2f}")
    if arguments.json:
        figures = {name: {"cold": s.cold, "loop": s.loop} for name, s in samples.items()}
        document = {"machine": machine(), "nanoseconds": figures, "refused": refused, "ballast_mib": ballast}
        arguments.json.write_text(json.dumps(document, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Start times of pycontain, its floor and the peers, interleaved.")
    parser.add_argument("--quick", action="store_true", help="a fifth of the starts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample")
    parser.add_argument("--program", choices=("true", "exit"), default="true", help="exit: a program without libc")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these rows")
    parser.add_argument("--isolation", action="store_true", help="print what a program sees under each instead")
    parser.add_argument("--steps", action="store_true", help="print the time of each step of the floor instead")
    arguments = parser.parse_args()
    with Workspace() as workspace:
        for name, value in machine().items():
            print(f"{name}: {value}")
        print()
        if arguments.isolation:
            show_isolation(workspace)
        elif arguments.steps:
            show_steps(workspace, f"/bin/{arguments.program}", 40 if arguments.quick else 200)
        else:
            run(arguments, workspace)


if __name__ == "__main__":
    main()
