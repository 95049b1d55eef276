"""Brings the blobs of an image into the store, several at a time; each is downloaded once, however many ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pycontain.content.store import ContentStore
from pycontain.errors import BlobDamaged, InvalidImage
from pycontain.images.store import Store
from pycontain.metadata import Lease
from pycontain.spec import media_types
from pycontain.spec.image import Descriptor

AT_ONCE = 4  # downloads
ATTEMPTS = 2  # of a download whose data are not what they should be

# Gives the bytes of a blob from an offset on.
Source = Callable[[Descriptor, int], Iterator[bytes]]
Progress = Callable[[Descriptor, int], None]  # which blob, and how many of its bytes are here


def fetch_all(store: Store, lease: Lease, descriptors: list[Descriptor], source: Source, progress: Progress) -> None:
    """Fetches what is not there or damaged. Raises what `source` does, `BlobDamaged`, `StoreError`."""
    wanted = list({descriptor.digest: descriptor for descriptor in descriptors}.values())
    for descriptor in wanted:
        if media_types.is_foreign_layer(descriptor.media_type):
            raise InvalidImage(f"the layer {descriptor.digest} is in no registry, only at addresses that it names")
        lease.add("blob", descriptor.digest)
    with ThreadPoolExecutor(AT_ONCE, "pycontain-fetch") as pool:
        futures = [pool.submit(fetch, store.content, descriptor, source, progress) for descriptor in wanted]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def fetch(content: ContentStore, descriptor: Descriptor, source: Source, progress: Progress) -> None:
    """One blob, which the caller has leased."""
    with content.ingest(descriptor.digest, descriptor.size, verify=True) as ingest:
        for attempt in range(ATTEMPTS):
            if ingest.done:
                break
            try:
                progress(descriptor, ingest.offset)
                for piece in source(descriptor, ingest.offset):
                    ingest.write(piece)
                    progress(descriptor, ingest.offset)
                ingest.commit()
            except BlobDamaged:
                if attempt + 1 == ATTEMPTS:
                    raise
                ingest.reset()
    progress(descriptor, descriptor.size)
