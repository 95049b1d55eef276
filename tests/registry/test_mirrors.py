"""Mirrors are asked first, and the registry for whatever they do not give."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator

import pytest
from attrs import evolve
from faulty_proxy import FaultyProxy, answer, corrupt, cut_after, faulty_proxy, hang_up
from registries import PASSWORD, USER, Server, blob, docker_registry, push_image

from pycontain.errors import ImageNotFound, InvalidArgument
from pycontain.registry.client import Registry
from pycontain.registry.credentials import Credentials
from pycontain.registry.mirrors import configured_mirrors, mirror_origin
from pycontain.registry.reference import Reference
from pycontain.registry.retry import Patience

Connect = Callable[..., Registry]
ONCE = Patience(attempts=1, first_pause=0.01)
LAYER, DATA = blob(900_000, seed=3)


@pytest.fixture(scope="module")
def mirror_server() -> Iterator[Server]:
    with docker_registry() as started:
        yield started


@pytest.fixture
def mirror(mirror_server: Server) -> Iterator[FaultyProxy]:
    """A mirror that sees what it is asked for."""
    with faulty_proxy(mirror_server.host) as started:
        yield started
        assert not started.left


def image(registry: Registry, name: str) -> bytes:
    """The manifest of an image, whose only layer is read too."""
    reference = Reference.parse(f"{registry.host}/{name}")
    assert b"".join(registry.fetch_blob(reference.repository, LAYER)) == DATA
    return registry.resolve(reference)[1]


def test_what_the_mirror_has_comes_from_there(
    connect: Connect, proxy: FaultyProxy, mirror: FaultyProxy, mirror_server: Server
) -> None:
    _, manifest = push_image(connect(mirror_server.host), "only/mirror:1", (LAYER, DATA))
    registry = connect(proxy.host, mirrors=[f"http://{mirror.host}"])
    assert image(registry, "only/mirror:1") == manifest
    assert not proxy.requests


def test_what_the_mirror_lacks_comes_from_the_registry(
    connect: Connect, registry: Registry, mirror: FaultyProxy
) -> None:
    _, manifest = push_image(registry, "only/registry:1", (LAYER, DATA))
    assert image(connect(registry.host, mirrors=[f"http://{mirror.host}/"]), "only/registry:1") == manifest
    assert len(mirror.requests) == 2


def test_what_neither_has_is_not_found(connect: Connect, registry: Registry, mirror: FaultyProxy) -> None:
    client = connect(registry.host, mirrors=[f"http://{mirror.host}"])
    with pytest.raises(ImageNotFound, match="absent"):
        image(client, "absent:1")
    with pytest.raises(ImageNotFound, match="absent"):
        client.resolve(Reference.parse(f"{registry.host}/absent:1"))


def test_a_broken_manifest_of_the_mirror_is_not_taken(
    connect: Connect, registry: Registry, mirror: FaultyProxy, mirror_server: Server
) -> None:
    push_image(connect(mirror_server.host), "broken:1", (LAYER, DATA))
    _, manifest = push_image(registry, "broken:1", (LAYER, DATA))
    mirror.expect("manifests", corrupt(50))
    mirror.expect("manifests", answer(200, b"<html>", Content_Type="text/html"))
    client = connect(registry.host, mirrors=[f"http://{mirror.host}"])
    assert [image(client, "broken:1") for _ in range(2)] == [manifest] * 2


def test_a_blob_that_the_mirror_does_not_finish_is_finished_by_the_registry(
    connect: Connect, proxy: FaultyProxy, mirror: FaultyProxy, mirror_server: Server, registry: Registry
) -> None:
    for client in (connect(mirror_server.host), registry):
        client.upload_blob("half", LAYER, io.BytesIO(DATA))
    mirror.expect("GET", cut_after(400_000), hang_up)
    client = connect(proxy.host, mirrors=[f"http://{mirror.host}"], patience=evolve(ONCE, attempts=2))
    assert b"".join(client.fetch_blob("half", LAYER)) == DATA
    assert proxy.ranges() == ["bytes=400000-899999"]


def test_a_mirror_that_is_not_there_is_asked_only_once(connect: Connect, registry: Registry) -> None:
    _, manifest = push_image(registry, "no/mirror:1", (LAYER, DATA))
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = connect(registry.host, mirrors=[url], patience=ONCE)
        assert image(client, "no/mirror:1") == manifest
        assert [str(origin) for origin in client._down] == [url]
        assert image(client, "no/mirror:1") == manifest


def test_nothing_is_pushed_to_a_mirror(connect: Connect, registry: Registry, mirror: FaultyProxy) -> None:
    client = connect(registry.host, mirrors=[f"http://{mirror.host}"])
    push_image(client, "pushed:1", (LAYER, DATA))
    assert client.tags("pushed") == ["1"]
    assert client.has_blob("pushed", LAYER)
    assert not mirror.requests


def test_a_mirror_does_not_get_the_registry_s_credentials(connect: Connect, registry: Registry) -> None:
    _, manifest = push_image(registry, "secret:1", (LAYER, DATA))
    with docker_registry(password=True) as locked, faulty_proxy(locked.host) as mirror:
        url = f"http://{mirror.host}"
        client = connect(registry.host, mirrors=[url], credentials=Credentials(USER, PASSWORD))
        assert image(client, "secret:1") == manifest
        assert mirror.requests
        assert not [seen for seen in mirror.requests if "Authorization" in seen.headers]
        asked: list[str] = []
        client = connect(registry.host, mirrors=[url], credentials=lambda host: asked.append(host))  # type: ignore[func-returns-value]
        assert image(client, "secret:1") == manifest
        assert set(asked) == {mirror.host}


def test_mirrors_are_configured_in_the_environment(
    connect: Connect, registry: Registry, mirror: FaultyProxy, mirror_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, manifest = push_image(connect(mirror_server.host), "by/environment:1", (LAYER, DATA))
    monkeypatch.setenv("PYCONTAIN_MIRRORS", f"docker.io=https://a {registry.host}=http://{mirror.host}")
    assert image(connect(registry.host), "by/environment:1") == manifest
    assert image(connect("docker.io", mirrors=[f"http://{mirror.host}"], patience=ONCE), "by/environment:1") == manifest
    with pytest.raises(ImageNotFound):
        image(connect(registry.host, mirrors=[]), "by/environment:1")


@pytest.mark.parametrize(
    ("text", "registry", "mirrors"),
    [
        ("", "a", ()),
        ("a=https://b", "a", ("https://b",)),
        ("a=https://b,http://c:1  d=https://e", "a", ("https://b", "http://c:1")),
        ("a=https://b a=https://c", "a", ("https://b", "https://c")),
        ("a=https://b", "b", ()),
    ],
)
def test_the_variable_has_words_of_a_registry_and_its_mirrors(
    monkeypatch: pytest.MonkeyPatch, text: str, registry: str, mirrors: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PYCONTAIN_MIRRORS", text)
    assert configured_mirrors(registry) == mirrors


@pytest.mark.parametrize("text", ["a", "a=", "=https://b", "https://b"])
def test_a_variable_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PYCONTAIN_MIRRORS", text)
    with pytest.raises(InvalidArgument, match="PYCONTAIN_MIRRORS"):
        configured_mirrors("a")


@pytest.mark.parametrize("url", ["", "a", "https://a/b", "https://a//", "https://u@a", "https://a?b", "ftp://a", "https://"])
def test_a_mirror_is_a_scheme_and_a_host(url: str) -> None:
    with pytest.raises(InvalidArgument, match="mirror"):
        mirror_origin(url)
