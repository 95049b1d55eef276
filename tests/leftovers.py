"""What of this test process can stay behind after a test: a snapshot of it, and the differences in words."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

from attrs import fields, frozen

from pycontain.cgroups import detect
from pycontain.runtimes import owner as owners

GUARD = "pycontain-guard"
KEPT_PROGRAMS = 3  # by the drivers that tests choose


@frozen
class State:
    """Each field is a set of lines, which say what is there as well as can be."""

    processes: frozenset[str]
    threads: frozenset[str]
    descriptors: frozenset[str]
    mounts: frozenset[str]
    interfaces: frozenset[str]
    named_networks: frozenset[str]
    cgroups: frozenset[str]
    tasks: frozenset[str]
    run_files: frozenset[str]

    @classmethod
    def now(cls) -> State:
        return cls(
            processes=frozenset(_processes()),
            threads=frozenset(_threads()),
            descriptors=frozenset(_descriptors()),
            mounts=frozenset(_mounts()),
            interfaces=frozenset(_names("/sys/class/net")),
            named_networks=frozenset(_names("/run/netns")),
            cgroups=frozenset(_cgroups()),
            tasks=frozenset(_tasks()),
            run_files=frozenset(_run_files()),
        )

    def added_since(self, before: State) -> list[str]:
        """What is here and was not in `before`, one a line."""
        return [
            f"{field.name}: {line}"
            for field in fields(State)
            for line in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


def left_since(before: State, patience: float = 5.0) -> list[str]:
    """What has been added since `before` and stays. A thread may take a moment to end, and other programs of the
    machine may mount something for a while: only what stays for `patience` seconds counts."""
    deadline = time.monotonic() + patience
    left = State.now().added_since(before)
    while left and time.monotonic() < deadline:
        time.sleep(0.01)
        left = [line for line in State.now().added_since(before) if line in left]
    return left


def token() -> str | None:
    """The name of this process as an owner of tasks: its cgroups begin with it. None before the first start."""
    owner = owners._current
    return None if owner is None else owner.token


def children(pid: int | None = None) -> dict[int, str]:
    """The children of a process (this one without `pid`), zombies included, with their name and state."""
    parent = os.getpid() if pid is None else pid
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = _stat(int(name))
            if stat is not None and stat[2] == parent:
                found[int(name)] = f"{stat[0]} ({stat[1]})"
    return found


def guards(owner_token: str | None = None) -> list[int]:
    """The pids of the guards of an owner (this process without `owner_token`): there is at most one."""
    own = owner_token or token()
    return [pid for pid in _all_pids() if own is not None and _command(pid)[:1] == [GUARD] and _holds(pid, own)]


def with_argument(word: str) -> list[int]:
    """The pids of all processes of the machine that have `word` among their arguments: tests mark theirs by one."""
    return [pid for pid in _all_pids() if word in _command(pid)]


def cgroups_of(owner_token: str) -> list[str]:
    return sorted(name for name in detect().names() if name.startswith(owner_token + "-"))


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace").split("\0")
    except OSError:
        return []


def _holds(pid: int, own: str) -> bool:
    try:
        return any(own in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def _stat(pid: int) -> tuple[str, str, int] | None:
    """Name, state letter and parent; see proc(5). The name may contain anything, so it is cut at the last bracket."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, tail = file.read().decode(errors="replace").rpartition(") ")
    except OSError:
        return None
    state, parent = tail.split()[:2]
    return head.partition("(")[2], state, int(parent)


def _processes() -> Iterator[str]:
    for pid, what in children().items():
        # A server of the session sleeps at one moment and runs at another, and is the same; a zombie is left.
        yield f"child {pid} {what if what.endswith('(Z)') else what.rpartition(' ')[0]}"
    for extra in guards()[1:]:
        yield f"a second guard {extra}"


def _threads() -> Iterator[str]:
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    for name in os.listdir("/proc/self/task"):
        yield f"thread {name} {names.get(int(name), '(not of Python)')}"


def _descriptors() -> Iterator[str]:
    programs = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one with which the directory was read
            continue
        if target == "anon_inode:bpf-prog":  # a driver keeps the last one, in place of the one before
            programs += 1
        else:
            yield f"{name} -> {target}"
    if programs > KEPT_PROGRAMS:
        yield f"{programs} BPF programs"


def _mounts() -> Iterator[str]:
    with open("/proc/self/mountinfo") as file:
        yield from (line.rstrip() for line in file)


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _cgroups() -> list[str]:
    own = token()
    return [] if own is None else cgroups_of(own)


def _tasks() -> Iterator[str]:
    """The tasks in this process's table."""
    owner = owners._current
    if owner is not None:
        for recorded in owners._read_table(owner._fd):
            if recorded.state == owners.TASK and (recorded.pid > 1 or recorded.kill_file):
                yield f"{recorded}"


def _run_files() -> Iterator[str]:
    """Files of this process in the run directory, other than its one table."""
    owner = owners._current
    if owner is not None and not os.path.exists(os.path.join(owner.directory, owner.token)):
        yield f"the table {owner.token} is gone"
