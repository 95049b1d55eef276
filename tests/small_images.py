"""Small images for tests: a layer for each dictionary of files, in a content store."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence

from pycontain.content import ContentStore, Digest
from pycontain.spec import ConfigFields, Descriptor, History, ImageConfig, Manifest, RootFS, encode
from pycontain.spec.media_types import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST

CONFIG = ConfigFields(cmd=("/bin/sh",), env=("PATH=/bin",), working_dir="/")


def layer_tar(files: dict[str, bytes]) -> bytes:
    """A tar that always has the same bytes."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def put_image(
    store: ContentStore, layers: Sequence[dict[str, bytes]], config: ConfigFields = CONFIG, *, compress: bool = True
) -> Descriptor:
    """Puts an image with these layers, the lowest first, into the store. Gives the descriptor of its manifest."""
    tars = [layer_tar(files) for files in layers]
    media_type = OCI_LAYER_GZIP if compress else OCI_LAYER
    descriptors = [
        put_blob(store, media_type, gzip.compress(data, mtime=0) if compress else data) for data in tars
    ]
    document = ImageConfig(
        RootFS(diff_ids=tuple(str(Digest.of(data)) for data in tars)), "amd64", "linux",
        created="2020-01-01T00:00:00Z", config=config,
        history=tuple(History("2020-01-01T00:00:00Z", f"layer {number}") for number in range(len(tars))),
    )
    described = put_blob(store, OCI_CONFIG, encode(document))
    return put_blob(store, OCI_MANIFEST, encode(Manifest(described, tuple(descriptors), OCI_MANIFEST)))


def put_blob(store: ContentStore, media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type, str(store.write(data)), len(data))
