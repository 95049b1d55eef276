"""From the descriptor of an image to its documents: the manifest for a platform, and the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from pycontain.errors import InvalidImage
from pycontain.images.chain import chain_ids
from pycontain.images.platform import select
from pycontain.spec import media_types
from pycontain.spec.image import Descriptor, ImageConfig, Manifest, Platform, decode, decode_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_LAYERS = 500  # overlayfs takes no more (OVL_MAX_STACK, fs/overlayfs/params.h)
_DEPTH = 4  # of indexes in indexes


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


def _manifest(
    target: Descriptor, platform: Platform, read: Callable[[Descriptor], bytes]
) -> tuple[Descriptor, Manifest]:
    for _ in range(_DEPTH):
        document = decode_manifest(read(target), target.media_type, f"the manifest {target.digest}")
        if isinstance(document, Manifest):
            return target, document
        target = select(document, platform, f"the index {target.digest}")
    raise InvalidImage(f"the index {target.digest} has indexes in indexes in indexes")
