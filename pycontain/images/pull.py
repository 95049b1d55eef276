"""Brings an image into the store: from a registry, a layout or an archive. It is unpacked before it gets its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycontain.errors import ImageNotFound
from pycontain.images.contents import Contents, contents_of
from pycontain.images.fetch import Progress, fetch, fetch_all
from pycontain.images.store import Store
from pycontain.images.unpack import unpack
from pycontain.metadata import ImageRecord, Lease
from pycontain.spec.image import Descriptor, Platform

if TYPE_CHECKING:
    from pycontain.registry.client import Registry
    from pycontain.registry.reference import Reference


def pull(
    store: Store, reference: Reference, platform: Platform, progress: Progress, snapshotter: str | None = None
) -> Descriptor:
    """Pulls an image and names it. Gives what the name points to: a manifest, or the index that has it.

    Raises `ImageNotFound`, `RegistryError`, `InvalidImage`, `StoreError`. What has been downloaded is used by the next
    attempt.
    """
    from pycontain.registry.client import Registry

    with Registry(reference.registry) as registry, store.leases.hold() as lease:
        target, _ = registry.resolve(reference)
        image = _documents(store, lease, registry, reference.repository, target, platform)

        fetch_all(
            store, lease, list(image.manifest.layers),
            lambda descriptor, offset: registry.fetch_blob(reference.repository, descriptor, offset), progress,
        )
        publish(store, lease, image, target, str(reference), snapshotter)
    return target


def publish(
    store: Store, lease: Lease, image: Contents, target: Descriptor, name: str, snapshotter: str | None
) -> None:
    """Unpacks an image whose blobs are there, and gives it its name."""
    unpack(store, store.snapshotter(snapshotter), image, lease)
    store.images.put(ImageRecord(name, target.media_type, target.digest, target.size))
    write_index(store)


def write_index(store: Store) -> None:
    """Notes the names in the index of the layout, for other tools. It follows the database, which counts."""
    with store.database.write():  # one at a time, in the order of the changes
        store.content.set_index(
            {record.name: Descriptor(record.media_type, record.digest, record.size) for record in store.images.list()}
        )


def _documents(
    store: Store, lease: Lease, registry: Registry, repository: str, target: Descriptor, platform: Platform
) -> Contents:
    """Fetches the manifests on the way to the platform's image, and its configuration."""
    from pycontain.spec import media_types

    def read(descriptor: Descriptor) -> bytes:
        lease.add("blob", descriptor.digest)
        if media_types.is_config(descriptor.media_type):
            fetch(
                store.content, descriptor,
                lambda blob, offset: registry.fetch_blob(repository, blob, offset), lambda blob, size: None,
            )
            return store.content.read(descriptor.digest)
        data = registry.manifest(repository, descriptor)
        store.content.write(data)
        return data

    return contents_of(target, platform, read)


def ensure_unpacked(store: Store, image: Contents, snapshotter: str | None) -> None:
    """Makes the snapshots of an image that is there, for a snapshotter that does not have them."""
    with store.leases.hold() as lease:
        for descriptor in (image.descriptor, image.manifest.config, *image.manifest.layers):
            lease.add("blob", descriptor.digest)
        if not all(store.content.info(layer.digest) for layer in image.manifest.layers):
            raise ImageNotFound(f"layers of the image {image.descriptor.digest} are missing", remedy="Pull it again")
        unpack(store, store.snapshotter(snapshotter), image, lease)
