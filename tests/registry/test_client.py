"""The client against Debian's docker-registry, with and without a password, and through a proxy that fails."""

from __future__ import annotations

import base64
import io
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import Answer, Asked, Change, RegistryMissing, RunningRegistry, proxy, running_registry

from pycontain.content.digest import Digest
from pycontain.errors import (
    AuthenticationFailed,
    BlobDamaged,
    ImageNotFound,
    InvalidArgument,
    InvalidImage,
    RegistryError,
)
from pycontain.registry.client import Registry
from pycontain.registry.credentials import Credentials
from pycontain.registry.reference import Reference
from pycontain.registry.retry import Patience
from pycontain.registry.upload import Uploaded
from pycontain.spec import media_types
from pycontain.spec.image import LARGEST_DOCUMENT, Descriptor, Index, Manifest, encode

ALICE = Credentials("alice", "correct horse: battery")
REPOSITORY = "tests/image"
IMPATIENT = Patience(attempts=3, first_pause=0.01)
BLOB = random.Random(1).randbytes(3 << 20)


@pytest.fixture(scope="module")
def registry() -> Iterator[RunningRegistry]:
    """One that lets everybody in, with an image."""
    try:
        with running_registry() as running:
            push_image(running.name)
            yield running
    except RegistryMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def locked_registry() -> Iterator[RunningRegistry]:
    """One that wants Alice's password, with the same image."""
    try:
        with running_registry(ALICE) as running:
            push_image(running.name, ALICE)
            yield running
    except RegistryMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the user of this machine has stored is not for these tests."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("PYCONTAIN_MIRRORS", raising=False)


def described(data: bytes, media_type: str = media_types.OCI_LAYER) -> Descriptor:
    return Descriptor(media_type, str(Digest.of(data)), len(data))


CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYER = described(BLOB)
MANIFEST = encode(
    Manifest(described(CONFIG, media_types.OCI_CONFIG), (LAYER,), media_type=media_types.OCI_MANIFEST)
)
IMAGE = described(MANIFEST, media_types.OCI_MANIFEST)


def named(registry: str, tag: str | None = "1", digest: str | None = None) -> Reference:
    return Reference(registry, REPOSITORY, tag, digest)


def push_image(name: str, credentials: Credentials | None = None) -> None:
    with Registry(name, credentials=credentials) as client:
        for data in (BLOB, CONFIG):
            client.upload_blob(REPOSITORY, described(data), io.BytesIO(data))
        client.put_manifest(named(name), media_types.OCI_MANIFEST, MANIFEST)


def nothing(asked: Asked, answer: Answer) -> None:
    """Changes nothing."""


def first_blob(change: Change) -> Change:
    """Changes only the first answer with the content of a blob."""
    done: list[bool] = []

    def once(asked: Asked, answer: Answer) -> None:
        if asked.method == "GET" and "/blobs/" in asked.path and not done:
            done.append(True)
            change(asked, answer)

    return once


# ---- pull and push


def test_an_image_is_found_by_its_tag_and_by_its_digest(registry: RunningRegistry) -> None:
    with Registry(registry.name) as client:
        by_tag = client.resolve(named(registry.name))
        by_digest = client.resolve(named(registry.name, None, IMAGE.digest))
        again = client.manifest(REPOSITORY, IMAGE)
    assert by_tag == by_digest == (IMAGE, MANIFEST)
    assert again == MANIFEST


def test_a_blob_comes_whole_in_large_pieces(registry: RunningRegistry) -> None:
    with Registry(registry.name) as client:
        pieces = list(client.fetch_blob(REPOSITORY, LAYER))
    assert b"".join(pieces) == BLOB
    assert min(map(len, pieces)) >= 256 << 10


def test_a_blob_comes_from_an_offset(registry: RunningRegistry) -> None:
    with Registry(registry.name) as client:
        assert b"".join(client.fetch_blob(REPOSITORY, LAYER, 1_000_001)) == BLOB[1_000_001:]
        assert b"".join(client.fetch_blob(REPOSITORY, LAYER, len(BLOB))) == b""


def test_an_index_is_pushed_and_found(registry: RunningRegistry) -> None:
    index = encode(Index((IMAGE,), media_type=media_types.OCI_INDEX))
    with Registry(registry.name) as client:
        digest = client.put_manifest(named(registry.name, "index"), media_types.OCI_INDEX, index)
        found = client.resolve(named(registry.name, "index"))
    assert found == (Descriptor(media_types.OCI_INDEX, digest, len(index)), index)


def test_docker_s_manifest_is_pushed_by_its_digest(registry: RunningRegistry) -> None:
    config = described(CONFIG, media_types.DOCKER_CONFIG)
    layer = described(BLOB, media_types.DOCKER_LAYER_GZIP)
    data = encode(Manifest(config, (layer,), media_type=media_types.DOCKER_MANIFEST))
    reference = named(registry.name, None, str(Digest.of(data)))
    with Registry(registry.name) as client:
        client.put_manifest(reference, media_types.DOCKER_MANIFEST, data)
        assert client.resolve(reference) == (described(data, media_types.DOCKER_MANIFEST), data)


def test_a_manifest_is_not_pushed_by_another_digest_than_its_own(registry: RunningRegistry) -> None:
    with Registry(registry.name) as client, pytest.raises(InvalidArgument, match="has the digest"):
        client.put_manifest(named(registry.name, None, LAYER.digest), media_types.OCI_MANIFEST, MANIFEST)


@pytest.mark.parametrize("chunk_size", [None, 300_000])
def test_a_blob_is_sent_once(registry: RunningRegistry, chunk_size: int | None) -> None:
    repository = f"tests/sent-{chunk_size or 0}"
    with Registry(registry.name) as client:
        assert not client.has_blob(repository, LAYER)
        sent = [
            client.upload_blob(repository, LAYER, io.BytesIO(BLOB), chunk_size=chunk_size) for _ in range(2)
        ]
        assert sent == [Uploaded.SENT, Uploaded.EXISTED]
        assert client.has_blob(repository, LAYER)
        assert b"".join(client.fetch_blob(repository, LAYER)) == BLOB


def test_a_blob_of_another_repository_is_mounted(registry: RunningRegistry) -> None:
    with Registry(registry.name) as client:
        sent = client.upload_blob("tests/mounted", LAYER, io.BytesIO(b""), mount_from=("tests/none", REPOSITORY))
        assert sent is Uploaded.MOUNTED
        assert b"".join(client.fetch_blob("tests/mounted", LAYER)) == BLOB


@pytest.mark.parametrize("data", [BLOB[:-1], bytes(len(BLOB))], ids=["short", "other"])
def test_a_blob_that_is_not_as_described_is_not_stored(registry: RunningRegistry, data: bytes) -> None:
    with Registry(registry.name, patience=IMPATIENT) as client:
        with pytest.raises(BlobDamaged):
            client.upload_blob("tests/damaged", LAYER, io.BytesIO(data))
        assert not client.has_blob("tests/damaged", LAYER)


def test_tags_are_listed(registry: RunningRegistry) -> None:
    with Registry(registry.name) as client:
        assert "1" in client.tags(REPOSITORY)
        with pytest.raises(ImageNotFound):
            client.tags("tests/none")


def test_what_is_missing_is_not_found(registry: RunningRegistry) -> None:
    missing = described(b"nobody has this")
    with Registry(registry.name) as client:
        with pytest.raises(ImageNotFound, match="none"):
            client.resolve(named(registry.name, "none"))
        with pytest.raises(ImageNotFound):
            client.manifest(REPOSITORY, missing)
        with pytest.raises(ImageNotFound):
            list(client.fetch_blob(REPOSITORY, missing))


def test_a_registry_is_not_asked_for_another_s_images(registry: RunningRegistry) -> None:
    with Registry(registry.name) as client, pytest.raises(InvalidArgument, match="is not in the registry"):
        client.resolve(Reference.parse("debian:12"))


def test_a_registry_that_is_not_there_cannot_be_reached() -> None:
    with Registry("127.0.0.1:1", patience=IMPATIENT) as client, pytest.raises(RegistryError, match="cannot be reached"):
        client.resolve(named("127.0.0.1:1"))


def test_plain_http_is_not_spoken_where_tls_is_wanted(registry: RunningRegistry) -> None:
    with Registry(registry.name, plain_http=False) as client, pytest.raises(RegistryError, match="does not speak TLS"):
        client.resolve(named(registry.name))


# ---- passwords and tokens


def test_the_right_password_opens_a_registry(locked_registry: RunningRegistry) -> None:
    with Registry(locked_registry.name, credentials=ALICE) as client:
        assert client.resolve(named(locked_registry.name)) == (IMAGE, MANIFEST)
        assert b"".join(client.fetch_blob(REPOSITORY, LAYER)) == BLOB


@pytest.mark.parametrize("credentials", [None, Credentials("alice", "wrong"), Credentials("bob", ALICE.password)])
def test_without_the_right_password_authentication_fails(
    locked_registry: RunningRegistry, credentials: Credentials | None
) -> None:
    with Registry(locked_registry.name, credentials=credentials) as client:
        with pytest.raises(AuthenticationFailed) as raised:
            client.resolve(named(locked_registry.name))
        with pytest.raises(AuthenticationFailed):
            client.upload_blob(REPOSITORY, described(b"new"), io.BytesIO(b"new"))
    assert raised.value.status == 401
    assert ALICE.password not in str(raised.value)


def test_the_password_is_found_in_docker_s_configuration(locked_registry: RunningRegistry, tmp_path: Path) -> None:
    auth = base64.b64encode(f"{ALICE.username}:{ALICE.password}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {locked_registry.name: {"auth": auth}}}))
    with Registry(locked_registry.name) as client:
        assert client.resolve(named(locked_registry.name))[0] == IMAGE


def test_the_password_is_asked_from_a_credential_helper(
    locked_registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"Username": ALICE.username, "Secret": ALICE.password})
    helper = tmp_path / "docker-credential-tests"
    helper.write_text(f"#!/bin/sh\n[ \"$1 $(cat)\" = 'get {locked_registry.name}' ] && echo '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {locked_registry.name: "tests"}}))
    with Registry(locked_registry.name) as client:
        assert client.resolve(named(locked_registry.name))[0] == IMAGE


def test_a_configuration_that_cannot_be_read_is_reported(locked_registry: RunningRegistry, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with Registry(locked_registry.name) as client, pytest.raises(RegistryError, match="is not JSON"):
        client.resolve(named(locked_registry.name))


def with_tokens(realm: str = "http://{host}/token") -> Change:
    """Wants a token, which `/token` gives to everybody."""

    def change(asked: Asked, answer: Answer) -> None:
        if asked.path.startswith("/token?"):
            answer.status, answer.headers, answer.body = 200, [], b'{"token": "sesame", "expires_in": 300}'
        elif asked.headers.get("authorization") != "Bearer sesame":
            answer.status, answer.body = 401, b"{}"
            address = realm.format(host=asked.headers["host"])
            answer.headers = [("WWW-Authenticate", f'Bearer realm="{address}",service="tests"')]

    return change


def test_a_token_is_fetched_once_and_only_its_server_gets_the_password(registry: RunningRegistry) -> None:
    with proxy(registry.name, with_tokens()) as tokens, Registry(tokens.name, credentials=ALICE) as client:
        assert client.resolve(named(tokens.name))[0] == IMAGE
        assert b"".join(client.fetch_blob(REPOSITORY, LAYER)) == BLOB
    asked_for_token = [asked for asked in tokens.asked if asked.path.startswith("/token?")]
    others = {asked.headers.get("authorization") for asked in tokens.asked if asked not in asked_for_token}
    assert [asked.headers.get("authorization") for asked in asked_for_token] == [ALICE.basic]
    assert "scope=repository%3Atests%2Fimage%3Apull" in asked_for_token[0].path
    assert others == {None, "Bearer sesame"}


def test_a_token_is_fetched_without_credentials(registry: RunningRegistry) -> None:
    with proxy(registry.name, with_tokens()) as tokens, Registry(tokens.name) as client:
        assert client.resolve(named(tokens.name))[0] == IMAGE
    assert all(asked.headers.get("authorization") in (None, "Bearer sesame") for asked in tokens.asked)


def test_a_blob_is_pushed_with_a_token(registry: RunningRegistry) -> None:
    data = b"pushed with a token"
    with proxy(registry.name, with_tokens()) as tokens, Registry(tokens.name) as client:
        assert client.upload_blob("tests/token", described(data), io.BytesIO(data)) is Uploaded.SENT


def test_a_token_server_that_is_not_encrypted_is_refused(registry: RunningRegistry) -> None:
    change = with_tokens("http://192.0.2.1/token")
    with (
        proxy(registry.name, change) as tokens,
        Registry(tokens.name, credentials=ALICE) as client,
        pytest.raises(RegistryError, match="not encrypted"),
    ):
        client.resolve(named(tokens.name))


# ---- networks and servers that fail


def test_a_transfer_that_is_cut_goes_on_where_it_was(registry: RunningRegistry) -> None:
    cuts = iter([700_001, 0, 1_000_000])

    def cut(asked: Asked, answer: Answer) -> None:
        if "/blobs/" in asked.path:
            answer.cut = next(cuts, None)

    with proxy(registry.name, cut) as cutting, Registry(cutting.name, patience=IMPATIENT) as client:
        assert b"".join(client.fetch_blob(REPOSITORY, LAYER)) == BLOB
    end = len(BLOB) - 1
    assert [asked.headers.get("range") for asked in cutting.blobs()] == [
        None, f"bytes=700001-{end}", f"bytes=700001-{end}", f"bytes=1700001-{end}",
    ]


def test_a_server_without_ranges_sends_all_again(registry: RunningRegistry) -> None:
    def ignore_range(asked: Asked, answer: Answer) -> None:
        if answer.status == 206:
            answer.status, answer.body = 200, BLOB
        elif "/blobs/" in asked.path:
            answer.cut = 600_000

    with proxy(registry.name, ignore_range) as simple, Registry(simple.name, patience=IMPATIENT) as client:
        assert b"".join(client.fetch_blob(REPOSITORY, LAYER)) == BLOB


def test_a_transfer_that_never_gets_on_ends(registry: RunningRegistry) -> None:
    def cut(asked: Asked, answer: Answer) -> None:
        answer.cut = 0

    with proxy(registry.name, cut) as cutting, Registry(cutting.name, patience=IMPATIENT) as client:
        with pytest.raises(RegistryError):
            list(client.fetch_blob(REPOSITORY, LAYER))
        assert len(cutting.blobs()) == IMPATIENT.attempts


def test_a_corrupt_blob_has_another_digest(registry: RunningRegistry) -> None:
    @first_blob
    def corrupt(asked: Asked, answer: Answer) -> None:
        answer.body = answer.body[:-1] + bytes([answer.body[-1] ^ 1])

    with proxy(registry.name, corrupt) as corrupting, Registry(corrupting.name) as client:
        data = b"".join(client.fetch_blob(REPOSITORY, LAYER))
        assert str(Digest.of(data)) != LAYER.digest
        assert len(data) == LAYER.size


def test_a_blob_of_another_size_is_refused_before_it_is_read(registry: RunningRegistry) -> None:
    @first_blob
    def longer(asked: Asked, answer: Answer) -> None:
        answer.body += b"x"

    with proxy(registry.name, longer) as lengthening, Registry(lengthening.name) as client, pytest.raises(BlobDamaged):
        next(client.fetch_blob(REPOSITORY, LAYER))


@pytest.mark.parametrize("digest", [None, IMAGE.digest])
def test_a_corrupt_manifest_is_refused(registry: RunningRegistry, digest: str | None) -> None:
    def corrupt(asked: Asked, answer: Answer) -> None:
        answer.body = answer.body.replace(b"linux", b"minix") + b" "

    with (
        proxy(registry.name, corrupt) as corrupting,
        Registry(corrupting.name) as client,
        pytest.raises(BlobDamaged, match="has the digest"),
    ):
        client.resolve(named(corrupting.name, None if digest else "1", digest))


@pytest.mark.parametrize(
    ("media_type", "body", "reason"),
    [
        (media_types.OCI_MANIFEST, b" " * (LARGEST_DOCUMENT + 1), "more than the 4194304 bytes"),
        (media_types.DOCKER_SCHEMA_1_SIGNED, b"{}", "schema 1"),
        ("application/vnd.example+json", b'{"schemaVersion": 2}', "unknown type"),
        (media_types.OCI_MANIFEST, b"[", "not JSON"),
        (media_types.OCI_INDEX, MANIFEST, "says of itself"),
    ],
    ids=["large", "schema 1", "unknown", "broken", "other"],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    registry: RunningRegistry, media_type: str, body: bytes, reason: str
) -> None:
    def change(asked: Asked, answer: Answer) -> None:
        answer.headers, answer.body = [("Content-Type", media_type)], body

    with (
        proxy(registry.name, change) as changing,
        Registry(changing.name) as client,
        pytest.raises(InvalidImage, match=reason),
    ):
        client.resolve(named(changing.name))


def test_a_redirect_to_another_server_carries_no_password(
    registry: RunningRegistry, locked_registry: RunningRegistry
) -> None:
    with proxy(registry.name, nothing) as elsewhere:
        def redirect(asked: Asked, answer: Answer) -> None:
            if "/blobs/" in asked.path and answer.status == 200:
                answer.status, answer.body = 307, b""
                answer.header("Location", f"http://{elsewhere.name}{asked.path}")

        with proxy(locked_registry.name, redirect) as front, Registry(front.name, credentials=ALICE) as client:
            assert b"".join(client.fetch_blob(REPOSITORY, LAYER)) == BLOB
    assert front.asked[-1].headers.get("authorization") == ALICE.basic
    assert elsewhere.asked
    assert not any("authorization" in asked.headers for asked in elsewhere.asked)


@pytest.mark.parametrize("location", ["http://192.0.2.1/blob", "file:///etc/passwd", "http://u:p@127.0.0.1/", "{self}"])
def test_a_redirect_to_where_nothing_may_be_asked_is_not_followed(registry: RunningRegistry, location: str) -> None:
    def redirect(asked: Asked, answer: Answer) -> None:
        answer.status, answer.body = 307, b""
        answer.header("Location", asked.path if location == "{self}" else location)

    with proxy(registry.name, redirect) as front, Registry(front.name, patience=IMPATIENT) as client:
        with pytest.raises(RegistryError):
            list(client.fetch_blob(REPOSITORY, LAYER))
        assert len(front.asked) <= 6


def test_a_server_that_is_busy_is_asked_again(registry: RunningRegistry) -> None:
    busy = iter([(503, "0"), (429, "1"), (503, "Thu, 01 Jan 1970 00:00:00 GMT")])

    def refuse(asked: Asked, answer: Answer) -> None:
        if (refusal := next(busy, None)) is not None:
            answer.status, retry_after = refusal
            answer.header("Retry-After", retry_after)

    patience = Patience(attempts=4, first_pause=0.01)
    with proxy(registry.name, refuse) as front, Registry(front.name, patience=patience) as client:
        assert client.resolve(named(front.name))[0] == IMAGE
    assert len(front.asked) == 4


def test_a_server_that_wants_too_long_a_pause_is_not_waited_for(registry: RunningRegistry) -> None:
    def refuse(asked: Asked, answer: Answer) -> None:
        answer.status = 503
        answer.header("Retry-After", "86400")

    with proxy(registry.name, refuse) as front, Registry(front.name) as client, pytest.raises(RegistryError) as raised:
        client.resolve(named(front.name))
    assert raised.value.status == 503
    assert len(front.asked) == 1


@pytest.mark.parametrize("status", [502, 413])
def test_an_upload_that_is_refused_once_succeeds_in_the_end(registry: RunningRegistry, status: int) -> None:
    done: list[bool] = []

    def refuse(asked: Asked, answer: Answer) -> None:
        if asked.method == "PUT" and not done:
            done.append(True)
            answer.status, answer.body = status, b""

    repository = f"tests/refused-{status}"
    with proxy(registry.name, refuse) as front, Registry(front.name, patience=IMPATIENT) as client:
        client.upload_blob(repository, LAYER, io.BytesIO(BLOB))
        assert b"".join(client.fetch_blob(repository, LAYER)) == BLOB


def test_a_mirror_is_asked_first_and_the_registry_for_what_it_lacks(registry: RunningRegistry) -> None:
    def lacks_blobs(asked: Asked, answer: Answer) -> None:
        if "/blobs/" in asked.path:
            answer.status, answer.body = 404, b"{}"

    mirrors = ["http://127.0.0.1:1"]
    with proxy(registry.name, lacks_blobs) as mirror, proxy(registry.name, nothing) as front:
        mirrors.append(f"http://{mirror.name}")
        with Registry(front.name, mirrors=mirrors, patience=IMPATIENT) as client:
            assert client.resolve(named(front.name))[0] == IMAGE
            assert not front.asked
            assert b"".join(client.fetch_blob(REPOSITORY, LAYER)) == BLOB
    assert len(front.blobs()) == 1
