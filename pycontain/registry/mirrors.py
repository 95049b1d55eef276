"""Mirrors of registries, from the environment."""

from __future__ import annotations

import os

from pycontain.errors import InvalidArgument, RegistryError
from pycontain.registry.origin import Origin

VARIABLE = "PYCONTAIN_MIRRORS"


def configured_mirrors(registry: str) -> tuple[str, ...]:
    """The mirrors of `registry` in the environment variable `PYCONTAIN_MIRRORS`, the one to be asked first in front.

    The variable has words separated by spaces, `REGISTRY=URL[,URL...]`, for instance
    `docker.io=https://mirror.example.org,http://127.0.0.1:5000`. A URL is a scheme, a host and perhaps a port; plain
    http is used where it says so. Raises `InvalidArgument` for anything else.
    """
    mirrors: list[str] = []
    for word in os.environ.get(VARIABLE, "").split():
        name, equals, urls = word.partition("=")
        if not (name and equals and urls):
            raise InvalidArgument(f"{VARIABLE}: {word!r} is not REGISTRY=URL[,URL...]")
        if name == registry:
            mirrors += urls.split(",")
    return tuple(mirrors)


def mirror_origin(url: str) -> Origin:
    """Raises `InvalidArgument` when it is not the URL of a mirror."""
    try:
        origin = Origin.of(url)
    except RegistryError:
        origin = None
    if origin is None or url.removesuffix("/").count("/") != 2 or "?" in url:
        raise InvalidArgument(
            f"{url!r} is not the URL of a mirror", remedy="Write a scheme and a host: https://mirror.example.org"
        )
    return origin
