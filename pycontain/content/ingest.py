"""Writing a blob into the store: verified while it comes, resumed after an interruption, visible when whole; and one
whose digest is not known before."""

from __future__ import annotations

import os

from pycontain.content.digest import Digest, hasher
from pycontain.content.failures import store_errors
from pycontain.content.pending import Pending
from pycontain.errors import BlobDamaged

CHUNK = 1 << 20  # bytes; hashing at its full speed needs 256 KiB or more


class Ingest:
    """A blob that is being written, as `ContentStore.ingest` gives it. For one thread.

    Attributes:
        digest: what the blob has to be.
        size: its size in bytes, or None when that is not known.
        offset: how many of its bytes are there. What an interrupted attempt has left counts, hashed again.
        resumed: whether there are such bytes. If the blob then turns out to be damaged, they may be the reason: after
            `reset`, another attempt from its start can succeed.
        done: whether the blob is in the store. Nothing is to be written then.
    """

    def __init__(self, digest: Digest, size: int | None, file: Pending | None) -> None:
        self.digest = digest
        self.size = size
        self.offset = 0
        self.done = file is None
        self.resumed = False
        self._file = file
        self._hasher = hasher(digest.algorithm)
        self._damaged = False
        if file is not None:
            self._resume(file)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Adds `data`, best in pieces of 256 KiB and more.

        Raises:
            BlobDamaged: the blob is longer than its size. What there is of it will be removed.
            StoreError: the disk is full, for example. As before.
        """
        file = self._writable()
        length = memoryview(data).nbytes
        if self.size is not None and self.offset + length > self.size:
            raise self._damage(f"is longer than its {self.size} bytes")
        self._hasher.update(data)
        try:
            with store_errors(f"the blob {self.digest} cannot be written"):
                file.write(data)
        except BaseException:
            self._damaged = True  # how much of the data is there is not known
            raise
        self.offset += length

    def reset(self) -> None:
        """Forgets all that has been written, for an attempt from the start."""
        with store_errors(f"the blob {self.digest} cannot be written"):
            file = self._writable()
            file.truncate()
        self._hasher = hasher(self.digest.algorithm)
        self.offset = 0
        self.resumed = self._damaged = False

    def commit(self) -> None:
        """Verifies size and digest and puts the blob into the store, also through a loss of power.

        Raises:
            BlobDamaged: size or digest differ. What there is of it will be removed, unless `reset` follows.
            StoreError: it cannot be written.
        """
        file = self._writable()
        if self.size is not None and self.offset != self.size:
            if self.offset < self.size:  # cut off: what is there may be good
                raise BlobDamaged(f"the blob {self.digest} ends after {self.offset} of {self.size} bytes")
            raise self._damage(f"has {self.offset} bytes instead of {self.size}")
        if self._hasher.hexdigest() != self.digest.hex:
            raise self._damage(f"is {self.digest.algorithm}:{self._hasher.hexdigest()} in fact")
        self._damaged = True  # unless the kernel says that all of it is on the disk
        with store_errors(f"the blob {self.digest} cannot be put into the store"):
            file.publish(self.digest.hex)
        self._file = None
        self.done = True

    def _close(self) -> None:
        """The end of the block: what is of no use to a later attempt is removed."""
        if self._file is not None and (self._damaged or self.offset == 0):
            self._file.remove()
        self._file = None

    def _resume(self, file: Pending) -> None:
        buffer = memoryview(bytearray(CHUNK))
        length = os.fstat(file.fd).st_size
        if self.size is None or length <= self.size:
            while count := os.readv(file.fd, [buffer]):
                self._hasher.update(buffer[:count])
                self.offset += count
        whole = self.offset == self.size and self._hasher.hexdigest() == self.digest.hex
        if length != self.offset or (self.offset == self.size and not whole):
            self.reset()
        self.resumed = self.offset > 0

    def _writable(self) -> Pending:
        if self._file is None:
            raise ValueError(f"the blob {self.digest} is in the store, or the block of its ingest is over")
        return self._file

    def _damage(self, how: str) -> BlobDamaged:
        self._damaged = True
        return BlobDamaged(f"the blob {self.digest} {how}")


class NewBlob:
    """A blob that is being made, as `ContentStore.create` gives it. For one thread."""

    def __init__(self, file: Pending, algorithm: str) -> None:
        self.size = 0
        self._file = file
        self._algorithm = algorithm
        self._hasher = hasher(algorithm)

    @property
    def digest(self) -> Digest:
        """The digest of what has been written so far."""
        return Digest(self._algorithm, self._hasher.hexdigest())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Adds `data`, best in pieces of 256 KiB and more."""
        self._hasher.update(data)
        with store_errors("a new blob cannot be written"):
            self._file.write(data)
        self.size += memoryview(data).nbytes

    def commit(self) -> None:
        """Puts the blob into the store, also through a loss of power. Nothing can be written after that."""
        with store_errors(f"the blob {self.digest} cannot be put into the store"):
            self._file.publish(self.digest.hex)
