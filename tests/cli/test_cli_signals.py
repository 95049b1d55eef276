"""Signals to `pycontain run`, with and without a terminal in front of it, and its sudden death."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from commandline import (
    COMMAND,
    Console,
    environment,
    marker,
    output_of,
    start_cli,
    token_of,
    wait_until_gone,
)
from leftovers import cgroups_of, with_argument

from pycontain.runtimes import owner as owners

# Prints `up` and waits, and handles no signal. A shell that executes it would handle some until then.
WAIT = ("tail", "-f", "/up")


class Running:
    """`pycontain run` of a shell script in busybox, once it has printed `up`. It must have gone at the end."""

    def __init__(self, root: Path, script: str | Sequence[str], *options: object) -> None:
        self.word = marker()
        command = ["sh", "-c", script, self.word] if isinstance(script, str) else [*script]
        self.process = start_cli("run", *options, "-e", f"WORD={self.word}", "--rootfs", root, "--", *command)
        assert self.process.stdout is not None
        self.stdout = self.process.stdout
        assert self.stdout.readline() == b"up\n"

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *details: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        assert wait_until_gone(self.word) == []


@pytest.fixture
def up(tmp_path: Path) -> Sequence[str]:
    """The option that puts the file for `WAIT` into a container."""
    (tmp_path / "up").write_text("up\n")
    return "-v", f"{tmp_path}/up:/up"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_a_program_that_does_not_handle_it(
    busybox_root: Path, up: Sequence[str], number: signal.Signals
) -> None:
    with Running(busybox_root, WAIT, *up) as running:
        running.process.send_signal(number)
        assert running.process.wait(30) == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_a_program_below_the_init(
    busybox_root: Path, up: Sequence[str], number: signal.Signals
) -> None:
    with Running(busybox_root, WAIT, "--init", *up) as running:
        running.process.send_signal(number)
        assert running.process.wait(30) == 128 + number


@pytest.mark.parametrize("options", [(), ("--init",)])
@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_a_program_handles_a_signal_and_chooses_its_exit_status(
    busybox_root: Path, name: str, options: tuple[str, ...]
) -> None:
    script = f"trap 'echo got {name}; exit 7' {name}; echo up; while :; do sleep 0.05; done"
    with Running(busybox_root, script, *options) as running:
        running.process.send_signal(getattr(signal, f"SIG{name}"))
        assert running.process.wait(30) == 7
        assert running.stdout.read() == f"got {name}\n".encode()


def test_a_signal_that_the_program_ignores_changes_nothing(busybox_root: Path) -> None:
    script = "trap '' TERM INT; trap 'echo alive' USR1; echo up; while :; do sleep 0.05; done"
    with Running(busybox_root, script) as running:
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGUSR1)
        assert running.stdout.readline() == b"alive\n"


def test_the_second_interrupt_kills_a_program_that_ignores_the_first(busybox_root: Path) -> None:
    script = "trap 'echo no' INT; echo up; while :; do sleep 0.05; done"
    with Running(busybox_root, script) as running:
        running.process.send_signal(signal.SIGINT)
        assert running.stdout.readline() == b"no\n"
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 130


def test_the_user_signals_do_not_end_a_program_that_does_not_handle_them(
    busybox_root: Path, up: Sequence[str]
) -> None:
    with Running(busybox_root, WAIT, *up) as running:
        running.process.send_signal(signal.SIGUSR1)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 143


def test_a_signal_that_the_caller_ignores_stays_ignored(busybox_root: Path) -> None:
    """As for a program started by nohup, or in the background by a script."""
    shell = ["sh", "-c", """trap '' HUP; exec "$@" """, "sh", *COMMAND, "run", "--rootfs", str(busybox_root)]
    script = "trap 'exit 9' HUP; trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*shell, "sh", "-c", script], env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(30) == 3


@pytest.mark.parametrize("options", [(), ("--init",)])
def test_ctrl_c_at_a_terminal_ends_a_program_that_does_not_handle_it(
    busybox_root: Path, options: tuple[str, ...]
) -> None:
    """Although the shell leaves that to the command that it runs."""
    script = "echo up; tail -f /dev/null; echo not"
    with Console("run", *options, "--rootfs", busybox_root, "sh", "-c", script) as console:
        console.expect("up")
        console.type("\x03")
        assert console.finish() == 130
        assert "not" not in console.output
        assert "Traceback" not in console.output


def test_ctrl_c_at_a_terminal_reaches_a_program_that_handles_it_once(busybox_root: Path) -> None:
    script = "trap 'echo caught; exit 4' INT; echo up; while :; do sleep 0.05; done"
    with Console("run", "--rootfs", busybox_root, "sh", "-c", script) as console:
        console.expect("up")
        console.type("\x03")
        assert console.finish() == 4
        assert console.output.count("caught") == 1


def test_an_interrupt_during_the_start_ends_the_command(busybox_root: Path) -> None:
    process = start_cli("run", "--rootfs", busybox_root, "sleep", "100")
    with process:
        while not _owns_tasks(process.pid):  # which it does just before it starts one
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130


def _owns_tasks(pid: int) -> bool:
    try:
        return bool(token_of(pid))
    except (AssertionError, OSError):
        return False


def test_after_sigkill_of_the_command_line_nothing_is_left(busybox_root: Path) -> None:
    script = "sleep 100 & trap '' TERM INT HUP; echo up; while :; do sleep 0.05; done"
    with Running(busybox_root, script, "-m", "64M", "--pids-limit", "20") as running:
        token = token_of(running.process.pid)
        assert len(cgroups_of(token)) == 1
        assert len(with_argument(running.word)) >= 2  # the command line and the command
        running.process.kill()
        running.process.wait()
        assert wait_until_gone(running.word) == []
    assert output_of("run", "--rootfs", busybox_root, "echo", "swept") == "swept\n"
    assert cgroups_of(token) == []
    assert not os.path.exists(os.path.join(owners.run_directory(), token))


def test_a_command_line_that_has_ended_leaves_nothing(busybox_root: Path) -> None:
    process = start_cli("run", "--rootfs", busybox_root, "-i", "sh", "-c", "echo up; read x", stdin=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        token = token_of(process.pid)
        assert len(cgroups_of(token)) == 1
        process.communicate(b"go on\n", timeout=30)
    assert process.returncode == 0
    assert cgroups_of(token) == []
    assert not os.path.exists(os.path.join(owners.run_directory(), token))
