"""Images from and to OCI image layouts (image-layout.md): directories that skopeo, umoci and others read and write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator

from pycontain.content.failures import store_errors
from pycontain.content.ingest import CHUNK
from pycontain.content.store import IMAGE_NAME, REF_NAME, ContentStore, index_of
from pycontain.errors import BlobDamaged, ImageNotFound, InvalidImage, InvalidReference
from pycontain.registry.reference import Reference
from pycontain.spec import media_types
from pycontain.spec.image import LARGEST_DOCUMENT, Descriptor, Index, decode_manifest

Named = tuple["str | None", Descriptor]  # an image and its name, if it has one
_DEPTH = 4  # of indexes in indexes


def load_layout(
    store: ContentStore, path: str, tag: str | None = None, *, keep: Callable[[str], object]
) -> list[Named]:
    """Copies the images of the layout at `path` into the store, verified: all of them, or the one named `tag`.

    `keep` is called with each digest before the blob is looked for in the store, to protect it from being collected.
    Of the images of an index those are copied that are there.

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
        InvalidImage: something else is in the directory; or a document of an image is broken.
        BlobDamaged: the store lacks a blob, or it is another one.
        StoreError: the directory cannot be written.
    """
    made = _make_directory(path)
    try:
        target = ContentStore(path)
        present = () if made else target.index().manifests
        _add(store, list(images), target, present)
        if made:
            os.rmdir(os.path.join(path, "ingest"))
    except BaseException:
        if made:
            shutil.rmtree(path)
        raise


def images_in(index: Index, tag: str | None, where: str) -> list[Named]:
    """The images that an index of a layout lists, or those named `tag`."""
    images = [
        (next(iter(_names(descriptor)), None), _bare(descriptor))
        for descriptor in index.manifests
        if (tag is None and is_image(descriptor)) or (tag is not None and has_name(_names(descriptor), tag))
    ]
    if not images:
        raise no_image(tag, where, [name for one in index.manifests for name in _names(one)])
    return list(dict.fromkeys(images))


def no_image(tag: str | None, where: str, names: list[str]) -> ImageNotFound:
    """The error that says which images there are instead."""
    if tag is None:
        return ImageNotFound(f"there is no image in {where}")
    there = ", ".join(sorted(set(names))) or "none with a name"
    return ImageNotFound(f"there is no image {tag!r:.200} in {where}", remedy=f"It has: {there:.1000}")


def has_name(names: Iterable[str], wanted: str) -> bool:
    """Whether the wanted name is among them, also in another form: `debian:12` is `docker.io/library/debian:12`."""
    return _canonical(wanted) in map(_canonical, names)


def _canonical(name: str) -> str:
    try:
        return str(Reference.parse(name))
    except InvalidReference:  # not all names in layouts are references
        return name


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
    found = source.info(descriptor.digest)
    if found is not None and found.size != descriptor.size:
        raise _wrong_size(descriptor, found.size)
    target.add(descriptor.digest, descriptor.size, _pieces(source, descriptor.digest))


def _pieces(source: ContentStore, digest: str) -> Iterator[bytes]:
    with source.open(digest) as file:
        while data := file.read(CHUNK):
            yield data


def _make_directory(path: str) -> bool:
    """Whether the directory was not there. An empty one counts as made."""
    with store_errors(f"{path} cannot be written"):
        os.makedirs(path, exist_ok=True)
        return not os.listdir(path)


def _add(
    store: ContentStore, images: list[Named], target: ContentStore, present: tuple[Descriptor, ...]
) -> None:
    for _, image in images:
        for descriptor in blobs_of(image, store):
            copy_blob(store, target, descriptor)
    new = index_of((name, _bare(image)) for name, image in images).manifests
    replaced = {known for one in new for known in (_names(one) or (one.digest,))}
    kept = tuple(one for one in present if replaced.isdisjoint(_names(one) or (one.digest,)))
    target.write_index(Index(kept + new, media_types.OCI_INDEX))


def _names(descriptor: Descriptor) -> tuple[str, ...]:
    """The full name of an image before its tag, of which some tools write both."""
    names = (descriptor.annotations.get(key) for key in (IMAGE_NAME, REF_NAME))
    return tuple(dict.fromkeys(name for name in names if name))


def _bare(descriptor: Descriptor) -> Descriptor:
    """Without annotations, which concern the index that it came from."""
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)


def _wrong_size(descriptor: Descriptor, size: int) -> BlobDamaged:
    return BlobDamaged(f"the blob {descriptor.digest} has {size} bytes instead of {descriptor.size}")
