"""The runtime that needs no other program: a compiled specification becomes a process that this one is the parent of."""

from __future__ import annotations

import atexit
import os
import signal
import struct
import threading
from collections.abc import Sequence

from attrs import define, field

from pycontain.cgroups import Cgroup, CgroupDriver, CgroupUsage, detect
from pycontain.errors import InvalidArgument, NotSupported, StartFailed, TaskError, name_of
from pycontain.linux.pidfd import Ended, wait
from pycontain.runtimes import owner as owners
from pycontain.runtimes.compile import CGROUP_SLOTS, Compiled
from pycontain.runtimes.failure import command_failed, start_failed
from pycontain.runtimes.helper import executable
from pycontain.runtimes.idmap import write_maps
from pycontain.runtimes.join import start_joined
from pycontain.runtimes.start import Command, StepFailed, start
from pycontain.runtimes.sweep import sweep

INIT_REPORT = struct.Struct("=iiii")  # struct report in _native/helper.c
RUNNING, FAILED, ENDED = 1, 2, 3

_driver: CgroupDriver | None = None
_lock = threading.Lock()


@define
class Streams:
    """The descriptors that become 0, 1 and 2 of the command; with a terminal, the socket that takes its other end."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    console: int = -1


@define
class NativeProcess:
    """The process of a started container, its cgroup and its place in the owner's table.

    Attributes:
        pid, pidfd: of the first process, as this process sees it.
        cgroup: None where there is none.
        pid_namespace: whether the end of the first process ends all others.
    """

    pid: int
    pidfd: int
    cgroup: Cgroup | None
    pid_namespace: bool
    _entry: owners.Entry
    _init_report: int = -1
    _lock: threading.Lock = field(factory=threading.Lock)
    _closed: bool = False

    def kill(self) -> None:
        """Kills every process of the container with SIGKILL, at once. Without effect when it has ended."""
        with self._lock:
            if self._closed:
                return
            self.send_signal(signal.SIGKILL)
            if not self.pid_namespace and self.cgroup is not None:
                self.cgroup.kill()

    def send_signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def collect(self) -> tuple[Ended, CgroupUsage]:
        """Reaps the first process, which has ended, ends what it left, and removes all that belongs to the container."""
        with self._lock:
            if self._closed:
                raise TaskError("the process has been collected already")
            self._closed = True
            try:
                return self._reap()
            finally:
                self._remove()

    def _reap(self) -> tuple[Ended, CgroupUsage]:
        if not self.pid_namespace and self.cgroup is not None:
            self.cgroup.kill()
        self._entry.clear_process()
        ended = wait(self.pidfd)
        if ended is None:
            raise TaskError("the process has not ended")
        if self._init_report >= 0:
            ended = _as_init_reported(ended, self._init_report)
        return ended, self.cgroup.usage() if self.cgroup is not None else CgroupUsage()

    def _remove(self) -> None:
        os.close(self.pidfd)
        if self._init_report >= 0:
            os.close(self._init_report)
        if self.cgroup is not None:
            self.cgroup.remove()
        self._entry.release()


def _as_init_reported(ended: Ended, report: int) -> Ended:
    """The end of the command itself: init, being process 1, cannot die of the signal that its child died of."""
    from attrs import evolve

    data = os.read(report, INIT_REPORT.size)
    if len(data) < INIT_REPORT.size:
        return ended
    _, _, status, _ = INIT_REPORT.unpack(data)
    if os.WIFSIGNALED(status):
        return evolve(ended, exit_code=None, signal=os.WTERMSIG(status), core_dumped=os.WCOREDUMP(status))
    return evolve(ended, exit_code=os.WEXITSTATUS(status), signal=None)


def cgroup_driver() -> CgroupDriver:
    """This process's cgroup driver. The first call also sweeps what dead processes left behind."""
    global _driver
    with _lock:
        if _driver is None:
            _driver = detect()
            sweep(_driver)
            atexit.register(_at_exit)
        return _driver


def _at_exit() -> None:
    owner = owners.existing()
    if owner is not None and owner.pid == os.getpid():
        owner.close()
        if _driver is not None:
            _driver.remove_parent_if_empty()


def start_process(compiled: Compiled, argv: Sequence[str], streams: Streams) -> NativeProcess:
    """Starts `argv` in the container. Returns when the command has been executed.

    Raises:
        CommandNotFound, CommandNotExecutable: the command is not there, or cannot be executed.
        LimitNotSupported: a limit cannot be enforced here.
        StartFailed: a step failed; nothing is left.
    """
    words = _encode_argv(argv)
    candidates = _candidates(argv[0], compiled.search)
    driver = cgroup_driver()
    entry = owners.current().reserve()
    try:
        cgroup = _create_cgroup(driver, entry, compiled)
    except BaseException:
        entry.release()
        raise
    launch = _Launch(compiled, words, list(argv), candidates, streams, entry, cgroup)
    try:
        return launch.run()
    except BaseException:
        if cgroup is not None:
            if compiled.kill_group:
                cgroup.kill()
            cgroup.remove()
        entry.release()
        raise
    finally:
        launch.close()


def _create_cgroup(driver: CgroupDriver, entry: owners.Entry, compiled: Compiled) -> Cgroup | None:
    cgroup = driver.create(entry.name, compiled.resources, kill=compiled.kill_group)
    if compiled.kill_group:
        kill_file = _kill_file(cgroup)
        if kill_file is None:
            cgroup.remove()
            raise NotSupported(
                "a container without a pid namespace of its own needs a cgroup, to find its processes",
                remedy="Give it a new pid namespace, or run as root",
            )
        entry.record_group(kill_file)
    return cgroup if cgroup.paths else None


def _kill_file(cgroup: Cgroup) -> str | None:
    for name in ("cgroup.kill", "tasks"):
        for path in cgroup.paths:
            file = os.path.join(path, name)
            if os.path.exists(file):
                return file
    return None


@define
class _Launch:
    """One start: the descriptors that it needs, and the choice of the way."""

    compiled: Compiled
    words: list[bytes]
    argv: list[str]
    candidates: list[str]
    streams: Streams
    entry: owners.Entry
    cgroup: Cgroup | None
    opened: list[int] = field(factory=list)

    def run(self) -> NativeProcess:
        descriptors = self._descriptors()
        report = self._init_report(descriptors) if self.compiled.init else -1
        command = self._command(descriptors)
        try:
            if self.compiled.helper:
                pid, pidfd = start_joined(self.compiled, command, descriptors, self._record, self._into())
            else:
                pid, pidfd = start(
                    self.compiled.plan, command, descriptors, self._record,
                    clone_flags=self.compiled.clone_flags, cgroup=self._into(),
                    changes_identity=self.compiled.changes_identity,
                )
        except StepFailed as failure:
            raise start_failed(failure, self.compiled.plan, self.argv, self.candidates) from None
        process = NativeProcess(
            pid, pidfd, self.cgroup, not self.compiled.kill_group, self.entry, self._keep(report)
        )
        try:
            self._verify(process)
        except BaseException:
            process.kill()
            wait(pidfd)
            os.close(pidfd)
            if report >= 0:
                os.close(report)
            raise
        return process

    def close(self) -> None:
        for fd in self.opened:
            os.close(fd)
        if self.cgroup is not None:
            self.cgroup.close_fds()

    def _keep(self, fd: int) -> int:
        """Takes a descriptor out of those that are closed after the start."""
        if fd >= 0:
            self.opened.remove(fd)
        return fd

    def _descriptors(self) -> dict[str, int]:
        streams = self.streams
        descriptors = {
            "owner": owners.current().pidfd, "stdin": streams.stdin, "stdout": streams.stdout,
            "stderr": streams.stderr, "console": streams.console,
        }
        if self.cgroup is not None:
            descriptors.update(zip(CGROUP_SLOTS, self.cgroup.attach_fds, strict=False))
        for name, path in self.compiled.joins:
            descriptors[name] = self._open_namespace(path)
        return descriptors

    def _open_namespace(self, path: str) -> int:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StartFailed(
                f"the namespace {path} cannot be joined: {name_of(error.errno or 0)}", syscall="open", errno=error.errno or 0
            ) from None
        self.opened.append(fd)
        return fd

    def _init_report(self, descriptors: dict[str, int]) -> int:
        report, write_end = os.pipe()
        self.opened += [report, write_end]
        descriptors["init-report"] = write_end
        descriptors["init"] = executable()
        return report

    def _command(self, descriptors: dict[str, int]) -> Command:
        candidates = [os.fsencode(path) for path in self.candidates]
        if not self.compiled.init:
            return Command.of(self.words, self.compiled.env, candidates)
        argv = [b"pycontain-init", b"%d" % descriptors["init-report"], b"%d" % len(candidates), *candidates, *self.words]
        return Command.of(argv, self.compiled.env, [])

    def _into(self) -> int:
        into = self.cgroup.into_fd if self.cgroup is not None else None
        return -1 if into is None else into

    def _record(self, pid: int, pidfd: int) -> None:
        self.entry.record(pid, pidfd)
        if self.compiled.uid_map:
            write_maps(pid, self.compiled.uid_map, self.compiled.gid_map)

    def _verify(self, process: NativeProcess) -> None:
        """What only shows after the command has been executed."""
        if self.compiled.time_namespace:
            _check_time_namespace(process.pid)
        if self.compiled.init:
            self._check_init(process)

    def _check_init(self, process: NativeProcess) -> None:
        """Waits until init says that the command runs, or why not."""
        write_end = self.opened.pop()
        os.close(write_end)
        data = os.read(process._init_report, INIT_REPORT.size)
        if len(data) < INIT_REPORT.size:
            raise StartFailed("the built-in init ended before it ran the command", step="execute the command")
        kind, code, candidate, _ = INIT_REPORT.unpack(data)
        if kind == FAILED:
            raise command_failed(code, candidate, self.argv, self.candidates, "execute the command")


def _check_time_namespace(pid: int) -> None:
    try:
        inside = os.readlink(f"/proc/{pid}/ns/time")
    except OSError:  # it has ended already
        return
    if inside == os.readlink("/proc/self/ns/time"):
        raise NotSupported(
            "this kernel does not move a process into its new time namespace at exec", remedy="It needs Linux 6.3 or newer"
        )


def _encode_argv(argv: Sequence[str]) -> list[bytes]:
    if isinstance(argv, (str, bytes)):
        raise InvalidArgument(
            f"the command must be a list of strings, not {argv!r}", remedy="For a shell: ['sh', '-c', ...]"
        )
    if not argv or not argv[0]:
        raise InvalidArgument("the command is empty")
    words = [os.fsencode(word) for word in argv]
    for word in words:
        if b"\0" in word:
            raise InvalidArgument(f"the argument {word[:100]!r} contains a NUL byte")
    return words


def _candidates(name: str, search: Sequence[str]) -> list[str]:
    """The paths at which the command may be, in the order of the search of execvp(3)."""
    if "/" in name:
        return [name]
    return [f"{directory or '.'}/{name}" for directory in search]


