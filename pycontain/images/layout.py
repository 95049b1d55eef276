"""Images from and to OCI image layouts (image-layout.md): directories that skopeo, umoci and others read and write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from pycontain.content.ingest import CHUNK
from pycontain.content.store import IMAGE_NAME, REF_NAME, ContentStore, index_of
from pycontain.errors import BlobDamaged, ImageNotFound, InvalidImage, StoreError
from pycontain.spec import media_types
from pycontain.spec.image import LARGEST_DOCUMENT, Descriptor, Index, decode_manifest

Named = tuple["str | None", Descriptor]  # an image and its name, if it has one
_DEPTH = 4  # of indexes in indexes


def load_layout(
    store: ContentStore, path: str, tag: str | None = None, *, keep: Callable[[str], object]
) -> list[Named]:
    """Copies the images of the layout at `path` into the store, verified: all of them, or the one named `tag`.

    `keep` is called with each digest before the blob is looked for in the store: it protects it from being collected.
    What one image needs may be in the store instead of the layout. Of the images of an index those are copied
    that are there.

    Raises:
        ImageNotFound: there is no such image.
        InvalidImage: this is no layout, or a document in it is broken.
        BlobDamaged: a blob is missing, or is another one.
        StoreError: it cannot be read, or the store not be written.
    """
    source = ContentStore(path)
    images = images_in(source.index(), tag, path)
    for _, target in images:
        for descriptor in blobs_of(target, source):
            keep(descriptor.digest)
            copy_blob(source, store, descriptor)
    return images


def save_layout(store: ContentStore, images: Iterable[Named], path: str) -> None:
    """Writes images into the layout at `path`, beside those that are there; one of the same name is replaced.

    The directory is made if it is not there. Its index is written last, so that other programs see whole images only.

    Raises:
        StoreError: there is something else at `path`; it cannot be written.
        BlobDamaged, InvalidImage: the store lacks something of an image.
    """
    target = ContentStore(path)
    present = _present(target)
    added = list(images)
    for _, image in added:
        for descriptor in blobs_of(image, store):
            copy_blob(store, target, descriptor)
    new = index_of((name, _bare(image)) for name, image in added).manifests
    replaced = {_names(descriptor) or descriptor.digest for descriptor in new}
    kept = tuple(one for one in present if (_names(one) or one.digest) not in replaced)
    target.write_index(Index(kept + new, media_types.OCI_INDEX))
    target.close_ingests()


def images_in(index: Index, tag: str | None, where: str) -> list[Named]:
    """The images that an index of a layout lists, or those named `tag`."""
    images = [
        (_names(descriptor)[0] if _names(descriptor) else None, _bare(descriptor))
        for descriptor in index.manifests
        if (tag is None and is_image(descriptor)) or (tag is not None and tag in _names(descriptor))
    ]
    if not images:
        there = ", ".join(sorted({name for one in index.manifests for name in _names(one)})[:20]) or "none with a name"
        raise ImageNotFound(f"there is no image {tag or ''!r:.200} in {where}", remedy=f"It has: {there:.1000}")
    return list(dict.fromkeys(images))


def is_image(descriptor: Descriptor) -> bool:
    """Whether it is a manifest or an index: an index may list anything else too."""
    return media_types.is_manifest(descriptor.media_type) or media_types.is_index(descriptor.media_type)


def blobs_of(target: Descriptor, source: ContentStore, depth: int = _DEPTH) -> Iterator[Descriptor]:
    """All blobs of an image, each after those that it names. Of the images of an index those that `source` has.

    Raises `InvalidImage` and `BlobDamaged` for what is broken or missing.
    """
    document = decode_manifest(read_document(source, target), target.media_type, f"the manifest {target.digest}")
    if isinstance(document, Index):
        there = [one for one in document.manifests if is_image(one) and source.info(one.digest) is not None]
        if not there or depth == 0:
            raise InvalidImage(f"none of the images of the index {target.digest} is in {source.path}")
        for descriptor in there:
            yield from blobs_of(descriptor, source, depth - 1)
    else:
        yield from document.layers
        yield document.config
    yield target


def read_document(source: ContentStore, descriptor: Descriptor) -> bytes:
    """A small blob with the size and the digest of its descriptor."""
    if descriptor.size > LARGEST_DOCUMENT:
        raise InvalidImage(f"the document {descriptor.digest} is of {descriptor.size} bytes")
    data = source.read(descriptor.digest)
    if len(data) != descriptor.size:
        raise _wrong_size(descriptor, len(data))
    return data


def copy_blob(source: ContentStore, target: ContentStore, descriptor: Descriptor) -> None:
    """Copies a blob that `target` does not have yet, verified."""
    if descriptor.size <= LARGEST_DOCUMENT and is_image(descriptor):
        target.write(read_document(source, descriptor), descriptor.digest.partition(":")[0])
        return
    with target.ingest(descriptor.digest, descriptor.size) as ingest:
        if ingest.done:
            return
        with source.open(descriptor.digest) as file:
            size = os.fstat(file.fileno()).st_size
            if size != descriptor.size:
                raise _wrong_size(descriptor, size)
            ingest.reset()
            while data := file.read(CHUNK):
                ingest.write(data)
        ingest.commit()


def _present(target: ContentStore) -> tuple[Descriptor, ...]:
    """The images of a layout that is to be added to; none if it is to be made."""
    try:
        empty = not os.listdir(target.path)
    except FileNotFoundError:
        empty = True
    except OSError as error:
        raise StoreError(f"{target.path} cannot be written", errno=error.errno) from error
    return () if empty else target.index().manifests


def _names(descriptor: Descriptor) -> tuple[str, ...]:
    """The full name of an image before its tag, of which some tools write both."""
    names = (descriptor.annotations.get(key) for key in (IMAGE_NAME, REF_NAME))
    return tuple(dict.fromkeys(name for name in names if name))


def _bare(descriptor: Descriptor) -> Descriptor:
    """Without annotations, which concern the index that it came from."""
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)


def _wrong_size(descriptor: Descriptor, size: int) -> BlobDamaged:
    return BlobDamaged(f"the blob {descriptor.digest} has {size} bytes instead of {descriptor.size}")
