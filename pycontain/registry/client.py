"""The client of a registry: what to call for pulling and pushing. OCI distribution specification 1.1."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import BinaryIO, TypeVar

from pycontain.content.digest import Digest
from pycontain.errors import (
    BlobDamaged,
    ImageError,
    ImageNotFound,
    InvalidArgument,
    InvalidDigest,
    InvalidImage,
    InvalidReference,
    RegistryError,
)
from pycontain.registry.auth import pull_scope, push_scope
from pycontain.registry.credentials import Credentials, CredentialSource, stored_credentials
from pycontain.registry.download import download
from pycontain.registry.endpoint import Endpoint
from pycontain.registry.mirrors import configured_mirrors, mirror_origin
from pycontain.registry.origin import Origin, resolve_location
from pycontain.registry.reference import Reference
from pycontain.registry.retry import Patience
from pycontain.registry.transport import Response, Transport, Unreachable
from pycontain.registry.upload import Uploaded, has_blob, upload
from pycontain.spec.image import LARGEST_DOCUMENT, Descriptor, decode_manifest
from pycontain.spec.media_types import DOCKER_SCHEMA_1, DOCKER_SCHEMA_1_SIGNED, INDEXES, MANIFESTS

_KNOWN = INDEXES | MANIFESTS | {DOCKER_SCHEMA_1, DOCKER_SCHEMA_1_SIGNED}
_ACCEPT = ", ".join(sorted(INDEXES | MANIFESTS))
_MOST_TAGS = 100_000
_NEXT = re.compile(r'<([^>]*)>\s*;(?:[^,]*;)?\s*rel="?next"?')

T = TypeVar("T")


class Registry:
    """A registry, and the mirrors of it that are asked first when something is read. A context manager.

    Many threads may use one at once: they share connections, tokens, and the knowledge of mirrors that are down.

    Parameters:
        host: as in a reference: `localhost:5000`.
        credentials: for this registry alone; or a function that gives those of any host, mirrors included, by its name.
            By default docker's configuration is asked (`credentials.stored_credentials`), once the registry wants some.
        plain_http: whether to do without TLS. By default only on this machine's loopback addresses.
        ca_file: certificates (PEM) to trust besides the system's, which `SSL_CERT_FILE` may name.
        mirrors: URLs, `https://mirror.example.org`, each tried in turn before the registry itself. By default those
            that `PYCONTAIN_MIRRORS` names.
        patience: limits of all waits and attempts.

    Every method raises `AuthenticationFailed` or another `RegistryError` when the registry refuses, or is not there.
    A descriptor's `urls` are never fetched: whoever wrote them would choose where this machine connects to.
    """

    def __init__(
        self, host: str, *, credentials: Credentials | CredentialSource | None = None, plain_http: bool | None = None,
        ca_file: str | None = None, mirrors: Sequence[str] | None = None, patience: Patience | None = None,
    ) -> None:
        self.host = host
        self._patience = patience or Patience()
        self._transport = Transport(self._patience, ca_file)
        self._own = self._endpoint(_origin(host, plain_http), host, _source(credentials, host))
        urls = configured_mirrors(host) if mirrors is None else mirrors
        given = credentials if callable(credentials) else stored_credentials
        self._mirrors = [
            self._endpoint(origin, str(origin).partition("://")[2], given) for origin in map(mirror_origin, urls)
        ]
        self._down: set[Origin] = set()

    def resolve(self, reference: Reference) -> tuple[Descriptor, bytes]:
        """The manifest or index that `reference` names: its descriptor, and its bytes, which have this digest.

        Raises `ImageNotFound`, `InvalidImage`: too large, broken, of an unknown kind, or not of the digest.
        """
        self._check_own(reference)
        return self._read(lambda endpoint: _manifest(endpoint, reference.repository, reference.target))

    def manifest(self, repository: str, descriptor: Descriptor) -> bytes:
        """The manifest or index with a descriptor, as an index has them. Raises as `resolve` does."""
        return self._read(lambda endpoint: _manifest(endpoint, repository, descriptor))[1]

    def fetch_blob(self, repository: str, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `offset` on, in pieces of up to 512 KiB, smaller only where the connection broke.

        A connection that breaks is made again, and goes on where it was. What comes is exactly as long as the
        descriptor says, but its digest is not computed here: that is for who keeps it (`ContentStore.ingest`). An
        iterator that is left early should be closed. Raises `ImageNotFound`, and `BlobDamaged` when the registry says
        another size or digest.
        """
        position = offset
        for endpoint in self._readable():
            try:
                for piece in download(endpoint, repository, descriptor, position):
                    position += len(piece)
                    yield piece
                return
            except RegistryError as error:
                self._next(endpoint, _not_found(error))
            except ImageError as error:
                self._next(endpoint, error)

    def has_blob(self, repository: str, descriptor: Descriptor) -> bool:
        """Whether the registry itself, not a mirror, has a blob in this repository."""
        return has_blob(self._own, repository, descriptor.digest, (pull_scope(repository),))

    def upload_blob(
        self, repository: str, descriptor: Descriptor, reader: BinaryIO, *, mount_from: Sequence[str] = (),
        chunk_size: int | None = None,
    ) -> Uploaded:
        """Sends a blob, unless the registry has it in `repository`, or can take it from one of those in `mount_from`.

        `reader` has to be able to seek, as it is read again after a failure. The blob goes in one request, or with
        `chunk_size` in several of that many bytes, which is also what is tried after a failure.
        Raises `BlobDamaged` when it is shorter than its descriptor says, or was changed on the way.
        """
        if chunk_size is not None and chunk_size < 1:
            raise InvalidArgument(f"chunk_size={chunk_size} is not above 0")
        return upload(self._own, repository, descriptor, reader, mount_from, chunk_size)

    def put_manifest(self, reference: Reference, media_type: str, data: bytes) -> str:
        """Stores a manifest or index, whose blobs have to be there, as the reference's tag, or by its digest where the
        reference has no tag. Returns the digest. Raises `InvalidArgument` when it is not that of the reference."""
        self._check_own(reference)
        algorithm = Digest.parse(reference.digest).algorithm if reference.digest else "sha256"
        digest = str(Digest.of(data, algorithm))
        if reference.digest not in (None, digest):
            raise InvalidArgument(f"the manifest has the digest {digest}, not {reference.digest}")
        what = f"the manifest {reference}"
        url = self._own.url(f"{reference.repository}/manifests/{reference.tag or digest}")
        with self._own.request(
            "PUT", url, (push_scope(reference.repository),), what, headers={"Content-Type": media_type}, body=data,
            silence=self._patience.commit,
        ) as response:
            found = response.headers.get("Docker-Content-Digest", digest)
            if found.startswith(digest.partition(":")[0]) and found != digest:
                raise BlobDamaged(f"{response.origin} has {found[:140]!r} for {what}, which is {digest}")
        return digest

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository, in the registry's order. Raises `ImageNotFound` when there is none of this name."""
        tags: list[str] = []
        url: str | None = self._own.url(f"{repository}/tags/list?n=1000")
        while url is not None:
            try:
                response, data = self._own.document(
                    url, (pull_scope(repository),), f"the tags of {repository}", LARGEST_DOCUMENT
                )
            except RegistryError as error:
                raise _not_found(error) from None
            page, url = _tags(response, data)
            tags += page
            if len(tags) > _MOST_TAGS or (url is not None and not page):
                raise RegistryError(f"{self._own.origin} does not come to an end with the tags of {repository}")
        return tags

    def close(self) -> None:
        """Closes all connections."""
        self._transport.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_own(self, reference: Reference) -> None:
        if reference.registry != self.host:
            raise InvalidArgument(f"{reference} is not in the registry {self.host}")

    def _endpoint(self, origin: Origin, name: str, source: CredentialSource) -> Endpoint:
        return Endpoint(origin, self._transport, partial(source, name), self._patience)

    def _readable(self) -> Iterator[Endpoint]:
        yield from (mirror for mirror in self._mirrors if mirror.origin not in self._down)
        yield self._own

    def _read(self, ask: Callable[[Endpoint], T]) -> T:
        for endpoint in self._readable():
            try:
                return ask(endpoint)
            except ImageError as error:
                self._next(endpoint, error)
        raise AssertionError("the registry itself is the last")

    def _next(self, endpoint: Endpoint, error: ImageError) -> None:
        """A mirror has failed: on to the next. One that cannot be reached is not asked again."""
        if endpoint is self._own:
            raise error
        if isinstance(error, Unreachable):
            self._down.add(endpoint.origin)


def _origin(host: str, plain_http: bool | None) -> Origin:
    try:
        Reference(host, "any", "any")  # hosts are what references have
        origin = Origin.of(f"https://{host}")
        scheme = "http" if (origin.is_loopback if plain_http is None else plain_http) else "https"
        return Origin.of(f"{scheme}://{host}")
    except (InvalidReference, RegistryError):
        raise InvalidArgument(f"{host!r} is not the name of a registry") from None


def _source(credentials: Credentials | CredentialSource | None, host: str) -> CredentialSource:
    if isinstance(credentials, Credentials):
        return lambda name: credentials if name == host else None
    return credentials or stored_credentials


def _manifest(endpoint: Endpoint, repository: str, target: str | Descriptor) -> tuple[Descriptor, bytes]:
    name = target if isinstance(target, str) else target.digest
    what = f"{repository}@{name}" if ":" in name else f"{repository}:{name}"
    url = endpoint.url(f"{repository}/manifests/{name}")
    try:
        data, content_type, said = _get_document(endpoint, repository, url, what)
    except RegistryError as error:
        raise _not_found(error) from None
    digest = _digest(data, name if ":" in name else None, said, what)
    if isinstance(target, Descriptor):
        if len(data) != target.size:
            raise BlobDamaged(f"{what} has {len(data)} bytes, not the {target.size} of its descriptor")
        decode_manifest(data, target.media_type, what)
        return target, data
    media_type = content_type if content_type in _KNOWN else _own_type(data) or content_type
    decode_manifest(data, media_type, what)
    return Descriptor(media_type, digest, len(data)), data


def _get_document(endpoint: Endpoint, repository: str, url: str, what: str) -> tuple[bytes, str, str | None]:
    """Body, media type, and the digest that the registry gives."""
    response, data = endpoint.document(url, (pull_scope(repository),), what, LARGEST_DOCUMENT, {"Accept": _ACCEPT})
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return data, media_type, response.headers.get("Docker-Content-Digest")


def _digest(data: bytes, wanted: str | None, said: str | None, what: str) -> str:
    """The digest of a document, which has to be the one that was asked for, and the one that the registry says."""
    for expected in (wanted, said):
        if expected is None:
            continue
        try:
            found = str(Digest.of(data, Digest.parse(expected).algorithm))
        except InvalidDigest as error:
            raise InvalidImage(f"{what}: {error.message}") from None
        if found != expected:
            raise BlobDamaged(f"{what} has the digest {found}, not {expected}")
    return wanted or said or str(Digest.of(data))


def _own_type(data: bytes) -> str | None:
    """What a document says of itself, for servers that know only files."""
    try:
        found = json.loads(data).get("mediaType")
    except (ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _tags(response: Response, data: bytes) -> tuple[list[str], str | None]:
    """The tags of one page, and the URL of the next."""
    try:
        tags = json.loads(data).get("tags") or []
    except (ValueError, AttributeError, RecursionError):
        tags = None
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.isprintable() for tag in tags):
        raise InvalidImage(f"the list of tags of {response.origin} cannot be read")
    link = _NEXT.search(response.headers.get("Link", "")[:4096])
    return tags, resolve_location(response.url, link[1]) if link else None


def _not_found(error: RegistryError) -> ImageError:
    return ImageNotFound(error.message) if error.status == 404 else error
