"""Garbage collection of a store: nothing in use is removed, nothing unreferenced stays. Safe while others are at work.

In use is what can be reached from images, containers and leases: an index leads to manifests, a manifest to its
configuration and layers, a configuration by its chain IDs to snapshots. Active snapshots of living processes keep
those below them.

What is removed is decided and removed in one transaction. So whoever adds a blob or a snapshot to a lease and looks
afterwards whether it is there (`Lease.add`) either still finds it, and then it stays, or makes it again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import Any

from attrs import frozen

from pycontain.content.store import Blob
from pycontain.errors import InvalidImage
from pycontain.images.chain import chain_ids
from pycontain.images.locks import remove_unheld
from pycontain.images.store import Store
from pycontain.images.sweep import sweep
from pycontain.linux.trees import remove_tree
from pycontain.metadata import SnapshotRecord, SnapshotRecords

TRIAL_LIMIT = 60.0  # seconds after which a hidden directory among the snapshotters has no maker any more


@frozen
class Collected:
    """What was removed: blobs, snapshots, and the bytes of both (of snapshots those that were recorded)."""

    blobs: int
    snapshots: int
    bytes: int


def collect(store: Store, *, pending_age: float = 0) -> Collected:
    """Removes what nothing refers to, and what interrupted processes have left. An interrupted download to which was
    written less than `pending_age` seconds ago may still be resumed, and stays.

    Raises `StoreError` when the store cannot be read or written. What was removed until then was garbage.
    """
    documents = _Documents(store)
    documents.reach(_roots(store))  # most of the reading is done before others have to wait
    found = list(store.content.walk())
    with store.database.write(durable=True):
        store.leases.sweep()
        store.containers.sweep()
        reached = documents.reach(_roots(store))
        snapshots = _remove_snapshots(store, reached)
        blobs = [blob for blob in found if str(blob.digest) not in reached and store.content.remove(blob.digest)]
    sweep(store)  # the files of those snapshots
    store.content.clean_ingests(pending_age)
    remove_unheld(os.path.join(store.path, "locks"))
    _remove_trials(os.path.join(store.path, "snapshots"))
    return Collected(len(blobs), len(snapshots), _sizes(blobs) + _sizes(snapshots))


def _roots(store: Store) -> set[str]:
    leased = {item for kind, item in store.leases.items() if kind == "blob"}
    return leased | {image.digest for image in store.images.list()} | {one.digest for one in store.containers.list()}


@frozen
class _Document:
    """What a blob leads to: other documents, blobs that are none, and the chain IDs of a configuration."""

    documents: tuple[str, ...]
    blobs: tuple[str, ...]
    chain: tuple[str, ...]


class _Documents:
    """The documents of the images in a store, each of them read once."""

    def __init__(self, store: Store) -> None:
        self._content = store.content
        self._known: dict[str, _Document] = {}

    def reach(self, roots: Iterable[str]) -> set[str]:
        """The digests of all blobs, and all chain IDs, to which the blobs `roots` lead, there or not."""
        reached: set[str] = set()
        seen: set[str] = set()
        waiting = list(roots)
        while waiting:  # each blob once
            digest = waiting.pop()
            if digest in seen:
                continue
            seen.add(digest)
            document = self._known.get(digest) or self._read(digest)
            if document is not None:
                self._known[digest] = document
                waiting += document.documents
                reached.update(document.blobs, document.chain)
        return reached | seen

    def _read(self, digest: str) -> _Document | None:
        """None for what leads nowhere: a blob that is no document, is missing or damaged. The next time it may."""
        try:
            with self._content.open(digest) as file:
                if file.read(1) != b"{":  # a layer that is leased
                    return None
            return _parsed(json.loads(self._content.read(digest)))
        except (InvalidImage, ValueError, RecursionError):
            return None


def _parsed(document: dict[str, Any]) -> _Document:
    """Of an index, a manifest or a configuration. Takes more than the strict classes: who doubts keeps."""
    return _Document(
        tuple(_digests(document.get("manifests")) + _digests([document.get("config")])),
        tuple(_digests(document.get("layers"))),
        _chain(document.get("rootfs")),
    )


def _digests(descriptors: Any) -> list[str]:
    if not isinstance(descriptors, list):
        return []
    digests = [descriptor.get("digest") for descriptor in descriptors if isinstance(descriptor, dict)]
    return [digest for digest in digests if isinstance(digest, str)]


def _chain(rootfs: Any) -> tuple[str, ...]:
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return chain_ids([str(diff_id) for diff_id in diff_ids]) if isinstance(diff_ids, list) else ()


def _remove_snapshots(store: Store, reached: set[str]) -> list[SnapshotRecord]:
    """Removes the records: files without one are removed afterwards, by whoever comes first."""
    leased = {item for kind, item in store.leases.items() if kind == "snapshot"}
    removed: list[SnapshotRecord] = []
    with store.database.read() as connection:
        names = [name for (name,) in connection.execute("SELECT DISTINCT snapshotter FROM snapshots")]
    for name in names:
        records = SnapshotRecords(store.database, name)
        abandoned = {record.id for record in records.abandoned()}
        known = {record.key: record for record in records.list()}
        kept: set[str] = set()
        for record in known.values():
            used = record.key in reached or f"{name}/{record.key}" in leased
            if used or (record.kind != "committed" and record.id not in abandoned):
                _keep(record, known, kept)
        garbage = [record for key, record in known.items() if key not in kept]
        records.remove_all(garbage)
        removed += garbage
    return removed


def _keep(record: SnapshotRecord, known: dict[str, SnapshotRecord], kept: set[str]) -> None:
    """Marks the snapshot and those that it is built upon."""
    key: str | None = record.key
    while key is not None and key not in kept:
        kept.add(key)
        key = known[key].parent


def _remove_trials(directory: str) -> None:
    """Where somebody was killed while it was tried which snapshotter works, or while one was made."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    for name in names:
        path = os.path.join(directory, name)
        try:
            if name.startswith(".") and time.time() - os.lstat(path).st_mtime > TRIAL_LIMIT:
                remove_tree(path)
        except FileNotFoundError:
            continue


def _sizes(removed: Iterable[Blob | SnapshotRecord]) -> int:
    return sum(one.size for one in removed)
