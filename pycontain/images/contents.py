"""From the descriptor of an image to its documents: the manifest for a platform, and the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from pycontain.errors import ImageNotFound, InvalidImage
from pycontain.images.chain import chain_ids
from pycontain.spec import media_types
from pycontain.spec.image import Descriptor, ImageConfig, Index, Manifest, Platform, decode, decode_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_LAYERS = 500  # overlayfs takes no more (OVL_MAX_STACK, fs/overlayfs/params.h)
_DEPTH = 4  # of indexes in indexes

# What uname(2) calls a machine, and what Go does.
_ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i386": "386",
}


@frozen(eq=False)
class Contents:
    """The documents of one image.

    Attributes:
        descriptor: of the manifest.
        manifest, config: the documents.
        chain_ids: of the layers, the lowest first.
    """

    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    chain_ids: tuple[str, ...]


def contents_of(target: Descriptor, platform: Platform, read: Callable[[Descriptor], bytes]) -> Contents:
    """The image for `platform` that `target`, a manifest or an index, stands for. `read` gives verified documents.

    Raises:
        ImageNotFound: the index has no image for the platform.
        InvalidImage: a document is broken or of an unknown kind, or they contradict each other.
    """
    descriptor, manifest = _manifest(target, platform, read)
    if not media_types.is_config(manifest.config.media_type):
        raise InvalidImage(f"{descriptor.digest} is not an image, but of the type {manifest.config.media_type!r:.200}")
    what = f"the configuration {manifest.config.digest}"
    config = decode(ImageConfig, read(manifest.config), what)
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise InvalidImage(f"{what} has {len(diff_ids)} layers, and the manifest {len(manifest.layers)}")
    if len(diff_ids) > MOST_LAYERS:
        raise InvalidImage(f"{descriptor.digest} has {len(diff_ids)} layers; {MOST_LAYERS} are the most")
    for layer in manifest.layers:
        if not media_types.is_layer(layer.media_type):
            raise InvalidImage(f"the layer {layer.digest} is of the unknown type {layer.media_type!r:.200}")
    return Contents(descriptor, manifest, config, chain_ids(diff_ids))


def parse_platform(text: str | None) -> Platform:
    """`linux/arm64/v8`, or this machine's without a text. Raises `InvalidImage` for what is none."""
    if text is None:
        return this_platform()
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidImage(f"{text!r} is not a platform", remedy="Write it as linux/amd64 or linux/arm/v7")
    return Platform(parts[1], parts[0], variant=parts[2] if len(parts) == 3 else None)


def this_platform() -> Platform:
    import os

    machine = os.uname().machine
    variant = {"armv7l": "v7", "armv6l": "v6"}.get(machine)
    return Platform(_ARCHITECTURES.get(machine, machine), "linux", variant=variant)


def _manifest(
    target: Descriptor, platform: Platform, read: Callable[[Descriptor], bytes]
) -> tuple[Descriptor, Manifest]:
    for _ in range(_DEPTH):
        document = decode_manifest(read(target), target.media_type, f"the manifest {target.digest}")
        if isinstance(document, Manifest):
            return target, document
        target = _choose(document, platform, target.digest)
    raise InvalidImage(f"the index {target.digest} has indexes in indexes in indexes")


def _choose(index: Index, platform: Platform, digest: str) -> Descriptor:
    for matches in (_fits_exactly, _fits):
        for descriptor in index.manifests:
            if matches(descriptor, platform):
                return descriptor
    names = ", ".join(_names(index.manifests)) or "none"
    raise ImageNotFound(
        f"the index {digest} has no image for {platform.os}/{platform.architecture}", remedy=f"It has: {names}"
    )


def _fits_exactly(descriptor: Descriptor, wanted: Platform) -> bool:
    found = descriptor.platform
    return found is not None and _fits(descriptor, wanted) and _variant(found) == _variant(wanted)


def _fits(descriptor: Descriptor, wanted: Platform) -> bool:
    """By system and architecture. One without a platform fits if it is an image at all."""
    if not (media_types.is_manifest(descriptor.media_type) or media_types.is_index(descriptor.media_type)):
        return False
    found = descriptor.platform
    return found is None or (found.os, found.architecture) == (wanted.os, wanted.architecture)


def _variant(platform: Platform) -> str | None:
    return platform.variant or ("v8" if platform.architecture == "arm64" else None)


def _names(manifests: Sequence[Descriptor]) -> list[str]:
    platforms = [descriptor.platform for descriptor in manifests if descriptor.platform is not None]
    return sorted({f"{p.os}/{p.architecture}" + (f"/{p.variant}" if p.variant else "") for p in platforms})
