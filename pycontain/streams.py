"""The standard streams of a task: what the caller asked for, and the pipes that carry it."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from typing import IO, Union

from attrs import define, field

from pycontain.errors import InvalidArgument
from pycontain.runtimes.launch import Streams
from pycontain.standard_streams import is_open

PIPE = -1
STDOUT = -2
DEVNULL = -3

Stream = Union[int, IO[bytes], IO[str], None]

CHUNK = 65536


@define
class Capture:
    """The reading end of a stream and what came out of it. At the end of the stream `fd` is -1."""

    fd: int = -1
    chunks: list[bytes] = field(factory=list)

    def read(self) -> bool:
        """Takes what is there, once poll says that there is something. False at the end of the stream."""
        data = os.read(self.fd, CHUNK)
        if data:
            self.chunks.append(data)
            return True
        self.close()
        return False

    def drain(self) -> None:
        """Takes what is left once all processes of the task are gone. Should one outside hold the stream open, what is
        there now is all."""
        if self.fd < 0:
            return
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while self.fd >= 0:
            if not poll.poll(0) or not self.read():
                self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def value(self) -> bytes:
        return b"".join(self.chunks)


@define
class Feed:
    """The writing end of standard input and what is to go into it."""

    fd: int = -1
    data: memoryview = field(factory=lambda: memoryview(b""))

    def write(self) -> bool:
        """Gives what is taken. False when there is no more to give, or no one to take it."""
        try:
            self.data = self.data[os.write(self.fd, self.data[:CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            self.data = self.data[:0]
        if len(self.data) == 0:
            self.close()
            return False
        return True

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@define(eq=False)
class Plumbing:
    """The three streams of one task. `close_theirs` after the start, `close` at the end."""

    streams: Streams = field(factory=Streams)
    feed: Feed = field(factory=Feed)
    stdout: Capture = field(factory=Capture)
    stderr: Capture = field(factory=Capture)
    _theirs: list[int] = field(factory=list)

    def open(self, stdin: Stream, stdout: Stream, stderr: Stream, data: bytes | None) -> None:
        """Opens what is needed. Raises `InvalidArgument` for what is not a stream; `close` undoes it."""
        if stdin == STDOUT or stdout == STDOUT:
            raise InvalidArgument("STDOUT can only be given for standard error")
        if stdin == PIPE and data is None:
            raise InvalidArgument("a pipe to standard input needs `input`", remedy="Pass bytes, or a file object")
        # all three before anything is opened here, which would get the number of one that the caller has closed
        given = [_descriptor(stream, fd) for fd, stream in enumerate((stdin, stdout, stderr))]
        _open.add(self)
        self.streams.stdin = self._feed(data) if data is not None else self._or_null(given[0], os.O_RDONLY)
        self.streams.stdout = self._capture(self.stdout) if stdout == PIPE else self._or_null(given[1], os.O_WRONLY)
        if stderr == STDOUT:
            self.streams.stderr = self.streams.stdout
        elif stderr == PIPE:
            self.streams.stderr = self._capture(self.stderr)
        else:
            self.streams.stderr = self._or_null(given[2], os.O_WRONLY)

    def _pipe(self) -> tuple[int, int]:
        return os.pipe2(os.O_CLOEXEC)

    def _feed(self, data: bytes) -> int:
        try:
            self.feed.data = memoryview(data).cast("B")
        except TypeError:
            raise InvalidArgument(f"`input` must be bytes or a string, not {data!r:.100}") from None
        theirs, self.feed.fd = self._pipe()
        self._theirs.append(theirs)
        os.set_blocking(self.feed.fd, False)
        return theirs

    def _capture(self, capture: Capture) -> int:
        ours, theirs = self._pipe()
        self._theirs.append(theirs)
        capture.fd = ours
        return theirs

    def _or_null(self, fd: int, mode: int) -> int:
        if fd >= 0:
            return fd
        fd = os.open("/dev/null", mode | os.O_CLOEXEC)
        self._theirs.append(fd)
        return fd

    def close_theirs(self) -> None:
        """Closes what only the task has to hold open."""
        while self._theirs:
            os.close(self._theirs.pop())

    def close(self) -> None:
        self.close_theirs()
        for end in (self.feed, self.stdout, self.stderr):
            end.close()
        _open.discard(self)

    def waiting(self) -> Iterator[tuple[int, int]]:
        """The descriptors to poll, with the events."""
        if self.feed.fd >= 0:
            yield self.feed.fd, select.POLLOUT
        for capture in (self.stdout, self.stderr):
            if capture.fd >= 0:
                yield capture.fd, select.POLLIN

    def serve(self, fd: int) -> bool:
        """Moves data of the descriptor that is ready. False when it needs no more polling."""
        if fd == self.feed.fd:
            return self.feed.write()
        capture = self.stdout if fd == self.stdout.fd else self.stderr
        return capture.read()

    def drain(self) -> None:
        """At the end of the task, when all writers are gone."""
        self.feed.close()
        self.stdout.drain()
        self.stderr.drain()


_open: set[Plumbing] = set()


def _after_fork() -> None:
    """A child of os.fork must not hold the pipes: a command would wait for the end of its input for its life."""
    for plumbing in tuple(_open):
        plumbing.close()


os.register_at_fork(after_in_child=_after_fork)


def _descriptor(stream: Stream, inherited: int) -> int:
    """The descriptor of the caller's that a stream is, -1 for one that is to be opened."""
    if stream is None:
        return inherited
    if isinstance(stream, int) and not isinstance(stream, bool):
        if stream in (PIPE, STDOUT, DEVNULL):
            return -1
        if stream < 0:
            raise InvalidArgument(f"{stream} is not a descriptor, nor PIPE, STDOUT or DEVNULL")
        fd = stream
    else:
        try:
            fd = stream.fileno()  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            raise InvalidArgument(f"{stream!r} is not a stream: it has no file descriptor") from None
    if not is_open(fd):
        raise InvalidArgument(f"the descriptor {fd} is not open")
    return fd
