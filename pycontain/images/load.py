"""Brings the images of a layout or an archive into the store, and unpacks those that are for this machine."""

from __future__ import annotations

from pycontain.errors import ImageNotFound, InvalidReference
from pycontain.images.contents import contents_of
from pycontain.images.platform import host_platform
from pycontain.images.pull import publish
from pycontain.images.store import Store
from pycontain.metadata import Lease
from pycontain.registry.reference import DockerArchive, Layout, OciArchive, Reference, Source
from pycontain.spec.image import Descriptor


def load(store: Store, source: Source, snapshotter: str | None = None) -> list[str]:
    """Loads images, and gives their names. Raises as `Image.load`."""
    with store.leases.hold() as lease:
        named = _copy(store, source, lease)
        names = []
        for name, target in named:
            full = _name(name, target)
            contents = contents_of(target, host_platform(), lambda descriptor: store.content.read(descriptor.digest))
            publish(store, lease, contents, target, full, snapshotter)
            names.append(full)
    return names


def _copy(store: Store, source: Source, lease: Lease) -> list[tuple[str | None, Descriptor]]:
    def keep(digest: str) -> None:
        lease.add("blob", digest)

    if isinstance(source, Layout):
        from pycontain.images.layout import load_layout

        return load_layout(store.content, source.path, source.tag, keep=keep)
    if isinstance(source, (OciArchive, DockerArchive)):
        from pycontain.images.archives import load_archive

        wanted = source.tag if isinstance(source, OciArchive) else source.reference
        return load_archive(store.content, source.path, None if wanted is None else str(wanted), keep=keep)
    raise InvalidReference(
        f"{source} is neither a layout nor an archive", remedy="Pull it, or write oci:DIRECTORY, oci-archive:FILE, "
        "docker-archive:FILE",
    )


def _name(name: str | None, target: Descriptor) -> str:
    """The canonical form of a name in a layout, which may be a tag alone; without one its digest is its name."""
    if name is None:
        return target.digest
    try:
        return str(Reference.parse(name))
    except InvalidReference:
        raise ImageNotFound(
            f"the image {target.digest} has a name that is none: {name!r:.100}", remedy="Give it another tag there"
        ) from None
