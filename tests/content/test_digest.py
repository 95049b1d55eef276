"""Digests: what is one, and that nothing else can become a path."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontain.content import Digest
from pycontain.content.digest import hasher
from pycontain.errors import InvalidArgument, InvalidDigest

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.binary(max_size=200), st.sampled_from(["sha256", "sha512"]))
def test_a_digest_is_that_of_hashlib_and_goes_there_and_back(data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    assert str(digest) == f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    assert Digest.parse(str(digest)) == digest
    hashed = hasher(algorithm)
    hashed.update(data)
    assert hashed.hexdigest() == digest.hex


def test_the_default_is_sha256() -> None:
    assert str(Digest.of(b"")) == EMPTY


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "sha256", "sha256:", EMPTY[7:], EMPTY.upper(), EMPTY[:-1], EMPTY + "0", EMPTY + "\n", " " + EMPTY,
        EMPTY[:-1] + "g", EMPTY[:-1] + "\u0661", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha512:" + EMPTY[7:],
        "sha256:" + "../" * 21 + "x", "../sha256:" + EMPTY[7:], "sha256:/" + EMPTY[8:], "sha256:" + "\0" * 64,
        "sha256+b64:" + EMPTY[7:], "SHA256:" + EMPTY[7:], "sha256:" + "a" * 10_000_000,
    ],
    ids=lambda text: repr(text[:40]),
)
def test_anything_else_is_refused_in_a_short_message(text: str) -> None:
    with pytest.raises(InvalidDigest) as caught:
        Digest.parse(text)
    assert len(str(caught.value)) < 1000
    assert isinstance(caught.value, InvalidArgument)


@given(st.text(max_size=80))
def test_no_text_makes_a_digest_that_leaves_its_directory(text: str) -> None:
    for algorithm in ("sha256", "sha512", text):
        try:
            digest = Digest(algorithm, text)
        except InvalidDigest:
            continue
        assert set(digest.hex) <= set("0123456789abcdef")
        assert digest.algorithm in ("sha256", "sha512")
