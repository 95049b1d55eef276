"""Credentials reach the registry that they are for, and nobody else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy, answer, faulty_proxy, redirect_to
from registries import (
    IDENTITY_TOKEN,
    PASSWORD,
    USER,
    Certificate,
    Server,
    TokenServer,
    blob,
    docker_registry,
    push_image,
    token_server,
)

from pycontain.errors import AuthenticationFailed, ImageNotFound, InvalidArgument, RegistryError
from pycontain.registry.client import Registry
from pycontain.registry.credentials import Credentials
from pycontain.registry.origin import Origin, resolve_location
from pycontain.registry.reference import Reference
from pycontain.registry.upload import Uploaded
from pycontain.spec.image import Descriptor

Connect = Callable[..., Registry]
ALICE = Credentials(USER, PASSWORD)


def fetch(registry: Registry, repository: str, descriptor: Descriptor) -> bytes:
    return b"".join(registry.fetch_blob(repository, descriptor))


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    """A registry that wants a password."""
    with docker_registry(password=True) as started:
        yield started


@pytest.fixture(scope="module")
def tokens(certificate: Certificate) -> Iterator[TokenServer]:
    with token_server(certificate) as started:
        yield started


@pytest.fixture(scope="module")
def guarded(tokens: TokenServer) -> Iterator[Server]:
    """A registry that wants tokens of `tokens`."""
    with docker_registry(tokens=tokens) as started:
        yield started


@pytest.fixture(scope="module")
def encrypted(certificate: Certificate) -> Iterator[Server]:
    with docker_registry(certificate=certificate) as started:
        yield started


# ---- passwords

def test_the_right_password_opens_the_registry(connect: Connect, locked: Server) -> None:
    registry = connect(locked.host, credentials=ALICE)
    layer, data = blob(1000)
    descriptor, manifest = push_image(registry, "locked:1", (layer, data))
    assert registry.resolve(Reference.parse(f"{locked.host}/locked:1")) == (descriptor, manifest)
    assert fetch(registry, "locked", layer) == data


def test_the_password_is_found_in_docker_s_configuration(
    connect: Connect, locked: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {locked.host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    push_image(connect(locked.host), "configured:1", blob(10))


@pytest.mark.parametrize("credentials", [Credentials(USER, "secret-but-wrong"), Credentials("bob", PASSWORD)])
def test_a_wrong_password_is_refused_and_not_told(
    connect: Connect, locked: Server, credentials: Credentials
) -> None:
    registry = connect(locked.host, credentials=credentials)
    for _ in range(2):
        with pytest.raises(AuthenticationFailed, match=r"401.*config\.json") as failed:
            registry.tags("locked")
    assert failed.value.status == 401
    assert credentials.password not in str(failed.value) + repr(credentials)


def test_without_a_password_the_error_says_where_to_put_it(connect: Connect, locked: Server) -> None:
    with pytest.raises(AuthenticationFailed, match=r"config\.json"):
        connect(locked.host).tags("locked")


def test_the_password_is_sent_only_when_the_registry_asks(connect: Connect, proxy: FaultyProxy) -> None:
    connect(proxy.host, credentials=ALICE).upload_blob("open", blob(10)[0], io.BytesIO(blob(10)[1]))
    assert not [seen for seen in proxy.requests if "Authorization" in seen.headers]


def test_credentials_may_be_given_by_a_function_of_the_host(connect: Connect, locked: Server) -> None:
    asked: list[str] = []

    def find(host: str) -> Credentials:
        asked.append(host)
        return ALICE

    registry = connect(locked.host, credentials=find)
    push_image(registry, "function:1", blob(10))
    assert asked == [locked.host]


# ---- tokens

def test_a_token_opens_the_registry(connect: Connect, guarded: Server, tokens: TokenServer) -> None:
    tokens.requests.clear()
    registry = connect(guarded.host, credentials=ALICE)
    layer, data = blob(1000)
    push_image(registry, "private/a:1", (layer, data))
    assert fetch(registry, "private/a", layer) == data
    # One for pushing and one for pulling, however many requests there were.
    assert tokens.requests == [(USER, ("repository:private/a:pull,push",)), (USER, ("repository:private/a:pull",))]


def test_a_token_for_mounting_is_for_both_repositories(
    connect: Connect, guarded: Server, tokens: TokenServer
) -> None:
    registry = connect(guarded.host, credentials=ALICE)
    layer, data = blob(1000, seed=1)
    registry.upload_blob("private/from", layer, io.BytesIO(data))
    tokens.requests.clear()
    uploaded = registry.upload_blob("private/to", layer, io.BytesIO(data), mount_from=["private/from"])
    assert uploaded is Uploaded.MOUNTED
    assert tokens.requests[-1] == (USER, ("repository:private/to:pull,push", "repository:private/from:pull"))


def test_an_identity_token_is_exchanged_for_tokens(connect: Connect, guarded: Server, tokens: TokenServer) -> None:
    tokens.requests.clear()
    push_image(connect(guarded.host, credentials=Credentials(identity_token=IDENTITY_TOKEN)), "private/b:1", blob(10))
    assert tokens.requests == [(USER, ("repository:private/b:pull,push",))]


def test_without_credentials_a_token_is_for_what_is_public(connect: Connect, guarded: Server) -> None:
    layer, data = blob(1000)
    push_image(connect(guarded.host, credentials=ALICE), "public/a:1", (layer, data))
    anonymous = connect(guarded.host)
    assert fetch(anonymous, "public/a", layer) == data
    with pytest.raises(AuthenticationFailed) as failed:
        anonymous.tags("private/a")
    assert (failed.value.status, failed.value.code) == (401, "UNAUTHORIZED")
    with pytest.raises(AuthenticationFailed):
        push_image(anonymous, "public/a:2", (layer, data))


@pytest.mark.parametrize("credentials", [Credentials(USER, "wrong"), Credentials(identity_token="wrong")])
def test_a_token_server_that_refuses_is_an_authentication_that_failed(
    connect: Connect, guarded: Server, credentials: Credentials
) -> None:
    with pytest.raises(AuthenticationFailed, match="token"):
        connect(guarded.host, credentials=credentials).tags("private/a")


def test_a_token_that_the_registry_does_not_take_any_more_is_replaced(
    connect: Connect, guarded: Server, tokens: TokenServer
) -> None:
    registry = connect(guarded.host, credentials=ALICE)
    push_image(registry, "private/c:1", blob(10))
    tokens.refused = 1
    tokens.requests.clear()
    assert registry.tags("private/c") == ["1"]
    assert len(tokens.requests) == 2


def test_many_threads_share_a_token(connect: Connect, guarded: Server, tokens: TokenServer) -> None:
    layer, data = blob(100_000)
    registry = connect(guarded.host, credentials=ALICE)
    push_image(registry, "private/d:1", (layer, data))
    tokens.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        assert all(got == data for got in pool.map(lambda _: fetch(registry, "private/d", layer), range(16)))
    assert tokens.requests == [(USER, ("repository:private/d:pull",))]


@pytest.mark.parametrize(
    "realm", ["http://example.org/token", "http://192.0.2.1/token", "ftp://127.0.0.1/", "", "//a", "https://u@a/"]
)
def test_a_password_is_not_sent_to_a_token_server_that_anybody_could_listen_to(
    connect: Connect, proxy: FaultyProxy, realm: str
) -> None:
    proxy.expect("tags", answer(401, WWW_Authenticate=f'Bearer realm="{realm}",service="a"'))
    with pytest.raises(RegistryError):
        connect(proxy.host, credentials=ALICE).tags("a")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\r\\nX: y"}', b'{"token": "a", "expires_in": "x"}']
)
def test_a_token_server_that_gives_no_token_is_reported(connect: Connect, proxy: FaultyProxy, body: bytes) -> None:
    proxy.expect("tags", answer(401, WWW_Authenticate=f'Bearer realm="http://{proxy.host}/token"'))
    proxy.expect("/token", answer(200, body))
    with pytest.raises((AuthenticationFailed, RegistryError), match="token"):
        connect(proxy.host, credentials=ALICE).tags("a")


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Digest realm=x", "Bearer", "!"])
def test_a_way_to_authenticate_that_is_not_known_is_a_failure(
    connect: Connect, proxy: FaultyProxy, challenge: str
) -> None:
    proxy.expect("tags", answer(401, WWW_Authenticate=challenge))
    with pytest.raises(RegistryError):
        connect(proxy.host, credentials=ALICE).tags("a")


# ---- redirects

def test_a_redirect_to_another_server_carries_no_credentials(
    connect: Connect, locked: Server, server: Server, registry: Registry
) -> None:
    layer, data = blob(5000)
    registry.upload_blob("elsewhere", layer, io.BytesIO(data))
    with faulty_proxy(locked.host) as first, faulty_proxy(server.host) as second:
        client = connect(first.host, credentials=ALICE)
        with pytest.raises(ImageNotFound):
            client.tags("elsewhere")  # now the password is known to be wanted
        first.expect("GET .*/blobs/", redirect_to(f"http://{second.host}"))
        assert fetch(client, "elsewhere", layer) == data
        assert "Authorization" in first.requests[-1].headers
        assert "Authorization" not in second.requests[-1].headers


def test_a_way_back_from_another_server_carries_no_credentials_either(connect: Connect, locked: Server) -> None:
    with faulty_proxy(locked.host) as first, faulty_proxy(locked.host) as second:
        client = connect(first.host, credentials=ALICE)
        push_image(client, "back:1", blob(10))
        first.expect("GET .*/tags/", redirect_to(f"http://{second.host}"))
        second.expect("GET .*/tags/", redirect_to(f"http://{first.host}"))
        first.expect("GET .*/tags/", answer(200, b'{"tags": []}'))
        client.tags("back")
        assert "Authorization" not in first.requests[-1].headers


def test_another_server_that_asks_gets_no_credentials(connect: Connect, proxy: FaultyProxy, locked: Server) -> None:
    proxy.expect("GET .*/tags/", redirect_to(f"http://{locked.host}"))
    with pytest.raises(AuthenticationFailed):
        connect(proxy.host, credentials=ALICE).tags("a")


def test_redirects_without_an_end_are_given_up(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("tags", *[redirect_to("") for _ in range(6)])
    with pytest.raises(RegistryError, match="redirects"):
        connect(proxy.host).tags("a")


@pytest.mark.parametrize("status", [301, 302, 303, 308])
def test_every_kind_of_redirect_is_followed(connect: Connect, registry: Registry, status: int) -> None:
    push_image(registry, "kinds:1", blob(10))
    with faulty_proxy(registry.host) as proxy:
        proxy.expect("GET", redirect_to(f"http://{registry.host}", status))
        assert connect(proxy.host).tags("kinds") == ["1"]


@pytest.mark.parametrize(
    "location", ["http://example.org/a", "http://192.0.2.1/", "file:///etc/passwd", "http://127.0.0.1\\@example.org/",
                 "http://user@127.0.0.1/", "http://127.0.0.1:99999999/"]
)
def test_a_redirect_to_what_is_not_to_be_used_is_refused(
    connect: Connect, proxy: FaultyProxy, location: str
) -> None:
    proxy.expect("tags", answer(302, Location=location))
    with pytest.raises(RegistryError):
        connect(proxy.host).tags("a")


@pytest.mark.parametrize(
    ("base", "location", "url"),
    [
        ("https://a/v2/", "/b?c=d", "https://a/b?c=d"),
        ("https://a/v2/b", "c", "https://a/v2/c"),
        ("https://a/", "https://b:1/", "https://b:1/"),
        ("https://a/", "//b/c", "https://b/c"),
        ("http://a/", "http://a:81/", "http://a:81/"),
        ("http://a/", "https://b/", "https://b/"),
        ("http://127.0.0.1:1/", "http://localhost:2/", "http://localhost:2/"),
        ("https://a/", "http://a/", None),
        ("https://a/", "http://127.0.0.1/", None),
        ("http://a/", "http://b/", None),
        ("https://a/", "https://b\\c/", None),
        ("https://a/", "https://b@c/", None),
        ("https://a/", "gopher://b/", None),
        ("https://a/", "https://b/ c", None),
        ("https://a/", "https://[::1/", None),
    ],
)
def test_a_location_never_leads_from_tls_to_plain_http(base: str, location: str, url: str | None) -> None:
    if url is not None:
        assert resolve_location(base, location) == url
    else:
        with pytest.raises(RegistryError):
            resolve_location(base, location)


def test_the_ports_of_http_and_https_are_different_origins() -> None:
    assert Origin.of("https://A.example/") == Origin("https", "a.example", 443)
    assert Origin.of("http://a.example") != Origin.of("https://a.example")
    assert str(Origin.of("http://[::1]:5000/v2/")) == "http://[::1]:5000"
    assert [Origin.of(f"http://{host}").is_loopback for host in ("127.9.9.9", "localhost", "[::1]")] == [True] * 3
    assert not Origin.of("http://127.0.0.1.example.org").is_loopback


# ---- TLS

def test_a_certificate_of_ones_own_is_trusted_when_it_is_given(
    connect: Connect, encrypted: Server, certificate: Certificate
) -> None:
    registry = connect(encrypted.host, plain_http=False, ca_file=certificate.path)
    layer, data = blob(1_000_000)
    push_image(registry, "tls:1", (layer, data))
    assert fetch(registry, "tls", layer) == data


def test_a_certificate_that_the_environment_names_is_trusted(
    connect: Connect, encrypted: Server, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificate.path)
    push_image(connect(encrypted.host, plain_http=False), "tls:2", blob(10))


def test_a_certificate_that_nobody_knows_is_refused_at_once(
    connect: Connect, encrypted: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(RegistryError, match=r"not trusted.*ca_file"):
        connect(encrypted.host, plain_http=False).tags("a")


def test_a_certificate_for_another_name_is_refused(
    connect: Connect, encrypted: Server, certificate: Certificate
) -> None:
    host = "127.0.0.2:" + encrypted.host.partition(":")[2]
    with pytest.raises(RegistryError, match=r"127\.0\.0\.2"):
        connect(host, plain_http=False, ca_file=certificate.path).tags("a")


def test_plain_http_to_a_registry_with_tls_says_so(connect: Connect, encrypted: Server) -> None:
    with pytest.raises(RegistryError, match="plain_http=False"):
        connect(encrypted.host).tags("a")


def test_tls_to_a_registry_without_it_says_so(connect: Connect, server: Server) -> None:
    with pytest.raises(RegistryError, match="plain_http=True"):
        connect(server.host, plain_http=False).tags("a")


def test_a_file_without_certificates_is_refused(connect: Connect, server: Server) -> None:
    for path in ("/does/not/exist", __file__):
        with pytest.raises(InvalidArgument, match="ca_file"):
            connect(server.host, plain_http=False, ca_file=path).tags("a")
