"""Images from and to single files: an OCI layout in a tar, and what `docker save` writes, in its older form with a tar
for each layer and in that since version 25, which is an OCI layout too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pycontain.content.digest import Digest, hasher
from pycontain.content.failures import store_errors
from pycontain.content.ingest import CHUNK
from pycontain.content.store import ContentStore, index_of
from pycontain.errors import BlobDamaged, InvalidImage
from pycontain.images.layout import Named, blobs_of, has_name, images_in, no_image, read_document
from pycontain.images.members import DOCKER_MANIFEST, INDEX, OCI_LAYOUT, Member, Members, read_members
from pycontain.images.tarball import tarball
from pycontain.layers.compression import GZIP, ZSTD, Decompressed
from pycontain.spec import media_types
from pycontain.spec.image import (
    ArchivedImage,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode,
    decode_archived,
    decode_manifest,
    encode,
    encode_archived,
)

_OCI_VERSION = b'{"imageLayoutVersion":"1.0.0"}'


def load_archive(
    store: ContentStore, path: str, tag: str | None = None, *, keep: Callable[[str], object]
) -> list[Named]:
    """Reads the images of an archive into the store: all of them, or the one named `tag`.

    What kind of archive it is, and whether it is compressed by gzip or zstd, is seen from what is in it. It is read
    once from its front, so that it may be a pipe. `keep` is called with each digest before the blob is published or
    looked for in the store, to protect it from being collected.

    Raises:
        ImageNotFound: there is no such image.
        InvalidImage: this is no archive of images, or a broken or hostile one.
        BlobDamaged: a blob is not what its digest says, or is missing.
        StoreError: it cannot be read, or the store not be written.
    """
    with store_errors(f"the archive {path} cannot be read"):
        file = open(path, "rb")  # noqa: SIM115 (closed below; only this is an error of the archive)
    with file:
        members = read_members(store, file, f"the archive {path}", keep)
    index = _index(members)
    if index is not None and index.manifests:
        images = images_in(index, tag, members.where)
    else:
        images = _docker_images(store, members, tag, keep)
    for _, target in images:
        for descriptor in blobs_of(target, store):
            keep(descriptor.digest)
            _check(store, descriptor)
    return images


def save_oci_archive(store: ContentStore, images: Iterable[Named], path: str) -> None:
    """Writes images as an OCI layout in a tar, which podman, skopeo, containerd and `docker load` since 25 read.

    Raises:
        BlobDamaged, InvalidImage: something of an image is missing or damaged. There is no archive then.
        StoreError: it cannot be written.
    """
    saved = list(images)
    blobs = {descriptor.digest: descriptor for _, image in saved for descriptor in blobs_of(image, store)}
    with tarball(path) as tar:
        tar.add(OCI_LAYOUT, [_OCI_VERSION])
        tar.add(INDEX, [encode(index_of(saved))])
        tar.add_directory("blobs")
        for algorithm in sorted({digest.partition(":")[0] for digest in blobs}):
            tar.add_directory(f"blobs/{algorithm}")
        for digest, descriptor in sorted(blobs.items()):
            tar.add(f"blobs/{digest.replace(':', '/')}", _verified(store, descriptor))


def save_docker_archive(store: ContentStore, images: Iterable[Named], path: str) -> None:
    """Writes images as `docker save` does, with uncompressed layers. Names that are no tags are left out.

    Raises:
        BlobDamaged, InvalidImage: something of an image is missing or damaged, or it is an index. There is no archive
            then.
        StoreError: it cannot be written.
    """
    tags: dict[str, list[str]] = {}
    contents: dict[str, tuple[Manifest, ImageConfig]] = {}
    for name, target in images:
        manifest, config = _image(store, target)
        contents[manifest.config.digest] = manifest, config
        tags.setdefault(manifest.config.digest, []).extend([name] if name is not None and _is_tagged(name) else [])
    with tarball(path) as tar:
        written: set[str] = set()
        listed = []
        for digest, (manifest, config) in contents.items():
            for descriptor, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
                if diff_id not in written:
                    written.add(diff_id)
                    tar.add(_layer_name(diff_id), _uncompressed(store, descriptor, diff_id))
            name = digest.partition(":")[2] + ".json"
            tar.add(name, [read_document(store, manifest.config)])
            layers = tuple(map(_layer_name, config.rootfs.diff_ids))
            listed.append(ArchivedImage(name, tuple(dict.fromkeys(tags[digest])), layers))
        tar.add(DOCKER_MANIFEST, [encode_archived(tuple(listed))])


# ---- loading

def _index(members: Members) -> Index | None:
    """The index of an OCI layout; None if the archive is none."""
    version = members.documents.get(OCI_LAYOUT)
    if version is None or INDEX not in members.documents:
        return None
    if b'"1.0.0"' not in version:
        raise InvalidImage(f"{members.where} is an OCI image layout of another version than 1.0.0")
    return decode(Index, members.documents[INDEX], f"the index of {members.where}")


def _docker_images(
    store: ContentStore, members: Members, tag: str | None, keep: Callable[[str], object]
) -> list[Named]:
    if DOCKER_MANIFEST not in members.documents:
        raise InvalidImage(f"{members.where} is no archive of images: it has neither {INDEX} nor {DOCKER_MANIFEST}")
    listed = decode_archived(members.documents[DOCKER_MANIFEST], f"the {DOCKER_MANIFEST} of {members.where}")
    images: list[Named] = []
    for image in listed:
        if tag is None or has_name(image.repo_tags, tag):
            target = _docker_image(store, members, image, keep)
            images += [(name, target) for name in ((tag,) if tag else image.repo_tags or (None,))]
    if not images:
        raise no_image(tag, members.where, [name for image in listed for name in image.repo_tags])
    return images


def _docker_image(
    store: ContentStore, members: Members, image: ArchivedImage, keep: Callable[[str], object]
) -> Descriptor:
    """A manifest for an image that has none. The same archive always gives the same one."""
    found = members.find(image.config)
    config = Descriptor(media_types.OCI_CONFIG, found.digest, found.size)
    what = f"the configuration {image.config!r:.200} of {members.where}"
    diff_ids = decode(ImageConfig, read_document(store, config), what).rootfs.diff_ids
    layers = tuple(_layer(store, members.find(name), name, members.where) for name in image.layers)
    if len(layers) != len(diff_ids):
        raise InvalidImage(f"{what} has {len(diff_ids)} layers, and {DOCKER_MANIFEST} {len(layers)}")
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        same = layer.digest.partition(":")[0] == diff_id.partition(":")[0]
        if layer.media_type == media_types.OCI_LAYER and same and layer.digest != diff_id:
            raise BlobDamaged(f"a layer of {members.where} is {layer.digest}, and should be {diff_id}")
    data = encode(Manifest(config, layers, media_types.OCI_MANIFEST))
    digest = str(Digest.of(data))
    keep(digest)
    store.write(data)
    return Descriptor(media_types.OCI_MANIFEST, digest, len(data))


def _layer(store: ContentStore, member: Member, name: str, where: str) -> Descriptor:
    """Its kind is seen from its first bytes: some tools put compressed layers into these archives."""
    with store.open(member.digest) as file:
        begin = file.read(8)
    media_type = media_types.OCI_LAYER
    if begin.startswith(GZIP):
        media_type = media_types.OCI_LAYER_GZIP
    elif begin.startswith(ZSTD):
        media_type = media_types.OCI_LAYER_ZSTD
    elif begin.startswith((b"BZh", b"\xfd7zXZ\0")):
        raise InvalidImage(f"the layer {name!r:.200} of {where} is compressed by bzip2 or xz")
    return Descriptor(media_type, member.digest, member.size)


def _check(store: ContentStore, descriptor: Descriptor) -> None:
    """That the store has a blob that an image names."""
    found = store.info(descriptor.digest)
    if found is None or found.size != descriptor.size:
        size = "missing" if found is None else f"of {found.size} bytes"
        raise BlobDamaged(f"the archive's blob {descriptor.digest} of {descriptor.size} bytes is {size}")


# ---- saving

def _verified(store: ContentStore, descriptor: Descriptor) -> Iterator[bytes]:
    """The content of a blob; an error at its end when it was another one."""
    algorithm, _, wanted = descriptor.digest.partition(":")
    hashed = hasher(algorithm)
    size = 0
    with store.open(descriptor.digest) as file:
        while data := file.read(CHUNK):
            hashed.update(data)
            size += len(data)
            yield data
    if hashed.hexdigest() != wanted or size != descriptor.size:
        raise BlobDamaged(f"the blob {descriptor.digest} is damaged", remedy="Pull or load the image again")


def _uncompressed(store: ContentStore, descriptor: Descriptor, diff_id: str) -> Iterator[bytes]:
    """The tar of a layer; an error at its end when it was another one."""
    algorithm, _, wanted = diff_id.partition(":")
    hashed = hasher(algorithm)
    with store.open(descriptor.digest) as file:
        stream = Decompressed(file, descriptor.digest)
        while data := stream.read(CHUNK):
            hashed.update(data)
            yield data
    if hashed.hexdigest() != wanted:
        raise BlobDamaged(f"the layer {descriptor.digest} is not {diff_id} when it is uncompressed")


def _image(store: ContentStore, target: Descriptor) -> tuple[Manifest, ImageConfig]:
    document = decode_manifest(read_document(store, target), target.media_type, f"the manifest {target.digest}")
    if isinstance(document, Index):
        raise InvalidImage(
            f"{target.digest} is an index of images for several platforms", remedy="Choose one for such an archive"
        )
    what = f"the configuration {document.config.digest}"
    config = decode(ImageConfig, read_document(store, document.config), what)
    if len(config.rootfs.diff_ids) != len(document.layers):
        raise InvalidImage(f"{what} has {len(config.rootfs.diff_ids)} layers, the manifest {len(document.layers)}")
    return document, config


def _layer_name(diff_id: str) -> str:
    return diff_id.partition(":")[2] + ".tar"


def _is_tagged(name: str) -> bool:
    return "@" not in name and ":" in name.rpartition("/")[2]
