"""One start of a compiled specification: the descriptors that it needs, the command, and the choice of the way."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Sequence

from attrs import define, field

from pycontain.cgroups import Cgroup
from pycontain.errors import InvalidArgument, NotSupported, StartFailed, name_of
from pycontain.linux.helper import executable
from pycontain.linux.namespaces import NamespaceRequest, NamespaceType, ioctl_ns
from pycontain.runtimes import owner as owners
from pycontain.runtimes.compile import CGROUP_SLOTS, Compiled
from pycontain.runtimes.failure import command_failed, start_failed
from pycontain.runtimes.start import Command, StepFailed, start

INIT_REPORT = struct.Struct("=iiii")  # struct report in _native/helper.c
INIT_FAILED = 2


@define
class Streams:
    """The descriptors that become 0, 1 and 2 of the command; with a terminal, the socket that takes its other end."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    console: int = -1


@define
class Launch:
    """What one start holds open until it is over. `argv` has been checked."""

    compiled: Compiled
    argv: list[str]
    words: list[bytes]
    streams: Streams
    descriptors: dict[str, int] = field(factory=dict)
    _opened: list[int] = field(factory=list)
    _report: int = -1

    @classmethod
    def of(cls, compiled: Compiled, argv: Sequence[str], streams: Streams) -> Launch:
        return cls(compiled, list(argv), _encode_argv(argv), streams)

    @property
    def candidates(self) -> list[str]:
        """The paths at which the command may be, in the order of the search of execvp(3)."""
        name = self.argv[0]
        if "/" in name:
            return [name]
        return [f"{directory or '.'}/{name}" for directory in self.compiled.search]

    def open_descriptors(self, cgroup: Cgroup | None) -> None:
        """Fills the table of descriptors of the plan."""
        streams = self.streams
        self.descriptors.update(
            owner=owners.current().pidfd, stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr,
            console=streams.console,
        )
        if cgroup is not None:
            self.descriptors.update(zip(CGROUP_SLOTS, cgroup.attach_fds, strict=False))
        for name, path in self.compiled.joins:
            self.descriptors[name] = self._open_namespace(path, name.partition("-")[2])
        if self.compiled.init:
            self._report, write_end = os.pipe()
            self._opened += [self._report, write_end]
            self.descriptors["init-report"] = write_end
            self.descriptors["init"] = executable()

    def _open_namespace(self, path: str, kind: str) -> int:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            code = error.errno or 0
            if code in (errno.EMFILE, errno.ENFILE):
                raise
            raise StartFailed(
                f"the namespace {path} cannot be joined: {name_of(code)}", syscall="open", errno=code
            ) from None
        self._opened.append(fd)
        found = _namespace_type(fd)
        if found != kind:
            raise InvalidArgument(
                f"{path} is {'not a namespace' if found is None else f'a {found} namespace'}: "
                f"it cannot be the container's {kind} namespace"
            )
        return fd

    def run(self, record: Callable[[int, int], None], cgroup: Cgroup | None, pid_word: int) -> None:
        """Starts the process. Raises `StartFailed` or a class below it. See `start` for `pid_word`."""
        compiled = self.compiled
        into = -1 if cgroup is None or cgroup.into_fd is None else cgroup.into_fd
        try:
            if compiled.helper:
                from pycontain.runtimes.join import start_joined

                start_joined(compiled, self._command(), self.descriptors, record, into, pid_word)
            else:
                start(
                    compiled.plan, self._command(), self.descriptors, record,
                    clone_flags=compiled.clone_flags, cgroup=into, pid_word=pid_word,
                )
        except StepFailed as failure:
            raise start_failed(
                failure, compiled.plan, self.argv, self.candidates, user_namespace=bool(compiled.uid_map)
            ) from None

    def _command(self) -> Command:
        candidates = [os.fsencode(path) for path in self.candidates]
        if not self.compiled.init:
            return Command.of(self.words, self.compiled.env, candidates)
        report = b"%d" % self.descriptors["init-report"]
        argv = [b"pycontain-init", report, b"%d" % len(candidates), *candidates, *self.words]
        return Command.of(argv, self.compiled.env, [])

    def take_init_report(self) -> int:
        """The pipe on which init reports, -1 without init; the caller closes it. Our write end is closed."""
        report = self._report
        if report >= 0:
            self._opened.remove(report)
            write_end = self.descriptors["init-report"]
            self._opened.remove(write_end)
            os.close(write_end)
        return report

    def verify(self, pid: int) -> None:
        """Checks what only shows after the exec: the time namespace, and with init whether the command runs."""
        if self.compiled.time_namespace:
            _check_time_namespace(pid)
        if self._report >= 0:
            data = os.read(self._report, INIT_REPORT.size)
            if len(data) < INIT_REPORT.size:
                raise StartFailed("the built-in init ended before it ran the command", step="execute the command")
            kind, code, candidate, _ = INIT_REPORT.unpack(data)
            if kind == INIT_FAILED:
                raise command_failed(code, candidate, self.argv, self.candidates, "execute the command")

    def close(self) -> None:
        for fd in self._opened:
            os.close(fd)


def _check_time_namespace(pid: int) -> None:
    try:
        inside = os.readlink(f"/proc/{pid}/ns/time")
    except OSError:  # it has ended already
        return
    if inside == os.readlink("/proc/self/ns/time"):
        raise NotSupported(
            "this kernel does not move a process into its new time namespace at exec",
            remedy="It needs Linux 6.3 or newer",
        )


def _namespace_type(fd: int) -> str | None:
    """The type of a namespace's file, None for any other file. A device is not asked: it may have the number itself."""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return NamespaceType(ioctl_ns(fd, NamespaceRequest.GET_NSTYPE)).oci_name
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
    return None


def command_of(argv: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """The words of a command, which may be given as bytes and paths too. Raises `InvalidArgument` for what is none."""
    try:
        if isinstance(argv, (str, bytes)):
            raise TypeError
        return tuple(os.fsdecode(word) for word in argv)
    except TypeError:
        raise InvalidArgument(
            f"the command must be a list of strings, not {argv!r:.200}", remedy="For a shell: ['sh', '-c', ...]"
        ) from None


def _encode_argv(argv: Sequence[str]) -> list[bytes]:
    if not argv or not argv[0]:
        raise InvalidArgument("the command is empty")
    words = [os.fsencode(word) for word in argv]
    for word in words:
        if b"\0" in word:
            raise InvalidArgument(f"the argument {word[:100]!r} contains a NUL byte")
    return words
