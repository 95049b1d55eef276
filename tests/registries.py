"""Registries for the tests: Debian's docker-registry on a free port of this machine, and a proxy before it that fails
as networks and servers do."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from attrs import define, field, frozen

from pycontain.registry.credentials import Credentials

_PATIENCE = 60.0  # seconds until the registry answers; a busy machine takes a while
_ATTEMPTS = 5  # at finding a port that nobody else takes meanwhile


class RegistryMissing(Exception):
    """No registry can be started here; the text is the reason with which the tests are skipped."""


@frozen
class RunningRegistry:
    """A registry and the directory with what it stores. `name` is that in references: `127.0.0.1:40000`."""

    name: str
    directory: Path


@contextmanager
def running_registry(user: Credentials | None = None) -> Iterator[RunningRegistry]:
    """An empty registry, which asks for `user` and its password if given. It is gone at the end, with its files.

    Raises `RegistryMissing`.
    """
    program = shutil.which("docker-registry")
    if program is None:
        raise RegistryMissing("there is no docker-registry (Debian: docker-registry)")
    with tempfile.TemporaryDirectory(prefix="pycontain-registry-") as name:
        directory = Path(name)
        for _ in range(_ATTEMPTS):
            port = _free_port()
            process = _start(program, directory, port, user)
            try:
                if _answers(process, port):
                    yield RunningRegistry(f"127.0.0.1:{port}", directory)
                    return
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        log = (directory / "log").read_text(errors="replace")[-2000:]
        raise AssertionError(f"docker-registry did not start in {_ATTEMPTS} attempts: {log}")


def _start(program: str, directory: Path, port: int, user: Credentials | None) -> subprocess.Popen[bytes]:
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n" + _authentication(directory, user)
    )
    # Nothing in the environment may configure it: it takes REGISTRY_* before its file.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    with open(directory / "log", "wb") as log:
        return subprocess.Popen(
            [program, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )


def _authentication(directory: Path, user: Credentials | None) -> str:
    if user is None:
        return ""
    program = shutil.which("htpasswd")
    if program is None:
        raise RegistryMissing("there is no htpasswd (Debian: apache2-utils)")
    line = subprocess.run(
        [program, "-niBC4", user.username], input=user.password.encode(), stdout=subprocess.PIPE, check=True
    ).stdout
    (directory / "htpasswd").write_bytes(line)
    return f"auth: {{htpasswd: {{realm: tests, path: {directory}/htpasswd}}}}\n"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it comes to an answer; False when it has ended, since another program took the port."""
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().getheader("Docker-Distribution-Api-Version"):
                return process.poll() is None
        except (OSError, http.client.HTTPException):
            time.sleep(0.02)
        finally:
            connection.close()
    return False


# ---- a proxy that fails


@frozen
class Asked:
    """A request that the proxy has seen. The names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@define
class Answer:
    """What the registry answered, for a test to change before it is passed on. `cut` is after how many bytes of the
    body the connection breaks."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    cut: int | None = None

    def header(self, name: str, value: str) -> None:
        """Sets a header in place of those of this name."""
        self.headers = [*((key, old) for key, old in self.headers if key.lower() != name.lower()), (name, value)]


Change = Callable[[Asked, Answer], None]


@define
class Proxy:
    """A running proxy. `change` is called with each request and its answer; `asked` has all requests, in order."""

    name: str
    change: Change
    asked: list[Asked] = field(factory=list)

    def blobs(self) -> list[Asked]:
        """The requests for the content of blobs."""
        return [asked for asked in self.asked if asked.method == "GET" and "/blobs/sha256:" in asked.path]


@contextmanager
def proxy(registry: str, change: Change) -> Iterator[Proxy]:
    """A proxy on another port of this machine: passes requests to `registry`, and answers as `change` leaves them."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.registry = registry
    server.proxy = Proxy(f"127.0.0.1:{server.server_address[1]}", change)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    registry: str
    proxy: Proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # one request on each connection: none is left open when the test ends
    timeout = 30
    server: _Server

    def _pass_on(self) -> None:
        asked = Asked(self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
        self.server.proxy.asked.append(asked)
        body = self.rfile.read(int(asked.headers.get("content-length", 0)))
        answer = self._ask(body)
        self.server.proxy.change(asked, answer)
        self.send_response_only(answer.status)
        for key, value in answer.headers:
            if key.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(key, value)
        length = dict(answer.headers).get("Content-Length", "0") if asked.method == "HEAD" else str(len(answer.body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if asked.method != "HEAD":
            self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815 - the names are http.server's

    def _ask(self, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self.server.registry, timeout=30)
        try:
            # The client's Host goes along, so that the registry's URLs for uploads lead through this proxy.
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            pass  # a client that has seen enough

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        pass
