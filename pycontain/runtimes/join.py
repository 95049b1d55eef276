"""Starts through the helper: for plans that join a pid or user namespace, in which others could trace the process.

The helper executes the same plan, in its own small memory. What it reports comes over a socket.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping

from pycontain._native._core import ffi, lib
from pycontain.linux import plan as steps
from pycontain.linux.helper import executable
from pycontain.linux.pidfd import wait
from pycontain.runtimes.compile import Compiled
from pycontain.runtimes.start import Command, StepFailed, start

FAILURE = struct.Struct("=iiiii")  # the message of join_main in _native/helper.c


def start_joined(
    compiled: Compiled, command: Command, descriptors: Mapping[str, int], record: Callable[[int, int], None],
    cgroup: int,
) -> tuple[int, int]:
    """As `start.start`, in the helper. The process that executes the command is a child of this one."""
    memory = _memory(compiled, command, descriptors)
    try:
        ours, theirs = socket.socketpair()
    except BaseException:
        os.close(memory)
        raise
    try:
        pid, pidfd = _start_helper(compiled, command, descriptors, record, cgroup, theirs.fileno(), memory)
        theirs.close()
        try:
            if compiled.forks:
                pid, pidfd = _grandchild(ours, pidfd, record)
            _await_exec(ours)
        except BaseException:
            record(0, -1)
            _end(pidfd)
            raise
        return pid, pidfd
    finally:
        ours.close()
        theirs.close()
        os.close(memory)


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


def _start_helper(
    compiled: Compiled, command: Command, descriptors: Mapping[str, int], record: Callable[[int, int], None],
    cgroup: int, theirs: int, memory: int,
) -> tuple[int, int]:
    kept = {name: fd for name, fd in descriptors.items() if fd >= 0}
    kept |= {"socket": theirs, "memory": memory}
    # no PR_SET_PDEATHSIG: the thread that makes the helper ends when it has executed; the guard knows of it
    plan = steps.Plan((
        steps.await_release("owner"),
        steps.close_descriptors(),
        *(steps.keep(name) for name in kept),
        steps.execute("helper"),
    ))
    numbers = (theirs, memory, len(compiled.plan.encoded), len(command.encoded), command.pointers)
    helper = Command.of([b"pycontain-join", *(b"%d" % number for number in numbers)], [], [])
    try:
        return start(plan, helper, {**kept, "helper": executable()}, record, cgroup=cgroup)
    except StepFailed as failure:  # a step of this plan, not of the container's
        raise StepFailed(None, failure.syscall, failure.errno, -1) from None


def _grandchild(ours: socket.socket, helper: int, record: Callable[[int, int], None]) -> tuple[int, int]:
    """Receives the pidfd of the process that the helper forked as our child, records it, and lets it go on."""
    # socket.recv_fds passes on no flags, and without this one the descriptor would be inheritable
    data, ancillary, _, _ = ours.recvmsg(FAILURE.size, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC)
    if not ancillary:
        raise _failure(data)
    pidfd: int = struct.unpack("=i", ancillary[0][2])[0]
    try:
        wait(helper)
        pid = _pid_of(pidfd)
        record(pid, pidfd)
        ours.send(b"\0")
    except BaseException:
        _end(pidfd)
        raise
    os.close(helper)
    return pid, pidfd


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise ProcessLookupError("the joined process has ended")


def _await_exec(ours: socket.socket) -> None:
    """The socket is closed by the exec: an end without a message is the success."""
    data = ours.recv(FAILURE.size)
    if data:
        raise _failure(data)


def _failure(data: bytes) -> StepFailed:
    if len(data) != FAILURE.size:
        return StepFailed(None, "execve", 0, -1)
    _, error, candidate, syscall, index = FAILURE.unpack(data)
    return StepFailed(index, ffi.string(lib.pc_syscall_name(syscall)).decode(), error, candidate)


def _end(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        wait(pidfd)
    except ChildProcessError:
        pass
    os.close(pidfd)
