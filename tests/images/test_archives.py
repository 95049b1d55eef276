"""Layouts and archives of images: there and back, and from the forms that other tools write."""

from __future__ import annotations

import gzip
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from archives_made import (
    CONFIG,
    FILES,
    LAYERS,
    NAME,
    SAVE,
    Entries,
    archive,
    assert_whole,
    compressed_docker,
    config_of,
    linked_docker,
    load,
    new_docker,
    old_docker,
)
from small_images import put_blob, put_image

from pycontain.content import ContentStore
from pycontain.errors import BlobDamaged, ImageNotFound, InvalidImage, StoreError
from pycontain.images.archives import save_docker_archive, save_oci_archive
from pycontain.images.layout import save_layout
from pycontain.spec import Descriptor, Index, Platform, encode
from pycontain.spec import media_types as types


@pytest.mark.parametrize("kind", ["layout", "oci-archive"])
def test_an_image_comes_back_as_it_was(
    kind: str, store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    path = str(tmp_path / "saved")
    SAVE[kind](store, [(NAME, image), ("2", image), (None, image)], path)
    assert load(kind, other, path) == [(NAME, image), ("2", image), (None, image)]
    assert load(kind, other, path, "2") == [("2", image)]
    assert_whole(other, image)
    assert {blob.digest for blob in other.walk()} == {blob.digest for blob in store.walk()}


def test_an_image_comes_back_from_a_docker_archive_with_its_configuration_and_uncompressed_layers(
    store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    path = str(tmp_path / "saved.tar")
    save_docker_archive(store, [(NAME, image), ("me/thing:2", image), ("me/thing@sha256:0", image)], path)
    (first, second) = load("docker-archive", other, path)
    assert [first[0], second[0]] == [NAME, "me/thing:2"]
    assert first[1] == second[1]
    manifest, config = config_of(other, first[1])
    before, same = config_of(store, image)
    assert manifest.config == before.config
    assert config == same
    assert [layer.digest for layer in manifest.layers] == list(config.rootfs.diff_ids)
    assert {layer.media_type for layer in manifest.layers} == {types.OCI_LAYER}
    assert_whole(other, first[1])
    again = ContentStore(str(tmp_path / "again"))
    assert load("docker-archive", again, path, "me/thing:2") == [("me/thing:2", first[1])]


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_the_same_images_make_the_same_archive_that_replaces_the_older_one_and_leaves_nothing_else(
    kind: str, store: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    directory = tmp_path / "saved"
    directory.mkdir()
    (directory / "a").write_text("older")
    for name in ("a", "b"):
        SAVE[kind](store, [(NAME, image)], str(directory / name))
    assert (directory / "a").read_bytes() == (directory / "b").read_bytes()
    assert sorted(os.listdir(directory)) == ["a", "b"]
    with tarfile.open(directory / "a") as tar:
        assert {(entry.mtime, entry.uid, entry.uname) for entry in tar.getmembers()} == {(0, 0, "")}


def test_a_layer_that_is_there_twice_is_written_once(
    store: ContentStore, other: ContentStore, tmp_path: Path
) -> None:
    twice = put_image(store, [FILES[1], FILES[0], FILES[1]])
    path = str(tmp_path / "saved.tar")
    save_docker_archive(store, [(NAME, twice), (None, put_image(store, FILES))], path)
    with tarfile.open(path) as tar:
        assert len([name for name in tar.getnames() if name.endswith(".tar")]) == 2
    (name, loaded), (none, _) = load("docker-archive", other, path)
    assert (name, none) == (NAME, None)
    assert len(config_of(other, loaded)[0].layers) == 3


@pytest.mark.parametrize("kind", ["layout", "oci-archive", "docker-archive"])
def test_an_archive_that_cannot_be_made_is_not_there_and_the_older_one_is(
    kind: str, store: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    directory = tmp_path / "saved"
    directory.mkdir()
    layer = config_of(store, image)[0].layers[1]
    data = bytearray(store.read(layer.digest))
    data[-1] ^= 1
    Path(store.path, "blobs", *layer.digest.split(":")).write_bytes(data)
    with pytest.raises(InvalidImage):
        SAVE[kind](store, [(NAME, image)], str(directory / "new"))
    assert os.listdir(directory) == []
    store.remove(layer.digest)
    if kind == "layout":
        return
    (directory / "old").write_text("older")
    with pytest.raises(BlobDamaged, match="is not in"):
        SAVE[kind](store, [(NAME, image)], str(directory / "old"))
    assert (directory / "old").read_text() == "older"
    assert os.listdir(directory) == ["old"]


def test_an_archive_replaces_no_device_fifo_or_directory(
    store: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), "/dev/null", str(tmp_path)):
        with pytest.raises(StoreError, match="is not a file"):
            save_oci_archive(store, [(NAME, image)], path)
    with pytest.raises(StoreError, match="No such file or directory"):
        save_oci_archive(store, [(NAME, image)], str(tmp_path / "none" / "x.tar"))


def test_an_archive_may_be_compressed_and_may_come_through_a_pipe(
    store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    path = tmp_path / "saved.tar"
    save_oci_archive(store, [(NAME, image)], str(path))
    compressed = tmp_path / "saved.tar.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(compressed.read_bytes()))
    writer.start()
    assert load("oci-archive", other, str(tmp_path / "fifo")) == [(NAME, image)]
    writer.join(30)
    assert load("oci-archive", other, str(compressed)) == [(NAME, image)]
    assert_whole(other, image)


def test_a_load_repairs_what_is_damaged_in_the_store(
    store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    for kind in ("layout", "oci-archive"):
        path = str(tmp_path / kind)
        SAVE[kind](store, [(NAME, image)], path)
        load(kind, other, path)
        for blob in other.walk():
            Path(other.path, "blobs", "sha256", blob.digest.hex).write_bytes(bytes(blob.size))
        load(kind, other, path)
        assert_whole(other, image)


def test_a_layout_is_added_to_and_an_image_of_the_same_name_is_replaced(
    store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    second = put_image(store, FILES[:1])
    path = str(tmp_path / "layout")
    save_layout(store, [("1", image), ("2", image)], path)
    assert sorted(os.listdir(path)) == ["blobs", "index.json", "oci-layout"]
    save_layout(store, [("2", second)], path)
    assert load("layout", other, path) == [("1", image), ("2", second)]


def test_a_layout_is_not_written_into_another_directory(
    store: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_text("x")
    with pytest.raises(InvalidImage, match="is not an OCI image layout"):
        save_layout(store, [("1", image)], str(tmp_path / "home"))
    assert os.listdir(tmp_path / "home") == ["file"]


def index_of_platforms(store: ContentStore, image: Descriptor) -> Descriptor:
    """An index with `image`, an image that is not there, and an entry that is no image."""
    absent = Descriptor(types.OCI_MANIFEST, "sha256:" + "0" * 64, 5, platform=Platform("arm64", "linux"))
    here = Descriptor(image.media_type, image.digest, image.size, platform=Platform("amd64", "linux"))
    strange = Descriptor("application/xml", "sha256:" + "1" * 64, 5)
    return put_blob(store, types.OCI_INDEX, encode(Index((absent, here, strange), types.OCI_INDEX)))


@pytest.mark.parametrize("kind", ["layout", "oci-archive"])
def test_of_an_index_the_images_come_along_that_are_there(
    kind: str, store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    index = index_of_platforms(store, image)
    SAVE[kind](store, [(NAME, index)], str(tmp_path / "saved"))
    assert load(kind, other, str(tmp_path / "saved")) == [(NAME, index)]
    assert_whole(other, image)


def test_a_docker_archive_holds_no_index(store: ContentStore, image: Descriptor, tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match=r"is an index of images for several platforms\. Choose one"):
        save_docker_archive(store, [(NAME, index_of_platforms(store, image))], str(tmp_path / "x.tar"))


def test_what_an_image_in_a_layout_lacks_is_named(store: ContentStore, other: ContentStore, image: Descriptor) -> None:
    layer = config_of(store, image)[0].layers[0]
    store.set_index({"1": image})
    store.remove(layer.digest)
    with pytest.raises(BlobDamaged, match=f"the blob {layer.digest} is not in {store.path}"):
        load("layout", other, store.path)
    os.mkfifo(Path(store.path, "blobs", *layer.digest.split(":")))
    with pytest.raises(BlobDamaged, match="is not a file"):
        load("layout", other, store.path)


def test_an_image_that_is_not_there_is_said_with_those_that_are(
    store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    for kind, save in SAVE.items():
        save(store, [(NAME, image)], str(tmp_path / kind))
        with pytest.raises(ImageNotFound, match=f"there is no image 'none' in .*{kind}. It has: {NAME}"):
            load(kind, other, str(tmp_path / kind), "none")


def test_an_archive_may_be_asked_for_an_image_by_any_form_of_its_name(store: ContentStore, tmp_path: Path) -> None:
    for number, make in enumerate((old_docker, new_docker)):
        path = archive(tmp_path / f"{number}.tar", make())
        for wanted in ("t:1", "docker.io/library/t:1", "library/t:1"):
            assert [name for name, _ in load("docker-archive", store, path, wanted)] in (["t:1"], [wanted])
        for other in ("t", "t:2", "x/t:1", "example.com/t:1", "T:1"):
            with pytest.raises(ImageNotFound):
                load("docker-archive", store, path, other)


@pytest.mark.parametrize("make", [old_docker, linked_docker, compressed_docker, new_docker], ids=lambda f: f.__name__)
def test_archives_of_all_forms_of_docker_are_read(
    make: Callable[[], Entries], store: ContentStore, tmp_path: Path
) -> None:
    ((name, target),) = load("docker-archive", store, archive(tmp_path / "x.tar", make()))
    assert name == "t:1"
    manifest, config = config_of(store, target)
    assert config.config.cmd == ("sh",)
    assert store.read(manifest.config.digest) == CONFIG
    assert [gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data for data in (
        store.read(layer.digest) for layer in manifest.layers
    )] == LAYERS
    expected = types.OCI_LAYER_GZIP if make is compressed_docker else types.OCI_LAYER
    assert {layer.media_type for layer in manifest.layers} == {expected}
