"""What is known once a process has ended."""

from __future__ import annotations

import signal as signals
from typing import Literal

from attrs import field, frozen

from pycontain.errors import ProcessFailed

Reason = Literal["exited", "signaled", "oom", "timeout", "killed"]


@frozen
class Usage:
    """What a task has used, all its processes together. A figure that the machine cannot give is None.

    Attributes:
        memory_peak: the most memory at any moment, in bytes (from the memory controller, page cache included).
        user_time, system_time: CPU time in seconds, of all processes that were waited for inside.
        wall_time: seconds from the beginning of the start to the end. What the process does before its command is in
            it, as it is in the CPU time.
        pids_peak: the most processes and threads at any moment (from the pids controller).
        cpu_stall_time, memory_stall_time, io_stall_time: seconds in which some process had to wait for a processor, for
            memory, for input and output (pressure stall information of cgroup v2).
    """

    memory_peak: int | None
    user_time: float
    system_time: float
    wall_time: float
    pids_peak: int | None
    cpu_stall_time: float | None = None
    memory_stall_time: float | None = None
    io_stall_time: float | None = None

    @property
    def cpu_time(self) -> float:
        """`user_time` and `system_time` together, in seconds."""
        return self.user_time + self.system_time


@frozen
class Result:
    """The end of a task.

    Attributes:
        argv: the command.
        exit_code: 0 to 255, or None when a signal ended it.
        signal: the number of that signal, or None.
        stdout, stderr: what was captured, as bytes; empty for a stream that went elsewhere.
        reason: "exited" by itself; "signaled"; "oom", killed by the kernel for want of memory; "timeout", killed for
            its time limit; "killed", by `Task.kill` or `Task.stop`.
        usage: what it used.
        encoding, errors: how `text` decodes.
    """

    argv: tuple[str, ...]
    exit_code: int | None
    signal: int | None
    stdout: bytes = field(repr=lambda value: _short(value))
    stderr: bytes = field(repr=lambda value: _short(value))
    reason: Reason
    usage: Usage
    encoding: str = field(default="utf-8", repr=False)
    errors: str = field(default="strict", repr=False)

    @property
    def text(self) -> str:
        """Standard output, decoded. Raises UnicodeDecodeError as `bytes.decode` does."""
        return self.stdout.decode(self.encoding, self.errors)

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself with exit code 0."""
        return self.reason == "exited" and self.exit_code == 0

    def check(self) -> Result:
        """Returns the result itself when it is `ok`, otherwise raises `ProcessFailed`, which carries it."""
        if not self.ok:
            raise ProcessFailed(self)
        return self

    def describe(self) -> str:
        """How it ended, in words: `exited with 3`, `was killed by SIGSEGV`, `ran out of memory`."""
        if self.reason == "oom":
            peak = "" if self.usage.memory_peak is None else f" (peak {self.usage.memory_peak} bytes)"
            return f"ran out of memory{peak}"
        if self.reason == "timeout":
            return f"did not end within its time limit ({self.usage.wall_time:.1f} s)"
        if self.signal is not None:
            return f"was killed by {_signal_name(self.signal)}"
        return f"exited with {self.exit_code}"


def _short(data: bytes, limit: int = 60) -> str:
    return repr(data) if len(data) <= limit else f"{data[:limit]!r}... ({len(data)} bytes)"


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
