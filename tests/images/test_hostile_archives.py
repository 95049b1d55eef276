"""Archives of images that are broken or hostile: refused in one line, and nothing half done stays."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import pytest
from archives_made import DIFF_IDS, NAME, SAVE, Entries, Kept, archive, entry, good, listed, new_docker

from pycontain.content import ContentStore
from pycontain.errors import InvalidImage, StoreError
from pycontain.images.archives import load_archive
from pycontain.images.layout import load_layout
from pycontain.layers import compression
from pycontain.spec import Descriptor

BAD: dict[str, tuple[Entries, str]] = {
    "empty": ([], "has neither index.json nor manifest.json"),
    "not-an-image": ([entry("file", b"x")], "has neither index.json nor manifest.json"),
    "absolute": ([entry("/etc/passwd", b"x"), *good()], "leads out of the archive"),
    "above": ([entry("a/../../etc/passwd", b"x"), *good()], "leads out of the archive"),
    "above-with-dot": ([entry("./../x", b"x"), *good()], "leads out of the archive"),
    "twice": ([*good(), entry("0.tar", b"x")], "is there twice"),
    "twice-spelled-otherwise": ([*good(), entry("./a/../0.tar", b"x")], "is there twice"),
    "twice-the-manifest": ([*good(), good()[-1]], "is there twice"),
    "device": ([entry("null", kind=tarfile.CHRTYPE), *good()], "neither a file nor a directory nor a link"),
    "fifo": ([entry("fifo", kind=tarfile.FIFOTYPE), *good()], "neither a file nor a directory nor a link"),
    "unknown-type": ([entry("x", kind=b"V"), *good()], "refused"),
    "link-outside": ([entry("x", kind=tarfile.SYMTYPE, link="/etc/passwd"), listed([], "x")], "lacks 'x'"),
    "link-above": ([entry("a/x", kind=tarfile.SYMTYPE, link="../../c"), listed([], "a/x")], "lacks 'a/x'"),
    "link-to-itself": ([entry("x", kind=tarfile.SYMTYPE, link="x"), listed([], "x")], "lacks 'x'"),
    "hard-link-in-a-circle": (
        [entry("x", kind=tarfile.LNKTYPE, link="y"), entry("y", kind=tarfile.LNKTYPE, link="x"), listed([], "x")],
        "lacks 'x'",
    ),
    "manifest-names-a-path": ([*good()[:-1], listed(["../../../etc/passwd", "0.tar"])], "lacks '../../../etc/passwd'"),
    "manifest-names-a-directory": ([entry("d", kind=tarfile.DIRTYPE), listed([], "d")], "lacks 'd'"),
    "no-config": ([*good()[1:]], "lacks 'c.json'"),
    "no-layer": ([*good()[:1], *good()[2:]], "lacks '0.tar'"),
    "too-few-layers": ([*good()[:-1], listed(["0.tar"])], "has 2 layers, and manifest.json 1"),
    "layers-exchanged": ([*good()[:-1], listed(["1.tar", "0.tar"])], f"is {DIFF_IDS[1]}, and should be {DIFF_IDS[0]}"),
    "other-layer": ([*good()[:1], entry("0.tar", b"x" * 512), *good()[2:]], f"should be {DIFF_IDS[0]}"),
    "xz-layer": ([*good()[:1], entry("0.tar", b"\xfd7zXZ\0" + bytes(506)), *good()[2:]], "compressed by bzip2 or xz"),
    "config-is-no-json": ([entry("c.json", b"{"), *good()[1:]], "is not JSON"),
    "config-is-a-layer": ([*good()[:-1], listed(["0.tar", "1.tar"], "0.tar")], "is not JSON"),
    "config-too-large": ([entry("c.json", bytes(5 << 20)), *good()[1:]], "of 5242880 bytes"),
    "manifest-too-large": ([*good()[:-1], entry("manifest.json", bytes(5 << 20))], "is larger than 4194304 bytes"),
    "manifest-is-no-array": ([*good()[:-1], entry("manifest.json", b"{}")], "is not a JSON array"),
    "manifest-is-nested": ([*good()[:-1], entry("manifest.json", b"[" * 500_000)], "nested too deeply"),
    "manifest-lists-numbers": ([*good()[:-1], entry("manifest.json", b"[1]")], "must be an object, not an integer"),
    "manifest-without-config": ([*good()[:-1], entry("manifest.json", b'[{"Layers": []}]')], "Config: is required"),
    "blob-of-another-digest": ([*new_docker()[1:], entry(f"blobs/sha256/{'0' * 64}", b"x")], "in fact"),
    "blob-missing": (new_docker()[:2] + new_docker()[3:], "is missing"),
    "manifest-missing": (new_docker()[1:], "is not in"),
    "other-version-of-the-layout": ([*new_docker()[:-1], entry("oci-layout", b"{}")], "of another version than 1.0.0"),
    "index-is-no-json": ([entry("index.json", b"{"), *new_docker()[:-3], new_docker()[-1]], "is not JSON"),
}


@pytest.mark.parametrize(("entries", "message"), BAD.values(), ids=BAD)
def test_a_broken_or_hostile_archive_is_refused_in_one_line(
    store: ContentStore, tmp_path: Path, entries: Entries, message: str
) -> None:
    path = archive(tmp_path / "x.tar", entries)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InvalidImage) as caught:
        load_archive(store, path, keep=Kept())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert set(os.listdir(tmp_path)) <= {*before, "content"}
    if os.path.exists(store.path):
        assert os.listdir(Path(store.path, "ingest")) == []
        assert all(store.verify(blob.digest, blob.size) for blob in store.walk())


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_an_archive_that_is_cut_anywhere_is_refused(
    kind: str, store: ContentStore, tmp_path: Path, image: Descriptor
) -> None:
    path = tmp_path / "x.tar"
    SAVE[kind](store, [(NAME, image)], str(path))
    data = path.read_bytes()
    end = len(data.rstrip(b"\0"))
    for size in (0, 1, 511, 512, 700, 2000, *range(end // 7, end, end // 7), end - 1):
        target = ContentStore(str(tmp_path / f"cut-{size}"))
        path.write_bytes(data[:size])
        with pytest.raises(InvalidImage):
            load_archive(target, str(path), keep=Kept())
        path.write_bytes(gzip.compress(data, 1, mtime=0)[: -1 - size % 1000])
        with pytest.raises(InvalidImage):
            load_archive(target, str(path), keep=Kept())
        if os.path.exists(target.path):
            assert os.listdir(Path(target.path, "ingest")) == []


def test_a_small_archive_that_becomes_a_large_one_is_refused(
    store: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "SUSPICIOUS", 1 << 24)  # instead of a gigabyte
    header = entry("zeros")[0]
    header.size = 1 << 26
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(header.size + 1024)))
    with pytest.raises(InvalidImage, match="bytes unpack to more than 500 times as much"):
        load_archive(store, str(path), keep=Kept())
    assert list(store.walk()) == []
    assert os.listdir(Path(store.path, "ingest")) == []


@pytest.mark.parametrize("data", [b"x" * 5000, bytes(10240), b"\x1f\x8b" + b"x" * 500, b"PK\3\4" + bytes(600)])
def test_a_file_that_is_no_archive_is_refused(store: ContentStore, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InvalidImage):
        load_archive(store, str(tmp_path / "x"), keep=Kept())
    with pytest.raises(StoreError, match=r"the archive .* cannot be read: No such file or directory"):
        load_archive(store, str(tmp_path / "none"), keep=Kept())
    with pytest.raises(InvalidImage, match="is not an OCI image layout"):
        load_layout(store, str(tmp_path), keep=Kept())
