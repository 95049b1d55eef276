"""Where a URL leads: scheme, host and port together, which is what credentials belong to."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from attrs import frozen

from pycontain.errors import RegistryError

_PORTS = {"http": 80, "https": 443}
# Strict, so that no two parsers can read it differently: no user, no backslash, nothing outside of ASCII.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<rest>[/?][\x21-\x7e]*)?",
    re.IGNORECASE,
)
_IPV4_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}")


@frozen
class Origin:
    """A server: `Origin.of("https://example.org/v2/")` has the port 443. IPv6 addresses keep their brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Raises `RegistryError` for what is no http or https URL, names a user, or has characters that URLs lack."""
        match = _URL.fullmatch(url)
        if match is None:
            raise RegistryError(f"{url[:200]!r} is not a URL that can be used")
        scheme = match["scheme"].lower()
        return cls(scheme, match["host"].lower(), int(match["port"] or _PORTS[scheme]))

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine: what is sent there in plain http is seen by nobody else."""
        return self.host in ("localhost", "[::1]") or _IPV4_LOOPBACK.fullmatch(self.host) is not None

    def __str__(self) -> str:
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def resolve_location(base: str, location: str) -> str:
    """The URL that a `Location` header names in the answer of `base`.

    Raises `RegistryError` when it is none, or leads from https to http: what is encrypted stays encrypted. From plain
    http, which was asked for or is on this machine, plain http leads on to the same host or to this machine only.
    """
    try:
        url = urljoin(base, location)
    except ValueError:  # brackets without an address
        url = location
    start, target = Origin.of(base), Origin.of(url)
    if target.scheme == "http" and (start.scheme == "https" or not (target.is_loopback or target.host == start.host)):
        remedy = "A proxy in front of the registry has to pass X-Forwarded-Proto" if target.host == start.host else None
        raise RegistryError(f"{start} leads to {target}, which is not encrypted", remedy=remedy)
    return url
