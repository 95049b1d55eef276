"""A server in front of a registry that passes requests on, and does something wrong with those that it is told to."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message

from attrs import define, field, frozen
from registries import Handler, http_server


@frozen
class Seen:
    """A request as it came."""

    method: str
    url: str
    path: str
    headers: Message
    body_size: int


@frozen
class Answer:
    """What the registry answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Exchange:
    """One request at the proxy, for the faults: they answer it, or let the registry do so."""

    def __init__(self, handler: Handler, upstream: str) -> None:
        self.handler = handler
        self.method = handler.command
        self.url = handler.path  # absolute, where this is a proxy to the client too
        self.path = re.sub(r"^http://[^/]*", "", handler.path)
        self.headers = dict(handler.headers.items())
        self._upstream = upstream
        self.body = handler.read_body()

    def ask(self, without: str = "") -> Answer:
        """The registry's answer; `without` names a header that is not passed on to it."""
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != without.lower()}
            connection.request(self.method, self.path, self.body or None, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def ask_in_part(self, size: int) -> None:
        """Sends only the first `size` bytes of the body, and hangs up at the registry."""
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            connection.request(self.method, self.path, self.body[:size], self.headers)
        finally:
            connection.close()

    def reply(self, answer: Answer, *, first: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Passes an answer on: with other headers, or only the `first` bytes of its body, after which it hangs up."""
        handler = self.handler
        handler.send_response(answer.status)
        for name, value in {**answer.headers, **(headers or {})}.items():
            if name.lower() not in ("date", "transfer-encoding", "connection"):
                handler.send_header(name, value)
        handler.end_headers()
        if self.method != "HEAD":
            handler.wfile.write(answer.body if first is None else answer.body[:first])
        if first is not None:
            self.hang_up()

    def hang_up(self) -> None:
        self.handler.close_connection = True

    def wait_for_the_client_to_go(self) -> None:
        self.handler.connection.settimeout(60)
        self.handler.connection.recv(1)
        self.hang_up()


Fault = Callable[[Exchange], None]


@define
class FaultyProxy:
    """`requests` is what has come; `expect` says what to do wrong next."""

    host: str = ""
    requests: list[Seen] = field(factory=list)
    _faults: list[tuple[str, Fault]] = field(factory=list)

    def expect(self, pattern: str, *faults: Fault) -> None:
        """The next requests whose `METHOD path` holds the regular expression `pattern` meet one fault each."""
        self._faults += [(pattern, fault) for fault in faults]

    @property
    def left(self) -> int:
        """How many faults have not happened."""
        return len(self._faults)

    def paths(self, method: str) -> list[str]:
        return [seen.path for seen in self.requests if seen.method == method]

    def ranges(self) -> list[str | None]:
        """The `Range` of each request for a blob."""
        return [seen.headers.get("Range") for seen in self.requests if seen.method == "GET" and "/blobs/" in seen.path]

    def take(self, exchange: Exchange) -> Fault | None:
        headers = exchange.handler.headers
        self.requests.append(Seen(exchange.method, exchange.url, exchange.path, headers, len(exchange.body)))
        for index, (pattern, fault) in enumerate(self._faults):
            if re.search(pattern, f"{exchange.method} {exchange.path}"):
                del self._faults[index]
                return fault
        return None


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """A proxy in front of the registry `upstream`; without faults nobody notices it."""
    proxy = FaultyProxy()

    class ProxyHandler(Handler):
        def handle_one(self) -> None:
            exchange = Exchange(self, upstream)
            fault = proxy.take(exchange)
            if fault is None:
                exchange.reply(exchange.ask())
            else:
                fault(exchange)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815

    with http_server(ProxyHandler) as host:
        proxy.host = host
        yield proxy


# ---- faults

def cut_after(size: int) -> Fault:
    """The answer breaks off after `size` bytes of its body."""
    return lambda exchange: exchange.reply(exchange.ask(), first=size)


def cut_ignoring_range(size: int) -> Fault:
    """As a server that knows no ranges, whose answer breaks off too."""
    return lambda exchange: exchange.reply(exchange.ask(without="Range"), first=size)


def ignore_range(exchange: Exchange) -> None:
    exchange.reply(exchange.ask(without="Range"))


def corrupt(position: int) -> Fault:
    """One bit of the body is another."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.ask()
        body = bytearray(answer.body)
        body[position] ^= 1
        exchange.reply(Answer(answer.status, answer.headers, bytes(body)))

    return fault


def answer(status: int, body: bytes = b"", **headers: str) -> Fault:
    return lambda exchange: exchange.handler.answer(status, body, **headers)


def with_headers(**headers: str) -> Fault:
    """The registry's answer with some headers replaced."""
    replaced = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.reply(exchange.ask(), headers=replaced)


def redirect_to(origin: str, status: int = 307) -> Fault:
    return lambda exchange: exchange.handler.answer(status, Location=origin + exchange.path)


def hang_up(exchange: Exchange) -> None:
    exchange.hang_up()


def hang_up_afterwards(exchange: Exchange) -> None:
    """The registry does what it is asked for, and nobody hears of it."""
    exchange.ask()
    exchange.hang_up()


def hang_up_at(size: int) -> Fault:
    """Both sides lose the connection when the registry has `size` bytes of what is sent."""

    def fault(exchange: Exchange) -> None:
        exchange.ask_in_part(size)
        exchange.hang_up()

    return fault


def never_answer(exchange: Exchange) -> None:
    exchange.wait_for_the_client_to_go()


def drip(exchange: Exchange) -> None:
    """The head of an answer, and then a byte at a time, for as long as somebody listens (a minute at most)."""
    exchange.handler.send_response(200)
    exchange.handler.send_header("Content-Length", "100000")
    exchange.handler.end_headers()
    for _ in range(6000):
        exchange.handler.wfile.write(b" ")
        time.sleep(0.01)
    exchange.hang_up()


def endless(exchange: Exchange) -> None:
    """A manifest that does not end, until the client hangs up (or after 64 MiB, in a test that fails)."""
    exchange.handler.send_response(200)
    exchange.handler.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
    exchange.handler.end_headers()
    for _ in range(1024):
        exchange.handler.wfile.write(b" " * 65536)
    exchange.hang_up()
