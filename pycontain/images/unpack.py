"""Unpacks an image: each layer becomes a snapshot under its chain ID, once, whatever images share it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO

from pycontain.content.store import ContentStore
from pycontain.errors import BlobDamaged, InvalidImage, SnapshotError, StoreError
from pycontain.images.contents import Contents
from pycontain.images.locks import locked
from pycontain.images.store import Store
from pycontain.layers.apply import apply_layer
from pycontain.layers.compression import Decompressed
from pycontain.layers.whiteouts import Whiteouts
from pycontain.metadata import Lease
from pycontain.snapshots.base import Snapshotter
from pycontain.spec.image import Descriptor

AT_ONCE = 4  # layers that are unpacked at the same time


def unpack(store: Store, snapshotter: Snapshotter, image: Contents, lease: Lease) -> None:
    """Makes the snapshots of all layers that are not there yet, from blobs that are.

    Raises:
        BlobDamaged: a blob is not what the image says. It has been removed: the next pull brings it again.
        LayerError: a layer is broken or hostile.
        StoreError: the disk is full, for example. Layers that were done stay for the next attempt.
    """
    for chain_id in image.chain_ids:
        lease.add("snapshot", f"{snapshotter.name}/{chain_id}")
    missing = [index for index, chain_id in enumerate(image.chain_ids) if not _is_there(snapshotter, chain_id)]
    if snapshotter.rebase and len(missing) > 1:
        _all_at_once(store, snapshotter, image, missing)
    else:
        for index in missing:
            _one(store, snapshotter, image, index)


def _all_at_once(store: Store, snapshotter: Snapshotter, image: Contents, missing: list[int]) -> None:
    """A layer waits for the one below it only to be committed."""
    from concurrent.futures import Future, ThreadPoolExecutor

    futures: dict[int, Future[None]] = {}

    def work(index: int) -> None:
        below = futures.get(index - 1)
        _one(store, snapshotter, image, index, below.result if below is not None else None)

    with ThreadPoolExecutor(AT_ONCE, "pycontain-unpack") as pool:
        for index in missing:
            futures[index] = pool.submit(work, index)
        try:
            for future in futures.values():
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _one(
    store: Store, snapshotter: Snapshotter, image: Contents, index: int, below: Callable[[], None] | None = None
) -> None:
    chain_id = image.chain_ids[index]
    parent = image.chain_ids[index - 1] if index else None
    layer, diff_id = image.manifest.layers[index], image.config.rootfs.diff_ids[index]
    with locked(os.path.join(store.path, "locks"), f"{snapshotter.name}-{chain_id.replace(':', '-')}"):
        if _is_there(snapshotter, chain_id):
            return
        key = f"unpack-{os.urandom(8).hex()}"
        snapshotter.prepare(key, None if snapshotter.rebase else parent)
        try:
            apply(store.content, layer, diff_id, snapshotter, key)
            if below is not None:
                below()
            snapshotter.commit(chain_id, key, parent=parent)
        except BaseException:
            snapshotter.remove(key)
            raise


def apply(content: ContentStore, layer: Descriptor, diff_id: str, snapshotter: Snapshotter, key: str) -> None:
    """Applies one layer to an active snapshot, and verifies that it is the one that the configuration names."""
    with content.open(layer.digest) as blob, snapshotter.changes_directory(key) as directory:
        try:
            found = apply_blob(blob, layer, directory, snapshotter.whiteouts)
        except InvalidImage:
            if not content.verify(layer.digest, layer.size):
                content.remove(layer.digest)
                raise BlobDamaged(
                    f"the layer {layer.digest} in the store is damaged", remedy="Pull or load the image again"
                ) from None
            raise
        except OSError as error:
            raise StoreError(f"the layer {layer.digest} cannot be unpacked", errno=error.errno) from None
    _check_diff_id(layer, found, diff_id)


def apply_blob(blob: BinaryIO, layer: Descriptor, directory: int, whiteouts: Whiteouts) -> str:
    """Applies the tar in a blob to a directory; gives the digest of what it is uncompressed, its diff ID."""
    hashed = hashlib.sha256()
    stream = Decompressed(blob, layer.digest)

    def read(count: int) -> bytes:
        data = stream.read(count)
        hashed.update(data)
        return data

    apply_layer(read, directory, whiteouts, name=layer.digest)
    return f"sha256:{hashed.hexdigest()}"


def _is_there(snapshotter: Snapshotter, chain_id: str) -> bool:
    try:
        return snapshotter.stat(chain_id).kind == "committed"
    except SnapshotError:
        return False


def unpack_into(store: Store, image: Contents, directory: str) -> None:
    """Unpacks all layers, one upon the other, into an empty directory. Raises as `Image.unpack`."""
    try:
        os.makedirs(directory, exist_ok=True)
        if os.listdir(directory):
            raise StoreError(f"{directory} is not empty")
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{directory} cannot be unpacked into", errno=error.errno) from None
    try:
        for layer, diff_id in zip(image.manifest.layers, image.config.rootfs.diff_ids, strict=True):
            with store.content.open(layer.digest) as blob:
                _check_diff_id(layer, apply_blob(blob, layer, fd, Whiteouts.REMOVE), diff_id)
    except OSError as error:
        raise StoreError(f"the image cannot be unpacked into {directory}", errno=error.errno) from None
    finally:
        os.close(fd)


def _check_diff_id(layer: Descriptor, found: str, diff_id: str) -> None:
    if found != diff_id:
        raise BlobDamaged(f"the layer {layer.digest} is {found} when it is uncompressed, and not {diff_id}")
