"""Finds an image of the store by what a person writes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pycontain.errors import ImageNotFound
from pycontain.registry.reference import DEFAULT_REGISTRY, Reference

if TYPE_CHECKING:
    from pycontain.images.store import Store
    from pycontain.metadata import ImageRecord

_DIGEST = re.compile(r"sha(256|512):[0-9a-f]+")


def find(store: Store, text: str) -> ImageRecord:
    """The image with that name or digest.

    A name without a registry is first that of docker.io; if there is none here, it is the one image of any registry
    that ends so: `debian:12` finds `127.0.0.1:5000/debian:12`. Raises `ImageNotFound`, also when there are several.
    """
    if _DIGEST.fullmatch(text):
        return _by_digest(store, text, text)
    reference = Reference.parse(text)
    if reference.digest is not None:
        return _by_digest(store, reference.digest, text)
    found = store.images.get(str(reference))
    if found is None and reference.registry == DEFAULT_REGISTRY:
        found = _by_ending(store, reference, text)
    if found is None:
        raise ImageNotFound(f"there is no image {text!r} in the store", remedy=f"pycontain pull {text}")
    return found


def _by_digest(store: Store, digest: str, text: str) -> ImageRecord:
    records = store.images.by_digest(digest)
    if not records:
        raise ImageNotFound(f"there is no image {text!r} in the store")
    return records[0]


def _by_ending(store: Store, reference: Reference, text: str) -> ImageRecord | None:
    ending = f"/{reference.repository.removeprefix('library/')}:{reference.tag}"
    found = [record for record in store.images.list() if record.name.endswith(ending)]
    if len(found) > 1:
        names = ", ".join(record.name for record in found)
        raise ImageNotFound(f"{text!r} could be any of {names}", remedy="Write the registry too")
    return found[0] if found else None
