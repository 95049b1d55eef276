"""Real registries on loopback, as context managers: Debian's docker-registry, and a token server for it.

They listen on ports that the kernel chooses, keep what they store in a temporary directory, and end with their block.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from attrs import define, field, frozen

from pycontain.content.digest import Digest
from pycontain.registry.client import Registry
from pycontain.registry.reference import Reference
from pycontain.spec.image import Descriptor, Manifest, encode
from pycontain.spec.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST

PROGRAM = "docker-registry"
USER, PASSWORD = "alice", "wonder:land é"
IDENTITY_TOKEN = "identity-of-alice"
_HTPASSWD = "alice:$2b$04$B/TfD1LJiKIZb9S.fz3Mn.fKzrWQ14UFwAcQtIBBFwXbeBTl0jAWS\n"  # bcrypt of PASSWORD
_STARTUP = 60.0  # seconds


@frozen
class Server:
    """A running registry. `host` is what references to it begin with: `127.0.0.1:PORT`."""

    host: str
    data: Path


@contextmanager
def docker_registry(
    *, password: bool = False, certificate: Certificate | None = None, tokens: TokenServer | None = None
) -> Iterator[Server]:
    """Debian's docker-registry: open to all, with the user `USER`, with TLS, or with a token server.

    Skips the test where the package is not installed."""
    if shutil.which(PROGRAM) is None:
        pytest.skip("needs docker-registry (Debian: docker-registry)")
    with tempfile.TemporaryDirectory(prefix="pycontain-registry-") as name:
        directory = Path(name)
        config = directory / "config.json"  # JSON is YAML
        config.write_text(json.dumps(_configuration(directory, password, certificate, tokens)))
        process = subprocess.Popen(
            [PROGRAM, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]},  # REGISTRY_* would count more than the file
        )
        reader = threading.Thread(target=_drain, args=(process,))
        try:
            port = _port(process)
            reader.start()  # the registry would block when nobody reads its log
            yield Server(f"127.0.0.1:{port}", directory / "data")
        finally:
            process.kill()
            process.wait()
            if reader.ident is not None:
                reader.join()
            assert process.stderr is not None
            process.stderr.close()


def _configuration(
    directory: Path, password: bool, certificate: Certificate | None, tokens: TokenServer | None
) -> dict[str, object]:
    http: dict[str, object] = {"addr": "127.0.0.1:0"}
    config: dict[str, object] = {
        "version": 0.1, "log": {"level": "info", "accesslog": {"disabled": True}}, "http": http,
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
    }
    if certificate is not None:
        http["tls"] = {"certificate": certificate.path, "key": certificate.key}
    if password:
        (directory / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "a realm, with a comma", "path": str(directory / "htpasswd")}}
    if tokens is not None:
        config["auth"] = {"token": {
            "realm": tokens.realm, "service": tokens.service, "issuer": tokens.issuer,
            "rootcertbundle": tokens.certificate.path,
        }}
    return config


def _port(process: subprocess.Popen[bytes]) -> int:
    """The port on which the registry says that it listens."""
    assert process.stderr is not None
    log, deadline = b"", time.monotonic() + _STARTUP
    while time.monotonic() < deadline:
        if select.select([process.stderr], [], [], 0.5)[0]:
            data = os.read(process.stderr.fileno(), 65536)
            log += data
            if match := re.search(rb"listening on [^\s\"]*:(\d+)", log):
                return int(match[1])
            if not data:
                break
    raise AssertionError(f"{PROGRAM} did not start: {log.decode(errors='replace')}")


def _drain(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    while os.read(process.stderr.fileno(), 65536):
        pass


# ---- certificates

@frozen
class Certificate:
    """A certificate that signs itself, for 127.0.0.1 and localhost, and the file of its key."""

    path: str
    key: str

    @classmethod
    def make(cls, directory: Path, name: str) -> Certificate:
        """By openssl. Skips the test where it is not installed."""
        if shutil.which("openssl") is None:
            pytest.skip("needs openssl (Debian: openssl)")
        made = cls(str(directory / f"{name}.pem"), str(directory / f"{name}.key"))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
             "-keyout", made.key, "-out", made.path, "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
             "-addext", "keyUsage=critical,digitalSignature,keyCertSign", "-addext", "extendedKeyUsage=serverAuth"],
            check=True, capture_output=True,
        )
        return made

    @property
    def der(self) -> str:
        """The certificate in base64, as the `x5c` field of a token has it."""
        with open(self.path) as file:
            return "".join(line.strip() for line in file if not line.startswith("-----"))

    def sign(self, data: bytes) -> bytes:
        """RS256."""
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key], input=data, check=True, capture_output=True
        )
        return done.stdout


# ---- HTTP servers of the tests

class Handler(BaseHTTPRequestHandler):
    """Silent, keeps connections, and can answer in one call."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *args: object) -> None:
        """Nothing: what the tests need to know is recorded by the servers."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read_body(self) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionError("the client went away")
        return body


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: that clients go away in the middle is what many tests are about."""


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves by threads of this process; gives `127.0.0.1:PORT`."""
    with _Quiet(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


# ---- tokens

@define
class TokenServer:
    """A token server as docker's protocol has it. Everybody may pull from `public/...`, `USER` may do everything.

    Attributes:
        requests: who asked for each token that was given ("" for nobody), and for which scopes.
        life: seconds that tokens are said to live; they do live for an hour.
        refused: how many of the next tokens the registry will not accept.
    """

    certificate: Certificate
    host: str = ""
    service: str = "the registry"
    issuer: str = "the issuer"
    life: int = 300
    refused: int = 0
    requests: list[tuple[str, tuple[str, ...]]] = field(factory=list)

    @property
    def realm(self) -> str:
        return f"http://{self.host}/token?kind=test"

    def token(self, user: str, scopes: tuple[str, ...]) -> str:
        access = [grant for scope in scopes if (grant := _grant(user, scope))]
        now = int(time.time())
        audience = self.service
        if self.refused:
            self.refused, audience = self.refused - 1, "another service"
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self.certificate.der]}
        claims = {
            "iss": self.issuer, "sub": user, "aud": audience, "exp": now + 3600, "nbf": now - 60, "iat": now - 60,
            "jti": str(len(self.requests)), "access": access,
        }
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{_base64url(self.certificate.sign(signed.encode()))}"


def _grant(user: str, scope: str) -> dict[str, object] | None:
    kind, name, actions = scope.split(":")
    allowed = {"pull", "push"} if user else {"pull"} if name.startswith("public/") else set()
    granted = [action for action in actions.split(",") if action in allowed]
    return {"type": kind, "name": name, "actions": granted} if granted else None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@contextmanager
def token_server(certificate: Certificate) -> Iterator[TokenServer]:
    server = TokenServer(certificate)

    class TokenHandler(Handler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            given = self.headers.get("Authorization")
            if given not in (None, expected) or query.get("service") != [server.service]:
                self.answer(401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}')
            else:
                self._give(USER if given else "", tuple(query.get("scope", ())), "token")

        def do_POST(self) -> None:
            form = parse_qs(self.read_body().decode())
            if form.get("refresh_token") != [IDENTITY_TOKEN] or form.get("grant_type") != ["refresh_token"]:
                self.answer(401)
            else:
                self._give(USER, tuple(form["scope"][0].split()), "access_token")

        def _give(self, user: str, scopes: tuple[str, ...], name: str) -> None:
            server.requests.append((user, scopes))
            token = server.token(user, scopes)
            self.answer(200, json.dumps({name: token, "expires_in": server.life}).encode())

    with http_server(TokenHandler) as host:
        server.host = host
        yield server


# ---- what is stored there

def blob(size: int, seed: int = 0) -> tuple[Descriptor, bytes]:
    """A layer of random bytes, which are the same for the same seed."""
    data = random.Random(seed).randbytes(size)
    return described(data, OCI_LAYER_GZIP), data


def described(data: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type, str(Digest.of(data)), len(data))


def push_image(registry: Registry, name: str, *layers: tuple[Descriptor, bytes]) -> tuple[Descriptor, bytes]:
    """Stores an image as `REPOSITORY:TAG`; gives the descriptor and the bytes of its manifest."""
    reference = Reference.parse(f"{registry.host}/{name}")
    config = described(b"{}", OCI_CONFIG)
    for descriptor, data in ((config, b"{}"), *layers):
        registry.upload_blob(reference.repository, descriptor, io.BytesIO(data))
    manifest = encode(Manifest(config, tuple(descriptor for descriptor, _ in layers), media_type=OCI_MANIFEST))
    registry.put_manifest(reference, OCI_MANIFEST, manifest)
    return described(manifest, OCI_MANIFEST), manifest
