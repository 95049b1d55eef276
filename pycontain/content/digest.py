"""The digest of a blob: `sha256:` or `sha512:` and hexadecimal digits (OCI image specification, descriptor.md)."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from pycontain.errors import InvalidDigest

ALGORITHMS = {"sha256": 64, "sha512": 128}  # digits of each


class Hasher(Protocol):
    """What `hashlib` gives. `update` lets other threads run while it works on more than 2 KiB."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def hasher(algorithm: str = "sha256") -> Hasher:
    """A new hash of an algorithm of this module."""
    import hashlib

    return hashlib.new(algorithm)


@frozen(order=True)
class Digest:
    """An algorithm and its result in hexadecimal digits. Every instance is valid: both may become parts of a path.

    Raises:
        InvalidDigest: also by `parse`: an unknown algorithm, or digits that it does not give.
    """

    algorithm: str
    hex: str

    def __attrs_post_init__(self) -> None:
        digits = ALGORITHMS.get(self.algorithm)
        if digits is None:
            known = " and ".join(ALGORITHMS)
            raise InvalidDigest(f"the digest algorithm {self.algorithm[:80]!r} is not supported, only {known}")
        if len(self.hex) != digits or self.hex.strip("0123456789abcdef"):
            raise InvalidDigest(f"a {self.algorithm} is {digits} digits of 0-9a-f, not {self.hex[:160]!r}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """`sha256:e3b0...` as a digest."""
        algorithm, colon, digits = text.partition(":")
        if not colon:
            raise InvalidDigest(f"{text[:160]!r} is not a digest such as sha256:e3b0...")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        hashed = hasher(algorithm)
        hashed.update(data)
        return cls(algorithm, hashed.hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
