"""The content store: what is written is verified, resumed, published whole; what is hostile in it is found."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycontain.content import Blob, ContentStore, Digest
from pycontain.errors import BlobDamaged, InvalidDigest, InvalidImage, StoreError
from pycontain.spec import Descriptor, FrozenMap
from pycontain.spec.media_types import OCI_MANIFEST

DATA = bytes(range(256)) * 5000
DIGEST = Digest.of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "content"))


def path_of(store: ContentStore, digest: Digest) -> Path:
    return Path(store.path, "blobs", digest.algorithm, digest.hex)


def ingests(store: ContentStore) -> list[str]:
    return sorted(os.listdir(Path(store.path, "ingest")))


def put(
    store: ContentStore, data: bytes = DATA, digest: Digest = DIGEST, *, size: int = len(DATA), patience: float = 60
) -> None:
    with store.ingest(digest, size, patience=patience) as ingest:
        assert not ingest.done
        ingest.write(data[ingest.offset :])
        ingest.commit()
        assert ingest.done


# ---- writing and reading

def test_what_is_written_can_be_read(store: ContentStore) -> None:
    digest = store.write(b"hello")
    assert digest == Digest.of(b"hello")
    assert store.info(digest) == store.info(str(digest)) == Blob(digest, 5)
    assert store.read(digest) == b"hello"
    with store.open(digest) as file:
        assert file.read() == b"hello"
    assert store.verify(digest, 5)
    assert store.verify(digest)
    assert list(store.walk()) == [Blob(digest, 5)]
    assert store.write(b"hello") == digest
    assert ingests(store) == []


def test_sha512_has_a_directory_of_its_own(store: ContentStore) -> None:
    digest = Digest.of(DATA, "sha512")
    put(store, digest=digest)
    put(store)
    assert store.read(digest) == DATA
    assert {blob.digest for blob in store.walk()} == {digest, DIGEST}


def test_an_empty_blob_is_a_blob(store: ContentStore) -> None:
    digest = store.write(b"")
    assert store.info(digest) == Blob(digest, 0)
    assert store.read(digest) == b""


def test_a_store_that_is_not_there_is_empty_and_reading_does_not_make_it(store: ContentStore) -> None:
    assert store.info(DIGEST) is None
    assert list(store.walk()) == []
    assert not store.verify(DIGEST)
    assert not store.remove(DIGEST)
    assert store.clean_ingests() == 0
    with pytest.raises(BlobDamaged, match=r"is not in .*\. Pull or load the image again"):
        store.open(DIGEST)
    assert not os.path.exists(store.path)


def test_the_directory_is_a_layout_of_the_oci_that_others_cannot_enter(store: ContentStore) -> None:
    store.write(b"hello")
    assert json.loads(Path(store.path, "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads(Path(store.path, "index.json").read_text())["manifests"] == []
    assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o700


def test_the_index_names_images_and_is_replaced_as_a_whole(store: ContentStore) -> None:
    one = Descriptor(OCI_MANIFEST, str(DIGEST), 7, annotations=FrozenMap({"a": "b"}))
    for _ in range(2):
        store.set_index({"z:1": one, "r/a:1": one})
    index = json.loads(Path(store.path, "index.json").read_text())
    names = [manifest["annotations"] for manifest in index["manifests"]]
    ref, full = "org.opencontainers.image.ref.name", "io.containerd.image.name"
    assert names == [{"a": "b", ref: "r/a:1", full: "r/a:1"}, {"a": "b", ref: "z:1"}]
    assert [target.digest for target in store.index().manifests] == [str(DIGEST)] * 2
    store.set_index({})
    assert store.index().manifests == ()
    assert ingests(store) == []


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (None, "is not an OCI image layout: it has no oci-layout"),
        ('{"imageLayoutVersion": "2.0.0"}', "of another version than 1.0.0"),
        ('{"imageLayoutVersion": "1.0.0"}', "index.json is not JSON"),
    ],
)
def test_a_directory_that_is_no_layout_has_no_index(tmp_path: Path, layout: str | None, message: str) -> None:
    if layout is not None:
        (tmp_path / "oci-layout").write_text(layout)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(InvalidImage, match=message):
        ContentStore(str(tmp_path)).index()


def test_what_is_removed_is_gone_and_a_removed_store_is_made_again(store: ContentStore) -> None:
    digest = store.write(b"hello")
    assert store.remove(digest)
    assert not store.remove(digest)
    assert store.info(digest) is None
    os.rename(store.path, store.path + ".old")
    assert store.read(store.write(b"hello")) == b"hello"


def test_a_blob_that_is_too_large_is_not_read_at_once(store: ContentStore) -> None:
    digest = store.write(b"hello")
    assert store.read(digest, limit=5) == b"hello"
    with pytest.raises(InvalidImage, match="larger than 4 bytes"):
        store.read(digest, limit=4)


def test_what_is_no_digest_is_refused(store: ContentStore) -> None:
    for call in (store.info, store.open, store.read, store.verify, store.remove):
        with pytest.raises(InvalidDigest):
            call("sha256:../../../etc/passwd")
    with pytest.raises(InvalidDigest), store.ingest("md5:x"):
        pass


# ---- what is verified

def test_other_content_is_refused_and_removed(store: ContentStore) -> None:
    with pytest.raises(BlobDamaged, match=f"{DIGEST} is sha256:[0-9a-f]* in fact"):
        put(store, b"x" * len(DATA))
    assert store.info(DIGEST) is None
    assert ingests(store) == []
    put(store)


def test_more_than_the_size_is_refused_while_it_comes(store: ContentStore) -> None:
    with pytest.raises(BlobDamaged, match="longer than its 10 bytes"):
        put(store, b"0123456789x", size=10)
    assert ingests(store) == []


def test_less_than_the_size_is_no_blob_but_is_kept(store: ContentStore) -> None:
    with pytest.raises(BlobDamaged, match=f"ends after 5 of {len(DATA)} bytes"):
        put(store, DATA[:5])
    assert store.info(DIGEST) is None
    put(store)


def test_without_a_size_the_digest_decides(store: ContentStore) -> None:
    with store.ingest(DIGEST) as ingest:
        ingest.write(DATA)
        ingest.commit()
    with store.ingest(DIGEST) as ingest:
        assert ingest.done
    with pytest.raises(ValueError, match="is in the store"):
        ingest.write(b"")


def test_a_write_of_what_is_damaged_in_the_store_repairs_it(store: ContentStore) -> None:
    digest = store.write(b"hello")
    path_of(store, digest).write_bytes(b"jello")
    assert not store.verify(digest)
    with pytest.raises(BlobDamaged, match=r"is damaged\. Pull or load the image again"):
        store.read(digest)
    assert store.write(b"hello") == digest
    assert store.read(digest) == b"hello"


def test_a_torn_blob_is_replaced_by_the_next_ingest(store: ContentStore) -> None:
    put(store)
    os.truncate(path_of(store, DIGEST), 1000)
    assert not store.verify(DIGEST, len(DATA))
    put(store)
    assert store.verify(DIGEST, len(DATA))


def test_damaged_content_of_the_right_size_is_replaced_by_an_ingest_that_verifies(store: ContentStore) -> None:
    put(store)
    for content, done in ((DATA, True), (b"x" * len(DATA), False)):
        path_of(store, DIGEST).write_bytes(content)
        with store.ingest(DIGEST, len(DATA)) as ingest:
            assert ingest.done
        with store.ingest(DIGEST, len(DATA), verify=True) as ingest:
            assert ingest.done == done
            if not done:
                ingest.write(DATA)
                ingest.commit()
        assert store.verify(DIGEST, len(DATA))


def test_what_is_added_is_not_asked_for_when_it_is_there(store: ContentStore) -> None:
    asked = []

    def pieces() -> Iterator[bytes]:
        asked.append(1)
        yield DATA[:1000]
        yield DATA[1000:]

    for _ in range(2):
        store.add(DIGEST, len(DATA), pieces())
    assert asked == [1]
    with pytest.raises(BlobDamaged):
        store.add(Digest.of(b"other"), 5, [b"xxxxx"])
    assert ingests(store) == []


# ---- interruptions

@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=6), sized=st.booleans())
def test_however_often_it_is_interrupted_a_blob_becomes_whole(
    store: ContentStore, data: bytes, cuts: list[int], sized: bool
) -> None:
    digest = Digest.of(data)
    size = len(data) if sized else None
    store.remove(digest)
    written = 0
    for cut in sorted(cuts):
        with store.ingest(digest, size) as ingest:
            assert (ingest.offset, ingest.resumed) == (written, written > 0)
            ingest.write(data[written:cut])
            written = min(max(cut, written), len(data))
    with store.ingest(digest, size) as ingest:
        ingest.write(data[ingest.offset :])
        ingest.commit()
    assert store.read(digest) == data
    assert ingests(store) == []


def test_a_block_that_wrote_nothing_leaves_nothing(store: ContentStore) -> None:
    with store.ingest(DIGEST, len(DATA)):
        pass
    assert ingests(store) == []


def test_an_error_of_the_caller_passes_as_it_is_and_what_was_written_is_kept(store: ContentStore) -> None:
    def download() -> None:
        with store.ingest(DIGEST, len(DATA)) as ingest:
            ingest.write(DATA[:1000])
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        download()
    with store.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 1000
        ingest.reset()
        assert (ingest.offset, ingest.resumed) == (0, False)
        ingest.write(DATA)
        ingest.commit()


def test_a_damaged_rest_shows_at_the_end_and_a_reset_repairs_it(store: ContentStore) -> None:
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(b"x" * 1000)
    with store.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.resumed
        ingest.write(DATA[1000:])
        with pytest.raises(BlobDamaged):
            ingest.commit()
        ingest.reset()
        ingest.write(DATA)
        ingest.commit()
    assert store.verify(DIGEST, len(DATA))


@pytest.mark.parametrize("rest", [b"x" * len(DATA), DATA + b"x"], ids=["other", "longer"])
def test_a_rest_that_can_never_become_the_blob_is_forgotten(store: ContentStore, rest: bytes) -> None:
    store.write(b"")
    Path(store.path, "ingest", f"sha256-{DIGEST.hex}").write_bytes(rest)
    with store.ingest(DIGEST, len(DATA)) as ingest:
        assert (ingest.offset, ingest.resumed) == (0, False)
        ingest.write(DATA)
        ingest.commit()
    assert store.verify(DIGEST, len(DATA))


def test_a_rest_that_is_whole_only_has_to_be_committed(store: ContentStore) -> None:
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA)
    with store.ingest(DIGEST, len(DATA)) as ingest:
        assert (ingest.offset, ingest.done) == (len(DATA), False)
        ingest.commit()
    assert store.verify(DIGEST, len(DATA))


def test_rests_are_cleaned_but_not_while_they_are_written_or_young(store: ContentStore) -> None:
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:1000])
        assert store.clean_ingests() == 0
    assert store.clean_ingests(older_than=3600) == 0
    assert len(ingests(store)) == 1
    old = time.time() - 7200
    os.utime(Path(store.path, "ingest", ingests(store)[0]), (old, old))
    assert store.clean_ingests(older_than=3600) == 1
    assert ingests(store) == []


# ---- blobs whose digest is not known before

def test_a_new_blob_has_the_digest_of_what_was_written(store: ContentStore) -> None:
    with store.create() as new:
        for start in range(0, len(DATA), 100_000):
            new.write(DATA[start : start + 100_000])
        assert new.digest == DIGEST
        assert store.info(DIGEST) is None
        new.commit()
    assert store.verify(DIGEST, new.size)
    assert ingests(store) == []


def test_a_new_blob_replaces_a_damaged_one(store: ContentStore) -> None:
    put(store)
    path_of(store, DIGEST).write_bytes(b"x" * len(DATA))
    with store.create() as new:
        new.write(DATA)
        new.commit()
    assert store.verify(DIGEST)


def test_a_new_blob_that_is_given_up_leaves_nothing(store: ContentStore) -> None:
    with store.create() as new:
        new.write(DATA)
        assert store.clean_ingests() == 0
    assert ingests(store) == []
    assert list(store.walk()) == []


# ---- one writer a blob

def test_of_many_threads_one_writes_and_the_others_wait_for_it(store: ContentStore) -> None:
    writers = []
    failures = []
    start = threading.Barrier(8)

    def ingest_it() -> None:
        try:
            start.wait(30)
            with store.ingest(DIGEST, len(DATA)) as ingest:
                if not ingest.done:
                    writers.append(threading.get_ident())
                    ingest.write(DATA)
                    ingest.commit()
            assert store.verify(DIGEST, len(DATA))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=ingest_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(writers) == 1


def test_one_that_waits_goes_on_from_where_the_other_stopped(store: ContentStore) -> None:
    offsets = []

    def go_on() -> None:
        with store.ingest(DIGEST, len(DATA)) as ingest:
            offsets.append(ingest.offset)
            ingest.write(DATA[ingest.offset :])
            ingest.commit()

    second = threading.Thread(target=go_on)
    with store.ingest(DIGEST, len(DATA)) as first:
        first.write(DATA[:1000])
        second.start()
        first.write(DATA[1000:2000])
    second.join(60)
    assert offsets == [2000]
    assert store.verify(DIGEST, len(DATA))


def test_the_wait_for_another_writer_has_a_limit_that_starts_again_while_the_file_grows(store: ContentStore) -> None:
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:10])
        with pytest.raises(StoreError, match=r"another process has been holding .* for 0.05 s"):
            put(store, patience=0.05)
        ingest.write(DATA[10:])
        ingest.commit()
    assert store.verify(DIGEST, len(DATA))


# ---- hostile content

def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_directory(path: Path) -> None:
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "file").write_text("x")


def make_link(path: Path) -> None:
    (path.parents[3] / "outside").write_text("outside")
    path.symlink_to(path.parents[3] / "outside")


def make_dangling_link(path: Path) -> None:
    path.symlink_to("/nonexistent/target")


def make_socket(path: Path) -> None:
    directory = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{directory}/{path.name}")  # the path itself is too long for a socket
    os.close(directory)


def make_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a device")
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero, which never ends


hostile = pytest.mark.parametrize(
    "make", [make_fifo, make_directory, make_link, make_dangling_link, make_socket, make_device],
    ids=lambda make: make.__name__[5:],
)


@hostile
def test_what_is_no_file_in_place_of_a_blob_is_never_opened_and_is_replaced(
    store: ContentStore, make: Callable[[Path], None], tmp_path: Path
) -> None:
    store.write(b"")
    make(path_of(store, DIGEST))
    assert store.info(DIGEST) is None
    assert not store.verify(DIGEST)
    for read in (store.open, store.read):
        with pytest.raises(BlobDamaged, match="is not a file"):
            read(DIGEST)
    assert Blob(DIGEST, 0) in list(store.walk())
    put(store)
    assert store.verify(DIGEST, len(DATA))
    if (tmp_path / "outside").exists():
        assert (tmp_path / "outside").read_text() == "outside"


@hostile
def test_what_is_no_file_in_place_of_a_blob_can_be_removed(
    store: ContentStore, make: Callable[[Path], None], tmp_path: Path
) -> None:
    store.write(b"")
    make(path_of(store, DIGEST))
    assert store.remove(DIGEST)
    assert not os.path.lexists(path_of(store, DIGEST))
    if make is make_link:
        assert (tmp_path / "outside").read_text() == "outside"


@hostile
def test_what_is_no_file_in_place_of_a_rest_is_removed(store: ContentStore, make: Callable[[Path], None]) -> None:
    store.write(b"")
    place = Path(store.path, "ingest", f"sha256-{DIGEST.hex}")
    place.parent.joinpath("x").mkdir()  # as deep as a blob
    make(place)
    assert store.clean_ingests() == 2
    assert ingests(store) == []
    make(place)
    put(store)
    assert ingests(store) == []


def test_a_directory_of_the_store_that_is_a_link_is_refused(store: ContentStore, tmp_path: Path) -> None:
    store.write(b"hello")
    outside = tmp_path / "outside"
    os.rename(Path(store.path, "blobs", "sha256"), outside)
    Path(store.path, "blobs", "sha256").symlink_to(outside)
    with pytest.raises(StoreError, match="Too many levels of symbolic links"):
        store.read(Digest.of(b"hello"))
    with pytest.raises(StoreError):
        store.write(b"other")
    assert os.listdir(outside) == [Digest.of(b"hello").hex]


def test_other_names_in_the_store_are_left_alone(store: ContentStore) -> None:
    digest = store.write(b"hello")
    path_of(store, digest).with_name("README").write_text("x")
    assert list(store.walk()) == [Blob(digest, 5)]


def test_a_store_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"the blob sha256:.* cannot be .*: Not a directory") as caught:
        put(ContentStore(str(tmp_path / "file")))
    assert caught.value.errno == 20
