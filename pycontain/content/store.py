"""The content store: blobs by digest, in a directory that is an OCI image layout (image-layout.md), so that other tools
read it in place. `ingest` beside `blobs` holds what is being written. The files are the only state."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import BinaryIO

from attrs import evolve, frozen

from pycontain.content.digest import ALGORITHMS, Digest, hasher
from pycontain.content.failures import store_errors
from pycontain.content.ingest import CHUNK, Ingest, NewBlob
from pycontain.content.pending import Pending, remove, remove_pending
from pycontain.errors import BlobDamaged, InvalidDigest, InvalidImage
from pycontain.linux.paths import Resolve, openat2, read_file_in_root
from pycontain.spec import media_types
from pycontain.spec.frozen import FrozenMap
from pycontain.spec.image import LARGEST_DOCUMENT, Descriptor, Index, decode, encode

# Annotations that name an image in the index of a layout: the OCI's, often a tag alone, and a full name for containerd.
REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"

_INGEST = "ingest"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_BENEATH = Resolve.BENEATH | Resolve.NO_SYMLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PULL_AGAIN = "Pull or load the image again"


def _never() -> bool:
    return False


@frozen
class Blob:
    """A blob that is in the store; `size` in bytes."""

    digest: Digest
    size: int


class ContentStore:
    """The blobs below the directory `path`, which is made with the first of them.

    For any number of threads and processes at a time. A digest may be given as text, as descriptors have it. All
    methods raise `StoreError` when the file system refuses, and `InvalidDigest`.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def info(self, digest: Digest | str) -> Blob | None:
        """The blob, or None when it is not there. Only its size is looked at: see `verify`."""
        digest = _parsed(digest)
        with store_errors(f"the blob {digest} cannot be looked up"):
            try:
                with self._directory(f"blobs/{digest.algorithm}") as blobs:
                    found = os.stat(digest.hex, dir_fd=blobs, follow_symlinks=False)
            except FileNotFoundError:
                return None
        return Blob(digest, found.st_size) if stat.S_ISREG(found.st_mode) else None

    def open(self, digest: Digest | str) -> BinaryIO:
        """The blob's content, to be closed by the caller. It is not verified: that is for who reads it to the end.

        Raises:
            BlobDamaged: it is not there, or something that is no file is in its place.
        """
        digest = _parsed(digest)
        with store_errors(f"the blob {digest} cannot be opened"):
            try:
                with self._directory(f"blobs/{digest.algorithm}") as blobs:
                    regular = stat.S_ISREG(os.stat(digest.hex, dir_fd=blobs, follow_symlinks=False).st_mode)
                    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
                    file = os.fdopen(openat2(blobs, digest.hex, flags, resolve=_BENEATH), "rb") if regular else None
            except FileNotFoundError:
                raise BlobDamaged(f"the blob {digest} is not in {self.path}", remedy=_PULL_AGAIN) from None
        if file is None:
            raise BlobDamaged(f"the blob {digest} in {self.path} is not a file", remedy=_PULL_AGAIN)
        return file

    def read(self, digest: Digest | str, limit: int = LARGEST_DOCUMENT) -> bytes:
        """The blob's content, verified.

        Raises:
            BlobDamaged: as `open`; and when the content is another one.
            InvalidImage: it is larger than `limit` bytes.
        """
        digest = _parsed(digest)
        with self.open(digest) as file, store_errors(f"the blob {digest} cannot be read"):
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidImage(f"the blob {digest} is larger than {limit} bytes, which is too much to be read at once")
        if Digest.of(data, digest.algorithm) != digest:
            raise BlobDamaged(f"the blob {digest} in {self.path} is damaged", remedy=_PULL_AGAIN)
        return data

    def verify(self, digest: Digest | str, size: int | None = None) -> bool:
        """Whether the blob is there, with this size and content. Reads all of it, unless the size is another one."""
        digest = _parsed(digest)
        hashed = hasher(digest.algorithm)
        buffer = memoryview(bytearray(CHUNK))
        try:
            with self.open(digest) as file, store_errors(f"the blob {digest} cannot be read"):
                if size not in (None, os.fstat(file.fileno()).st_size):
                    return False
                while count := os.readv(file.fileno(), [buffer]):
                    hashed.update(buffer[:count])
        except BlobDamaged:
            return False
        return hashed.hexdigest() == digest.hex

    @contextmanager
    def ingest(
        self, digest: Digest | str, size: int | None = None, *, verify: bool = False, patience: float = 120
    ) -> Iterator[Ingest]:
        """A blob that is to be written: ask `done`, `write` what comes after `offset`, then `commit`.

        One writer has a blob at a time among all threads and processes; others wait as long as its file grows, and
        `patience` seconds more, and then find it `done`, or go on from where it stopped. A file of another size than
        `size` in its place is replaced; with `verify` also one of other content, for which all of it is read. A block
        that is left without `commit` keeps what is good for the next.

        Raises:
            StoreError: also when another writer holds the blob and does not go on.
        """
        digest = _parsed(digest)

        def done() -> bool:
            if verify:
                return self.verify(digest, size)
            there = self.info(digest)
            return there is not None and size in (None, there.size)

        what = f"the blob {digest} cannot be written"
        name = f"{digest.algorithm}-{digest.hex}"
        with self._pending(what, name, f"blobs/{digest.algorithm}", done, patience) as file:
            with store_errors(what):
                ingest = Ingest(digest, size, file)
            try:
                yield ingest
            finally:
                with store_errors(what):
                    ingest._close()

    @contextmanager
    def create(self, algorithm: str = "sha256") -> Iterator[NewBlob]:
        """A blob whose digest is known only when all of it has been written, such as a layer that is being made.

        Whoever has to protect it from garbage collection asks for its `digest` before `commit`. A block that is left
        without `commit` leaves nothing.
        """
        what = "a new blob cannot be written"
        with self._pending(what, f"new-{os.urandom(8).hex()}", f"blobs/{algorithm}") as file:
            assert file is not None  # nobody else has the name
            try:
                yield NewBlob(file, algorithm)
            finally:
                with store_errors(what):
                    file.remove()

    def add(self, digest: Digest | str, size: int, pieces: Iterable[bytes | memoryview]) -> None:
        """Puts a blob of `pieces` into the store, also in place of a damaged one. A failure leaves nothing.

        The pieces are not asked for when the store has the blob already, which is verified.

        Raises:
            BlobDamaged: they are another blob.
        """
        with self.ingest(digest, size, verify=True) as ingest:
            if ingest.done:
                return
            ingest.reset()
            try:
                for piece in pieces:
                    ingest.write(piece)
                ingest.commit()
            except BaseException:
                if not ingest.done:
                    ingest.reset()
                raise

    def write(self, data: bytes, algorithm: str = "sha256") -> Digest:
        """Puts a small blob, such as a manifest, into the store, also in place of a damaged one. Gives its digest."""
        digest = Digest.of(data, algorithm)
        self.add(digest, len(data), [data])
        return digest

    def remove(self, digest: Digest | str) -> bool:
        """Removes the blob, or what is in its place. Gives whether there was something."""
        digest = _parsed(digest)
        with store_errors(f"the blob {digest} cannot be removed"):
            try:
                with self._directory(f"blobs/{digest.algorithm}") as blobs:
                    remove(blobs, digest.hex)
            except FileNotFoundError:
                return False
        return True

    def walk(self) -> Iterator[Blob]:
        """All blobs. What is no file, in place of a blob, counts as one of no bytes, so that it is found and removed;
        other names are not ours."""
        for algorithm in ALGORITHMS:
            with store_errors(f"the blobs in {self.path} cannot be listed"):
                try:
                    with self._directory(f"blobs/{algorithm}") as blobs:
                        found = [blob for name in os.listdir(blobs) if (blob := _blob(blobs, algorithm, name))]
                except FileNotFoundError:
                    found = []
            yield from found

    def clean_ingests(self, older_than: float = 0) -> int:
        """Removes what interrupted ingests have left, if nobody has written to it for `older_than` seconds. Gives how
        many files that were. Ingests that go on are left alone."""
        with store_errors(f"what is left of interrupted downloads in {self.path} cannot be removed"):
            try:
                with self._directory(_INGEST) as ingests:
                    return sum(remove_pending(ingests, name, older_than) for name in os.listdir(ingests))
            except FileNotFoundError:
                return 0

    def index(self) -> Index:
        """What `index.json` lists.

        Raises:
            InvalidImage: this is not an image layout, or one of an unknown version.
        """
        if b'"1.0.0"' not in self._read_file("oci-layout"):
            raise InvalidImage(f"{self.path} is an OCI image layout of another version than 1.0.0")
        return decode(Index, self._read_file("index.json"), f"{self.path}/index.json")

    def set_index(self, images: Mapping[str, Descriptor]) -> None:
        """Writes `index.json`, in which other tools find the manifests and indexes of the images by their names."""
        self.write_index(index_of(sorted(images.items())))

    def write_index(self, index: Index) -> None:
        """Writes `index.json` as it is."""
        with store_errors(f"the directory {self.path} cannot be made"):
            self._make("blobs/sha256")
        self._write_file("index.json", encode(index))

    # ---- directories

    @contextmanager
    def _pending(
        self, what: str, name: str, into: str, done: Callable[[], bool] = _never, patience: float = 60
    ) -> Iterator[Pending | None]:
        """The file `name` in `ingest`, locked, for the directory `into`; None when `done`. Failures in the block are
        not the store's, and pass as they are."""
        with ExitStack() as stack:
            with store_errors(what):
                target = stack.enter_context(self._directory(into, make=True))
                ingests = stack.enter_context(self._directory(_INGEST, make=True))
                file = Pending.lock(ingests, name, target, done=done, patience=patience)
                if file is not None:
                    stack.callback(file.close)
            yield file

    @contextmanager
    def _directory(self, name: str, *, make: bool = False) -> Iterator[int]:
        """A descriptor of a directory of the store, which no link leads out of."""
        try:
            fd = self._open_directory(name)
        except FileNotFoundError:
            if not make:
                raise
            self._make(name)
            fd = self._open_directory(name)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open_directory(self, name: str) -> int:
        root = os.open(self.path, _DIRECTORY)
        try:
            return openat2(root, name, _DIRECTORY, resolve=_BENEATH)
        finally:
            os.close(root)

    def _make(self, name: str) -> None:
        """Makes the layout, and in the end the directory `name`: where there are blobs, the layout is whole."""
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        _sync(os.path.dirname(self.path))
        for made in (_INGEST, "blobs"):
            _mkdir(f"{self.path}/{made}")
        for file, content in (("oci-layout", _LAYOUT), ("index.json", encode(index_of(())))):
            self._write_file(file, content, done=partial(os.path.lexists, f"{self.path}/{file}"))
        _mkdir(f"{self.path}/{name}")

    def _read_file(self, name: str) -> bytes:
        with store_errors(f"{self.path}/{name} cannot be read"):
            try:
                with self._directory(".") as root:
                    return read_file_in_root(root, name, LARGEST_DOCUMENT)
            except (FileNotFoundError, NotADirectoryError):
                raise InvalidImage(f"{self.path} is not an OCI image layout: it has no {name}") from None

    def _write_file(self, name: str, content: bytes, done: Callable[[], bool] = _never) -> None:
        what = f"{self.path}/{name} cannot be written"
        with self._pending(what, name, ".", done) as file:
            if file is None:
                return
            with store_errors(what):
                try:
                    file.truncate()
                    file.write(content)
                    file.publish(name)
                finally:
                    file.remove()


def index_of(images: Iterable[tuple[str | None, Descriptor]]) -> Index:
    """The index of a layout with these images, in this order; None is for one without a name."""
    return Index(tuple(_named(target, name) for name, target in images), media_types.OCI_INDEX)


def _named(target: Descriptor, name: str | None) -> Descriptor:
    kept = {key: value for key, value in target.annotations.items() if key not in (REF_NAME, IMAGE_NAME)}
    if name is not None:
        kept[REF_NAME] = name
        if "/" in name:
            kept[IMAGE_NAME] = name
    return evolve(target, annotations=FrozenMap(kept))


def _parsed(digest: Digest | str) -> Digest:
    return Digest.parse(digest) if isinstance(digest, str) else digest


def _blob(blobs: int, algorithm: str, name: str) -> Blob | None:
    try:
        found = os.stat(name, dir_fd=blobs, follow_symlinks=False)
        return Blob(Digest(algorithm, name), found.st_size if stat.S_ISREG(found.st_mode) else 0)
    except (FileNotFoundError, InvalidDigest):  # removed meanwhile, or not ours
        return None


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    _sync(os.path.dirname(path))


def _sync(directory: str) -> None:
    fd = os.open(directory, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
