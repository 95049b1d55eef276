"""SIGKILL for the Python process at any moment: its tasks end with it, and the next use removes what is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import programs
import pytest
from leftovers import cgroups_of, guards, with_argument

from pycontain.runtimes.owner import ENTRY, TASK

# All the ways to escape: other sessions, other users, ignored signals, orphans, and no pid namespace to die with.
VICTIM = """
import sys
from pycontain import Container
from pycontain.runtimes import owner

root, marker = sys.argv[1:]
box = Container.from_rootfs(root)
script = '''
trap '' 1 2 3 15
(setsid sh -c 'sleep 3600; :' $0 &)
setsid sh -c '(sh -c "sleep 3600; :" $0 &); sleep 3600; :' $0 &
wait
sleep 3600
'''
command = ["sh", "-c", script, marker]
containers = [
    box,
    box.with_init(),
    box.with_user("nobody"),
    box.with_limits(memory="64M", pids=16),
    box.with_namespace("pid", "host"),
    box.with_namespace("pid", "host").with_user("nobody"),
    box.with_userns(),
]
print(owner.current().token, flush=True)
tasks = []
number = 0
while True:
    number += 1
    container = containers[number % len(containers)]
    if number % 3 == 0:
        container.run(["echo", marker])
    elif number % 5 == 0:
        container.run(command, timeout=0.005)
    else:
        tasks.append(container.start(command))
    if len(tasks) > 5:
        task = tasks.pop(0)
        if number % 2:
            task.kill()
        else:
            task.stop(timeout=0.005)
"""

NEXT_USE = "import sys; from pycontain import Container; Container.from_rootfs(sys.argv[1]).run(['true']).check()"


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def start_victim(program: str, root: Path) -> tuple[subprocess.Popen[str], str, str]:
    """A process that starts and stops tasks, the mark of its tasks, and its token. It has begun when this returns."""
    marker = f"marker-{os.urandom(6).hex()}"
    process = programs.popen(program, root, marker, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    token = process.stdout.readline().strip()
    if not token:
        process.kill()
        process.communicate()
        raise AssertionError(f"it ended before it had begun: {process.returncode}")
    return process, marker, token


@contextmanager
def victims_of(number: int, root: Path) -> Iterator[list[tuple[subprocess.Popen[str], str, str]]]:
    """Several of them; those that the test has not ended are killed at the end, also when one does not begin."""
    with ExitStack() as stack:
        victims = []
        for _ in range(number):
            victims.append(start_victim(VICTIM, root))
            stack.callback(victims[-1][0].wait)
            stack.callback(victims[-1][0].kill)
        yield victims


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended by itself before it was killed"


def assert_swept(root: Path, tokens: list[str]) -> None:
    programs.run(NEXT_USE, root)
    for token in tokens:
        assert cgroups_of(token) == []
        assert not os.path.exists(f"/run/pycontain/{token}")
        assert guards(token) == []


@pytest.mark.parametrize("seed", range(10))
def test_no_process_is_alive_2_seconds_after_a_kill_at_a_random_moment(busybox_root: Path, seed: int) -> None:
    """Five processes for each of the seeds: fifty moments."""
    moments = random.Random(seed)
    with victims_of(5, busybox_root) as victims:
        for process, _, _ in victims:
            time.sleep(moments.uniform(0, 0.06))
            end(process)
    markers = [marker for _, marker, _ in victims]
    wait_until(lambda: not any(map(with_argument, markers)), 2, "the end of all processes")
    wait_until(lambda: not any(guards(token) for _, _, token in victims), 2, "the end of the guards")
    assert_swept(busybox_root, [token for _, _, token in victims])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV])
def test_any_other_deadly_signal_ends_the_tasks_too(busybox_root: Path, number: int) -> None:
    process, marker, token = start_victim(VICTIM, busybox_root)
    wait_until(lambda: with_argument(marker), 30, "the first task")
    process.send_signal(number)
    process.communicate()
    assert process.returncode == -number
    wait_until(lambda: not with_argument(marker), 2, "the end of all processes")
    wait_until(lambda: not guards(token), 2, "the end of the guard")
    assert_swept(busybox_root, [token])


SLEEPER = """
import sys
from pycontain import Container
from pycontain.runtimes import owner
root, marker = sys.argv[1:]
box = Container.from_rootfs(root)
tasks = []
for container in (box, box.with_init(), box.with_user("nobody"), box.with_namespace("pid", "host")):
    orphan = "(setsid sh -c 'sleep 3600; :' $0 &)"
    tasks.append(container.start(["sh", "-c", f"{orphan}; echo ready; sleep 3600; sleep 3600", marker]))
while not all(task._plumbing.stdout.chunks for task in tasks):
    pass
print(owner.current().token, flush=True)
for line in sys.stdin:
    tasks.append(box.start(["sleep", "3600", marker]))
    print("started", flush=True)
"""


def start_sleeper(root: Path) -> tuple[subprocess.Popen[str], str, str]:
    marker = f"marker-{os.urandom(6).hex()}"
    process = programs.popen(SLEEPER, root, marker, stdin=subprocess.PIPE)
    assert process.stdout is not None
    return process, marker, process.stdout.readline().strip()


def test_a_stopped_process_that_is_killed_takes_its_tasks_along(busybox_root: Path) -> None:
    process, marker, token = start_sleeper(busybox_root)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    assert with_argument(marker)
    end(process)
    wait_until(lambda: not with_argument(marker), 2, "the end of all processes")
    assert_swept(busybox_root, [token])


def test_when_the_guard_is_killed_first_the_next_use_ends_what_is_left(busybox_root: Path) -> None:
    """Who kills the guard as well, which only root can, leaves the tasks alive until then."""
    process, marker, token = start_sleeper(busybox_root)
    (guard,) = guards(token)
    os.kill(guard, signal.SIGKILL)
    end(process)
    programs.run(NEXT_USE, busybox_root)
    wait_until(lambda: not with_argument(marker), 2, "the end of all processes")
    assert_swept(busybox_root, [token])


def test_a_guard_that_was_killed_is_replaced_at_the_next_start_and_guards_all(busybox_root: Path) -> None:
    process, marker, token = start_sleeper(busybox_root)
    (guard,) = guards(token)
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: not guards(token), 2, "the end of the guard")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "started\n"
    (other,) = guards(token)
    assert other != guard
    end(process)
    wait_until(lambda: not with_argument(marker), 2, "the end of all processes")
    assert_swept(busybox_root, [token])


def test_a_guard_cannot_be_stopped_by_signals_that_can_be_blocked(busybox_root: Path) -> None:
    process, marker, token = start_sleeper(busybox_root)
    (guard,) = guards(token)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGSEGV):
        os.kill(guard, number)
    time.sleep(0.1)
    assert guards(token) == [guard]
    end(process)
    wait_until(lambda: not with_argument(marker), 2, "the end of all processes")
    assert_swept(busybox_root, [token])


def test_a_guard_kills_nothing_once_its_process_has_ended_its_tasks(busybox_root: Path) -> None:
    """The number of a task that has ended may be another process's by the time."""
    program = """
import sys
from pycontain import Container
from pycontain.runtimes import owner
box = Container.from_rootfs(sys.argv[1])
for _ in range(20):
    box.start(["true", sys.argv[2]]).wait()
print(owner.current().token, flush=True)
sys.stdin.read()
"""
    marker = f"marker-{os.urandom(6).hex()}"
    process = programs.popen(program, busybox_root, marker, stdin=subprocess.PIPE)
    assert process.stdout is not None
    token = process.stdout.readline().strip()
    with open(f"/run/pycontain/{token}", "rb") as file:
        used = file.read(256 * 64)
    entries = list(ENTRY.iter_unpack(used))[1:]
    assert not any(state == TASK or pid or inode for state, pid, inode, _ in entries)
    end(process)
    wait_until(lambda: not guards(token), 2, "the end of the guard")
    assert_swept(busybox_root, [token])


def test_several_next_uses_at_once_sweep_without_tripping_over_each_other(busybox_root: Path) -> None:
    with victims_of(3, busybox_root) as victims:
        time.sleep(0.05)
        for process, _, token in victims:
            for guard in guards(token):
                os.kill(guard, signal.SIGKILL)
            end(process)
    sweepers = [programs.popen(NEXT_USE, busybox_root, stderr=subprocess.PIPE) for _ in range(4)]
    for sweeper in sweepers:
        _, err = sweeper.communicate(timeout=60)
        assert sweeper.returncode == 0, err
    markers = [marker for _, marker, _ in victims]
    wait_until(lambda: not any(map(with_argument, markers)), 2, "the end of all processes")
    assert_swept(busybox_root, [token for _, _, token in victims])


def _running(marker: str) -> list[int]:
    return with_argument(marker)


HIDDEN = """
import sys
from pycontain import Container
from pycontain.linux import mountinfo
from pycontain.linux.mounts import MountFlag, UmountFlag, mount, umount
from pycontain.linux.namespaces import NamespaceType, unshare
unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
for found in reversed(mountinfo.read()):
    if found.fs_type == "cgroup2" or (found.fs_type == "cgroup" and sys.argv[2] == "all"):
        umount(found.mount_point, UmountFlag.DETACH)
Container.from_rootfs(sys.argv[1]).run(["true"]).check()
"""


@pytest.mark.parametrize("hidden", ["v2", "all"])
def test_a_process_that_cannot_see_the_groups_leaves_them_to_one_that_can(busybox_root: Path, hidden: str) -> None:
    """It shares the run directory, but has its own mounts: without the table nobody would find the groups again."""
    process, marker, token = start_sleeper(busybox_root)
    end(process)
    wait_until(lambda: not with_argument(marker) and not guards(token), 2, "the end of all processes")
    programs.run(HIDDEN, busybox_root, hidden)
    assert_swept(busybox_root, [token])
