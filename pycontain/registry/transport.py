"""HTTP by urllib3, one exchange at a time: pools of connections, TLS, proxies, and a limit on every wait.

Nothing here follows a redirect, tries again or knows about credentials: `endpoint` does.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as TimedOut

from pycontain.errors import InvalidArgument, InvalidImage, RegistryError
from pycontain.registry.failure import clean
from pycontain.registry.origin import Origin
from pycontain.registry.retry import Patience

PIECE = 512 << 10  # bytes of a body that are handed on at once
_BLOCK = 64 << 10  # bytes of a file that are sent at once
_HOSTS, _CONNECTIONS = 8, 32  # pools, and idle connections that each keeps
_CHEAPER_THAN_TO_CONNECT = 64 << 10  # bytes of a body that nobody wants

_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")  # OpenSSL's words for it

Body = bytes | Iterable[bytes] | None


class Unreachable(RegistryError):
    """No answer, or only a part of one: it makes sense to try again."""


class Response:
    """An answer whose body is still to be read. Leaving its block gives the connection back, or closes it."""

    def __init__(self, raw: urllib3.BaseHTTPResponse, url: str, patience: Patience) -> None:
        self._raw = raw
        self._patience = patience
        self.url = url
        self.origin = Origin.of(url)
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers

    def pieces(self, deadline: float | None = None) -> Iterator[bytes]:
        """The body as it is on the wire, in pieces of 512 KiB; the last one is shorter.

        Raises `Unreachable`, after what has come, when it ends too early, stalls, or is slower than allowed.
        """
        pace = _Pace(self._patience, deadline)
        parts: list[bytes] = []
        held = 0
        try:
            while data := self._read_some(PIECE - held, pace):
                parts.append(data)
                held += len(data)
                if held == PIECE:
                    yield b"".join(parts)
                    parts, held = [], 0
        except Unreachable:
            if parts:
                yield b"".join(parts)
            raise
        if parts:
            yield b"".join(parts)

    def read(self, limit: int, *, cut: bool = False) -> bytes:
        """The body. One of more than `limit` bytes raises `InvalidImage`, or is cut there. Raises `Unreachable`."""
        data = bytearray()
        for piece in self.pieces(time.monotonic() + self._patience.total):
            data += piece
            if len(data) > limit:
                if cut:
                    break
                raise InvalidImage(f"{self.origin} sends more than the {limit} bytes that are allowed")
        return bytes(data[:limit])

    def close(self) -> None:
        left = self._raw.length_remaining
        if left is not None and left <= _CHEAPER_THAN_TO_CONNECT:
            try:
                for _ in self.pieces(time.monotonic() + self._patience.connect):
                    pass
            except Unreachable:
                pass  # the connection is closed then
        self._raw.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_some(self, amount: int, pace: _Pace) -> bytes:
        started = time.monotonic()
        try:
            data = self._raw.read1(amount, decode_content=False)
        except (HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"the answer of {self.origin} broke off: {_reason(error)}") from error
        if not pace.allows(time.monotonic(), started, len(data or b"")):
            self._raw.close()
            raise Unreachable(f"the answer of {self.origin} comes too slowly")
        return data or b""


class _Pace:
    """Whether an answer gets on: silence alone would let one byte in each half minute go on for ever."""

    def __init__(self, patience: Patience, deadline: float | None) -> None:
        self._patience = patience
        self._deadline = deadline
        self._waited = 0.0  # only in reading: the consumer takes what time it likes
        self._got = 0

    def allows(self, now: float, started: float, size: int) -> bool:
        if self._deadline is not None and now > self._deadline:
            return False
        self._waited += now - started
        self._got += size
        if self._waited < self._patience.silence:
            return True
        fast_enough = self._got >= self._waited * self._patience.slowest
        self._waited, self._got = 0.0, 0
        return fast_enough


class Transport:
    """Connections to registries and what they lead to. Many threads may use it at once.

    `ca_file` holds certificates that are trusted besides the system's, which `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    Proxies are those of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`), but never for this machine.
    """

    def __init__(self, patience: Patience, ca_file: str | None = None) -> None:
        self._patience = patience
        self._ca_file = ca_file
        self._proxies = getproxies()
        self._managers: dict[tuple[str, str | None], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: Body = None, silence: float | None = None
    ) -> Response:
        """Makes one request and reads the head of the answer, whatever its status.

        Raises `Unreachable`; `RegistryError` where trying again cannot help, as for a certificate that nobody trusts.
        """
        origin = Origin.of(url)
        timeout = urllib3.Timeout(connect=self._patience.connect, read=silence or self._patience.silence)
        manager = self._manager(origin)
        try:
            raw = manager.urlopen(
                method, url, body=body, headers={"User-Agent": "pycontain", "Accept-Encoding": "identity", **headers},
                redirect=False, retries=False, preload_content=False, decode_content=False, timeout=timeout,
            )
        except (HTTPError, OSError, ValueError) as error:
            raise _unreachable(origin, error) from error
        return Response(raw, url, self._patience)

    def close(self) -> None:
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
        for manager in managers:
            # clear() only lets go of the pools, and the traceback of an error that somebody keeps would hold them.
            for key in manager.pools.keys():  # noqa: SIM118 - it has no iterator, for want of thread safety
                if (pool := manager.pools.get(key)) is not None:
                    pool.close()
            manager.clear()

    def _manager(self, origin: Origin) -> urllib3.PoolManager:
        proxy = None
        if not origin.is_loopback and not proxy_bypass(f"{origin.host}:{origin.port}"):
            proxy = self._proxies.get(origin.scheme) or self._proxies.get("all")
        with self._lock:
            key = (origin.scheme, proxy)
            if key not in self._managers:
                self._managers[key] = self._new_manager(origin.scheme, proxy)
            return self._managers[key]

    def _new_manager(self, scheme: str, proxy: str | None) -> urllib3.PoolManager:
        # The trusted certificates take tens of milliseconds to load, so plain http does without.
        context = self._tls() if scheme == "https" else None
        if proxy is None:
            return urllib3.PoolManager(_HOSTS, maxsize=_CONNECTIONS, blocksize=_BLOCK, ssl_context=context)
        address, headers = _proxy(proxy)
        return urllib3.ProxyManager(
            address, _HOSTS, proxy_headers=headers, proxy_ssl_context=context or self._tls(), maxsize=_CONNECTIONS,
            blocksize=_BLOCK, ssl_context=context,
        )

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._ca_file is not None:
            try:
                context.load_verify_locations(self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise InvalidArgument(f"ca_file={self._ca_file!r} cannot be used: {error}") from None
        return context


def _proxy(url: str) -> tuple[str, Mapping[str, str]]:
    """Address and headers of a proxy; the user in its URL becomes a header, which only the proxy gets."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument(f"a proxy of the kind {parts.scheme!r} is not supported", remedy="Use an http proxy")
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.username is None:
        return address, {}
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return address, urllib3.make_headers(proxy_basic_auth=user)


def _unreachable(origin: Origin, error: Exception) -> RegistryError:
    cause = _cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RegistryError(
            f"{origin} is not trusted: {clean(cause.verify_message)}",
            remedy="Give the certificate of its authority by ca_file=, or name it in SSL_CERT_FILE",
        )
    if isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
        return RegistryError(
            f"{origin} does not speak TLS", remedy="If plain http is what you want, ask for it by plain_http=True"
        )
    return Unreachable(f"{origin} cannot be reached: {_reason(error)}")


def _cause(error: BaseException) -> BaseException:
    """The innermost exception, which is the one of the operating system, TLS or HTTP."""
    for _ in range(8):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error


def _reason(error: Exception) -> str:
    if isinstance(error, TimedOut) and not isinstance(error, NewConnectionError):  # which is one to urllib3
        return "no answer in time"
    cause = _cause(error)
    return clean(getattr(cause, "strerror", None) or cause)
