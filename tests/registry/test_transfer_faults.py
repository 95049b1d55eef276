"""What a bad network and bad servers do to transfers: they go on, or end in a clear error, and always end."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from attrs import evolve
from faulty_proxy import (
    Exchange,
    Fault,
    FaultyProxy,
    answer,
    corrupt,
    cut_after,
    cut_ignoring_range,
    drip,
    endless,
    hang_up,
    hang_up_afterwards,
    hang_up_at,
    ignore_range,
    never_answer,
    with_headers,
)
from registries import blob, push_image

from pycontain.content.digest import Digest
from pycontain.content.store import ContentStore
from pycontain.errors import BlobDamaged, InvalidArgument, InvalidImage, RegistryError, StoreError
from pycontain.registry.client import Registry
from pycontain.registry.failure import clean
from pycontain.registry.reference import Reference
from pycontain.registry.retry import Patience, parse_retry_after
from pycontain.registry.upload import Uploaded
from pycontain.spec.image import Descriptor

Connect = Callable[..., Registry]
QUICK = Patience(attempts=4, first_pause=0.01, longest_pause=3.0, total=60.0, connect=20.0, silence=20.0)
LAYER, DATA = blob(1_500_000, seed=7)


@pytest.fixture
def stored(registry: Registry) -> None:
    """The layer is in the repository `faults`, as the only one of `faults:1`."""
    push_image(registry, "faults:1", (LAYER, DATA))


def fetch(registry: Registry, offset: int = 0) -> bytes:
    return b"".join(registry.fetch_blob("faults", LAYER, offset))


def resolve(registry: Registry) -> tuple[Descriptor, bytes]:
    return registry.resolve(Reference.parse(f"{registry.host}/faults:1"))


# ---- downloads

@pytest.mark.usefixtures("stored")
def test_a_download_that_is_cut_goes_on_where_it_was(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET .*/blobs/", cut_after(700_000), cut_after(1), hang_up, cut_after(300_000))
    assert fetch(connect(proxy.host)) == DATA
    end = len(DATA) - 1
    assert proxy.ranges() == [None, *(f"bytes={n}-{end}" for n in (700_000, 700_001, 700_001, 1_000_001))]


@pytest.mark.usefixtures("stored")
def test_a_server_that_ignores_ranges_sends_everything_and_the_rest_counts(
    connect: Connect, proxy: FaultyProxy
) -> None:
    proxy.expect("GET .*/blobs/", cut_after(700_000), cut_ignoring_range(900_000), ignore_range)
    assert fetch(connect(proxy.host)) == DATA


@pytest.mark.usefixtures("stored")
def test_a_download_without_progress_ends(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET .*/blobs/", cut_after(1000), *[cut_ignoring_range(1000)] * 3)
    pieces = connect(proxy.host).fetch_blob("faults", LAYER)
    assert next(pieces) == DATA[:1000]
    with pytest.raises(RegistryError, match="broke off"):
        next(pieces)


@pytest.mark.usefixtures("stored")
def test_progress_keeps_a_download_going_however_often_it_is_cut(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET .*/blobs/", *[cut_after(100_000)] * 14)
    assert fetch(connect(proxy.host)) == DATA


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("position", [0, 1_499_999])
def test_a_bit_that_has_changed_is_found_by_the_store_and_repaired_by_another_download(
    connect: Connect, proxy: FaultyProxy, tmp_path_factory: pytest.TempPathFactory, position: int
) -> None:
    store = ContentStore(str(tmp_path_factory.mktemp("store")))
    digest = Digest.parse(LAYER.digest)
    registry = connect(proxy.host)
    proxy.expect("GET .*/blobs/", corrupt(position))

    def pull() -> None:
        with store.ingest(digest, LAYER.size) as ingest:
            for piece in registry.fetch_blob("faults", LAYER, ingest.offset):
                ingest.write(piece)
            ingest.commit()

    with pytest.raises(BlobDamaged):
        pull()
    assert store.info(digest) is None
    pull()
    assert store.verify(digest, LAYER.size)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    "fault",
    [
        with_headers(Content_Length="1500001"),
        with_headers(Content_Length="1499999"),
        with_headers(Docker_Content_Digest="sha256:" + "0" * 64),
    ],
)
def test_a_blob_of_another_size_or_digest_is_refused_before_it_is_read(
    connect: Connect, proxy: FaultyProxy, fault: Fault
) -> None:
    proxy.expect("GET .*/blobs/", fault)
    pieces = connect(proxy.host).fetch_blob("faults", LAYER)
    with pytest.raises(BlobDamaged):
        next(iter(pieces))


def test_more_bytes_than_a_blob_has_are_refused(connect: Connect, proxy: FaultyProxy) -> None:
    def without_length(exchange: Exchange) -> None:
        exchange.handler.send_response(200)
        exchange.handler.end_headers()
        exchange.handler.wfile.write(DATA + b"x")
        exchange.hang_up()

    proxy.expect("GET .*/blobs/", without_length)
    with pytest.raises(BlobDamaged, match="more than"):
        fetch(connect(proxy.host))


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("value", ["bytes 0-1499999/1500000", "bytes 1-2", "", "chars 5-1499999/1500000"])
def test_another_range_than_was_asked_for_is_refused(connect: Connect, proxy: FaultyProxy, value: str) -> None:
    proxy.expect("GET .*/blobs/", with_headers(Content_Range=value))
    with pytest.raises(RegistryError, match="another part"):
        fetch(connect(proxy.host), 5)


# ---- manifests

@pytest.mark.usefixtures("stored")
def test_a_manifest_that_is_cut_is_asked_for_again(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET .*/manifests/", cut_after(10), hang_up)
    assert resolve(connect(proxy.host))[0].size > 10


@pytest.mark.usefixtures("stored")
def test_a_manifest_in_which_a_bit_has_changed_is_refused(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET .*/manifests/", corrupt(100))
    with pytest.raises(BlobDamaged, match="digest"):
        resolve(connect(proxy.host))


def test_a_manifest_that_does_not_end_is_refused(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET .*/manifests/", endless)
    with pytest.raises(InvalidImage, match="4194304 bytes"):
        resolve(connect(proxy.host))


# ---- servers that are busy

@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(connect: Connect, proxy: FaultyProxy, status: int) -> None:
    proxy.expect("GET", answer(status), answer(status, Retry_After="0"), answer(status, Retry_After="never"))
    resolve(connect(proxy.host))


@pytest.mark.usefixtures("stored")
def test_a_pause_that_the_server_asks_for_is_made(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET", answer(429, Retry_After="1"))
    started = time.monotonic()
    resolve(connect(proxy.host))
    assert time.monotonic() - started >= 1


def test_a_pause_that_is_too_long_is_an_error_at_once(connect: Connect, proxy: FaultyProxy) -> None:
    limited = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "try tomorrow"}]}'
    proxy.expect("GET", answer(429, limited, Retry_After="86400"))
    with pytest.raises(RegistryError, match="try tomorrow") as failed:
        resolve(connect(proxy.host))
    assert (failed.value.status, failed.value.code) == (429, "TOOMANYREQUESTS")


def test_a_server_that_stays_busy_is_given_up(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET", *[answer(503)] * 4)
    with pytest.raises(RegistryError, match="503 Service Unavailable"):
        resolve(connect(proxy.host))


def test_the_time_for_all_attempts_has_a_limit(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET", answer(503, Retry_After="2"))
    with pytest.raises(RegistryError, match="503"):
        resolve(connect(proxy.host, patience=evolve(QUICK, total=1.0)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("120", 120), (" 7 ", 7), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("", None), ("-1", None), ("1.5", None),
     ("soon", None), (None, None), ("9" * 400, 999_999_999_999), ("Wed, 99 Oct 2015", None)],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text) == seconds


def test_a_date_to_retry_after_is_as_far_away_as_it_is() -> None:
    seconds = parse_retry_after(formatdate(time.time() + 1000, usegmt=True))
    assert seconds is not None
    assert 900 < seconds <= 1000


@pytest.mark.parametrize("name", ["attempts", "first_pause", "silence", "total"])
def test_no_limit_is_zero_or_below(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(InvalidArgument, match=name):
            Patience(**{name: value})


# ---- servers that do not answer

def test_a_server_that_never_answers_is_given_up(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET", never_answer, never_answer)
    with pytest.raises(RegistryError, match="no answer in time"):
        resolve(connect(proxy.host, patience=evolve(QUICK, silence=0.2, attempts=2)))


def test_a_manifest_that_drips_is_given_up(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("GET", drip)
    with pytest.raises(RegistryError, match="too slowly"):
        resolve(connect(proxy.host, patience=evolve(QUICK, total=0.3, attempts=1)))


def test_a_blob_that_drips_is_given_up(connect: Connect, proxy: FaultyProxy) -> None:
    layer = Descriptor(LAYER.media_type, LAYER.digest, 100_000)
    proxy.expect("GET", drip)
    registry = connect(proxy.host, patience=evolve(QUICK, silence=0.3, slowest=5000.0, attempts=1))
    with pytest.raises(RegistryError, match="too slowly"):
        list(registry.fetch_blob("faults", layer))


def test_a_server_that_is_not_there_cannot_be_reached(connect: Connect) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(RegistryError, match="Connection refused"):
            resolve(connect(f"127.0.0.1:{taken.getsockname()[1]}"))


def test_what_answers_but_speaks_no_http_is_not_a_registry(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def babble() -> None:
            for _ in range(2):
                connection, _address = listener.accept()
                with connection:
                    connection.sendall(b"220 smtp.example.org ESMTP\x1b[2J\r\n")
                    connection.recv(65536)

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(RegistryError) as failed:
            resolve(connect(f"127.0.0.1:{listener.getsockname()[1]}", patience=evolve(QUICK, attempts=2)))
        thread.join()
    assert "\x1b" not in str(failed.value)


# ---- what servers say

@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"errors": [{"code": "NO", "message": "\\u001b[31mno\\r\\nway\\u202e\\u0000"}]}', r"NO: \[31mno way\)"),
        (b'{"errors": [{"code": 5, "message": ["x"]}]}', r"5: \['x'\]"),
        (b'{"errors": []}', "Bad Request$"),
        (b'{"errors": [null]}', "Bad Request$"),
        (b"[" * 60_000, "Bad Request$"),
        (b"\xff\xfe", "Bad Request$"),
        (b"x" * 200_000, "Bad Request$"),
    ],
)
def test_an_error_of_the_server_is_quoted_without_control_characters(
    connect: Connect, proxy: FaultyProxy, body: bytes, said: str
) -> None:
    proxy.expect("GET", answer(400, body, Content_Type="application/json"))
    with pytest.raises(RegistryError, match=said) as failed:
        resolve(connect(proxy.host))
    assert failed.value.status == 400
    assert str(failed.value).isprintable()


def test_a_long_text_of_the_server_is_cut() -> None:
    assert clean("x" * 1_000_000) == "x" * 300 + "..."


# ---- uploads

def send(registry: Registry, repository: str, chunk_size: int | None = None) -> Uploaded:
    return registry.upload_blob(repository, LAYER, io.BytesIO(DATA), chunk_size=chunk_size)


def is_there(registry: Registry, repository: str) -> bool:
    return b"".join(registry.fetch_blob(repository, LAYER)) == DATA


@pytest.mark.parametrize(
    ("name", "pattern", "fault"),
    [
        ("begin", "POST", hang_up),
        ("begun", "POST", hang_up_afterwards),
        ("before", "PUT", hang_up),
        ("within", "PUT", hang_up_at(600_000)),
        ("after", "PUT", hang_up_afterwards),
        ("busy", "PUT", answer(503)),
        ("lost", "PUT", answer(404, b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "x"}]}')),
        ("large", "PUT", answer(413)),
        ("silent", "PUT", never_answer),
    ],
)
def test_an_upload_that_fails_once_succeeds_in_the_end(
    connect: Connect, proxy: FaultyProxy, registry: Registry, name: str, pattern: str, fault: Fault
) -> None:
    proxy.expect(pattern, fault)
    patience = evolve(QUICK, commit=0.5) if name == "silent" else QUICK
    assert send(connect(proxy.host, patience=patience), f"upload/{name}") is Uploaded.SENT
    assert is_there(registry, f"upload/{name}")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("before", hang_up),
        ("within", hang_up_at(100_000)),
        ("after", hang_up_afterwards),
        ("busy", answer(429, Retry_After="0")),
        ("elsewhere", answer(416)),
    ],
)
def test_an_upload_in_chunks_goes_on_after_a_failure(
    connect: Connect, proxy: FaultyProxy, registry: Registry, name: str, fault: Fault
) -> None:
    def passed_on(exchange: Exchange) -> None:
        exchange.reply(exchange.ask())

    proxy.expect("PATCH", passed_on, fault)
    assert send(connect(proxy.host), f"chunks/{name}", 400_000) is Uploaded.SENT
    assert is_there(registry, f"chunks/{name}")
    if name in ("before", "busy"):  # docker-registry takes up an upload only where its client knows how far it is
        assert proxy.paths("POST") == [f"/v2/chunks/{name}/blobs/uploads/"]


def test_an_upload_that_never_gets_on_ends(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("PUT", *[hang_up] * 4)
    with pytest.raises(RegistryError, match="cannot be reached"):
        send(connect(proxy.host), "upload/never")


def test_a_registry_that_forgets_each_upload_is_given_up(connect: Connect, proxy: FaultyProxy) -> None:
    def first_of_a_session(exchange: Exchange) -> None:
        exchange.reply(exchange.ask())

    proxy.expect("PATCH", *[first_of_a_session, answer(404)] * 4)
    with pytest.raises(RegistryError, match="404"):
        send(connect(proxy.host), "upload/forgotten", 400_000)


def test_an_upload_that_is_forbidden_is_not_tried_again(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.expect("PUT", answer(403))
    with pytest.raises(RegistryError, match="403"):
        send(connect(proxy.host), "upload/forbidden")


@pytest.mark.parametrize("headers", [{}, {"Location": "http://example.org/a"}, {"Location": "http://a:b@127.0.0.1/"}])
def test_an_upload_is_not_sent_just_anywhere(
    connect: Connect, proxy: FaultyProxy, headers: dict[str, str]
) -> None:
    proxy.expect("POST", answer(202, **headers))
    with pytest.raises(RegistryError):
        send(connect(proxy.host), "upload/elsewhere")


def test_a_blob_that_cannot_be_read_is_an_error_of_the_store(connect: Connect, proxy: FaultyProxy) -> None:
    class Unreadable(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(StoreError, match="cannot be read"):
        connect(proxy.host).upload_blob("upload/unreadable", LAYER, Unreadable(DATA))
    assert len(proxy.paths("PUT")) <= 1


# ---- proxies

def test_a_proxy_of_the_environment_is_used(
    connect: Connect, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://bob:p%40ss@{proxy.host}")
    registry = connect("registry.test:5000", plain_http=True)
    assert send(registry, "proxied") is Uploaded.SENT
    assert is_there(registry, "proxied")
    assert {seen.url.partition("/v2/")[0] for seen in proxy.requests} == {"http://registry.test:5000"}
    assert proxy.requests[0].headers["Proxy-Authorization"] == "Basic Ym9iOnBAc3M="


def test_a_proxy_is_not_used_for_this_machine_and_for_what_no_proxy_names(
    connect: Connect, registry: Registry, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
    monkeypatch.setenv("no_proxy", "0.0.0.0")
    push_image(connect(registry.host), "direct:1", blob(10))
    # Linux connects this address to the machine itself, but it is no loopback address.
    assert connect("0.0.0.0:" + registry.host.partition(":")[2], plain_http=True).tags("direct") == ["1"]
    assert not proxy.requests


def test_a_proxy_that_is_not_of_http_is_refused(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(InvalidArgument, match="socks5"):
        connect("registry.test", plain_http=True).tags("a")
