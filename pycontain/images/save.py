"""Writes an image of the store to a layout or an archive."""

from __future__ import annotations

from pycontain.errors import InvalidReference
from pycontain.images.archives import save_docker_archive, save_oci_archive
from pycontain.images.layout import save_layout
from pycontain.images.store import Store
from pycontain.registry.reference import DockerArchive, OciArchive, Reference, Source
from pycontain.spec.image import Descriptor


def save(store: Store, target: Descriptor, name: str, destination: Source) -> None:
    """Writes one image, by default under its own name. Raises as `Image.save`."""
    own = None if ":" in name and name.startswith("sha") else name
    if isinstance(destination, Reference):
        raise InvalidReference(f"{destination} is in a registry", remedy="Push it there, or write oci-archive:FILE")
    if isinstance(destination, DockerArchive):
        reference = own if destination.reference is None else str(destination.reference)
        save_docker_archive(store.content, [(reference, target)], destination.path)
    elif isinstance(destination, OciArchive):
        save_oci_archive(store.content, [(destination.tag or own, target)], destination.path)
    else:
        save_layout(store.content, [(destination.tag or own, target)], destination.path)
