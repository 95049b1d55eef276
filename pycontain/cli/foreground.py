"""A container in the foreground: until its command has ended, it gets the caller's signals, time limit and terminal."""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from attrs import define, field
from typing_extensions import Self

from pycontain.errors import PycontainError
from pycontain.linux.signals import would_arrive
from pycontain.streams import DEVNULL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycontain.container import Container
    from pycontain.result import Result
    from pycontain.task import Task
    from pycontain.terminal import Relay

TIMED_OUT = 124  # as timeout(1)
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
KEYBOARD = (signal.SIGINT, signal.SIGQUIT)
FORWARDED = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)
IDLE = 0.1  # seconds after which a quiet terminal is looked at again
ENDED = 0  # stands for the end of the task where signals are numbers


def run(
    container: Container, argv: Sequence[str], *, interactive: bool, terminal: bool, timeout: float | None
) -> tuple[int, str | None]:
    """Runs a command on the caller's streams, or on a terminal of its own. Raises as `Container.run` does.

    Returns the exit status of the command line, and a sentence about an end that the command did not choose.
    """
    with Inbox(window=terminal) as inbox:
        if terminal:
            return _run_on_terminal(inbox, container, argv, interactive, timeout)
        task = container.start(argv or None, stdin=None if interactive else DEVNULL, stdout=None, stderr=None)
        with task:
            return Foreground(inbox, task, timeout, None).attend()


def _run_on_terminal(
    inbox: Inbox, container: Container, argv: Sequence[str], interactive: bool, timeout: float | None
) -> tuple[int, str | None]:
    from pycontain.terminal import RawMode, Relay, window_size

    rows, columns = window_size(1, 0, 2) or (24, 80)
    task, terminal = container.start_terminal(argv or None, rows=rows, columns=columns)
    try:
        with task, RawMode(0 if interactive else -1):
            relay = Relay(terminal, 0 if interactive else -1, 1, lambda: foreground.interrupt_key())
            foreground = Foreground(inbox, task, timeout, relay)
            foreground.follow_window()
            return foreground.attend()
    finally:
        os.close(terminal)


class Inbox:
    """Signals, and the end of the task, as bytes to be read from a descriptor: nothing happens inside a signal handler.

    What the caller ignores (nohup, a shell's background job) stays ignored.
    """

    def __init__(self, *, window: bool) -> None:
        self._numbers = (*FORWARDED, signal.SIGWINCH) if window else FORWARDED
        self._before: dict[int, object] = {}
        self._thread: threading.Thread | None = None
        self._interrupts = 0

    def __enter__(self) -> Self:
        self.fd, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write_end)
        for number in self._numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Python has written the number to the descriptor. A second Ctrl-C interrupts even a start that takes long."""
        if number == signal.SIGINT and self._thread is None:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt

    def watch(self, task: Task) -> None:
        """From now on the end of `task` is announced by `ENDED`."""
        self._thread = threading.Thread(target=self._announce, args=(task,), name="pycontain-wait", daemon=True)
        self._thread.start()

    def _announce(self, task: Task) -> None:
        try:
            task.wait()
        except Exception:  # whoever waits for the result gets it
            pass
        os.write(self._write_end, bytes((ENDED,)))

    def take(self) -> bytes:
        """The numbers that have arrived."""
        return os.read(self.fd, 4096)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave
        signal.set_wakeup_fd(-1)
        if self._thread is not None:
            self._thread.join()
        os.close(self.fd)
        os.close(self._write_end)


@define
class Foreground:
    """One task in the foreground. Use `attend`."""

    inbox: Inbox
    task: Task
    timeout: float | None
    relay: Relay | None
    _ended: bool = field(default=False, init=False)
    _interrupts: int = field(default=0, init=False)
    _killed_status: int = field(default=0, init=False)
    _deadline: float | None = field(default=None, init=False)

    def attend(self) -> tuple[int, str | None]:
        """Serves the task until it has ended and all its output is copied. See `run` for what it returns."""
        if self.timeout is not None:
            self._deadline = time.monotonic() + self.timeout
        self.inbox.watch(self.task)
        while not (self._ended and (self.relay is None or self.relay.finished)):
            self._serve()
        return self._outcome(self.task.wait())

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self.inbox.fd, select.POLLIN)
        for fd, events in () if self.relay is None else self.relay.waiting():
            poll.register(fd, events)
        ready = poll.poll(self._patience())
        if not ready and self.relay is not None:
            self.relay.tick()
        for fd, events in ready:
            if fd == self.inbox.fd:
                for number in self.inbox.take():
                    self._receive(number)
            elif self.relay is not None:
                self._copy(self.relay, fd, events)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline = None
            self._kill(TIMED_OUT)

    def _patience(self) -> float:
        """Milliseconds to wait for something to happen; a day, where nothing but that matters."""
        seconds = 86400.0
        if self._deadline is not None:
            seconds = min(seconds, max(0.0, self._deadline - time.monotonic()))
        if self.relay is not None and self.relay.needs_tick:
            seconds = min(seconds, IDLE)
        return seconds * 1000

    def _copy(self, relay: Relay, fd: int, events: int) -> None:
        try:
            relay.serve(fd, events)
        except BrokenPipeError:
            self._kill(128 + signal.SIGPIPE)
            self.relay = None
        except OSError as error:
            name = "standard input" if fd == relay.source else "standard output"
            raise PycontainError(f"{name} cannot be used: {os.strerror(error.errno or errno.EIO)}") from None

    def _receive(self, number: int) -> None:
        if number == ENDED:
            self._ended, self._deadline = True, None
            if self.relay is not None:
                self.relay.end_input()
        elif self._ended:
            if number in ENDING:
                self.relay = None  # its output is not wanted any more
        elif number == signal.SIGWINCH:
            self.follow_window()
        elif self._must_be_killed(number):
            self._kill(128 + number)
        elif number in KEYBOARD:
            self._signal_group(number)
        else:
            self.task.signal(number)

    def _signal_group(self, number: int) -> None:
        """A terminal sends its signals to a whole process group, and shells rely on it: while a command of theirs runs
        they leave it to that command. The first process leads the group, as it leads a session."""
        pid = self.task.pid
        if pid:
            try:
                os.killpg(pid, number)
            except ProcessLookupError:
                pass  # it has just ended

    def _must_be_killed(self, number: int) -> bool:
        """Process 1 does not get a signal that it does not handle, of which any other process would die."""
        if number == signal.SIGINT:
            self._interrupts += 1
        return self._interrupts > 1 or (number in ENDING and not would_arrive(self.task.pid, number, ignored=True))

    def interrupt_key(self) -> None:
        """When Ctrl-C is typed while process 1 itself is in the foreground of its terminal."""
        if self.relay is None:
            return
        try:
            group = os.tcgetpgrp(self.relay.terminal)
        except OSError:  # nobody has the terminal
            return
        if group == self.task.pid and not would_arrive(self.task.pid, signal.SIGINT, ignored=True):
            self._kill(128 + signal.SIGINT)

    def follow_window(self) -> None:
        """Gives the container's terminal the size that the caller's has now."""
        from pycontain.terminal import set_window_size, window_size

        size = window_size(1, 0, 2)
        if self.relay is not None and size is not None:
            set_window_size(self.relay.terminal, *size)

    def _kill(self, status: int) -> None:
        self._killed_status = status
        self.task.kill()

    def _outcome(self, result: Result) -> tuple[int, str | None]:
        name = self.task.argv[0]
        if result.reason == "killed" and self._killed_status:
            late = self._killed_status == TIMED_OUT
            return self._killed_status, f"{name} did not end within {self.timeout:g} s" if late else None
        notice = f"{name} {result.describe()}" if result.reason == "oom" else None
        if result.signal is not None:
            return 128 + result.signal, notice
        return result.exit_code or 0, notice
