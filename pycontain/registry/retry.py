"""How long to go on with a registry that fails: pauses that grow, with chance in them, and what the server asks for."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

from attrs import field, frozen

from pycontain.errors import InvalidArgument, RegistryError


def _positive(_: object, attribute: object, value: float) -> None:
    if not value > 0:
        raise InvalidArgument(f"{getattr(attribute, 'name', attribute)}={value} is not above 0")


@frozen
class Patience:
    """The limits of all waits for a registry. Times are in seconds.

    Attributes:
        attempts: how often a request is made, or a transfer resumed, without any progress between.
        first_pause: the longest first pause; each one after it may be twice as long. A pause is chosen at random below
            its limit, so that many clients which failed together do not come back together.
        longest_pause: the limit of all pauses, and the longest `Retry-After` that is obeyed.
        total: for the attempts and pauses of one request, and for reading a document. Transfers of blobs have no limit
            as long as they get on.
        connect: for a connection, and for sending 64 KiB.
        silence: for the next bytes of an answer.
        commit: for the answer to the end of an upload, in which the registry may check and move the blob.
        slowest: bytes a second; a transfer that is slower for the time of `silence` is taken for a broken one.
    """

    attempts: int = field(default=5, validator=_positive)
    first_pause: float = field(default=0.5, validator=_positive)
    longest_pause: float = field(default=60.0, validator=_positive)
    total: float = field(default=180.0, validator=_positive)
    connect: float = field(default=15.0, validator=_positive)
    silence: float = field(default=30.0, validator=_positive)
    commit: float = field(default=300.0, validator=_positive)
    slowest: float = field(default=256.0, validator=_positive)


class Attempts:
    """Counts the attempts at one thing, and waits between them."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.restart()

    def restart(self) -> None:
        """There was progress: count from the beginning."""
        self._failed = 0
        self._deadline = time.monotonic() + self._patience.total

    def failed(self, error: RegistryError, retry_after: float | None = None) -> None:
        """Waits until the next attempt is due. Raises `error` when there is to be none: too many attempts, too much
        time, or a server that asks for a longer pause than is allowed."""
        self._failed += 1
        if self._failed >= self._patience.attempts:
            raise error
        limit = min(self._patience.first_pause * 2 ** (self._failed - 1), self._patience.longest_pause)
        pause = random.uniform(0, limit)
        if retry_after is not None:
            # Later by some chance, too: all who were told the same second would come in it.
            pause = retry_after + random.uniform(0, self._patience.first_pause)
            if retry_after > self._patience.longest_pause:
                raise error
        if time.monotonic() + pause > self._deadline:
            raise error
        time.sleep(pause)


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a `Retry-After` header: a number, or a date (RFC 9110, 10.2.3). None when it says neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
