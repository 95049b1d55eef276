"""The `Authorization` header for one registry: a password, or tokens of a token server, kept until they expire.

https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from attrs import frozen

from pycontain.errors import AuthenticationFailed, RegistryError
from pycontain.registry.challenge import Challenge, parse_challenges
from pycontain.registry.credentials import Credentials
from pycontain.registry.failure import failure
from pycontain.registry.origin import Origin
from pycontain.registry.retry import Attempts, Patience, parse_retry_after
from pycontain.registry.transport import Response, Transport, Unreachable

_LARGEST_TOKEN = 1 << 20  # bytes of a token server's answer
_SHORTEST_LIFE = 60  # seconds; what the specification gives a token that does not say
_MARGIN = 10  # seconds before its end after which a token is not used any more
_TOKEN = re.compile(r"[\x21-\x7e]+")
TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})  # statuses with which a server asks to be tried again

Scopes = tuple[str, ...]


def pull_scope(repository: str) -> str:
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    return f"repository:{repository}:pull,push"


@frozen
class _Token:
    header: str
    expires: float  # of time.monotonic()


class Authorizer:
    """Answers the challenges of one registry. Many threads may use it: one of them asks for a token, others wait.

    Nothing is sent before the registry asks, and credentials are not even looked for (a helper may be slow).
    """

    def __init__(
        self, origin: Origin, transport: Transport, find: Callable[[], Credentials | None], patience: Patience
    ) -> None:
        self._origin = origin
        self._transport = transport
        self._find = find
        self._patience = patience
        self._lock = threading.Lock()
        self._found: tuple[Credentials | None] | None = None
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}

    def header(self, scopes: Scopes) -> str | None:
        """What to send with a request that needs `scopes`; None as long as the registry has not asked for anything."""
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self._basic()
            token = self._tokens.get(scopes)
            if token is None or token.expires <= time.monotonic():
                token = self._tokens[scopes] = self._fetch_token(self._challenge, scopes)
            return token.header

    def challenged(self, response: Response, scopes: Scopes, sent: str | None) -> None:
        """Takes in that `response` has the status 401 although `sent` was with the request, and closes it.

        Raises `AuthenticationFailed` when nothing else can be sent.
        """
        offered = parse_challenges(response.headers.get("WWW-Authenticate"))
        challenges = {challenge.scheme: challenge for challenge in reversed(offered)}
        challenge = challenges.get("bearer") or challenges.get("basic")
        if challenge is None:
            raise failure(response, "authentication")
        with response, self._lock:
            if challenge.scheme == "basic":
                if self._basic() == sent:
                    raise failure(response, "authentication")  # asking twice might lock the account
            elif (token := self._tokens.get(scopes)) is not None and token.header == sent:
                del self._tokens[scopes]  # otherwise another thread has replaced it meanwhile
            self._challenge = challenge

    def _credentials(self) -> Credentials | None:
        if self._found is None:
            self._found = (self._find(),)
        return self._found[0]

    def _basic(self) -> str:
        credentials = self._credentials()
        if credentials is None or not credentials.username:
            raise AuthenticationFailed(
                f"{self._origin} asks for a user and a password", status=401,
                remedy="Give credentials, or put them into ~/.docker/config.json (`docker login` does)",
            )
        return credentials.basic

    def _fetch_token(self, challenge: Challenge, scopes: Scopes) -> _Token:
        realm = challenge.get("realm") or ""
        self._check_realm(realm)
        credentials = self._credentials()
        fields = [("service", service)] if (service := challenge.get("service")) else []
        headers: dict[str, str] = {}
        method, url, body = "GET", realm, None
        if credentials is not None and credentials.identity_token:
            fields += [("client_id", "pycontain"), ("grant_type", "refresh_token"), ("scope", " ".join(scopes))]
            body = urlencode([*fields, ("refresh_token", credentials.identity_token)]).encode()
            method, headers["Content-Type"] = "POST", "application/x-www-form-urlencoded"
        else:
            if credentials is not None:
                headers["Authorization"] = credentials.basic
                fields.append(("account", credentials.username))
            fields += [("scope", scope) for scope in scopes]
            url += ("&" if "?" in realm else "?") + urlencode(fields)
        return self._read_token(self._ask(method, url, headers, body), realm)

    def _check_realm(self, realm: str) -> None:
        """A token server gets the password: over TLS, or where plain http leads to the registry itself anyway."""
        target = Origin.of(realm)
        if target.scheme == "https":
            return
        same = target.host == self._origin.host or (target.is_loopback and self._origin.is_loopback)
        if self._origin.scheme != "http" or not same:
            raise RegistryError(f"{self._origin} wants credentials to be sent to {target}, which is not encrypted")

    def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """The body of the token server's answer. Redirects are not followed: they would carry the credentials along."""
        attempts = Attempts(self._patience)
        while True:  # attempts.failed() raises in the end
            try:
                with self._transport.send(method, url, headers, body) as response:
                    if response.status == 200:
                        return response.read(_LARGEST_TOKEN)
                    error = failure(response, "a token for the registry")
                    if response.status not in TEMPORARY:
                        raise error
                    retry_after = parse_retry_after(response.headers.get("Retry-After"))
            except Unreachable as unreachable:
                error, retry_after = unreachable, None
            attempts.failed(error, retry_after)

    def _read_token(self, data: bytes, realm: str) -> _Token:
        try:
            answer = json.loads(data)
            token = answer.get("token") or answer.get("access_token")
            life = int(answer.get("expires_in") or _SHORTEST_LIFE)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            raise AuthenticationFailed(f"the answer of the token server {Origin.of(realm)} cannot be read") from None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise AuthenticationFailed(f"the token server {Origin.of(realm)} gave no token")
        return _Token(f"Bearer {token}", time.monotonic() + max(life, _SHORTEST_LIFE) - _MARGIN)
