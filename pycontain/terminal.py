"""The caller's terminal and a container's: raw mode, window size, and the copying between the two."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from types import TracebackType

from attrs import define, field

CHUNK = 4096  # what a terminal takes and gives at once (N_TTY_BUF_SIZE, n_tty.c); a pipe that is ready takes it whole


def window_size(*fds: int) -> tuple[int, int] | None:
    """Rows and columns of the first of the descriptors that is a terminal and knows its size; None without one."""
    for fd in fds:
        try:
            columns, rows = os.get_terminal_size(fd)
        except OSError:
            continue
        if rows and columns:
            return rows, columns
    return None


def set_window_size(terminal: int, rows: int, columns: int) -> None:
    """Sets the size of a terminal. Its foreground processes get SIGWINCH if it differs from the one before."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class RawMode:
    """A context in which a terminal passes on every key as it is: nothing is echoed, and no key makes a signal.

    Without effect on a descriptor that is not a terminal. The mode before comes back however the block ends.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before = termios.tcgetattr(fd) if os.isatty(fd) else None

    def __enter__(self) -> None:
        if self._before is not None:
            tty.setraw(self._fd, termios.TCSADRAIN)  # which keeps what has been typed already

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            try:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
            except termios.error as error:
                if error.args[0] != errno.EIO:  # the terminal is gone: there is nothing to restore
                    raise


@define
class Relay:
    """Copies from `source` to a container's terminal, and from it to `sink`. For poll(2): `waiting`, `serve`, `tick`.

    At the end of its input it goes on copying what comes from the terminal.

    Attributes:
        terminal: the other end of the container's terminal. It becomes non-blocking.
        source: a descriptor, or -1 for no input.
        sink: a descriptor.
        on_interrupt: called before a key is passed on that interrupts the program inside (usually Ctrl-C).
    """

    terminal: int
    source: int
    sink: int
    on_interrupt: Callable[[], None]
    _input_ended: bool = field(default=False, init=False)
    _drained: bool = field(default=False, init=False)
    _to_terminal: bytes = field(default=b"", init=False)
    _to_sink: bytes = field(default=b"", init=False)
    _hung_up: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        os.set_blocking(self.terminal, False)

    def waiting(self) -> Iterator[tuple[int, int]]:
        """The descriptors to poll, with the events. While a buffer is full, its source waits."""
        if self._to_sink:
            yield self.sink, select.POLLOUT
        if not self._hung_up:
            events = (0 if self._to_sink else select.POLLIN) | (select.POLLOUT if self._to_terminal else 0)
            if events:
                yield self.terminal, events
        if self.source >= 0 and not self._to_terminal:
            yield self.source, select.POLLIN

    @property
    def needs_tick(self) -> bool:
        """Whether `tick` has to be called from time to time."""
        return self._hung_up or self._input_ended

    @property
    def finished(self) -> bool:
        """Whether all that was written to the terminal has been copied, and nobody has it open."""
        return self._drained and not self._to_sink

    def end_input(self) -> None:
        """When all programs inside have ended: from now on only copies what they have written."""
        self.source, self._input_ended, self._to_terminal = -1, False, b""
        self._hung_up = self._drained = False

    def tick(self) -> None:
        """Looks again at a terminal that nobody had open: a program may close it and open it again. At the end of the
        input, types what means the end of a file (Ctrl-D), each time: the key is lost when a program that is just
        about to read changes the terminal's mode."""
        self._hung_up = False
        if self._input_ended and not self._to_terminal:
            self._type(self._end_of_file())

    def serve(self, fd: int, events: int) -> None:
        """Moves data for a descriptor that is ready. Raises `OSError` when the sink cannot be written to."""
        if fd == self.sink:
            self._to_sink = self._to_sink[os.write(self.sink, self._to_sink) :]
        elif fd == self.source:
            self._read_source()
        else:
            if events & select.POLLOUT:
                self._type(b"")
            if events & ~select.POLLOUT:
                self._read_terminal()

    def _read_terminal(self) -> None:
        """Linux answers EIO at the end: all that has been written has been read, and nobody has the terminal open."""
        if self._to_sink:  # poll reports that nobody has it open, asked or not
            self._hung_up = True
            return
        try:
            self._to_sink = os.read(self.terminal, CHUNK)
            self._drained = False
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._hung_up = self._drained = True

    def _read_source(self) -> None:
        try:
            data = os.read(self.source, CHUNK)
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that has hung up, or whose foreground is another's
                raise
            data = b""
        if data:
            if self._interrupts(data):
                self.on_interrupt()
            self._type(data)
        else:
            self.source, self._input_ended = -1, True
            self._type(self._end_of_file())

    def _type(self, data: bytes) -> None:
        self._to_terminal += data
        try:
            self._to_terminal = self._to_terminal[os.write(self.terminal, self._to_terminal) :]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._to_terminal = b""

    def _end_of_file(self) -> bytes:
        return bytes(termios.tcgetattr(self.terminal)[6][termios.VEOF])

    def _interrupts(self, data: bytes) -> bool:
        """Whether the keys make an interrupt signal, as the container's terminal is set now."""
        settings = termios.tcgetattr(self.terminal)
        return bool(settings[3] & termios.ISIG) and settings[6][termios.VINTR] in data
