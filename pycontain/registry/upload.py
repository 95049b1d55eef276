"""A blob into a registry: in one request where that works, else in chunks, and taken up again after a failure.

OCI distribution specification, "Push".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlencode

from attrs import evolve, frozen

from pycontain.errors import AuthenticationFailed, BlobDamaged, RegistryError, StoreError
from pycontain.registry.auth import Scopes, pull_scope, push_scope
from pycontain.registry.endpoint import Endpoint, Interrupted
from pycontain.registry.origin import resolve_location
from pycontain.registry.retry import Attempts
from pycontain.registry.transport import Response

if TYPE_CHECKING:
    from pycontain.spec.image import Descriptor

CHUNK = 16 << 20  # bytes in each request, where a blob is not sent in one
_BLOCK = 64 << 10  # bytes that are read at once; each has the time of `Patience.connect` to be sent
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_TOO_LARGE = 413
_LOST = frozenset({400, 404, 416})  # the session is gone, or at another place than it says


class Uploaded(enum.Enum):
    """What an upload came to."""

    EXISTED = "existed"
    MOUNTED = "mounted"
    SENT = "sent"


@frozen
class _Session:
    """An upload that the registry keeps: where to send what comes next, and how many bytes it has."""

    url: str
    offset: int = 0
    shortest_chunk: int = 0


def has_blob(endpoint: Endpoint, repository: str, digest: str, scopes: Scopes) -> bool:
    url = endpoint.url(f"{repository}/blobs/{digest}")
    with endpoint.request("HEAD", url, scopes, f"the blob {digest} of {repository}", accept=(404,)) as response:
        return response.status != 404


def upload(
    endpoint: Endpoint, repository: str, descriptor: Descriptor, reader: BinaryIO, mount_from: Sequence[str],
    chunk_size: int | None,
) -> Uploaded:
    """See `Registry.upload_blob`."""
    transfer = _Transfer(endpoint, repository, descriptor, reader, chunk_size)
    if transfer.exists():
        return Uploaded.EXISTED
    for source in mount_from:
        if transfer.mount(source):
            return Uploaded.MOUNTED
    transfer.send()
    return Uploaded.SENT


class _Transfer:
    """One blob on its way."""

    def __init__(
        self, endpoint: Endpoint, repository: str, descriptor: Descriptor, reader: BinaryIO, chunk_size: int | None
    ) -> None:
        self._endpoint = endpoint
        self._repository = repository
        self._descriptor = descriptor
        self._reader = reader
        self._chunk_size = chunk_size
        self._scopes: Scopes = (push_scope(repository),)
        self._what = f"the upload of {descriptor.digest} to {repository}"

    def exists(self) -> bool:
        return has_blob(self._endpoint, self._repository, self._descriptor.digest, self._scopes)

    def mount(self, source: str) -> bool:
        """Whether the registry could take the blob from its repository `source`."""
        query = urlencode({"mount": self._descriptor.digest, "from": source})
        url = self._endpoint.url(f"{self._repository}/blobs/uploads/?{query}")
        scopes = (*self._scopes, pull_scope(source))
        try:
            with self._endpoint.request("POST", url, scopes, self._what, accept=(404,)) as response:
                if response.status == 202:  # it has begun an ordinary upload instead
                    self._cancel(self._session(response))
                return response.status == 201
        except AuthenticationFailed:
            return False  # we may not read there, which is no reason not to send the blob

    def send(self) -> None:
        """Sends what the registry lacks, until it has everything."""
        attempts = Attempts(self._endpoint.patience)
        session: _Session | None = None
        farthest = 0
        while True:  # attempts.failed() raises in the end: only new ground counts as progress
            session = session or self._begin()
            try:
                if session.offset == 0 and self._chunk_size is None:
                    return self._finish(session, self._descriptor.size)
                if session.offset == self._descriptor.size:
                    return self._finish(session, 0)
                session = self._send_chunk(session)
                if session.offset > farthest:
                    farthest = session.offset
                    attempts.restart()
            except Interrupted as interrupted:
                attempts.failed(interrupted.error, interrupted.retry_after)
                if self.exists():
                    return None  # it was only the answer that did not arrive
                session = self._ask(session)
            except RegistryError as error:
                if error.status == _TOO_LARGE and self._chunk_size is None:
                    self._chunk_size = CHUNK  # something on the way does not let requests of this size pass
                elif error.code == "DIGEST_INVALID":
                    raise BlobDamaged(error.message) from None
                elif error.status not in _LOST:
                    raise
                attempts.failed(error)
                session = None

    def _begin(self) -> _Session:
        url = self._endpoint.url(f"{self._repository}/blobs/uploads/")
        with self._endpoint.request("POST", url, self._scopes, self._what) as response:
            return self._session(response)

    def _session(self, response: Response) -> _Session:
        location = response.headers.get("Location")
        if not location:
            raise RegistryError(f"{self._what}: {response.origin} does not say where to", status=response.status)
        shortest = response.headers.get("OCI-Chunk-Min-Length", "")
        length = int(shortest[:12]) if shortest.isascii() and shortest.isdigit() else 0
        return _Session(resolve_location(response.url, location), 0, length)

    def _send_chunk(self, session: _Session) -> _Session:
        size = max(self._chunk_size or CHUNK, session.shortest_chunk)
        end = min(session.offset + size, self._descriptor.size)
        headers = {"Content-Range": f"{session.offset}-{end - 1}"}
        with self._put("PATCH", session.url, session.offset, end - session.offset, headers) as response:
            return evolve(session, url=self._session(response).url, offset=end)

    def _finish(self, session: _Session, length: int) -> None:
        """Closes the upload, with its last `length` bytes."""
        digest = urlencode({"digest": self._descriptor.digest})
        url = f"{session.url}{'&' if '?' in session.url else '?'}{digest}"
        with self._put("PUT", url, self._descriptor.size - length, length, {}) as response:
            found = response.headers.get("Docker-Content-Digest", self._descriptor.digest)
            if found != self._descriptor.digest:
                raise BlobDamaged(f"{self._what}: {response.origin} has {found[:140]!r} now")

    def _put(self, method: str, url: str, offset: int, length: int, headers: dict[str, str]) -> Response:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length), **headers}
        return self._endpoint.request(
            method, url, self._scopes, self._what, headers=headers, body=self._blocks(offset, length), once=True,
            silence=self._endpoint.patience.commit,
        )

    def _blocks(self, offset: int, length: int) -> Iterator[bytes]:
        try:
            self._reader.seek(offset)
            while length > 0:
                block = self._reader.read(min(_BLOCK, length))
                if not block:
                    raise BlobDamaged(f"{self._what}: the blob ends {length} bytes too early")
                length -= len(block)
                yield block
        except OSError as error:
            raise StoreError(f"{self._what}: the blob cannot be read", errno=error.errno) from error

    def _ask(self, session: _Session) -> _Session | None:
        """Where to go on with a session; None when it is lost."""
        with self._endpoint.request("GET", session.url, self._scopes, self._what, accept=tuple(_LOST)) as response:
            match = _RANGE.fullmatch(response.headers.get("Range", ""))
            if response.status in _LOST or match is None:
                return None
            location = response.headers.get("Location")
            # "0-0" stands for one byte and for none: the latter is likely, and a wrong guess is answered with 416.
            offset = int(match[1]) + 1 if int(match[1]) else 0
            if offset > self._descriptor.size:
                return None
            url = resolve_location(response.url, location) if location else session.url
            return evolve(session, url=url, offset=offset)

    def _cancel(self, session: _Session) -> None:
        try:
            self._endpoint.request("DELETE", session.url, self._scopes, self._what, once=True).close()
        except (RegistryError, Interrupted):
            pass  # the registry gets rid of uploads that nobody goes on with
