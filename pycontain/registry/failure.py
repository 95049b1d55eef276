"""What a registry says when it refuses, as an error of ours: nothing of it reaches a terminal unfiltered."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from pycontain.errors import AuthenticationFailed, RegistryError

if TYPE_CHECKING:
    from pycontain.registry.transport import Response

LARGEST_ERROR = 64 << 10  # bytes of an answer that are read for its message
_LOGIN = "Give credentials, or put them into ~/.docker/config.json (`docker login` does)"


def failure(response: Response, what: str) -> RegistryError:
    """The error that `response`, whose status says that it failed, describes; `what` was tried.

    The registry's errors are those of the OCI distribution specification, "Error Codes". Closes the response.
    """
    code, message = _parse(response)
    status = response.status
    said = ": ".join(part for part in (code, message) if part)
    text = f"{what}: {response.origin} answered {status} {_phrase(status)}" + (f" ({said})" if said else "")
    if status in (401, 403):
        return AuthenticationFailed(text, status=status, code=code, remedy=_LOGIN)
    remedy = None
    if status == 429:
        remedy = "The registry limits how often one may ask: wait, log in, or use a mirror"
    elif status == 400 and "HTTPS server" in message:
        remedy = "The registry speaks TLS: ask for it by plain_http=False"
    return RegistryError(text, status=status, code=code, remedy=remedy)


def clean(text: object, limit: int = 300) -> str:
    """Text of a server without control and formatting characters, and not too long to be read."""
    words = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * limit]).split()
    joined = " ".join(words)
    return joined if len(joined) <= limit else joined[:limit] + "..."


def _parse(response: Response) -> tuple[str | None, str]:
    """Code and message: of the first error in the JSON, else the beginning of a plain text."""
    try:
        body = response.read(LARGEST_ERROR, cut=True)
    except RegistryError:
        return None, ""
    finally:
        response.close()
    try:
        errors = json.loads(body)["errors"]
        code, message = errors[0].get("code"), errors[0].get("message")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        plain = response.headers.get("Content-Type", "text/plain").startswith("text/plain")
        return None, clean(body.decode("utf-8", "replace")) if plain else ""
    return clean(code, 60) if code else None, clean(message) if message else ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
