"""What cgroups cost: a group of each driver and hierarchy, reading its figures, and its share of a container's start.

    python benchmarks/cgroups.py [--quick] [--only groups|stats|starts]

Cold is after 100 ms of rest, loop is one after the other. What this machine lacks is a row with the reason.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

import peers
from harness import HERE, MEMORY_LIMIT, PIDS_LIMIT, Subject, UnavailableError, Workspace, machine, markdown, median_us
from start import COLD_PAUSE, Samples, measure
from worker import serve

from pycontain import Container
from pycontain.cgroups import Cgroup, CgroupDriver
from pycontain.cgroups.cgroupfs import CgroupfsDriver
from pycontain.cgroups.hierarchy import Layout, read_layout
from pycontain.cgroups.systemd import SystemdDriver
from pycontain.cgroups.systemd_bus import CallRefused, bus_at
from pycontain.cgroups.systemd_pause import Pause
from pycontain.errors import NotSupported
from pycontain.limits import resources_with
from pycontain.spec import Resources

CPUS = 0.5
LIMITS = {"memory": MEMORY_LIMIT, "pids": PIDS_LIMIT, "cpus": CPUS}
WITHOUT = "no cgroup"
# Mounts over what a start shall not find, in a mount namespace of its own.
WITHOUT_CGROUPS = "mount -t tmpfs none /sys/fs/cgroup"
WITHOUT_V2 = "mount -t tmpfs none /sys/fs/cgroup/unified"
SYSTEM_BUS = "/run/dbus/system_bus_socket"

Times = dict[str, list[int]]
Enter = Callable[[Sequence[int]], int]


# ---- a group by itself


def drivers() -> dict[str, CgroupDriver | str]:
    """The drivers of this machine, or why one cannot be used."""
    layout = read_layout()
    found: dict[str, CgroupDriver | str] = {f"cgroupfs, {layout.kind}": CgroupfsDriver(layout)}
    if layout.kind == "hybrid":
        for version in (1, 2):
            part = Layout(tuple(h for h in layout.hierarchies if h.version == version), layout.kernel)
            found[f"cgroupfs, only its v{version}"] = CgroupfsDriver(part)
    try:
        found["systemd"] = SystemdDriver()
    except NotSupported as reason:
        found["systemd"] = str(reason)
    return found


def resources_for(driver: CgroupDriver) -> Resources:
    """Memory, cpu and pids limits as far as the driver has the controllers."""
    needed = {"memory": "memory", "pids": "pids", "cpus": "cpu"}
    return resources_with(None, {name: LIMITS[name] for name, owner in needed.items() if not driver.reason(owner)})


def make(driver: CgroupDriver, resources: Resources) -> Cgroup:
    """A group; also without controllers, where a start would make none (the v2 part of a hybrid machine)."""
    return driver.create(f"bench-{os.getpid()}", resources, kill="memory" not in driver.controllers)


def time_group(driver: CgroupDriver, resources: Resources, enter: Enter, times: Times, how: str) -> None:
    """Makes, enters, reads and removes one group, and adds the nanoseconds of each to `times`."""
    began = time.perf_counter_ns()
    group = make(driver, resources)
    made = time.perf_counter_ns()
    entering = enter(group.attach_fds)
    ended = time.perf_counter_ns()
    group.usage(oom_kills=False)
    read = time.perf_counter_ns()
    group.remove()
    removed = time.perf_counter_ns()
    durations = {"create": made - began, "attach": entering, "usage": read - ended, "remove": removed - read}
    for name, duration in durations.items():
        times.setdefault(f"{name} {how}", []).append(duration)


def time_procs_file(driver: CgroupDriver, resources: Resources, enter: Enter, times: Times, how: str) -> None:
    """For comparison: the usual way to enter a group of v1, which no start takes."""
    group = make(driver, resources)
    files = [os.open(f"{path}/cgroup.procs", os.O_WRONLY) for path in group.paths]
    times.setdefault(f"attach {how}", []).append(enter(files))
    for file in files:
        os.close(file)
    group.remove()


@contextmanager
def entering() -> Iterator[Enter]:
    """A function that says how many nanoseconds a new process needs to write itself to these files, as the child of a
    start does; into the groups of v2 it is born. Another process forks, so that this one keeps its memory mapped."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        fork_on_demand(theirs)
    theirs.close()

    def enter(files: Sequence[int]) -> int:
        socket.send_fds(ours, [b"0"], files)
        return int(struct.unpack("q", ours.recv(8))[0])

    try:
        yield enter
    finally:
        ours.close()
        os.waitpid(pid, 0)


def fork_on_demand(connection: socket.socket) -> NoReturn:
    shared = mmap.mmap(-1, 8)
    while True:
        order, files, _, _ = socket.recv_fds(connection, 1, 8)
        if not order:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            began = time.perf_counter_ns()
            for file in files:
                os.write(file, b"0")
            shared[:] = struct.pack("q", time.perf_counter_ns() - began)
            os._exit(0)
        os.waitpid(pid, 0)
        for file in files:
            os.close(file)
        connection.send(shared[:])  # when the group is empty again


def time_round_trips(times: Times, how: str) -> None:
    """For comparison: systemd asked for a scope, and to stop it, with nothing else."""
    bus, unit = bus_at(SYSTEM_BUS), f"pycontain-bench-{os.getpid()}.scope"
    pause = Pause()
    try:
        began = time.perf_counter_ns()
        properties = [("Delegate", ("b", True)), ("PIDs", ("au", [pause.pid]))]
        bus.run_job(unit, "StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", properties, []))
        made = time.perf_counter_ns()
        pause.end()
        ended = time.perf_counter_ns()
        with suppress(CallRefused):  # it may be gone with its process
            bus.run_job(unit, "StopUnit", "ss", (unit, "replace"))
        times.setdefault(f"create {how}", []).append(made - began)
        times.setdefault(f"remove {how}", []).append(time.perf_counter_ns() - ended)
    finally:
        pause.end()


def show_groups(quick: bool) -> None:
    cold, loop = (5, 30) if quick else (30, 200)
    rows = []
    with entering() as enter:
        for name, driver in drivers().items():
            if isinstance(driver, str):
                rows.append([f"{name}: {driver}"] + [""] * 8)
                continue
            for label, once in actions(name, driver, enter):
                times: Times = {}
                for _ in range(cold):
                    time.sleep(COLD_PAUSE)
                    once(times, "cold")
                for _ in range(loop):
                    once(times, "loop")
                rows.append([label, *cells(times)])
            driver.remove_parent_if_empty()
    header = [f"{what} {how}" for what in ("create", "attach", "usage", "remove") for how in ("cold", "loop")]
    print("A group with memory, cpu and pids limits where the controllers are, µs:\n")
    print(markdown(["driver", *header], rows))


def actions(name: str, driver: CgroupDriver, enter: Enter) -> Iterator[tuple[str, Callable[[Times, str], None]]]:
    """What is measured of a driver, with what it is compared with."""
    resources = resources_for(driver)
    yield name, partial(time_group, driver, resources, enter)
    if driver.hierarchy == "v1":
        yield "the same by `cgroup.procs`", partial(time_procs_file, driver, resources, enter)
    if driver.name == "systemd":
        yield "its bare round trips", time_round_trips


def cells(times: Times) -> list[str]:
    names = [f"{what} {how}" for what in ("create", "attach", "usage", "remove") for how in ("cold", "loop")]
    return [f"{median_us(times[name]):,.0f}" if name in times else "" for name in names]


# ---- figures


@contextmanager
def busy(driver: CgroupDriver) -> Iterator[Cgroup]:
    """A group with a process in it."""
    group = make(driver, resources_for(driver))
    pid = os.fork()
    if pid == 0:
        for fd in group.attach_fds:
            os.write(fd, b"0")
        if group.into_fd is not None:
            with open(f"/proc/self/fd/{group.into_fd}/cgroup.procs", "w") as file:
                file.write("0")
        signal.pause()
    try:
        group.adopt(pid)
        yield group
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        group.remove()
        driver.remove_parent_if_empty()


def show_stats(quick: bool) -> None:
    rows = []
    for name, driver in drivers().items():
        if isinstance(driver, str):
            rows.append([f"{name}: {driver}", "", ""])
            continue
        with busy(driver) as group:
            times = []
            for _ in range(200 if quick else 2000):
                began = time.perf_counter_ns()
                group.stats()
                times.append(time.perf_counter_ns() - began)
        rows.append([name, f"{median_us(times):,.0f}", f"{1e6 / median_us(times):,.0f}"])
    print("All figures of a group (`stats()`):\n")
    print(markdown(["driver", "µs", "a second"], rows))


# ---- starts


def hidden(what: str, command: Sequence[str]) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{what}; exec "$@"', "sh", *command]


def ours(workspace: Workspace) -> dict[str, Callable[[], list[str]]]:
    def command(driver: str, *limits: str) -> list[str]:
        return [sys.executable, str(HERE / "cgroups.py"), "--serve", str(workspace.root), driver, *limits]

    legacy = WITHOUT_V2 if read_layout().kind == "hybrid" else "true"
    return {
        WITHOUT: lambda: hidden(WITHOUT_CGROUPS, command("-")),
        "figures and devices": lambda: command("-"),
        "memory, pids": lambda: command("-", "memory", "pids"),
        "memory, cpu, pids": lambda: command("-", *LIMITS),
        "the same, v1 only": lambda: hidden(legacy, command("-", *LIMITS)),
        "the same, systemd": lambda: command("systemd", *LIMITS),
    }


def theirs(workspace: Workspace) -> dict[str, Callable[[], list[str]]]:
    def command(runtime: str, systemd: bool, limited: bool) -> list[str]:
        words = oci(runtime, workspace, systemd, limited)
        spawned = [str(workspace.floor), "spawn", "/dev/null", *words]
        return spawned if systemd else peers.in_own_mounts(spawned)

    found: dict[str, Callable[[], list[str]]] = {}
    for runtime in ("crun", "runc"):
        found[f"{runtime}, no limits"] = partial(command, runtime, False, False)
        found[runtime] = partial(command, runtime, False, True)
        found[f"{runtime} --systemd-cgroup"] = partial(command, runtime, True, True)
    return found


def oci(runtime: str, workspace: Workspace, systemd: bool, limited: bool) -> list[str]:
    """The command of a peer for a bundle of its own."""
    name = f"{workspace.cgroup}-{runtime}-{'systemd' if systemd else 'cgroupfs'}-{limited}"
    command = peers.oci(runtime, workspace, ["/bin/exit"])  # UnavailableError where there is none
    if systemd and not os.path.isdir("/run/systemd/system"):
        raise UnavailableError("this machine does not run systemd")
    config = peers.oci_config(runtime, workspace, ["/bin/exit"])
    config["linux"]["cgroupsPath"] = f"machine.slice:bench:{name}" if systemd else f"/{workspace.cgroup}/{name}"
    resources = config["linux"]["resources"]
    resources["cpu"] = {"quota": round(CPUS * 100_000), "period": 100_000}
    config["linux"]["resources"] = resources if limited else {"devices": resources["devices"]}
    bundle = workspace.base / name
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(config))
    manager = ["--systemd-cgroup"] if systemd else []
    state = ["--root", str(workspace.base / f"{runtime}-state")]
    return [command[0], *state, *manager, "run", "--bundle", str(bundle), name]


def serve_starts(root: str, driver: str, *limits: str) -> None:
    container = Container.from_rootfs(root).with_limits(**{name: LIMITS[name] for name in limits})  # type: ignore[arg-type]
    container = container.with_cgroup(driver=None if driver == "-" else driver)

    def start() -> bytes:
        return container.run(["/bin/exit"]).check().stdout

    serve(start)


def show_starts(quick: bool) -> None:
    print("A start of a program without a C library, from the call to the result, median in µs; what limits add to it,")
    print(f'for ours compared with "{WITHOUT}", for a peer with itself without limits, by the fastest tenth:\n')
    rows = []
    with Workspace() as workspace:
        rows += measure_starts(ours(workspace), *((20, 4) if quick else (100, 30)))
        rows += measure_starts(theirs(workspace), *((4, 2) if quick else (20, 5)))
    print(markdown(["start", "cold", "added", "ratio", "loop", "added", "ratio"], rows))


def measure_starts(wanted: dict[str, Callable[[], list[str]]], cold: int, loop: int) -> list[list[str]]:
    """The rows of these subjects, interleaved with each other."""
    running: list[Subject] = []
    refused: dict[str, str] = {}
    try:
        for name, command in wanted.items():
            try:
                running.append(Subject(name, command()))
            except UnavailableError as reason:
                refused[name] = f"not run: {reason}"
        samples = measure(running, cold, loop)
    finally:
        for subject in running:
            subject.close()
    return [starts_row(name, samples, refused) for name in wanted]


def starts_row(name: str, samples: dict[str, Samples], refused: dict[str, str]) -> list[str]:
    if name in refused:
        return [name, refused[name]] + [""] * 5
    base = samples.get(base_of(name))
    row = [name]
    for kind in ("cold", "loop"):
        own = getattr(samples[name], kind)
        row.append(f"{median_us(own):,.0f}")
        row += added(own, getattr(base, kind)) if base is not None and base is not samples[name] else ["", ""]
    return row


def base_of(name: str) -> str:
    """What a row is compared with: the same runtime without limits, ours without a cgroup."""
    runtime = name.split(" ")[0].rstrip(",")
    return f"{runtime}, no limits" if runtime in ("crun", "runc") else WITHOUT


def added(own: list[int], base: list[int]) -> list[str]:
    """By the first deciles, since what else the machine does makes starts longer, never shorter; and the ratio."""
    mine, other = decile_us(own), decile_us(base)
    return [f"{mine - other:+,.0f}", f"{mine / other:.2f}"]


def decile_us(nanoseconds: list[int]) -> float:
    return statistics.quantiles(nanoseconds, n=10)[0] / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of cgroups, per driver and hierarchy.")
    parser.add_argument("--quick", action="store_true", help="a fifth of the samples")
    parser.add_argument("--only", choices=("groups", "stats", "starts"), help="only this table")
    parser.add_argument("--serve", nargs="+", metavar="WORD", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_starts(*arguments.serve)
        return
    for name, value in {**machine(), "load": f"{os.getloadavg()[0]:.1f}"}.items():
        print(f"{name}: {value}")
    tables = {"groups": show_groups, "stats": show_stats, "starts": show_starts}
    for name, show in tables.items():
        if arguments.only in (None, name):
            print()
            show(arguments.quick)


if __name__ == "__main__":
    main()
