"""A started container."""

from __future__ import annotations

import os
import select
import signal as signals
import threading
import time
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from pycontain.errors import InvalidArgument, NotSupported, TaskError, WaitTimeout
from pycontain.linux.signals import would_arrive
from pycontain.result import Reason, Result, Usage
from pycontain.runtimes.failure import no_descriptors
from pycontain.runtimes.launch import command_of
from pycontain.runtimes.native import NativeProcess
from pycontain.streams import Plumbing, Stream

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from pycontain.cgroups import CgroupUsage
    from pycontain.cgroups.oom import OomWatch
    from pycontain.cgroups.stats import Stats
    from pycontain.images.image import Image
    from pycontain.images.layer import WritableLayer
    from pycontain.layers.diff import Change
    from pycontain.limits import Limits
    from pycontain.linux.pidfd import Ended
    from pycontain.runtimes.compile import Compiled

State = Literal["created", "running", "paused", "ended"]

POLL_LIMIT = 86400.0  # seconds: poll(2) counts milliseconds in an int
KILL_LIMIT = 30.0  # seconds that a killed task may take to end: only a process stuck in the kernel needs more


class Task:
    """A running container. Like `subprocess.Popen`, but its end is the end of everything that runs inside.

    Made by `Container.start()`. It is a context manager: at the end of the block it is killed if it still runs. A task
    that is not waited for ends with the Python process, however that ends.

    Attributes:
        argv: the command.
        pid: of its first process, as the caller sees it; 0 once the task has ended.
        pidfd: a descriptor for that process, owned by the task; -1 once the task has ended.
    """

    def __init__(
        self, compiled: Compiled, argv: Sequence[str], encoding: str, errors: str, layer: WritableLayer | None = None
    ) -> None:
        self.argv = command_of(argv)
        self._process = NativeProcess(compiled, layer.directory if layer is not None else None)
        self._layer = layer
        self._at_end = None if layer is None else weakref.finalize(self, layer.abandon)
        self._plumbing = Plumbing()
        self._encoding, self._errors = encoding, errors
        self._result: Result | None = None
        self._failure: BaseException | None = None
        self._ended = False
        self._waiters: threading.Event | None = None  # for a task that the monitor serves
        self._killed_for: Reason | None = None
        self._begun = self._started = 0.0  # when its start began, and when its command had been executed
        self._owner = os.getpid()
        self._last_stats: Stats | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pidfd(self) -> int:
        return self._process.pidfd

    @property
    def state(self) -> State:
        """"created" (only while it starts), "running", "paused" or "ended"."""
        if self._ended:
            return "ended"
        if self._process.frozen:
            return "paused"
        return "running" if self._started else "created"

    @property
    def result(self) -> Result | None:
        """How it ended, None while it runs."""
        return self._result

    def wait(self, timeout: float | None = None) -> Result:
        """Waits until the task has ended.

        `timeout` is in seconds. Raises `WaitTimeout` when it is over; the task goes on.
        """
        self._check_owner()
        limit = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        if not self._ended and self._waiters is not None and not self._waiters.wait(limit):
            raise WaitTimeout(f"{self!r} has not ended within {timeout} s")
        if self._failure is not None:
            raise self._failure
        if self._result is None:
            raise TaskError(f"{self!r} has no result")
        return self._result

    def signal(self, number: int) -> None:
        """Sends a signal to the first process. Without effect when the task has ended.

        As process 1 of its pid namespace it gets only signals that it handles, see pid_namespaces(7).
        """
        self._check_owner()
        _check_signal(number)
        self._process.send_signal(number)

    def kill(self) -> Result:
        """Kills the whole task at once, and waits for its end."""
        self._kill("killed")
        return self.wait(KILL_LIMIT)

    def stop(self, timeout: float = 10.0, signal: int = signals.SIGTERM) -> Result:
        """Asks the first process to end, and kills the task when it has not after `timeout` seconds.

        A process 1 that does not handle `signal` never gets it: it is killed without delay. A paused task goes on, so
        that it can end.
        """
        self._check_owner()
        _check_signal(signal)
        if self._ended:
            return self.wait()
        if would_arrive(self.pid, signal):
            self._process.send_signal(signal)
            if self._process.frozen:
                try:
                    self.resume()
                except TaskError:  # somebody else has killed it meanwhile
                    pass
            try:
                return self.wait(timeout)
            except WaitTimeout:
                pass
        return self.kill()

    def pause(self) -> None:
        """Stops all its processes by the freezer, which they cannot notice or refuse, until `resume`.

        Raises `NotSupported` where there is no freezer, `TaskError` when the task has ended.
        """
        self._check_owner()
        self._process.freeze(True)

    def resume(self) -> None:
        """Lets a paused task go on. Without effect on one that is not paused."""
        self._check_owner()
        self._process.freeze(False)

    def update(self, **limits: Unpack[Limits]) -> None:
        """Changes limits of the running task, by the names of `Limits`; those not named stay as they are.

        A new `memory` without `memory_swap` forbids swap again, as `with_limits` does.

        Raises `LimitNotSupported` for a limit that cannot be enforced, or is below what is in use already;
        `InvalidArgument` for values that can never hold.
        """
        from pycontain.limits import resources_with

        self._check_owner()
        self._process.update(resources_with(None, limits))

    def stats(self) -> Stats:
        """What it uses now. `stats.cpu.percent` counts from the call before, the first time from the start.

        Raises `TaskError` when the task has ended: the totals are in its result.
        """
        self._check_owner()
        now, before = self._process.stats(), self._last_stats
        self._last_stats = now
        if before is None:
            return now.with_cpu_percent(self._begun, 0.0)
        return now.with_cpu_percent(before.taken, before.cpu.usage_time)

    def watch_oom(self) -> OomWatch:
        """Notices processes of the task that are killed for want of memory from now on: a context manager.

        `wait(timeout)` tells how many; `fileno` and `events` are for poll or an event loop. No polling.
        """
        self._check_owner()
        return self._process.watch_oom()

    def _check_owner(self) -> None:
        if not self._ended and self._owner != os.getpid():
            raise TaskError(f"{self!r} belongs to the process {self._owner}, from which this one was forked")

    def _kill(self, reason: Reason) -> None:
        if not self._ended:
            self._killed_for = self._killed_for or reason
            self._process.kill()

    def diff(self) -> list[Change]:
        """What it has written to its root so far: paths that were added, modified or deleted, sorted.

        For a task of an image, until it is removed. Raises `TaskError` for others, `SnapshotError`.
        """
        self._check_owner()
        if self._layer is None:
            raise TaskError(f"{self!r} is not of an image: what it writes is kept in memory, in its own mounts")
        return self._layer.changes()

    def commit(self, name: str, *, message: str | None = None) -> Image:
        """Makes an image of what it has written so far, on top of its own image, and names it.

        A running task is paused meanwhile, where it has a freezer. Raises `TaskError` for a task without an image,
        `StoreError`, `InvalidReference`.
        """
        from pycontain.images.image import Image

        self._check_owner()
        if self._layer is None:
            raise TaskError(f"{self!r} is not of an image: there is nothing to commit to")
        running = self.state == "running"
        try:
            if running:
                self.pause()
        except (NotSupported, TaskError):  # it has no freezer, or has just ended
            running = False
        try:
            return Image.commit(self._layer, name, message)
        finally:
            if running:
                self.resume()

    def remove(self) -> None:
        """Kills it if it still runs, and removes what it wrote: the read-write layer of a container of an image.

        That is done as well at the end of its block, when the task is garbage, and when this process ends.
        """
        if not self._ended and self._owner == os.getpid():
            self.kill()
        if self._layer is not None and self._at_end is not None:
            self._layer.remove()
            self._at_end.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        command = " ".join(self.argv)
        command = command if len(command) <= 40 else command[:37] + "..."
        return f"<Task {command!r} pid {self.pid}>" if self.state == "running" else f"<Task {command!r} {self.state}>"

    # ---- for Container and the monitor

    def _start(self, stdin: Stream, stdout: Stream, stderr: Stream, data: bytes | None) -> None:
        """Starts it. After an exception nothing is left."""
        try:
            self._plumbing.open(stdin, stdout, stderr, data)
            self._execute()
            self._plumbing.close_theirs()
        except OSError as error:
            self._abort()
            raise no_descriptors(error) from None
        except BaseException:
            self._abort()
            raise

    def _start_terminal(self) -> int:
        """Starts it on a terminal of its own; the descriptor of the other end, which the caller closes."""
        import socket

        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise no_descriptors(error) from None
        with ours, theirs:
            try:
                self._plumbing.streams.console = theirs.fileno()
                self._execute()
                ours.settimeout(10)
                _, received, _, _ = socket.recv_fds(ours, 1, 1)
                os.set_inheritable(received[0], False)
                return received[0]
            except OSError as error:
                self._abort()
                raise no_descriptors(error) from None
            except BaseException:
                self._abort()
                raise

    def _execute(self) -> None:
        self._begun = time.monotonic()
        self._process.start(self.argv, self._plumbing.streams)
        self._started = time.monotonic()

    def _run(self, timeout: float | None) -> Result:
        """Serves the streams in the calling thread until the task has ended."""
        deadline = None if timeout is None else self._started + timeout
        try:
            self._serve(deadline)
            self._finish()
        except BaseException:
            self._abort()
            raise
        return self.wait()

    def _serve(self, deadline: float | None) -> None:
        pidfd = self._process.pidfd
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        for fd, events in self._plumbing.waiting():
            poll.register(fd, events)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = poll.poll(None if left is None else min(left, POLL_LIMIT) * 1000)
            if not ready and left is not None and left <= POLL_LIMIT:
                if self._killed_for == "timeout":
                    raise TaskError(f"{self!r} does not die: a process is stuck in the kernel")
                self._kill("timeout")
                deadline = time.monotonic() + KILL_LIMIT
            for fd, _ in ready:
                if fd == pidfd:
                    return
                if not self._plumbing.serve(fd):
                    poll.unregister(fd)

    def _finish(self) -> None:
        """Collects a process that has ended. Sets the result."""
        wall_time = time.monotonic() - self._begun
        try:
            ended, used = self._process.collect()
            self._plumbing.drain()
            self._result = self._result_of(ended, used, wall_time)
        except Exception as failure:
            self._failure = failure
        finally:
            self._plumbing.close()
            self._set_ended()

    def _set_ended(self) -> None:
        self._ended = True
        if self._waiters is not None:
            self._waiters.set()

    def _result_of(self, ended: Ended, used: CgroupUsage, wall_time: float) -> Result:
        return Result(
            argv=self.argv,
            exit_code=ended.exit_code,
            signal=ended.signal,
            stdout=self._plumbing.stdout.value(),
            stderr=self._plumbing.stderr.value(),
            reason=self._reason(ended, used),
            usage=Usage(
                used.memory_peak, ended.user_time, ended.system_time, wall_time, used.pids_peak,
                used.cpu_stall_time, used.memory_stall_time, used.io_stall_time,
            ),
            encoding=self._encoding,
            errors=self._errors,
        )

    def _reason(self, ended: Ended, used: CgroupUsage) -> Reason:
        by_kill = ended.signal == signals.SIGKILL
        if self._killed_for is not None and (by_kill or ended.signal is not None or self._killed_for == "timeout"):
            return self._killed_for
        # a shell reports the death of its last command by exit code 137
        if used.oom_kills and (by_kill or ended.exit_code == 128 + signals.SIGKILL):
            return "oom"
        return "exited" if ended.signal is None else "signaled"

    def _abort(self) -> None:
        self._plumbing.close()
        try:
            self._process.abort()
        finally:
            self._set_ended()


def _check_signal(number: int) -> None:
    if not 0 < number < signals.NSIG:
        raise InvalidArgument(f"{number} is not a signal")
