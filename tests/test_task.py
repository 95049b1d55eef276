"""A started container: its states, signals, and the ways to end it."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

import pytest
from inside import Gate, in_time
from leftovers import children
from roots import with_this_python

from pycontain import Container, InvalidArgument, ProcessFailed, Result, TaskError, WaitTimeout
from pycontain.linux.pidfd import send_signal

READY = "echo ready; while :; do sleep 0.02; done"


def wait_for_output(task: object, text: bytes) -> None:
    """Waits until a task has printed something; there is no other way to know that it handles signals by now."""
    deadline = time.monotonic() + 60
    while text not in b"".join(task._plumbing.stdout.chunks):  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_task_runs_and_ends(box: Container) -> None:
    with Gate() as gate:
        task = box.start(["sh", "-c", "echo out; echo err >&2; read go; exit 4"], stdin=gate.fd)
        assert task.state == "running"
        assert task.result is None
        assert task.pid in children()
        assert "pid" in repr(task)
        gate.open()
        result = task.wait()
    assert (result.exit_code, result.stdout, result.stderr, result.reason) == (4, b"out\n", b"err\n", "exited")
    assert (task.state, task.pid, task.pidfd) == ("ended", 0, -1)
    assert task.result is result
    assert task.wait() is result
    assert "ended" in repr(task)


def test_a_task_executes_its_command_before_start_returns(box: Container) -> None:
    """It has left the caller's memory for good; the kernel may still be writing the arguments into its own."""
    with box.start(["sleep", "60"]) as task:
        command = ""
        while not command:
            with open(f"/proc/{task.pid}/cmdline") as file:
                command = file.read()
        assert command == "sleep\x0060\0"


def test_a_pidfd_is_of_the_first_process(box: Container) -> None:
    with box.start(["sleep", "60"]) as task:
        with open(f"/proc/self/fdinfo/{task.pidfd}") as file:
            assert f"Pid:\t{task.pid}\n" in file.read()
        assert not os.get_inheritable(task.pidfd)
        poll = select.poll()
        poll.register(task.pidfd, select.POLLIN)
        assert poll.poll(0) == []
        send_signal(task.pidfd, signal.SIGKILL)
        assert task.wait().signal == signal.SIGKILL


def test_a_wait_whose_time_is_over_raises_and_the_task_goes_on(box: Container) -> None:
    with Gate() as gate, box.start(["sh", "-c", "read go; echo end"], stdin=gate.fd) as task:
        with pytest.raises(WaitTimeout, match="has not ended"):
            task.wait(0.01)
        with pytest.raises(TimeoutError):
            task.wait(0)
        assert task.state == "running"
        gate.open()
        assert task.wait(60).text == "end\n"


def test_many_threads_wait_for_the_same_task(box: Container) -> None:
    task = box.start(["sleep", "0.2"])
    results = []
    threads = [threading.Thread(target=lambda: results.append(task.wait())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(result is results[0] for result in results)


def test_kill_ends_the_whole_task(box: Container) -> None:
    task = box.start(["sh", "-c", "trap '' TERM; setsid sleep 60 & sleep 60 & echo ready; wait"])
    wait_for_output(task, b"ready")
    result = task.kill()
    assert (result.reason, result.signal, result.exit_code) == ("killed", signal.SIGKILL, None)
    assert result.stdout == b"ready\n"
    assert task.kill() is result


def test_stop_lets_a_task_end_by_itself(box: Container) -> None:
    task = box.start(["sh", "-c", f"trap 'echo bye; exit 5' TERM; {READY}"])
    wait_for_output(task, b"ready")
    result = task.stop(timeout=60)
    assert (result.exit_code, result.reason, result.stdout) == (5, "exited", b"ready\nbye\n")
    assert task.stop() is result


def test_stop_with_another_signal(box: Container) -> None:
    task = box.start(["sh", "-c", f"trap 'exit 6' INT; {READY}"])
    wait_for_output(task, b"ready")
    assert task.stop(timeout=60, signal=signal.SIGINT).exit_code == 6


def test_stop_kills_a_task_that_does_not_end(box: Container) -> None:
    def stop(seconds: float) -> Result:
        task = box.start(["sh", "-c", f"trap 'echo no' TERM; {READY}"])
        wait_for_output(task, b"ready")
        return task.stop(timeout=seconds)

    result = in_time(stop, b"no\n")
    assert (result.reason, result.signal) == ("killed", signal.SIGKILL)
    assert b"no\n" in result.stdout


def test_stop_kills_a_process_1_that_handles_no_signals_without_delay(box: Container) -> None:
    task = box.start(["sleep", "60"])
    assert task.stop(timeout=3600).reason == "killed"


def test_stop_ends_a_command_below_init_by_the_signal(box: Container) -> None:
    task = box.with_init().start(["sleep", "60"])
    result = task.stop(timeout=60)
    assert result.signal == signal.SIGTERM


def test_stop_reaches_an_init_of_the_image_that_waits_for_signals(box: Container) -> None:
    # as tini and dumb-init do
    program = "import signal; print('ready', flush=True); print(int(signal.sigwait([15])), flush=True)"
    block = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [15]);"
    task = with_this_python(Container.from_host()).start([sys.executable, "-c", f"{block}{program}"])
    wait_for_output(task, b"ready")
    result = task.stop(timeout=60)
    assert (result.reason, result.exit_code, result.stdout) == ("exited", 0, b"ready\n15\n")


def test_a_signal_reaches_the_command(box: Container) -> None:
    program = f"trap 'echo usr1; exit 0' USR1; {READY}"
    for container in (box, box.with_init()):
        task = container.start(["sh", "-c", program])
        wait_for_output(task, b"ready")
        task.signal(signal.SIGUSR1)
        assert task.wait(60).text.endswith("usr1\n")


def test_a_signal_that_process_1_does_not_handle_is_without_effect(box: Container) -> None:
    with box.start(["sleep", "60"]) as task:
        task.signal(signal.SIGTERM)
        with pytest.raises(WaitTimeout):
            task.wait(0.1)


def test_sigkill_by_signal_is_the_signal_of_the_result(box: Container) -> None:
    task = box.start(["sleep", "60"])
    task.signal(signal.SIGKILL)
    result = task.wait(60)
    assert (result.reason, result.signal) == ("signaled", signal.SIGKILL)


def test_a_signal_to_a_task_that_has_ended_is_without_effect(box: Container) -> None:
    task = box.start(["true"])
    task.wait()
    task.signal(signal.SIGTERM)
    assert task.kill().reason == "exited"
    assert task.stop().reason == "exited"


@pytest.mark.parametrize("number", [0, -1, 65, 1000])
def test_a_number_that_is_no_signal_is_refused(box: Container, number: int) -> None:
    with box.start(["sleep", "60"]) as task:
        with pytest.raises(InvalidArgument, match="not a signal"):
            task.signal(number)
        with pytest.raises(InvalidArgument, match="not a signal"):
            task.stop(signal=number)
        assert task.state == "running"


def test_a_stopped_and_continued_task_is_no_ended_task(box: Container) -> None:
    with Gate() as gate, box.start(["sh", "-c", "read go; echo end"], stdin=gate.fd) as task:
        task.signal(signal.SIGSTOP)
        gate.open()
        with pytest.raises(WaitTimeout):
            task.wait(0.3)
        task.signal(signal.SIGCONT)
        assert task.wait(60).text == "end\n"


def test_a_task_that_is_stopped_by_a_signal_can_be_killed(box: Container) -> None:
    task = box.start(["sleep", "60"])
    task.signal(signal.SIGSTOP)
    assert task.kill().reason == "killed"


def test_the_end_of_the_block_ends_the_task(box: Container) -> None:
    with box.start(["sleep", "60"]) as task:
        pass
    assert task.state == "ended"
    assert task.wait().reason == "killed"


def test_an_exception_in_the_block_ends_the_task_and_goes_on(box: Container) -> None:
    task = box.start(["sleep", "60"])
    with pytest.raises(ZeroDivisionError), task:
        _ = 1 / 0
    assert task.wait().reason == "killed"


def test_a_task_that_ends_in_the_block_keeps_its_result(box: Container) -> None:
    with box.start(["sh", "-c", "exit 9"]) as task:
        task.wait()
    with pytest.raises(ProcessFailed, match="exited with 9"):
        task.wait().check()


def test_a_task_that_no_one_holds_goes_on_to_its_end(box: Container) -> None:
    import gc

    read_end, write_end = os.pipe()
    try:
        box.start(["sh", "-c", "sleep 0.1; echo written"], stdout=write_end)
        gc.collect()
    finally:
        os.close(write_end)
    with os.fdopen(read_end) as file:
        assert file.read() == "written\n"


def test_what_a_started_task_prints_is_captured_while_it_runs(box: Container) -> None:
    task = box.start(["sh", "-c", "seq 1 200000; seq 1 200000 >&2"])
    result = task.wait(60)
    expected = "".join(f"{number}\n" for number in range(1, 200001)).encode()
    assert result.stdout == expected
    assert result.stderr == expected


def test_tasks_are_collected_in_the_order_in_which_they_end(box: Container) -> None:
    with Gate() as gate:
        slow = box.start(["sh", "-c", "read go"], stdin=gate.fd)
        quick = box.start(["true"])
        assert quick.wait(60).ok
        assert slow.state == "running"
        gate.open()
        assert slow.wait(60).ok


def test_a_task_on_a_terminal_has_a_terminal(box: Container) -> None:
    task, terminal = box.start_terminal(["sh", "-c", "tty; stty size; read line; echo got $line"], rows=30, columns=100)
    try:
        os.write(terminal, b"hello\n")
        printed = b""
        while b"got hello" not in printed:
            printed += os.read(terminal, 1000)
        assert task.wait(60).exit_code == 0
    finally:
        os.close(terminal)
    assert b"/dev/console" in printed or b"/dev/pts/0" in printed
    assert b"30 100" in printed


def test_a_control_character_on_the_terminal_interrupts_the_command(box: Container) -> None:
    task, terminal = box.with_init().start_terminal(["sh", "-c", f"trap 'exit 42' INT; {READY}"])
    try:
        printed = b""
        while b"ready" not in printed:
            printed += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        assert task.wait(60).exit_code == 42
    finally:
        os.close(terminal)


def test_closing_the_terminal_hangs_the_command_up(box: Container) -> None:
    task, terminal = box.with_init().start_terminal(["sh", "-c", "echo ready; exec sleep 60"])
    printed = b""
    while b"ready" not in printed:
        printed += os.read(terminal, 1000)
    os.close(terminal)
    assert task.wait(60).signal == signal.SIGHUP


def test_a_namespace_of_a_task_that_has_ended_cannot_be_joined(box: Container) -> None:
    task = box.start(["true"])
    task.wait()
    with pytest.raises(TaskError, match="does not run"):
        box.with_namespace("network", task)
