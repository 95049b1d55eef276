"""Starts through the helper: for plans that join namespaces of others, in which these could trace the process.

The helper executes the same plan, in its own small memory. What it reports comes over a socket, a message each, whose
end says that all is over: the helper has ended, and the process has executed its command or ended too.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Mapping

from attrs import define

from pycontain._native._core import ffi, lib
from pycontain.errors import StartFailed
from pycontain.linux import plan as steps
from pycontain.linux.helper import executable
from pycontain.linux.pidfd import wait
from pycontain.runtimes.compile import Compiled
from pycontain.runtimes.start import Command, StepFailed, start

MESSAGE = struct.Struct("=iiiii")  # kind, errno, detail, system call, step: `report` in _native/helper.c
FAILED, FORKED, INSIDE = 2, 4, 5
LIMIT = 60.0  # seconds in which a process must have executed its command


def start_joined(
    compiled: Compiled, command: Command, descriptors: Mapping[str, int], record: Callable[[int, int], None],
    cgroup: int, pid_word: int,
) -> None:
    """As `start.start`, in the helper. The process that executes the command is a child of this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    join = _Join(ours, record)
    try:
        with theirs:
            join.begin(compiled, command, descriptors, cgroup, pid_word, theirs.fileno())
        join.follow(compiled.forks)
    finally:
        join.close()


@define
class _Join:
    """One start. `helper` and `pidfd` are the helper's and that of the process which it forked, -1 when there is none;
    `close` ends what was not started to the end, wherever it was interrupted."""

    ours: socket.socket
    record: Callable[[int, int], None]
    helper: int = -1
    pid: int = 0
    pidfd: int = -1
    inside: int = 0
    failure: StepFailed | None = None
    done: bool = False

    def begin(
        self, compiled: Compiled, command: Command, descriptors: Mapping[str, int], cgroup: int, pid_word: int,
        theirs: int,
    ) -> None:
        memory = _memory(compiled, command, descriptors)
        try:
            kept = {name: fd for name, fd in descriptors.items() if fd >= 0}
            kept |= {"socket": theirs, "memory": memory}
            # no PR_SET_PDEATHSIG: the thread that makes the helper may end when it has executed; the guard knows of it
            plan = steps.Plan((
                steps.await_release("owner"),
                steps.close_descriptors(),
                *(steps.keep(name) for name in kept),
                steps.execute("helper"),
            ))
            numbers = (theirs, memory, len(compiled.plan.encoded), len(command.encoded), command.pointers)
            words = Command.of([b"pycontain-join", *(b"%d" % number for number in numbers)], [], [])
            slots = {**kept, "helper": executable()}
            start(plan, words, slots, self._note, cgroup=cgroup, pid_word=pid_word)
        except StepFailed as failure:  # a step of this plan, not of the container's
            raise StepFailed(None, failure.syscall, failure.errno, -1) from None
        finally:
            os.close(memory)

    def _note(self, pid: int, pidfd: int) -> None:
        self.helper = pidfd
        self.record(pid, pidfd)

    def follow(self, forks: bool) -> None:
        """Until the command has been executed. Raises `StepFailed`, and `StartFailed` when that takes too long."""
        if forks:
            while self.pidfd < 0 and self.failure is None:
                self._wait(select.POLLIN)
                if not self._take():
                    break
            if self.pidfd >= 0:
                self._release()
        self._wait(0)  # the end of the socket alone
        while self._take():
            pass
        if self.failure is not None:
            raise self.failure
        if forks and self.pidfd < 0:
            raise StepFailed(None, "clone", 0, -1)
        self.done = True

    def _release(self) -> None:
        """Records the process that the helper has forked, and lets it go on."""
        self.record(self.pid, self.pidfd)
        try:
            self.ours.send(b"\0", socket.MSG_NOSIGNAL)
        except BrokenPipeError:  # it was killed meanwhile
            pass

    def _wait(self, events: int) -> None:
        poll = select.poll()
        poll.register(self.ours, events)
        if not poll.poll(LIMIT * 1000):
            raise StartFailed(f"the process has not executed its command within {LIMIT:g} s")

    def _take(self) -> bool:
        """Takes a message that is there. False when there is none."""
        try:
            # socket.recv_fds passes on no flags, and without the first the descriptor would be inheritable
            flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            data, ancillary, _, _ = self.ours.recvmsg(MESSAGE.size, socket.CMSG_LEN(4), flags)
        except (BlockingIOError, ConnectionResetError):
            return False
        if len(data) != MESSAGE.size:
            return False
        kind, error, detail, syscall, step = MESSAGE.unpack(data)
        if kind == FORKED and ancillary:
            self.pid, self.pidfd = detail, struct.unpack("=i", ancillary[0][2])[0]
        elif kind == INSIDE:
            self.inside = detail
        elif kind == FAILED:
            name = ffi.string(lib.pc_syscall_name(syscall)).decode()
            self.failure = StepFailed(None if step < 0 else step, name, error, detail)
        return True

    def close(self) -> None:
        """Reaps the helper, whose end the socket's end was; after an error all that there is."""
        try:
            if not self.done:
                helper, self.helper = self.helper, -1
                if helper >= 0:
                    self.record(0, -1)
                    _end(helper)
                while self._take():  # it may have forked just then
                    pass
                if self.pidfd >= 0:
                    _end(self.pidfd)
            elif self.pidfd >= 0:
                _end(self.helper)
        finally:
            self.ours.close()


def _memory(compiled: Compiled, command: Command, descriptors: Mapping[str, int]) -> int:
    """The context, the plan and the command in a memory file, each beginning at a multiple of 16."""
    context = ffi.new("struct pc_context *")
    for name, index in compiled.plan.slots.items():
        context.fds[index] = descriptors.get(name, -1)
    parts = (bytes(ffi.buffer(context)), compiled.plan.encoded, command.encoded)
    fd = os.memfd_create("pycontain-plan", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            for part in parts:
                file.write(part + bytes(-len(part) % 16))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _end(pidfd: int) -> None:
    """Kills a process that may have ended, reaps it, and closes the descriptor."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        wait(pidfd)
    except ChildProcessError:
        pass
    os.close(pidfd)
