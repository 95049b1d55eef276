"""Which manifest of an index is for a machine, by the rules of containerd and docker.

See https://pkg.go.dev/github.com/containerd/platforms for the names and the order.
"""

from __future__ import annotations

import os
import re

from pycontain.errors import ImageNotFound, InvalidArgument
from pycontain.spec import media_types
from pycontain.spec.image import Descriptor, Index, Platform

# The names of architectures and variants elsewhere (uname, Debian), and those of Go, which images use.
_ARCHITECTURES = {
    "x86_64": ("amd64", None), "x86-64": ("amd64", None), "aarch64": ("arm64", None), "i386": ("386", None),
    "i486": ("386", None), "i586": ("386", None), "i686": ("386", None), "armhf": ("arm", "v7"), "armel": ("arm", "v6"),
    "armv8l": ("arm", "v8"), "armv7l": ("arm", "v7"), "armv7": ("arm", "v7"), "armv6l": ("arm", "v6"),
    "armv6": ("arm", "v6"), "armv5l": ("arm", "v5"), "armv5tel": ("arm", "v5"), "ppc64el": ("ppc64le", None),
    "loongarch64": ("loong64", None), "mips64el": ("mips64le", None),
}
# What is meant when no variant is given, and not written.
_BASE_VARIANT = {"amd64": "v1", "arm64": "v8"}
_VARIANT = re.compile(r"v?([0-9]{1,3}(?:\.[0-9]{1,3})?)")
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KNOWN = frozenset({
    "amd64", "386", "arm", "arm64", "ppc64", "ppc64le", "s390x", "riscv64", "loong64", "mips", "mipsle", "mips64",
    "mips64le",
})


def host_platform() -> Platform:
    """The platform of this machine."""
    return normalise(Platform(os.uname().machine, "linux"))


def parse_platform(text: str) -> Platform:
    """`linux/arm64/v8`, `linux/arm64`, `arm64`, also with the names of uname: `linux/x86_64`.

    Raises `InvalidArgument`.
    """
    parts = text.split("/")
    if len(parts) > 3 or not all(_WORD.fullmatch(part) for part in parts):
        raise InvalidArgument(f"{text!r} is not a platform", remedy="Write for instance linux/arm64/v8")
    if len(parts) == 1:
        found = normalise(Platform(parts[0], "linux"))
        if found.architecture not in _KNOWN:
            raise InvalidArgument(f"{text!r} is not the name of an architecture that is known here")
        return found
    return normalise(Platform(parts[1], parts[0], variant=parts[2] if len(parts) == 3 else None))


def format_platform(platform: Platform) -> str:
    """`linux/arm/v7`."""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def normalise(platform: Platform) -> Platform:
    """With the names of Go in lower case, and with a variant only where it says something."""
    system, name = platform.os.lower(), platform.architecture.lower()
    architecture, implied = _ARCHITECTURES.get(name, (name, None))
    variant = (platform.variant or implied or "").lower()
    if match := _VARIANT.fullmatch(variant):
        variant = f"v{match[1]}"
    if architecture == "arm" and not variant:
        variant = "v7"
    if variant == _BASE_VARIANT.get(architecture):
        variant = ""
    return Platform(architecture, system, variant=variant or None)


def compatible(platform: Platform) -> tuple[Platform, ...]:
    """What a machine of `platform` can run, the best first: older variants, and the 32-bit architecture below it."""
    platform = normalise(platform)
    system, architecture, variant = platform.os, platform.architecture, platform.variant
    if architecture == "amd64":
        own = [Platform("amd64", system, variant=v) for v in _downwards(variant, 1)]
        return (*own, Platform("amd64", system), Platform("386", system))
    if architecture == "arm64":
        own = [Platform("arm64", system, variant=v) for v in _downwards(variant, 8)]
        return (*own, Platform("arm64", system), *compatible(Platform("arm", system, variant="v8")))
    if architecture == "arm":
        return tuple(Platform("arm", system, variant=v) for v in _downwards(variant, 4)) or (platform,)
    return (platform,)


def select(index: Index, platform: Platform, what: str) -> Descriptor:
    """The descriptor in `index` that suits `platform` best; the first of several equal ones.

    Entries that name no platform are taken only where none of the others suits; the image's configuration then says
    what it is for. What is no image is left out. Raises `ImageNotFound`: `what` names the index in the message, which
    lists the platforms there are.
    """
    images = [d for d in index.manifests if media_types.is_manifest(d.media_type) or media_types.is_index(d.media_type)]
    wanted = {candidate: rank for rank, candidate in enumerate(compatible(platform))}
    best: tuple[int, Descriptor] | None = None
    for entry in images:
        rank = len(wanted) if entry.platform is None else wanted.get(normalise(entry.platform))
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, entry)
    if best is None:
        there = sorted({format_platform(entry.platform) for entry in images if entry.platform is not None})
        remedy = f"It has {', '.join(there[:20])}" if there else None
        raise ImageNotFound(f"{what} has no image for {format_platform(platform)}", remedy=remedy)
    return best[1]


def _downwards(variant: str | None, last: int) -> list[str]:
    """`v3` down to the one after `last`; a variant with a minor number, as v8.2, only itself."""
    if variant is None:
        return []
    if not variant[1:].isdigit():
        return [variant]
    return [f"v{number}" for number in range(int(variant[1:]), last, -1)]
