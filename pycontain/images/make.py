"""Makes images: of a directory, of a tar, and of what a container has written."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable

from attrs import evolve

from pycontain.errors import StoreError
from pycontain.images.contents import contents_of
from pycontain.images.layer import WritableLayer
from pycontain.images.platform import host_platform
from pycontain.images.pull import publish
from pycontain.images.store import Store
from pycontain.layers.compression import Decompressed
from pycontain.layers.create import source_date_epoch, write_layer
from pycontain.layers.diff import changes_between
from pycontain.metadata import Lease
from pycontain.spec import media_types
from pycontain.spec.image import ConfigFields, Descriptor, History, ImageConfig, Manifest, RootFS, encode

LEVEL = 1  # of compression: twice as fast as the usual 6, for a tenth more bytes
CHUNK = 1 << 20

Write = Callable[[bytes], object]


def commit(layer: WritableLayer, name: str, message: str | None) -> None:
    """Names an image that is the layer's image with what has been written into the layer on top."""
    image, store = layer.image, layer.image.store
    with store.leases.hold() as lease:
        for descriptor in image.layers:
            lease.add("blob", descriptor.digest)
        with layer.snapshotter.changes_directory(layer.key) as tree:
            found = layer.changes()
            top, diff_id = _layer(
                store, lease, lambda write: write_layer(write, found, tree, epoch=source_date_epoch())
            )
        step = History(_now(), "pycontain commit", comment=message)
        config = evolve(
            image.config, created=step.created, history=(*image.config.history, step),
            rootfs=evolve(image.config.rootfs, diff_ids=(*image.config.rootfs.diff_ids, diff_id)),
        )
        _put(store, lease, config, (*image.layers, top), name)


def from_rootfs(store: Store, directory: str, name: str, config: ConfigFields) -> None:
    """Names an image of one layer, which is the tree in `directory`."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"the directory {directory} cannot be read", errno=error.errno) from None
    try:
        found = changes_between(None, fd)
        with store.leases.hold() as lease:
            _first(
                store, lease, lambda write: write_layer(write, found, fd, epoch=source_date_epoch()), name, config,
                f"of the directory {directory}",
            )
    finally:
        os.close(fd)


def from_tar(store: Store, path: str, name: str, config: ConfigFields) -> None:
    """Names an image of one layer, which is the tree in a tar, as it is. gzip and zstd are recognised."""

    def copy(write: Write) -> None:
        with open(path, "rb") as file:
            stream = Decompressed(file, path)
            while data := stream.read(CHUNK):
                write(data)

    try:
        with store.leases.hold() as lease:
            _first(store, lease, copy, name, config, f"of the archive {path}")
    except OSError as error:
        raise StoreError(f"the archive {path} cannot be read", errno=error.errno) from None


def _first(
    store: Store, lease: Lease, produce: Callable[[Write], None], name: str, config: ConfigFields, what: str
) -> None:
    layer, diff_id = _layer(store, lease, produce)
    platform = host_platform()
    document = ImageConfig(
        RootFS(diff_ids=(diff_id,)), platform.architecture, platform.os, variant=platform.variant, created=_now(),
        config=config, history=(History(_now(), f"pycontain {what}"),),
    )
    _put(store, lease, document, (layer,), name)


def _layer(store: Store, lease: Lease, produce: Callable[[Write], None]) -> tuple[Descriptor, str]:
    """Compresses what `produce` writes into a blob of the store; gives also its diff ID."""
    hashed = hashlib.sha256()
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)  # gzip, with neither a name nor a time
    size = 0
    with store.content.create() as blob:

        def keep(data: bytes) -> None:
            nonlocal size
            if data:
                blob.write(data)
                size += len(data)

        def write(data: bytes) -> None:
            hashed.update(data)
            keep(compressor.compress(data))

        produce(write)
        keep(compressor.flush())
        lease.add("blob", str(blob.digest))
        blob.commit()
        return Descriptor(media_types.OCI_LAYER_GZIP, str(blob.digest), size), f"sha256:{hashed.hexdigest()}"


def _put(store: Store, lease: Lease, config: ImageConfig, layers: tuple[Descriptor, ...], name: str) -> None:
    described = _document(store, lease, media_types.OCI_CONFIG, encode(config))
    manifest = Manifest(described, layers, media_types.OCI_MANIFEST)
    target = _document(store, lease, media_types.OCI_MANIFEST, encode(manifest))
    image = contents_of(target, host_platform(), lambda descriptor: store.content.read(descriptor.digest))
    publish(store, lease, image, target, name, None)


def _document(store: Store, lease: Lease, media_type: str, data: bytes) -> Descriptor:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    lease.add("blob", digest)
    store.content.write(data)
    return Descriptor(media_type, digest, len(data))


def _now() -> str:
    """The time of `SOURCE_DATE_EPOCH`, if that is set, so that the same content makes the same image."""
    epoch = source_date_epoch()
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() if epoch is None else epoch))
