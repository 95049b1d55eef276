"""Images: what is in the store, by name, and how it gets there and away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from pycontain.errors import ImageNotFound, InvalidReference
from pycontain.images.contents import Contents
from pycontain.images.documents import read_contents
from pycontain.images.names import find
from pycontain.images.platform import format_platform, host_platform, parse_platform
from pycontain.images.store import Store
from pycontain.registry.reference import Reference, parse_source
from pycontain.spec.image import NO_CONFIG, ConfigFields, Descriptor, Platform

if TYPE_CHECKING:
    from typing_extensions import Self

    from pycontain.images.fetch import Progress
    from pycontain.images.layer import WritableLayer
    from pycontain.metadata import ImageRecord
    from pycontain.spec.image import History, ImageConfig, Manifest

RESUMABLE = 86400.0  # seconds for which an interrupted download is kept, unless everything is pruned


@frozen
class Image:
    """An image in the store. It stays what it is when its name moves to another one.

    Made by `pull`, `load` and `get`.

    Attributes:
        name: in its canonical form, `docker.io/library/debian:12`.
        target: what the name points to, a manifest or an index of several platforms.
        digest: of the manifest for the platform.
        store: where it is.
        contents: its documents.
    """

    name: str
    target: Descriptor
    digest: str
    store: Store = field(repr=False, eq=False)
    contents: Contents = field(repr=False, eq=False)

    @classmethod
    def pull(
        cls, reference: str, *, platform: str | None = None, progress: Progress | None = None,
        snapshotter: str | None = None, store: Store | None = None,
    ) -> Self:
        """Brings an image from its registry into the store and unpacks it. What is there already is only verified.

        `platform` is `linux/arm64`, say; this machine's by default. `progress` is called, in several threads, with the
        descriptor of a blob and how many of its bytes are here.

        Raises:
            ImageNotFound: the registry does not have it, or not for the platform.
            AuthenticationFailed, RegistryError: the registry refuses, or cannot be reached.
            InvalidImage: the image is broken or hostile.
            StoreError: the disk is full, for example.
        """
        from pycontain.images.pull import pull

        store = store or Store.at()
        parsed = Reference.parse(reference)
        wanted = _wanted(platform)
        target = pull(store, parsed, wanted, progress or (lambda descriptor, size: None), snapshotter)
        contents = read_contents(store, target, wanted)
        return cls(str(parsed), target, contents.descriptor.digest, store, contents)

    @classmethod
    def load(cls, source: str, *, snapshotter: str | None = None, store: Store | None = None) -> list[Self]:
        """Brings the images of a layout or an archive into the store: `oci:DIRECTORY[:TAG]`,
        `oci-archive:FILE[:TAG]` or `docker-archive:FILE[:REFERENCE]`.

        Raises `InvalidImage` for what is broken or hostile, `InvalidReference`, `ImageNotFound`, `StoreError`.
        """
        from pycontain.images.load import load

        store = store or Store.at()
        return [cls.get(name, store=store) for name in load(store, parse_source(source), snapshotter)]

    @classmethod
    def from_rootfs(
        cls, directory: str, name: str, *, config: ConfigFields = NO_CONFIG, store: Store | None = None
    ) -> Self:
        """Makes an image of one layer: the tree in a directory, with owners, modes, times and extended attributes.

        `config` is what its containers run, and how. Raises `StoreError`, `InvalidReference`.
        """
        from pycontain.images.make import from_rootfs

        store, full = store or Store.at(), _tagged(name)
        from_rootfs(store, directory, full, config)
        return cls.get(full, store=store)

    @classmethod
    def from_tar(cls, path: str, name: str, *, config: ConfigFields = NO_CONFIG, store: Store | None = None) -> Self:
        """Makes an image of one layer: the tree in a tar, which may be compressed. See `from_rootfs`.

        Raises `LayerError` for an archive that is broken or hostile, `StoreError`, `InvalidReference`.
        """
        from pycontain.images.make import from_tar

        store, full = store or Store.at(), _tagged(name)
        from_tar(store, path, full, config)
        return cls.get(full, store=store)

    @classmethod
    def commit(cls, layer: WritableLayer, name: str, message: str | None = None) -> Self:
        """Makes an image of what a container has written; see `Task.commit`."""
        from pycontain.images.make import commit

        full = _tagged(name)
        commit(layer, full, message)
        return cls.get(full, store=layer.image.store)

    @classmethod
    def get(cls, name: str, *, platform: str | None = None, store: Store | None = None) -> Self:
        """The image with that name or digest in the store. Raises `ImageNotFound`.

        A name without a registry that docker.io's images do not have may be that of the one image that ends so.
        """
        store = store or Store.at()
        return cls._of(store, find(store, name), platform)

    @classmethod
    def list(cls, *, store: Store | None = None) -> list[Self]:
        """All images of the store that have this machine's platform, by name."""
        store = store or Store.at()
        found = []
        for record in store.images.list():
            try:
                found.append(cls._of(store, record, None))
            except ImageNotFound:  # it was pulled for another platform only
                continue
        return found

    @classmethod
    def _of(cls, store: Store, record: ImageRecord, platform: str | None) -> Self:
        target = Descriptor(record.media_type, record.digest, record.size)
        contents = read_contents(store, target, _wanted(platform))
        return cls(record.name, target, contents.descriptor.digest, store, contents)

    @property
    def manifest(self) -> Manifest:
        return self.contents.manifest

    @property
    def config(self) -> ImageConfig:
        """The configuration: `config.config` is what a container gets (env, user, cmd, ...)."""
        return self.contents.config

    @property
    def platform(self) -> str:
        """What it runs on, `linux/amd64`."""
        config = self.config
        return format_platform(Platform(config.architecture, config.os, variant=config.variant))

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """The descriptors of the layers as they are stored, the lowest first."""
        return self.contents.manifest.layers

    @property
    def history(self) -> tuple[History, ...]:
        """How it was made, the oldest step first."""
        return self.contents.config.history

    @property
    def size(self) -> int:
        """Bytes of its layers and configuration as they are stored, compressed."""
        return self.manifest.config.size + sum(layer.size for layer in self.layers)

    def tag(self, name: str) -> Self:
        """Gives the image another name too. A name that is in use moves. Raises `InvalidReference`."""
        from pycontain.images.pull import write_index
        from pycontain.metadata import ImageRecord

        full = _tagged(name)
        with self.store.leases.hold() as lease:
            lease.add("blob", self.target.digest)
            if self.store.content.info(self.target.digest) is None:
                raise ImageNotFound(f"the image {self.name!r} has been removed")
            target = self.target
            self.store.images.put(ImageRecord(full, target.media_type, target.digest, target.size))
        write_index(self.store)
        return type(self)(full, self.target, self.digest, self.store, self.contents)

    def push(self, reference: str) -> None:
        """Sends the image, for its platform, to a registry.

        Raises `AuthenticationFailed`, `RegistryError`, `InvalidReference`, `BlobDamaged`.
        """
        from pycontain.images.push import push

        parsed = Reference.parse(reference)
        if parsed.digest is not None:
            raise InvalidReference(f"{reference!r} has a digest", remedy="An image is pushed to a tag")
        push(self.store, self.contents, parsed)

    def save(self, destination: str) -> None:
        """Writes the image, for its platform, to `oci:DIRECTORY[:TAG]`, `oci-archive:FILE[:TAG]` or
        `docker-archive:FILE[:REFERENCE]`, by default under its own name. An archive is replaced when it is whole.

        Raises `InvalidReference`, `StoreError`, `BlobDamaged`.
        """
        from pycontain.images.save import save

        save(self.store, self.contents.descriptor, self.name, parse_source(destination))

    def unpack(self, directory: str) -> None:
        """Unpacks the root file system into an empty directory, which is made when it is missing.

        Raises `StoreError` for a directory that is not empty or cannot be written; `BlobDamaged`, `LayerError`.
        """
        from pycontain.images.unpack import unpack_into

        unpack_into(self.store, self.contents, directory)

    def remove(self) -> None:
        """Removes the name, and what no other image, container or pull needs of it. Raises `ImageNotFound`."""
        from pycontain.images.gc import collect
        from pycontain.images.pull import write_index

        if not self.store.images.remove(self.name):
            raise ImageNotFound(f"there is no image {self.name!r} in the store")
        write_index(self.store)
        collect(self.store, pending_age=RESUMABLE)


def _tagged(name: str) -> str:
    """The canonical form of a name that is to be given to an image."""
    reference = Reference.parse(name)
    if reference.digest is not None:
        raise InvalidReference(f"{name!r} has a digest: it cannot be given to an image")
    return str(reference)


def _wanted(platform: str | None) -> Platform:
    return host_platform() if platform is None else parse_platform(platform)
