"""Runs the real command line in processes of its own: on pipes, and on a terminal that a test types into."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from leftovers import with_argument
from typing_extensions import Self

import pycontain
from pycontain.runtimes import owner as owners
from pycontain.terminal import set_window_size

COMMAND = (sys.executable, "-m", "pycontain")
PATIENCE = 30.0  # seconds; only a test that fails takes so long
# setsid has made a session without a terminal: the first thing is to take the one on standard input
ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def environment(**more: str) -> dict[str, str]:
    package = os.path.dirname(os.path.dirname(os.path.abspath(pycontain.__file__)))
    return {**os.environ, "PYTHONPATH": package, "PYTHONWARNINGS": "error", "TERM": "xterm", **more}


def run_cli(
    *args: object, stdin: bytes | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """`pycontain ARGS` to its end, with both streams captured."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    if "stdin" not in options and stdin is None:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run(
        [*COMMAND, *map(str, args)], input=stdin, env=environment(**(env or {})), timeout=PATIENCE, **options
    )


def start_cli(*args: object, **options: Any) -> subprocess.Popen[bytes]:
    """`pycontain ARGS`, running, with standard output as a pipe."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*COMMAND, *map(str, args)], env=environment(), **options)


def output_of(*args: object, **options: Any) -> str:
    """What a `pycontain ARGS` that must succeed prints."""
    done = run_cli(*args, **options)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout.decode()


def complaint_of(*args: object, status: int, **options: Any) -> str:
    """The one line that a `pycontain ARGS` which must fail with `status` says about it."""
    done = run_cli(*args, **options)
    text = done.stderr.decode()
    assert done.returncode == status, text
    assert text.startswith("pycontain: ")
    assert text.count("\n") == 1
    return text.removeprefix("pycontain: ").rstrip("\n")


def marker() -> str:
    """A word that only the processes of one test have among their arguments."""
    return f"pycontain-test-{uuid.uuid4().hex}"


def wait_until_gone(word: str, seconds: float = PATIENCE) -> list[int]:
    """The processes with the argument `word` that are there after so many seconds, or none as soon as there is none."""
    deadline = time.monotonic() + seconds
    while with_argument(word) and time.monotonic() < deadline:
        time.sleep(0.01)
    return with_argument(word)


def token_of(pid: int) -> str:
    """The name of another process's table of tasks."""
    directory = owners.run_directory()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = os.readlink(f"/proc/{pid}/fd/{fd}")
        if os.path.dirname(path) == directory:
            return os.path.basename(path)
    raise AssertionError(f"process {pid} owns no tasks")


class Console:
    """A terminal with `pycontain ARGS` in its foreground. A context manager: at its end the command line is killed.

    Attributes:
        terminal: the end at which the command line sits.
        process: the command line.
        output: everything that has been shown so far.
    """

    def __init__(
        self, *args: object, rows: int = 24, columns: int = 80, command: Sequence[str] = COMMAND, **streams: Any
    ) -> None:
        self._screen, self.terminal = pty.openpty()
        set_window_size(self.terminal, rows, columns)
        self.output = ""
        streams = {"stdin": self.terminal, "stdout": self.terminal, "stderr": self.terminal, **streams}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *command, *map(str, args)]
            if streams["stdin"] == self.terminal
            else [*command, *map(str, args)],
            env=environment(), start_new_session=True, **streams,
        )

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        set_window_size(self.terminal, rows, columns)

    def hang_up(self) -> None:
        """As when the window of the terminal is closed."""
        os.close(self._screen)
        self._screen = -1

    def expect(self, text: str) -> str:
        """Waits until `text` is shown, and returns what was shown before it since the last call."""
        deadline = time.monotonic() + PATIENCE
        seen = ""
        while text not in seen:
            assert self._readable(deadline), f"{text!r} was not shown, but {seen!r} was"
            data = os.read(self._screen, 4096).decode(errors="replace")
            seen += data
            self.output += data
        return seen.partition(text)[0]

    def finish(self) -> int:
        """Waits for the end, and returns the exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None or self._readable(time.monotonic()):
            if self._readable(min(deadline, time.monotonic() + 0.01)):
                self.output += os.read(self._screen, 4096).decode(errors="replace")
            assert time.monotonic() < deadline, f"it does not end; it has shown {self.output!r}"
        return self.process.returncode

    def _readable(self, deadline: float) -> bool:
        return bool(select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self._screen >= 0:
            os.close(self._screen)
        os.close(self.terminal)
