"""The documents of images in a store, each read and verified once in a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycontain.images.contents import Contents, contents_of

if TYPE_CHECKING:
    from pycontain.images.store import Store
    from pycontain.spec.image import Descriptor, Platform

KEPT = 256  # images; the documents of one take some kilobytes

_known: dict[tuple[str, str, Platform], Contents] = {}


def read_contents(store: Store, target: Descriptor, platform: Platform) -> Contents:
    """The documents of the image that `target` stands for. Raises as `contents_of`, and `BlobDamaged`."""
    key = store.path, target.digest, platform
    found = _known.get(key)
    if found is None:
        found = contents_of(target, platform, lambda descriptor: store.content.read(descriptor.digest))
        if len(_known) >= KEPT:
            _known.pop(next(iter(_known)), None)
        _known[key] = found
    return found
