"""One start: gives the C core a plan, lets the child go once the caller has recorded it, waits until it has executed.

The child shares this process's memory until it executes (see `_native/spawn.c`), so that whatever happens here, an
exception or Ctrl-C included, the memory it uses is not touched again before the kernel says that it has left it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from pycontain._native._core import ffi, lib
from pycontain.linux.plan import Plan, encode_command
from pycontain.linux.prctl import get_dumpable, set_dumpable

POOL_SIZE = 16
POINTERS = 512

_arenas: list[object] = []
_abandoned: list[tuple[object, Plan, Command]] = []


@frozen
class Command:
    """What is executed: argument and environment vectors and the paths to try in turn, encoded."""

    encoded: bytes
    pointers: int

    @classmethod
    def of(cls, argv: Sequence[bytes], env: Sequence[bytes], candidates: Sequence[bytes]) -> Command:
        return cls(encode_command(argv, env, candidates), len(argv) + len(env) + 2)


class StepFailed(Exception):
    """A step of the plan failed in the child, or, with index None, the child could not be made."""

    def __init__(self, index: int | None, syscall: str, errno: int, candidate: int) -> None:
        super().__init__(index, syscall, errno, candidate)
        self.index = index
        self.syscall = syscall
        self.errno = errno
        self.candidate = candidate


def start(
    plan: Plan,
    command: Command,
    descriptors: Mapping[str, int],
    record: Callable[[int, int], None],
    *,
    clone_flags: int = 0,
    cgroup: int = -1,
    pid_word: int = 0,
) -> tuple[int, int]:
    """Starts a child that executes `plan`, and returns its pid and pidfd once it has executed its command.

    `descriptors` fills the plan's slots. `record(pid, pidfd)` runs while the child is held back: afterwards the caller
    can find and kill it whatever happens to this process. `record(0, -1)` tells it that the child is gone again.
    With `pid_word`, the address of a 32-bit integer that whoever is to kill it reads, the kernel writes the pid there
    before the child runs: it is not held back then, and recorded when it has executed.

    Raises:
        StepFailed: when a step failed. The child has been reaped.
    """
    arena = _take_arena(command.pointers)
    context = lib.pc_arena_context(arena)
    context.pid = 0
    _fill_slots(context.fds, plan, descriptors)
    settled = False
    _dumpable.enter()
    try:
        pid = lib.pc_start(
            arena, plan.encoded, len(plan.encoded), command.encoded, len(command.encoded), clone_flags, cgroup, pid_word
        )
        if pid < 0:
            raise StepFailed(None, "clone3", -pid, -1)
        record(context.pid, context.pidfd)
        lib.pc_release(arena)
        while not settled:
            settled = bool(lib.pc_settled(arena, 50))
        if context.failed >= 0:
            syscall = ffi.string(lib.pc_syscall_name(context.syscall)).decode()
            raise StepFailed(context.failed, syscall, context.error, context.detail)
        return context.pid, context.pidfd
    except BaseException:
        if context.pid > 0:
            try:
                record(0, -1)
            finally:
                _end_child(arena, context)
        raise
    finally:
        _dumpable.leave()
        if lib.pc_settled(arena, 0):
            _give_arena(arena)
        else:  # a second Ctrl-C came while the child still uses all this
            _abandoned.append((arena, plan, command))


def _fill_slots(fds: Any, plan: Plan, descriptors: Mapping[str, int]) -> None:
    slots = plan.slots
    for index in range(len(slots)):
        fds[index] = -1
    for name, fd in descriptors.items():
        if name in slots:
            fds[slots[name]] = fd


def _end_child(arena: object, context: Any) -> None:
    """Kills and reaps a child that did not get as far as its command, or must not go on."""
    pidfd: int = context.pidfd
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    while not lib.pc_settled(arena, 1000):
        pass
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        pass
    os.close(pidfd)


def _take_arena(pointers: int) -> object:
    while _arenas:
        try:
            arena = _arenas.pop()
        except IndexError:  # another thread was faster
            break
        if lib.pc_arena_pointers(arena) >= pointers:
            return arena
        lib.pc_arena_free(arena)
    arena = lib.pc_arena_new(max(pointers, POINTERS))
    if arena == ffi.NULL:
        raise MemoryError("no memory for the stack of a new process")
    return arena


def _give_arena(arena: object) -> None:
    if len(_arenas) < POOL_SIZE:
        _arenas.append(arena)
    else:
        lib.pc_arena_free(arena)


class _Dumpable:
    """Keeps this process dumpable as it was.

    A child that shares our memory makes that memory non-dumpable when it drops capabilities (PC_CAPSET), and the kernel
    does when it changes its user (commit_creds, kernel/cred.c), so that no process which is now its equal can trace it.
    It must stay so until the last such child has executed, and must not stay so afterwards: a process that is not
    dumpable cannot be traced by its own user, and without privileges it cannot use its own files in /proc.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = False

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = get_dumpable()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._before:
                set_dumpable(True)

    def begin_anew(self) -> None:
        """In a child of os.fork, which has its own memory, and none of the starts of its parent."""
        self._lock = threading.Lock()
        if self._inside and self._before:
            set_dumpable(True)
        self._inside = 0


_dumpable = _Dumpable()


def _after_fork() -> None:
    _arenas.clear()  # the spawner of one may have been at work, and is not here to say that it has ended
    _dumpable.begin_anew()


os.register_at_fork(after_in_child=_after_fork)
