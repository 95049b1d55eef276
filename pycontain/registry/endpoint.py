"""One server that holds repositories: a request to it with authentication, redirects and further attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pycontain.errors import RegistryError
from pycontain.registry.auth import TEMPORARY, Authorizer, Scopes
from pycontain.registry.credentials import Credentials
from pycontain.registry.failure import failure
from pycontain.registry.origin import Origin, resolve_location
from pycontain.registry.retry import Attempts, Patience, parse_retry_after
from pycontain.registry.transport import Body, Response, Transport, Unreachable

_REDIRECTS = 5
_FOLLOWED = frozenset({301, 302, 303, 307, 308})
_NO_HEADERS: Mapping[str, str] = {}


class Interrupted(Exception):
    """Why a request that is made only once has to be made again: `error`, and how long the server wants to be left."""

    def __init__(self, error: RegistryError, retry_after: float | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


class Endpoint:
    """A registry or a mirror of one. Credentials are for exactly this scheme, host and port."""

    def __init__(
        self, origin: Origin, transport: Transport, find: Callable[[], Credentials | None], patience: Patience
    ) -> None:
        self.origin = origin
        self.patience = patience
        self._transport = transport
        self._authorizer = Authorizer(origin, transport, find, patience)

    def url(self, path: str) -> str:
        """`path` begins after `/v2/`."""
        return f"{self.origin}/v2/{path}"

    def request(
        self, method: str, url: str, scopes: Scopes, what: str, *, headers: Mapping[str, str] = _NO_HEADERS,
        body: Body = None, accept: tuple[int, ...] = (), once: bool = False, silence: float | None = None,
        attempts: Attempts | None = None,
    ) -> Response:
        """Makes a request until there is an answer that counts: success, or a status in `accept`.

        `what` says in errors what was tried. `once` is for bodies that can be sent only once: `Interrupted` is raised
        instead of another attempt, and the registry must have been asked for something in these scopes before.
        `attempts` are counted together with those of the caller.

        Raises `AuthenticationFailed` or another `RegistryError`: `Unreachable` without an answer.
        """
        attempts = attempts or Attempts(self.patience)
        challenges = 0
        while True:  # attempts.failed() raises in the end, and a challenge is answered once
            retry_after = None
            try:
                sent = self._authorizer.header(scopes)
                response = self._follow(method, url, headers, body, sent, silence)
            except Unreachable as unreachable:
                error: RegistryError = unreachable
            else:
                if response.status < 300 or response.status in accept:
                    return response
                if response.status == 401 and response.origin == self.origin and not challenges and not once:
                    challenges += 1
                    self._authorizer.challenged(response, scopes, sent)
                    continue
                error = failure(response, what)
                if response.status not in TEMPORARY:
                    raise error
                retry_after = parse_retry_after(response.headers.get("Retry-After"))
            if once:
                raise Interrupted(error, retry_after)
            attempts.failed(error, retry_after)

    def document(
        self, url: str, scopes: Scopes, what: str, limit: int, headers: Mapping[str, str] = _NO_HEADERS
    ) -> tuple[Response, bytes]:
        """An answer whose body is read whole, at most `limit` bytes. Raises `InvalidImage` when there are more."""
        attempts = Attempts(self.patience)
        while True:  # attempts.failed() raises in the end
            try:
                with self.request("GET", url, scopes, what, headers=headers, attempts=attempts) as response:
                    return response, response.read(limit)
            except Unreachable as error:
                attempts.failed(error)

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: Body, authorization: str | None,
        silence: float | None,
    ) -> Response:
        """One request, and what its answer redirects to. Only reading is redirected: no registry does so with writing.

        The credentials stay here: once the way has led to another server they are not sent any more, not even to this
        one again.
        """
        here = True
        for _ in range(_REDIRECTS + 1):
            here = here and Origin.of(url) == self.origin
            mine = {"Authorization": authorization} if here and authorization is not None else {}
            response = self._transport.send(method, url, {**headers, **mine}, body, silence)
            location = response.headers.get("Location")
            if response.status not in _FOLLOWED or method not in ("GET", "HEAD") or not location:
                return response
            response.close()
            url = resolve_location(url, location)
        raise RegistryError(f"{self.origin} redirects more than {_REDIRECTS} times")
