"""A blob from a registry, taken up again where the connection broke."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pycontain.errors import BlobDamaged, RegistryError
from pycontain.registry.auth import pull_scope
from pycontain.registry.endpoint import Endpoint
from pycontain.registry.retry import Attempts
from pycontain.registry.transport import Response, Unreachable

if TYPE_CHECKING:
    from pycontain.spec.image import Descriptor

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def download(endpoint: Endpoint, repository: str, descriptor: Descriptor, offset: int) -> Iterator[bytes]:
    """The bytes of a blob from `offset` on, exactly as many as its descriptor says, or an error.

    Raises `BlobDamaged` when the registry has another size or digest for it, `RegistryError`.
    """
    attempts = Attempts(endpoint.patience)
    position = offset
    while position < descriptor.size:  # attempts.failed() raises in the end
        try:
            with _open(endpoint, repository, descriptor, position, attempts) as response:
                for piece in _from(response, descriptor, position):
                    position += len(piece)
                    attempts.restart()
                    yield piece
            continue
        except Unreachable as error:
            attempts.failed(error)


def _open(endpoint: Endpoint, repository: str, descriptor: Descriptor, position: int, attempts: Attempts) -> Response:
    url = endpoint.url(f"{repository}/blobs/{descriptor.digest}")
    headers = {"Range": f"bytes={position}-{descriptor.size - 1}"} if position else {}
    what = f"the blob {descriptor.digest} of {repository}"
    return endpoint.request("GET", url, (pull_scope(repository),), what, headers=headers, attempts=attempts)


def _from(response: Response, descriptor: Descriptor, position: int) -> Iterator[bytes]:
    """The body without what comes before `position`: a server may ignore the range."""
    start = _start(response, descriptor, position)
    _check_head(response, descriptor)
    left = descriptor.size - start
    skip = position - start
    for piece in response.pieces():
        left -= len(piece)
        if left < 0:
            raise BlobDamaged(f"{response.origin} sends more than the {descriptor.size} bytes of {descriptor.digest}")
        if skip < len(piece):
            yield piece[skip:] if skip else piece
        skip = max(0, skip - len(piece))
    if left:
        raise Unreachable(f"the answer of {response.origin} ended {left} bytes too early")


def _start(response: Response, descriptor: Descriptor, position: int) -> int:
    if response.status == 200:
        return 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 206 and match is not None and int(match[1]) == position:
        return position
    raise RegistryError(
        f"{response.origin} answered {response.status} with another part of {descriptor.digest} than was asked for",
        status=response.status,
    )


def _check_head(response: Response, descriptor: Descriptor) -> None:
    """What the header says has to be right, so that a wrong blob is noticed before it is read."""
    length = response.headers.get("Content-Length", "")
    if response.status == 200 and length.isascii() and length.isdigit() and int(length[:19]) != descriptor.size:
        raise BlobDamaged(
            f"{response.origin} has {length[:19]} bytes for {descriptor.digest}, which has {descriptor.size}"
        )
    digest = response.headers.get("Docker-Content-Digest", descriptor.digest)
    if digest != descriptor.digest and digest.partition(":")[0] == descriptor.digest.partition(":")[0]:
        raise BlobDamaged(f"{response.origin} sends {digest[:140]!r} for {descriptor.digest}")
