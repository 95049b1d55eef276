"""What an archive of images holds: a tar, read once from its front, whose files become blobs of the store. The archive
is a stranger's: names are only keys here, nothing is extracted, and each blob is what its digest says."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from typing import BinaryIO

from attrs import define, field, frozen

from pycontain.content.digest import Digest
from pycontain.content.store import ContentStore
from pycontain.errors import InvalidDigest, InvalidImage, LayerError
from pycontain.layers.compression import Decompressed
from pycontain.layers.tar import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Archive, Entry
from pycontain.spec.image import LARGEST_DOCUMENT

OCI_LAYOUT, INDEX, DOCKER_MANIFEST = "oci-layout", "index.json", "manifest.json"

_DOCUMENTS = (OCI_LAYOUT, INDEX, DOCKER_MANIFEST)
_UNUSED = ("VERSION", "json", "repositories")  # for versions of Docker before 1.10, in each directory of a layer
_MOST = 100_000  # entries; an image of 500 layers has 1,500 in Docker's oldest form
_LINKS = 8  # one after another


@frozen
class Member:
    """A file of the archive, as a blob of the store."""

    digest: str
    size: int


@define
class Members:
    """The files of an archive by their names: small documents as they are, all others as blobs; and links."""

    where: str
    documents: dict[str, bytes] = field(factory=dict)
    files: dict[str, Member] = field(factory=dict)
    links: dict[str, str] = field(factory=dict)

    def find(self, name: str) -> Member:
        """The file of that name, or that the link of that name leads to. Raises `InvalidImage` if there is none."""
        found = _normal(name)
        for _ in range(_LINKS):
            if found is None:
                break
            if found in self.files:
                return self.files[found]
            if found not in self.links:
                break
            found = _normal(self.links[found])
        raise InvalidImage(f"{self.where} lacks {name!r:.200}")


def read_members(store: ContentStore, file: BinaryIO, where: str, keep: Callable[[str], object]) -> Members:
    """Reads an archive, which may be compressed, to its end. `keep` as in `load_archive`; `where` names it in errors.

    Raises:
        InvalidImage: it is no archive of images, or a hostile one. What was read until then is in the store.
        BlobDamaged: a blob is not what its name says.
        StoreError: the store cannot be written.
    """
    members = Members(where)
    archive = Archive(Decompressed(file, where).read, where)
    count = 0
    try:
        for entry in archive:
            count += 1
            if count > _MOST:
                raise archive.refusal(f"it is one of more than {_MOST} entries")
            if entry.type != DIRECTORY:
                _take(store, archive, entry, members, keep)
    except LayerError as error:
        entry_name = f"the entry {error.entry!r:.200} of " if error.entry is not None else ""
        raise InvalidImage(f"{entry_name}{where} is refused: {error.rule}") from None
    return members


def _take(
    store: ContentStore, archive: Archive, entry: Entry, members: Members, keep: Callable[[str], object]
) -> None:
    name = _normal(os.fsdecode(entry.name))
    if name is None:
        raise archive.refusal("its name leads out of the archive")
    if name in members.documents or name in members.files or name in members.links:
        raise archive.refusal("it is there twice")
    if entry.type == SYMLINK:
        members.links[name] = posixpath.join(posixpath.dirname(name), os.fsdecode(entry.link))
    elif entry.type == HARD_LINK:
        members.links[name] = os.fsdecode(entry.link)
    elif entry.type != REGULAR or entry.segments is not None:
        raise archive.refusal("it is neither a file nor a directory nor a link")
    elif name in _DOCUMENTS:
        if entry.size > LARGEST_DOCUMENT:
            raise archive.refusal(f"it is larger than {LARGEST_DOCUMENT} bytes")
        members.documents[name] = b"".join(archive.data())
    elif (digest := _blob_name(name)) is not None:
        keep(str(digest))
        store.add(digest, entry.size, archive.data())
        members.files[name] = Member(str(digest), entry.size)
    elif posixpath.basename(name) not in _UNUSED:
        members.files[name] = _create(store, archive, keep)


def _create(store: ContentStore, archive: Archive, keep: Callable[[str], object]) -> Member:
    """A file whose digest comes out when it has been read."""
    with store.create() as new:
        for piece in archive.data():
            new.write(piece)
        keep(str(new.digest))
        new.commit()
        return Member(str(new.digest), new.size)


def _blob_name(name: str) -> Digest | None:
    """The digest that a name in an OCI layout stands for."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "blobs":
        return None
    try:
        return Digest(parts[1], parts[2])
    except InvalidDigest:
        return None


def _normal(name: str) -> str | None:
    """The name without `.` and `..`; None if it leads out of the archive. It is a key, never a path."""
    normal = posixpath.normpath(name)
    return None if normal.startswith(("/", "../")) or normal in (".", "..") else normal
