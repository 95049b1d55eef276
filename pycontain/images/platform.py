"""Which manifest of an index is for a machine. The names are those of Go, as the OCI image index has them."""

from __future__ import annotations

import os

from pycontain.errors import ImageNotFound, InvalidArgument
from pycontain.spec import media_types
from pycontain.spec.image import Descriptor, Index, Platform

# What uname(2) calls a machine.
_ARCHITECTURES = {
    "x86_64": ("amd64", None), "aarch64": ("arm64", None), "armv7l": ("arm", "v7"), "armv6l": ("arm", "v6"),
    "i686": ("386", None), "i386": ("386", None),
}
_BASE_VARIANT = {"amd64": "v1", "arm64": "v8"}  # what is meant where none is given


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _ARCHITECTURES.get(machine, (machine, None))
    return Platform(architecture, "linux", variant=variant)


def parse_platform(text: str) -> Platform:
    """`linux/arm64`, `linux/arm/v7`. Raises `InvalidArgument`."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(part.replace(".", "").isalnum() for part in parts):
        raise InvalidArgument(f"{text!r} is not a platform", remedy="Write it as linux/amd64 or linux/arm/v7")
    return Platform(parts[1], parts[0], variant=parts[2] if len(parts) == 3 else None)


def format_platform(platform: Platform) -> str:
    """`linux/arm/v7`."""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def select(index: Index, platform: Platform, what: str) -> Descriptor:
    """The descriptor for `platform` in `index`: the same variant first, then another; then one that names no platform.

    Raises `ImageNotFound`: `what` names the index in the message, which lists the platforms there are.
    """
    images = [d for d in index.manifests if media_types.is_manifest(d.media_type) or media_types.is_index(d.media_type)]
    for fits in (_is_same, _is_similar, _is_unknown):
        for descriptor in images:
            if fits(descriptor.platform, platform):
                return descriptor
    names = sorted({format_platform(d.platform) for d in images if d.platform is not None})
    raise ImageNotFound(f"{what} has no image for {format_platform(platform)}", remedy=f"It has {', '.join(names)}")


def _is_same(found: Platform | None, wanted: Platform) -> bool:
    return found is not None and _is_similar(found, wanted) and _variant(found) == _variant(wanted)


def _is_similar(found: Platform | None, wanted: Platform) -> bool:
    return found is not None and (found.os, found.architecture) == (wanted.os, wanted.architecture)


def _is_unknown(found: Platform | None, wanted: Platform) -> bool:
    return found is None


def _variant(platform: Platform) -> str | None:
    return platform.variant or _BASE_VARIANT.get(platform.architecture)
