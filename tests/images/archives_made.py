"""Archives of images for tests: those of this library, and in the forms that other tools write."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from small_images import layer_tar

from pycontain.content import ContentStore, Digest
from pycontain.images.archives import load_archive, save_docker_archive, save_oci_archive
from pycontain.images.layout import blobs_of, load_layout, save_layout
from pycontain.spec import Descriptor, ImageConfig, Manifest, decode, decode_manifest, encode
from pycontain.spec import media_types as types

NAME = "docker.io/me/thing:1"
FILES: list[dict[str, bytes]] = [{"bin/sh": b"not a shell", "data": bytes(300_000)}, {"etc/hosts": b"127.0.0.1 h\n"}]


class Kept(list[str]):
    """What was protected from garbage collection."""

    def __call__(self, digest: str) -> None:
        self.append(digest)


def config_of(store: ContentStore, target: Descriptor) -> tuple[Manifest, ImageConfig]:
    manifest = decode_manifest(store.read(target.digest), target.media_type, "the manifest")
    assert isinstance(manifest, Manifest)
    return manifest, decode(ImageConfig, store.read(manifest.config.digest), "the configuration")


def assert_whole(store: ContentStore, target: Descriptor) -> None:
    for descriptor in blobs_of(target, store):
        assert store.verify(descriptor.digest, descriptor.size), descriptor


SAVE = {"layout": save_layout, "oci-archive": save_oci_archive, "docker-archive": save_docker_archive}


def load(kind: str, store: ContentStore, path: str, tag: str | None = None) -> list[tuple[str | None, Descriptor]]:
    """Loads, and checks that nothing came into the store that was not protected, and nothing half done stays."""
    before = set(store.walk())
    kept = Kept()
    loaded = (load_layout if kind == "layout" else load_archive)(store, path, tag, keep=kept)
    assert {str(blob.digest) for blob in set(store.walk()) - before} <= set(kept)
    assert os.listdir(Path(store.path, "ingest")) == []
    return loaded


# ---- archives as other tools make them

Entries = list[tuple[tarfile.TarInfo, bytes]]


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = len(data), kind, link
    return made, data


def archive(path: Path, entries: Entries) -> str:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for made, data in entries:
            tar.addfile(made, io.BytesIO(data))
    return str(path)


LAYERS = [layer_tar(files) for files in FILES]
DIFF_IDS = ["sha256:" + hashlib.sha256(data).hexdigest() for data in LAYERS]
CONFIG = json.dumps({
    "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Image": "sha256:x", "Hostname": "abc"},
    "container": "abc", "container_config": {"Cmd": None}, "docker_version": "20.10.7", "id": "x",
    "rootfs": {"type": "layers", "diff_ids": DIFF_IDS}, "history": [{"created": "2020-01-01T00:00:00Z"}],
}).encode()


def good() -> Entries:
    """The smallest archive that is read."""
    return [entry("c.json", CONFIG), entry("0.tar", LAYERS[0]), entry("1.tar", LAYERS[1]), listed(["0.tar", "1.tar"])]


def listed(layers: list[str], config: str = "c.json", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    image = {"Config": config, "RepoTags": ["t:1"], "Layers": layers, **more}
    return entry("manifest.json", json.dumps([image]).encode())


def old_docker() -> Entries:
    """A directory a layer, with files for yet older versions, and the manifest at the end."""
    entries = []
    for name, data in zip("ab", LAYERS, strict=True):
        entries += [
            entry(f"{name * 64}/", kind=tarfile.DIRTYPE), entry(f"{name * 64}/VERSION", b"1.0"),
            entry(f"{name * 64}/json", b"{}"), entry(f"{name * 64}/layer.tar", data),
        ]
    layers = [f"{name * 64}/layer.tar" for name in "ab"]
    return [*entries, entry("c.json", CONFIG), listed(layers, LayerSources={}), entry("repositories", b"{}")]


def linked_docker() -> Entries:
    """The layers are links, symbolic and hard, as podman and old versions of Docker write them."""
    return [
        listed(["a/layer.tar", "b/layer.tar"]), entry("one.tar", LAYERS[0]), entry("b/two.tar", LAYERS[1]),
        entry("a/layer.tar", kind=tarfile.SYMTYPE, link="../one.tar"),
        entry("b/layer.tar", kind=tarfile.LNKTYPE, link="b/two.tar"), entry("c.json", CONFIG),
    ]


def compressed_docker() -> Entries:
    layers = [f"{number}.tar.gz" for number in range(2)]
    data = [gzip.compress(layer) for layer in LAYERS]
    return [*map(entry, layers, data), entry("./c.json", CONFIG), listed(layers)]


def new_docker() -> Entries:
    """Since version 25: a layout and a manifest.json at once."""
    manifest = encode(Manifest(
        Descriptor(types.OCI_CONFIG, str(Digest.of(CONFIG)), len(CONFIG)),
        tuple(Descriptor(types.OCI_LAYER, str(Digest.of(data)), len(data)) for data in LAYERS), types.OCI_MANIFEST,
    ))
    index = {"schemaVersion": 2, "manifests": [{
        "mediaType": types.OCI_MANIFEST, "digest": str(Digest.of(manifest)), "size": len(manifest),
        "annotations": {"io.containerd.image.name": "t:1", "org.opencontainers.image.ref.name": "1"},
    }]}
    blobs = {f"blobs/sha256/{Digest.of(data).hex}": data for data in (manifest, CONFIG, *LAYERS)}
    layers = [f"blobs/sha256/{Digest.of(data).hex}" for data in LAYERS]
    return [
        *(entry(name, data) for name, data in blobs.items()), entry("index.json", json.dumps(index).encode()),
        listed(layers, f"blobs/sha256/{Digest.of(CONFIG).hex}"),
        entry("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
    ]
