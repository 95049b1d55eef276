"""What a server wants to see, from its `WWW-Authenticate` headers (RFC 9110, 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import frozen

_LARGEST = 16 << 10  # characters of the header that are looked at
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SEPARATOR = re.compile(r"[ \t,]*")
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t,]|\Z)")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


@frozen
class Challenge:
    """One way to authenticate. Scheme and names are in lower case; of a name given twice the first value counts."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.parameters if key == name), None)


def parse_challenges(header: str | None) -> tuple[Challenge, ...]:
    """The challenges of all `WWW-Authenticate` headers, joined by commas. What cannot be read ends the list."""
    return tuple(_challenges((header or "")[:_LARGEST]))


def _challenges(header: str) -> Iterator[Challenge]:
    position = _end(_SEPARATOR, header, 0)
    while scheme := _SCHEME.match(header, position):
        position = scheme.end()
        parameters: list[tuple[str, str]] = []
        if token68 := _TOKEN68.match(header, position):
            # `Negotiate abc==`: nothing that is used here. A scheme without parameters before a comma is none of these.
            position = token68.end()
        else:
            position = _end(_SEPARATOR, header, position)
            while parameter := _PARAMETER.match(header, position):
                name, token, quoted = parameter.groups()
                parameters.append((name.lower(), token if token is not None else _QUOTED_PAIR.sub(r"\1", quoted)))
                position = _end(_SEPARATOR, header, parameter.end())
        yield Challenge(scheme[1].lower(), tuple(parameters))
        position = _end(_SEPARATOR, header, position)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()
