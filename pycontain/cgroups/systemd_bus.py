"""One connection to systemd's manager over D-Bus: calls, and jobs that are waited for. Blocking, shared by threads.

The bus and not systemd's private socket: there systemd sends every signal to everyone who is connected, and keeps them
in its own memory as long as nobody reads them. On the bus only what is asked for arrives, so that an idle connection
costs nobody anything. systemd(1), org.freedesktop.systemd1(5), https://dbus.freedesktop.org/doc/dbus-specification.html
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pycontain.errors import CgroupError, NotSupported

if TYPE_CHECKING:
    from jeepney import Message  # type: ignore[import-untyped]

MANAGER = "org.freedesktop.systemd1.Manager"
TIMEOUT = 25.0  # seconds for a call, as in all D-Bus libraries; jobs of scopes take milliseconds

_SYSTEMD = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"

T = TypeVar("T")
Property = tuple[str, tuple[str, Any]]
"""A name, and a variant: its signature and value."""


class CallRefused(CgroupError):
    """systemd or the bus answered a call with an error; `name` is the D-Bus name of it, `text` what it says."""

    def __init__(self, what: str, name: str, text: str, remedy: str | None) -> None:
        super().__init__(f"{what}: {text or name}", remedy=remedy)
        self.name = name
        self.text = text


class ConnectionLost(CgroupError):
    """The connection ended in the middle of a call: what was asked for may have been done or not."""


def bus_at(address: str) -> Bus:
    """The process's one connection to the bus at this socket, made at its first call."""
    return _buses.setdefault(address, Bus(address))


class Bus:
    """The bus at a socket, connected at the first call, and again in a forked child and after a restart of the bus.

    Use `bus_at`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def call(
        self, member: str, signature: str = "", body: Sequence[Any] = (), *, interface: str = MANAGER,
        path: str = _PATH,
    ) -> tuple[Any, ...]:
        """Calls a method of systemd and gives what it returns.

        Raises `CallRefused`, `ConnectionLost`, `NotSupported` when there is no bus, and `CgroupError` when there is no
        answer within 25 seconds.
        """
        deadline = time.monotonic() + TIMEOUT
        return self._connected().call(_method(member, signature, body, interface, path), deadline)

    def run_job(self, unit: str, member: str, signature: str, body: Sequence[Any]) -> str:
        """Calls a method that returns a job of `unit`, and waits for the job. Gives its result, `done` if all is well.

        Raises as `call` does.
        """
        deadline = time.monotonic() + TIMEOUT
        return self._connected().run_job(unit, _method(member, signature, body, MANAGER, _PATH), deadline)

    def _connected(self) -> _Connection:
        with self._lock:
            connection = self._connection
            if connection is None or not connection.is_usable():
                if connection is not None:
                    connection.close()
                connection = self._connection = _Connection(self.address)
            return connection

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def disown(self) -> None:
        """In a child of os.fork: the connection is the parent's, and a lock may have been held by another thread."""
        self._lock = threading.Lock()
        if self._connection is not None:
            self._connection.disown()
            self._connection = None


class _Connection:
    """A socket on which any number of threads wait: one of them reads, for all."""

    def __init__(self, address: str) -> None:
        self._fd = _open(address)  # not a socket object, which would complain that it is open at the end of Python
        from jeepney import Parser

        self._parser = Parser()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._condition = threading.Condition()
        self._sending = threading.Lock()
        self._reading = False
        self._lost: str | None = None
        self._serial = 0
        self._replies: dict[int, Message | None] = {}  # None: not yet there
        self._jobs: dict[str, dict[str, str]] = {}  # of units that are waited for: the results of their jobs
        try:
            self.call(_bus_method("Hello"), time.monotonic() + TIMEOUT)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._condition:
            self._lost = self._lost or "the connection is closed"
            if not self._reading:  # the reader's descriptor must not become another file's: it closes it itself
                self.disown()

    def disown(self) -> None:
        """Closes the descriptor, without a lock: for a child of os.fork."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def is_usable(self) -> bool:
        """Looks whether the bus has hung up meanwhile; also takes in what arrived since the last call."""
        with self._condition:
            while self._lost is None and not self._reading and self._poll.poll(0):
                self._receive_some(0)
            return self._lost is None

    def call(self, message: Message, deadline: float) -> tuple[Any, ...]:
        serial = self._send([message])[-1]
        return self._reply(serial, message, deadline)

    def run_job(self, unit: str, message: Message, deadline: float) -> str:
        with self._condition:
            results = self._jobs.setdefault(unit, {})
        try:
            # systemd sends JobRemoved whether or not someone has subscribed, for the sake of who asked for the job. The
            # bus handles these in order, so that the match is there before the job is.
            serial = self._send([_no_reply(_match("AddMatch", unit)), message])[-1]
            job = self._reply(serial, message, deadline)[0]
            return self._wait(lambda: results.get(job), deadline, f"the job of {unit}")
        finally:
            with self._condition:
                self._jobs.pop(unit, None)
            if self._lost is None:
                self._send([_no_reply(_match("RemoveMatch", unit))])

    def _reply(self, serial: int, message: Message, deadline: float) -> tuple[Any, ...]:
        from jeepney import HeaderFields, MessageType

        member = message.header.fields[HeaderFields.member]
        try:
            reply = self._wait(lambda: self._replies[serial], deadline, f"an answer to {member}")
        finally:
            with self._condition:
                self._replies.pop(serial, None)
        if reply.header.message_type is not MessageType.error:
            return tuple(reply.body)
        name = reply.header.fields.get(HeaderFields.error_name, "")
        text = str(reply.body[0]) if reply.body else ""
        raise CallRefused(f"systemd does not do {member}", name, text, _remedy(name))

    def _send(self, messages: Sequence[Message]) -> list[int]:
        with self._sending:
            first = self._serial + 1
            self._serial += len(messages)
            serials = list(range(first, self._serial + 1))
            with self._condition:
                self._replies[serials[-1]] = None
            data = b"".join(m.serialise(serial=s) for m, s in zip(messages, serials, strict=True))
            try:
                while data:
                    data = data[os.write(self._fd, data):]
            except BaseException as error:  # Ctrl-C too: a part of a message may have been sent
                cause = os.strerror(error.errno or 0) if isinstance(error, OSError) else "interrupted"
                with self._condition:
                    self._lost = f"the bus did not take a message: {cause}"
                    self._replies.pop(serials[-1], None)
                    self._condition.notify_all()
                if isinstance(error, OSError):
                    raise ConnectionLost(self._lost, remedy=_RETRY) from error
                raise
            return serials

    def _wait(self, ready: Callable[[], T | None], deadline: float, what: str) -> T:
        with self._condition:
            while True:
                value = ready()
                if value is not None:
                    return value
                if self._lost is not None:
                    raise ConnectionLost(f"{self._lost}, while waiting for {what}", remedy=_RETRY)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise CgroupError(f"there is no {what.removeprefix('an ')} within {TIMEOUT:g} s",
                                      remedy="See `systemctl list-jobs` for what systemd is busy with")
                if self._reading:
                    self._condition.wait(left)
                else:
                    self._receive_some(left)

    def _receive_some(self, timeout: float) -> None:
        """Waits for data, and hands out what it makes. The condition is held, but not while it waits."""
        try:
            self._receive(timeout)
        except BaseException:  # Ctrl-C: a part of a message may be lost
            self._lost = "the connection was given up when its reader was interrupted"
            raise

    def _receive(self, timeout: float) -> None:
        self._reading = True
        data: bytes | None = None
        self._condition.release()
        try:
            if self._poll.poll(timeout * 1000):
                data = os.read(self._fd, 1 << 16)
        except OSError:
            data = b""
        finally:
            self._condition.acquire()
            self._reading = False
            self._condition.notify_all()
        if self._lost is not None:
            self.disown()
        elif data == b"":
            self._lost = "the bus has closed the connection"
        elif data:
            self._parser.add_data(data)
            while (message := self._parser.get_next_message()) is not None:
                self._take(message)

    def _take(self, message: Message) -> None:
        from jeepney import HeaderFields

        fields = message.header.fields
        serial = fields.get(HeaderFields.reply_serial)
        if serial in self._replies:
            self._replies[serial] = message
        elif fields.get(HeaderFields.member) == "JobRemoved":
            _, job, unit, result = message.body
            if unit in self._jobs:
                self._jobs[unit][job] = result


_RETRY = "Try again: was the bus restarted?"

_buses: dict[str, Bus] = {}


def _after_fork() -> None:
    for bus in _buses.values():
        bus.disown()


os.register_at_fork(after_in_child=_after_fork)


def _open(address: str) -> int:
    try:
        from jeepney.auth import AuthenticationError  # type: ignore[import-untyped]
        from jeepney.io.blocking import prep_socket  # type: ignore[import-untyped]
    except ImportError:
        raise NotSupported(
            "the systemd driver needs the package jeepney", remedy="Install it: pip install 'pycontain[systemd]'"
        ) from None
    try:
        connection: socket.socket = prep_socket(address, timeout=TIMEOUT)
    except (OSError, AuthenticationError) as error:
        cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise NotSupported(
            f"systemd cannot be reached at {address}: {cause}", remedy="Start the D-Bus daemon, or use driver cgroupfs"
        ) from error
    # A bus that takes nothing for that long hangs: a write then fails with EAGAIN.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(TIMEOUT), 0))
    return connection.detach()


def _method(member: str, signature: str, body: Sequence[Any], interface: str, path: str) -> Message:
    from jeepney import DBusAddress, new_method_call

    address = DBusAddress(path, bus_name=_SYSTEMD, interface=interface)
    return new_method_call(address, member, signature or None, tuple(body))


def _bus_method(member: str, *arguments: str) -> Message:
    from jeepney import DBusAddress, new_method_call

    address = DBusAddress("/org/freedesktop/DBus", bus_name="org.freedesktop.DBus", interface="org.freedesktop.DBus")
    return new_method_call(address, member, "s" * len(arguments) or None, arguments)


def _match(member: str, unit: str) -> Message:
    return _bus_method(
        member, f"type='signal',sender='{_SYSTEMD}',interface='{MANAGER}',member='JobRemoved',arg2='{unit}'"
    )


def _no_reply(message: Message) -> Message:
    from jeepney import MessageFlag

    message.header.flags |= MessageFlag.no_reply_expected
    return message


def _remedy(name: str) -> str | None:
    if name.endswith(("AccessDenied", "InteractiveAuthorizationRequired", "AuthFailed")):
        return "Run as root, or as a user with a systemd of its own (`loginctl enable-linger`)"
    if name.endswith(("ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected")):
        return "Try again: the bus or systemd is being restarted"
    return None
