"""In processes of all kinds: with signal handlers, an event loop, forks, interrupts, and without an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import programs
import pytest
from leftovers import cgroups_of, guards, with_argument

from pycontain import Container, TaskError


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@contextmanager
def handling(number: int, handler: object) -> Iterator[None]:
    before = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


# ---- Ctrl-C


CTRL_C = """
import sys, time
from pycontain import Container
from leftovers import State, left_since

root, marker, way = sys.argv[1:]
box = Container.from_rootfs(root)
for container in (box, Container.from_host()):
    container.run(["true"])
before = State.now()
interrupts = 0
try:
    try:
        command = ["sh", "-c", "echo ready >&2; trap '' 2; sleep 3600; sleep 3600", marker]
        if way == "run":
            box.run(command, stderr=None)
        elif way == "init":
            box.with_init().run(command, stderr=None)
        else:
            with box.start(command, stderr=None) as task:
                task.wait()
    except KeyboardInterrupt:
        interrupts += 1
    time.sleep(0.2)
except KeyboardInterrupt:
    interrupts += 1
left = left_since(before)
assert not left, left
assert box.run(["echo", "on"]).text == "on\\n"
print(interrupts)
"""


@pytest.mark.parametrize("way", ["run", "init", "start"])
@pytest.mark.parametrize("whole_group", [False, True], ids=["one", "group"])
def test_ctrl_c_is_raised_once_and_the_container_is_gone(busybox_root: Path, way: str, whole_group: bool) -> None:
    marker = f"marker-{os.urandom(6).hex()}"
    process = programs.popen(CTRL_C, busybox_root, marker, way, stderr=subprocess.PIPE, start_new_session=True)
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        assert with_argument(marker)
        if whole_group:  # as a terminal does it: a container is in a session of its own
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("1\n", 0), err
    assert not with_argument(marker)


INTERRUPTED = """
import random, signal, sys
from leftovers import State, left_since
from pycontain import Container

class Interrupt(BaseException):
    pass

def interrupt(number, frame):
    global armed
    if armed:
        armed = False
        raise Interrupt

box = Container.from_rootfs(sys.argv[1])
containers = [box, box.with_init(), box.with_user("nobody"), box.with_namespace("pid", "host"), box.with_userns()]
for container in (*containers, Container.from_host()):
    container.run(["true"]).check()
    container.start(["true"]).wait()
before = State.now()
signal.signal(signal.SIGALRM, interrupt)
random.seed(int(sys.argv[2]))
interrupts = 0
for number in range(400):
    container = containers[number % len(containers)]
    armed = True
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.004))
        if number % 3:
            container.run(["true"], input=b"x")
        else:
            with container.start(["true"]) as task:
                task.wait()
        armed = False
    except Interrupt:
        interrupts += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
assert interrupts > 40, interrupts
# CPython raises after a call and before its value is assigned: a descriptor that was being opened then is lost
left = [line for line in left_since(before, 2) if not line.startswith("descriptors: ")]
assert not left, "\\n".join(left)
lost = len(State.now().descriptors) - len(before.descriptors)
assert lost < interrupts / 5, (lost, interrupts)
for container in containers:
    container.run(["true"]).check()
"""


@pytest.mark.parametrize("seed", range(2))
def test_an_interrupt_at_any_moment_leaves_nothing(busybox_root: Path, seed: int) -> None:
    programs.run(INTERRUPTED, busybox_root, seed)


# ---- signals of children


def test_a_handler_of_sigchld_runs_and_changes_nothing(box: Container) -> None:
    calls = []

    def handler(number: int, frame: FrameType | None) -> None:
        calls.append(number)

    with handling(signal.SIGCHLD, handler):
        assert box.run(["sh", "-c", "echo out; exit 3"]).exit_code == 3
        assert box.start(["sh", "-c", "exit 4"]).wait(60).exit_code == 4
    assert calls


def test_where_sigchld_is_ignored_the_loss_of_the_exit_code_is_said(box: Container) -> None:
    """The kernel reaps children itself then (wait(2), ECHILD). All else works."""
    with handling(signal.SIGCHLD, signal.SIG_IGN):
        for container in (box, box.with_init(), box.with_namespace("pid", "host"), box.with_userns()):
            with pytest.raises(TaskError, match="SIGCHLD"):
                container.run(["true"])
            task = container.start(["true"])
            with pytest.raises(TaskError, match="SIGCHLD"):
                task.wait(60)
            assert task.state == "ended"
            task = container.start(["sleep", "3600"])
            with pytest.raises(TaskError, match="SIGCHLD"):
                task.kill()
    assert box.run(["true"]).ok


def test_a_first_use_with_sigchld_ignored_works_afterwards(busybox_root: Path) -> None:
    program = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from pycontain import Container, TaskError
box = Container.from_rootfs(sys.argv[1])
try:
    box.run(["true"])
except TaskError as error:
    print(error.remedy is not None)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
print(box.run(["echo", "fine"]).text, end="")
"""
    assert programs.run(program, busybox_root).stdout == "True\nfine\n"


def test_a_thread_that_waits_for_any_child_may_take_the_exit_code_which_is_said(box: Container) -> None:
    stop = threading.Event()

    def thief() -> None:
        while not stop.is_set():
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                time.sleep(0.0001)

    thread = threading.Thread(target=thief)
    thread.start()
    outcomes = set()
    try:
        for _ in range(40):
            try:
                outcomes.add(box.run(["sh", "-c", "exit 6"]).exit_code)
            except TaskError as error:
                outcomes.add("SIGCHLD" in str(error))
    finally:
        stop.set()
        thread.join()
    assert outcomes <= {6, True}
    assert box.run(["sh", "-c", "exit 6"]).exit_code == 6


def test_signals_inside_are_as_in_a_fresh_process(box: Container) -> None:
    ignored = [signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGRTMIN]
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    try:
        text = box.run(["cat", "/proc/self/status"]).text
        inherited = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
    values = dict(line.split(":\t") for line in text.splitlines() if line.startswith("Sig"))
    assert int(values["SigIgn"], 16) == int(values["SigBlk"], 16) == int(values["SigCgt"], 16) == 0
    assert inherited == mask | {signal.SIGTERM, signal.SIGUSR1}


def test_the_caller_stays_where_and_what_it_is(box: Container) -> None:
    def own() -> object:
        mask = os.umask(0)
        os.umask(mask)
        namespaces = [os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))]
        with open("/proc/self/cgroup") as file:
            groups = file.read()
        return namespaces, groups, mask, os.getcwd(), os.getresuid(), os.getgroups(), os.getpriority(os.PRIO_PROCESS, 0)

    before = own()
    for container in (box, box.with_user("nobody"), box.with_userns(), box.with_time_offset(boottime=1000)):
        container.with_workdir("/tmp").run(["true"]).check()
    assert own() == before


# ---- threads, forks, event loops


def test_a_task_outlives_the_thread_that_started_it(box: Container) -> None:
    tasks = []
    thread = threading.Thread(target=lambda: tasks.append(box.start(["sh", "-c", "sleep 0.3; echo alive"])))
    thread.start()
    thread.join()
    assert tasks[0].wait(60).text == "alive\n"


FORKS = """
import os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from leftovers import State, left_since
from pycontain import Container, TaskError
from pycontain.runtimes import owner

box = Container.from_rootfs(sys.argv[1])
for container in (box, Container.from_host()):
    container.run(["true"])
before = State.now()
with box.start(["sh", "-c", "echo running; sleep 3600"]) as task:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            mine = State.now()
            assert box.run(["echo", "child"]).text == "child\\n"
            assert box.start(["echo", "child"]).wait(60).text == "child\\n"
            assert owner.current().pid == os.getpid()
            assert not [line for line in left_since(mine) if "descriptors" not in line]
            join = lambda: box.with_namespace("pid", task)
            for method in (task.wait, task.kill, task.stop, task.pause, task.resume, task.stats, task.watch_oom, join):
                try:
                    method()
                except TaskError as error:
                    assert "forked" in str(error)
                else:
                    raise AssertionError(method)
            with task:
                pass
            owner.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    time.sleep(0.1)  # the child's end must not end the parent's task
    assert task.state == "running"
    assert box.run(["echo", "parent"]).text == "parent\\n"
    assert task.kill().stdout == b"running\\n"
left = left_since(before)
assert not left, left
"""


def test_after_a_fork_both_processes_go_on(busybox_root: Path) -> None:
    programs.run(FORKS, busybox_root)


HELD_OPEN = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from pycontain import Container
box = Container.from_rootfs(sys.argv[1])
box.run(["true"])
stop, children = threading.Event(), []
def forker():
    while not stop.is_set() and len(children) < 100:
        pid = os.fork()
        if pid == 0:
            time.sleep(3600)
            os._exit(0)
        children.append(pid)
        time.sleep(0.001)
thread = threading.Thread(target=forker)
thread.start()
for number in range(100):
    assert box.run(["cat"], input=b"word", timeout=60).stdout == b"word"
    assert box.start(["echo", "word"]).wait(60).stdout == b"word\\n"
stop.set()
thread.join()
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


def test_a_forked_child_that_holds_the_pipes_open_delays_nothing(busybox_root: Path) -> None:
    programs.run(HELD_OPEN, busybox_root)


def test_multiprocessing_workers_run_containers(busybox_root: Path) -> None:
    program = """
import multiprocessing, sys
from pycontain import Container
def work(number):
    return Container.from_rootfs(sys.argv[1]).run(["echo", str(number)]).text
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(pool.map(work, range(6)))
        pool.close()
        pool.join()
"""
    assert programs.run(program, busybox_root).stdout == f"{[f'{number}' + chr(10) for number in range(6)]}\n"


def test_the_error_of_a_command_that_failed_in_a_worker_comes_with_its_result(busybox_root: Path) -> None:
    program = """
import concurrent.futures, multiprocessing, sys
from pycontain import Container, ProcessFailed
def work(root):
    Container.from_rootfs(root).run(["sh", "-c", "echo why >&2; exit 3"], check=True)
if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        try:
            pool.submit(work, sys.argv[1]).result()
        except ProcessFailed as error:
            print(error.result.exit_code, error.result.stderr, error.message)
"""
    printed = programs.run(program, busybox_root).stdout
    assert printed == "3 b'why\\n' 'sh -c echo why >&2; exit 3' exited with 3\n  | why\n"


def test_it_runs_while_an_event_loop_does(box: Container) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        other = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.1; exit 9")
        direct = box.run(["echo", "in the loop"])
        threads = [loop.run_in_executor(None, lambda: box.run(["echo", "beside the loop"]).text) for _ in range(4)]
        task = box.start(["sh", "-c", "echo task"])
        texts = [direct.text, *await asyncio.gather(*threads)]
        texts.append((await loop.run_in_executor(None, task.wait)).text)
        assert await other.wait() == 9
        return texts

    assert asyncio.run(main()) == ["in the loop\n", *["beside the loop\n"] * 4, "task\n"]


def test_it_runs_with_faulthandler_and_the_development_mode(busybox_root: Path) -> None:
    program = """
import faulthandler, sys, threading
faulthandler.enable()
faulthandler.dump_traceback_later(300, exit=True)
from pycontain import Container
box = Container.from_rootfs(sys.argv[1])
for _ in range(100):
    box.run(["true"]).check()
    faulthandler.dump_traceback(all_threads=True)
faulthandler.cancel_dump_traceback_later()
"""
    done = programs.run(program, busybox_root)
    assert "Fatal" not in done.stderr


def test_profiling_and_tracing_change_nothing(box: Container) -> None:
    events = []
    sys.setprofile(lambda *arguments: events.append(arguments[1]))
    try:
        result = box.run(["echo", "traced"])
    finally:
        sys.setprofile(None)
    assert result.text == "traced\n"
    assert events


# ---- the end of the process


END = """
import os, sys, threading
from pycontain import Container
from pycontain.runtimes import owner
root, marker, way = sys.argv[1:]
box = Container.from_rootfs(root)
command = ["sh", "-c", "(setsid sh -c 'sleep 3600; :' $0 &); trap '' 1 2 15; echo ready; sleep 3600; :", marker]
first = box.start(command)
second = box.with_namespace("pid", "host").start(command)
while not (first._plumbing.stdout.chunks and second._plumbing.stdout.chunks):
    pass
print(owner.current().token, flush=True)
if way == "exception":
    raise ZeroDivisionError
if way == "exception in a block":
    with first:
        raise ZeroDivisionError
if way == "sys.exit":
    sys.exit(0)
if way == "os._exit":
    os._exit(0)
if way == "abort":
    os.abort()
if way == "exec":
    os.execv("/bin/true", ["true"])
if way == "thread":
    threading.Thread(target=lambda: box.run(["sleep", "0.2"])).start()
"""


NEXT_USE = "import sys; from pycontain import Container; Container.from_rootfs(sys.argv[1]).run(['true']).check()"


@pytest.mark.parametrize(
    "way", ["end", "exception", "exception in a block", "sys.exit", "os._exit", "abort", "exec", "thread"]
)
def test_tasks_end_with_the_process_however_it_ends(busybox_root: Path, way: str) -> None:
    marker = f"marker-{os.urandom(6).hex()}"
    with programs.popen(END, busybox_root, marker, way, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
        token = out.strip()
    assert token, err
    assert (process.returncode == 0) is (way not in ("exception", "exception in a block", "abort")), err
    wait_until(lambda: not with_argument(marker))
    wait_until(lambda: not guards(token))
    programs.run(NEXT_USE, busybox_root)
    assert cgroups_of(token) == []
    assert not os.path.exists(f"/run/pycontain/{token}")
    if way in ("end", "sys.exit", "exception", "thread"):
        assert "Traceback" not in err or "ZeroDivisionError" in err.splitlines()[-1]


def test_an_orderly_end_removes_its_own_table(busybox_root: Path) -> None:
    program = """
import sys
from pycontain import Container
from pycontain.runtimes import owner
Container.from_rootfs(sys.argv[1]).run(["true"])
print(owner.current().token)
"""
    token = programs.run(program, busybox_root).stdout.strip()
    assert not os.path.exists(f"/run/pycontain/{token}")
    wait_until(lambda: not guards(token))
