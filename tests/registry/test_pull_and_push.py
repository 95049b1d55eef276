"""What is pushed to a real registry is what is pulled from it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty_proxy import FaultyProxy, answer, with_headers
from registries import Server, blob, described, push_image

from pycontain.errors import BlobDamaged, ImageNotFound, InvalidArgument, InvalidImage, RegistryError
from pycontain.registry.client import Registry
from pycontain.registry.reference import Reference
from pycontain.registry.upload import Uploaded
from pycontain.spec.image import Descriptor, Index, Manifest, Platform, encode
from pycontain.spec.media_types import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)

Connect = Callable[..., Registry]


def fetch(registry: Registry, repository: str, descriptor: Descriptor, offset: int = 0) -> bytes:
    return b"".join(registry.fetch_blob(repository, descriptor, offset))


# ---- both ways

def test_an_image_that_is_pushed_is_pulled_by_its_tag_and_by_its_digest(registry: Registry) -> None:
    layer = blob(1_300_000)
    descriptor, manifest = push_image(registry, "both/ways:1", layer)
    reference = Reference.parse(f"{registry.host}/both/ways:1")
    assert registry.resolve(reference) == (descriptor, manifest)
    assert registry.resolve(reference.with_digest(descriptor.digest)) == (descriptor, manifest)
    assert fetch(registry, "both/ways", layer[0]) == layer[1]


def test_an_index_is_pulled_and_its_manifests_are_by_their_descriptors(registry: Registry) -> None:
    manifest, data = push_image(registry, "index:amd64", blob(10))
    entry = Descriptor(manifest.media_type, manifest.digest, manifest.size, platform=Platform("amd64", "linux"))
    index = encode(Index((entry,), media_type=OCI_INDEX))
    reference = Reference.parse(f"{registry.host}/index:all")
    registry.put_manifest(reference, OCI_INDEX, index)
    assert registry.resolve(reference) == (described(index, OCI_INDEX), index)
    assert registry.manifest("index", entry) == data


def test_images_of_docker_keep_their_types(registry: Registry) -> None:
    config, layer = described(b"{}", DOCKER_CONFIG), blob(10)
    for descriptor, data in ((config, b"{}"), layer):
        registry.upload_blob("docker", descriptor, io.BytesIO(data))
    layers = (described(layer[1], DOCKER_LAYER_GZIP),)
    manifest = encode(Manifest(config, layers, media_type=DOCKER_MANIFEST))
    reference = Reference.parse(f"{registry.host}/docker:1")
    registry.put_manifest(reference, DOCKER_MANIFEST, manifest)
    assert registry.resolve(reference)[0].media_type == DOCKER_MANIFEST


def test_a_manifest_without_a_tag_is_stored_by_its_digest(registry: Registry) -> None:
    manifest, data = push_image(registry, "untagged:1", blob(10))
    by_digest = Reference(registry.host, "untagged", digest=manifest.digest)
    assert registry.put_manifest(by_digest, OCI_MANIFEST, data) == manifest.digest
    with pytest.raises(InvalidArgument, match="digest"):
        registry.put_manifest(by_digest, OCI_MANIFEST, data + b" ")


def test_a_blob_comes_in_large_pieces(registry: Registry) -> None:
    layer, data = blob(1_300_000)
    registry.upload_blob("pieces", layer, io.BytesIO(data))
    pieces = list(registry.fetch_blob("pieces", layer))
    assert [len(piece) for piece in pieces] == [512 << 10, 512 << 10, 1_300_000 - (1 << 20)]
    assert b"".join(pieces) == data


@pytest.mark.parametrize("offset", [1, 99_999, 100_000])
def test_a_blob_is_read_from_any_offset(registry: Registry, offset: int) -> None:
    layer, data = blob(100_000)
    registry.upload_blob("offset", layer, io.BytesIO(data))
    assert fetch(registry, "offset", layer, offset) == data[offset:]


def test_a_reader_may_stop_early_and_the_client_goes_on(registry: Registry) -> None:
    layer, data = blob(3_000_000)
    registry.upload_blob("early", layer, io.BytesIO(data))
    pieces = registry.fetch_blob("early", layer)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert fetch(registry, "early", layer) == data


# ---- uploads

@pytest.mark.parametrize("size", [0, 1, 2, 300_000])
@pytest.mark.parametrize("chunk_size", [None, 1, 100_000])
def test_a_blob_of_any_size_is_sent_whole_or_in_chunks(registry: Registry, size: int, chunk_size: int | None) -> None:
    if chunk_size == 1 and size > 2:
        chunk_size = 299_999
    layer, data = blob(size, seed=size)
    repository = f"sizes/{size}-{chunk_size or 0}"
    assert registry.upload_blob(repository, layer, io.BytesIO(data), chunk_size=chunk_size) is Uploaded.SENT
    assert fetch(registry, repository, layer) == data


def test_a_blob_that_is_there_is_not_sent_again(connect: Connect, proxy: FaultyProxy) -> None:
    registry = connect(proxy.host)
    layer, data = blob(1000)
    assert not registry.has_blob("twice", layer)
    assert registry.upload_blob("twice", layer, io.BytesIO(data)) is Uploaded.SENT
    assert registry.has_blob("twice", layer)
    proxy.requests.clear()
    assert registry.upload_blob("twice", layer, io.BytesIO(data)) is Uploaded.EXISTED
    assert [seen.method for seen in proxy.requests] == ["HEAD"]


def test_a_blob_of_another_repository_is_mounted_instead_of_sent(connect: Connect, proxy: FaultyProxy) -> None:
    registry = connect(proxy.host)
    layer, data = blob(1000, seed=1)
    registry.upload_blob("mount/source", layer, io.BytesIO(data))
    proxy.requests.clear()
    sources = ["mount/nothing-here", "mount/source"]
    assert registry.upload_blob("mount/target", layer, io.BytesIO(data), mount_from=sources) is Uploaded.MOUNTED
    assert sum(seen.body_size for seen in proxy.requests) == 0
    assert fetch(registry, "mount/target", layer) == data


def test_a_blob_that_cannot_be_mounted_is_sent(registry: Registry) -> None:
    layer, data = blob(1000, seed=2)
    assert registry.upload_blob("mount/none", layer, io.BytesIO(data), mount_from=["mount/other"]) is Uploaded.SENT
    assert fetch(registry, "mount/none", layer) == data


@pytest.mark.parametrize("chunk_size", [None, 1000])
def test_a_blob_that_is_not_what_its_descriptor_says_is_not_stored(
    registry: Registry, chunk_size: int | None
) -> None:
    layer, data = blob(5000, seed=3)
    for wrong in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(BlobDamaged):
            registry.upload_blob("wrong", layer, io.BytesIO(wrong), chunk_size=chunk_size)
    assert not registry.has_blob("wrong", layer)


def test_a_chunk_is_one_byte_or_more(registry: Registry) -> None:
    with pytest.raises(InvalidArgument, match="chunk_size"):
        registry.upload_blob("a", blob(1)[0], io.BytesIO(), chunk_size=0)


def test_the_shortest_chunk_that_a_registry_takes_is_kept(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("POST .*/uploads/", with_headers(OCI_Chunk_Min_Length="4000"))
    layer, data = blob(9000, seed=4)
    connect(proxy.host).upload_blob("shortest", layer, io.BytesIO(data), chunk_size=100)
    assert [seen.body_size for seen in proxy.requests if seen.method == "PATCH"] == [4000, 4000, 1000]


# ---- what is not there, and what is refused

def test_an_image_that_is_not_there_is_not_found(registry: Registry) -> None:
    for name in ("not/there:1", f"not/there@sha256:{'0' * 64}"):
        with pytest.raises(ImageNotFound, match="not/there"):
            registry.resolve(Reference.parse(f"{registry.host}/{name}"))
    with pytest.raises(ImageNotFound):
        registry.tags("not/there")
    with pytest.raises(ImageNotFound):
        fetch(registry, "not/there", blob(1)[0])


def test_a_reference_to_another_registry_is_refused(registry: Registry) -> None:
    with pytest.raises(InvalidArgument, match="is not in the registry"):
        registry.resolve(Reference.parse("debian:12"))


@pytest.mark.parametrize("host", ["", "a b", "a/b", "http://a", "user@a", "a\\b", "a:x", "a?b", "a#b", "ä"])
def test_what_names_no_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidArgument):
        Registry(host)


MANIFEST = encode(Manifest(described(b"{}", OCI_CONFIG), (blob(1)[0],), media_type=OCI_MANIFEST))
SCHEMA_1 = b'{"schemaVersion": 1, "name": "a", "tag": "1", "architecture": "amd64", "fsLayers": [], "history": []}'
BOTH = MANIFEST[:-1] + b',"manifests":[]}'


@pytest.mark.parametrize(
    ("media_type", "body", "problem"),
    [
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", SCHEMA_1, "schema 1"),
        ("application/vnd.docker.distribution.manifest.v1+json", SCHEMA_1, "schema 1"),
        ("application/vnd.example+json", MANIFEST.replace(OCI_MANIFEST.encode(), b""), "unknown type"),
        ("text/html", b"<html>Log in to the network of the hotel</html>", "text/html"),
        (OCI_MANIFEST, b"", "JSON"),
        (OCI_MANIFEST, b"[1]", "object"),
        (OCI_MANIFEST, b"[" * 100_000, "nested"),
        (OCI_MANIFEST, b"{}", "config"),
        (OCI_MANIFEST, BOTH, "manifests"),
        (OCI_INDEX, MANIFEST, "says of itself"),
        (OCI_MANIFEST, b" " * ((4 << 20) + 1), "4194304 bytes"),
    ],
)
def test_a_manifest_that_is_broken_or_of_an_unknown_kind_is_refused(
    connect: Connect, proxy: FaultyProxy, media_type: str, body: bytes, problem: str
) -> None:
    proxy.expect("GET .*/manifests/", answer(200, body, Content_Type=media_type))
    with pytest.raises(InvalidImage, match=problem):
        connect(proxy.host).resolve(Reference.parse(f"{proxy.host}/a:1"))


def test_a_server_that_knows_only_files_is_believed_what_the_manifest_says_of_itself(
    connect: Connect, proxy: FaultyProxy
) -> None:
    proxy.expect("GET .*/manifests/", answer(200, MANIFEST, Content_Type="application/json; charset=utf-8"))
    descriptor, data = connect(proxy.host).resolve(Reference.parse(f"{proxy.host}/a:1"))
    assert (descriptor, data) == (described(MANIFEST, OCI_MANIFEST), MANIFEST)


def test_a_manifest_has_to_have_the_size_and_the_digest_of_its_descriptor(registry: Registry) -> None:
    manifest, _ = push_image(registry, "descriptor:1", blob(10))
    with pytest.raises(BlobDamaged, match="bytes"):
        registry.manifest("descriptor", Descriptor(OCI_MANIFEST, manifest.digest, manifest.size + 1))
    with pytest.raises(InvalidImage, match="says of itself"):
        registry.manifest("descriptor", Descriptor(DOCKER_MANIFEST, manifest.digest, manifest.size))


def test_the_digest_that_a_registry_gives_may_be_of_another_algorithm(connect: Connect, proxy: FaultyProxy) -> None:
    sha512 = "sha512:" + hashlib.sha512(MANIFEST).hexdigest()
    proxy.expect("manifests", answer(200, MANIFEST, Content_Type=OCI_MANIFEST, Docker_Content_Digest=sha512))
    assert connect(proxy.host).resolve(Reference.parse(f"{proxy.host}/a:1"))[0].digest == sha512


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "md5:abc", "../../etc/passwd", "sha256:xyz"])
def test_a_registry_that_gives_a_wrong_digest_for_a_manifest_is_not_believed(
    connect: Connect, proxy: FaultyProxy, digest: str
) -> None:
    proxy.expect("manifests", answer(200, MANIFEST, Content_Type=OCI_MANIFEST, Docker_Content_Digest=digest))
    with pytest.raises(InvalidImage):
        connect(proxy.host).resolve(Reference.parse(f"{proxy.host}/a:1"))


def test_addresses_in_a_descriptor_are_not_fetched(connect: Connect, registry: Registry, proxy: FaultyProxy) -> None:
    layer, data = blob(1000, seed=5)
    foreign = Descriptor(OCI_LAYER_GZIP, layer.digest, layer.size, urls=(f"http://{proxy.host}/elsewhere",))
    with pytest.raises(ImageNotFound):
        fetch(registry, "foreign", foreign)
    registry.upload_blob("foreign", foreign, io.BytesIO(data))
    assert fetch(registry, "foreign", foreign) == data
    assert not proxy.requests


# ---- tags

def test_the_tags_of_a_repository_are_listed(registry: Registry) -> None:
    for tag in ("1", "2", "latest"):
        push_image(registry, f"tags:{tag}", blob(10))
    assert sorted(registry.tags("tags")) == ["1", "2", "latest"]


def test_a_list_of_tags_may_have_several_pages(connect: Connect, proxy: FaultyProxy) -> None:
    link = '</v2/a/tags/list?n=2&last=b>; rel="next"'
    proxy.expect("tags/list.n=1000$", answer(200, b'{"name": "a", "tags": ["a", "b"]}', Link=link))
    proxy.expect("tags/list.n=2&last=b", answer(200, b'{"name": "a", "tags": ["c"]}'))
    assert connect(proxy.host).tags("a") == ["a", "b", "c"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": "abc"}', b'{"tags": [1]}', b'{"tags": ["\\u001b[2J"]}'])
def test_a_list_of_tags_that_is_none_is_refused(connect: Connect, proxy: FaultyProxy, body: bytes) -> None:
    proxy.expect("tags/list", answer(200, body))
    with pytest.raises(InvalidImage):
        connect(proxy.host).tags("a")


def test_a_list_of_tags_that_does_not_end_is_refused(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("tags/list", answer(200, b'{"tags": []}', Link='</v2/a/tags/list>; rel="next"'))
    with pytest.raises(RegistryError, match="end"):
        connect(proxy.host).tags("a")


# ---- many at once

def test_many_threads_use_one_client(server: Server, connect: Connect) -> None:
    registry = connect(server.host)
    blobs = [blob(200_000 + seed, seed) for seed in range(24)]

    def there_and_back(item: tuple[Descriptor, bytes]) -> bool:
        registry.upload_blob("threads", item[0], io.BytesIO(item[1]))
        return fetch(registry, "threads", item[0]) == item[1]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, blobs))
