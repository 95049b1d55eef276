"""Sends an image to a registry: what that has not, then the manifest that names it all."""

from __future__ import annotations

from pycontain.images.contents import Contents
from pycontain.images.store import Store
from pycontain.registry.reference import Reference


def push(store: Store, image: Contents, reference: Reference) -> None:
    """Pushes the image for one platform. Raises `RegistryError`, `BlobDamaged` for what is not as it was."""
    from pycontain.registry.client import Registry

    with Registry(reference.registry) as registry, store.leases.hold() as lease:
        blobs = {blob.digest: blob for blob in (*image.manifest.layers, image.manifest.config)}
        for descriptor in (image.descriptor, *blobs.values()):
            lease.add("blob", descriptor.digest)
        manifest = store.content.read(image.descriptor.digest)
        for descriptor in blobs.values():
            with store.content.open(descriptor.digest) as file:
                registry.upload_blob(reference.repository, descriptor, file)
        registry.put_manifest(reference, image.descriptor.media_type, manifest)
