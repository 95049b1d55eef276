"""Tasks from many threads, beside threads that allocate and fork; and many processes at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import programs
import pytest

from pycontain import CommandNotFound, Container
from pycontain.linux.prctl import get_dumpable

# os.fork warns in a process with threads from Python 3.12 on: here it is the point
STORM = """
import os, sys, threading, warnings
from leftovers import State, left_since
from pycontain import Container

warnings.simplefilter("ignore", DeprecationWarning)
box = Container.from_rootfs(sys.argv[1])
containers = [box, box.with_init(), box.with_user("nobody"), box.with_limits(memory="64M", pids=8)]
for container in (*containers, Container.from_host()):
    container.run(["true"]).check()
before = State.now()
stop, failures, done = threading.Event(), [], []

def starter(number):
    try:
        for turn in range(200):
            word = f"{number}-{turn}"
            container = containers[turn % len(containers)]
            if turn % 2:
                result = container.run(["echo", word])
            else:
                result = container.start(["echo", word]).wait(120)
            if result.text != word + "\\n" or not result.ok:
                raise AssertionError(result)
            done.append(word)
    except BaseException as error:
        failures.append(repr(error))

def allocator():
    while not stop.is_set():
        [bytearray(size) for size in range(0, 20000, 100)]
        {str(number): object() for number in range(2000)}
        stop.wait(0.0005)

def forker():
    while not stop.is_set():
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) != 7:
            failures.append(f"a fork ended with {status}")
        stop.wait(0.01)

others = [threading.Thread(target=target) for target in (allocator, allocator, forker)]
starters = [threading.Thread(target=starter, args=(number,)) for number in range(16)]
for thread in others + starters:
    thread.start()
for thread in starters:
    thread.join()
stop.set()
for thread in others:
    thread.join()
assert not failures, failures
assert len(set(done)) == 16 * 200
left = left_since(before)
assert not left, "\\n".join(left)
"""


def test_16_threads_start_and_wait_200_times_each_while_others_allocate_and_fork(busybox_root: Path) -> None:
    programs.run(STORM, busybox_root, timeout=250)


def test_threads_share_one_container_that_has_never_run(busybox_root: Path) -> None:
    container = Container.from_rootfs(busybox_root).with_env(A="1")
    barrier = threading.Barrier(8)

    def run() -> str:
        barrier.wait()
        return container.run(["sh", "-c", "echo $A"]).text

    with ThreadPoolExecutor(8) as pool:
        assert [future.result() for future in [pool.submit(run) for _ in range(8)]] == ["1\n"] * 8


def test_failing_and_succeeding_starts_do_not_disturb_each_other(box: Container) -> None:
    def fail() -> None:
        for _ in range(30):
            with pytest.raises(CommandNotFound):
                box.run(["no-such-command"])

    def succeed() -> None:
        for _ in range(30):
            box.run(["true"]).check()

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(function) for function in (fail, succeed) * 3]:
            future.result()


def test_a_process_stays_dumpable_when_threads_start_tasks_of_other_users(box: Container) -> None:
    assert get_dumpable()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: box.with_user(number).run(["true"]).check(), range(1000, 1100)))
    assert get_dumpable()


def test_many_threads_signal_and_kill_the_same_task(box: Container) -> None:
    for _ in range(10):
        task = box.start(["sleep", "3600"])
        barrier = threading.Barrier(8)

        def end(number: int, task=task, barrier=barrier) -> object:  # type: ignore[no-untyped-def]
            barrier.wait()
            if number % 2:
                task.signal(15)
            return task.kill() if number % 4 else task.stop(timeout=0)

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(end, range(8)))
        assert all(result is results[0] for result in results)
        assert task.wait().reason == "killed"


SEVERAL = """
import sys
from pycontain import Container
box = Container.from_rootfs(sys.argv[1])
for number in range(50):
    assert box.run(["echo", str(number)]).check().text == f"{number}\\n"
"""


def test_several_processes_start_tasks_at_the_same_time(busybox_root: Path) -> None:
    started = [programs.popen(SEVERAL, busybox_root) for _ in range(6)]
    assert [process.communicate(timeout=120)[0] for process in started] == [""] * 6
    assert [process.returncode for process in started] == [0] * 6


def test_it_works_under_pytest_xdist(busybox_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    (tmp_path / "test_inside.py").write_text(f"""
import pytest
from pycontain import Container

@pytest.mark.parametrize("number", range(20))
def test_echo(number):
    assert Container.from_rootfs({str(busybox_root)!r}).run(["echo", str(number)]).text == f"{{number}}\\n"
""")
    program = "import sys, pytest; raise SystemExit(pytest.main(sys.argv[1:]))"
    arguments = ("-n", "3", "-q", "-p", "no:cacheprovider", "-W", "ignore", tmp_path)
    assert "20 passed" in programs.run(program, *arguments, cwd=tmp_path).stdout
