"""The documents of images: every property there and back, those that real tools write, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pycontain.spec.image
from pycontain.errors import InvalidImage
from pycontain.spec import (
    ArchivedImage,
    ConfigFields,
    Descriptor,
    Frozen,
    FrozenMap,
    History,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RootFS,
    decode,
    decode_archived,
    decode_manifest,
    encode,
    encode_archived,
    media_types,
)
from pycontain.spec.layout import layout_of

DIGEST = "sha256:" + "0123456789abcdef" * 4
LONG = "sha512:" + "0123456789abcdef" * 8
DESCRIPTOR = {
    "mediaType": media_types.OCI_LAYER_GZIP, "digest": DIGEST, "size": 5, "urls": ["https://example.com/x"],
    "annotations": {"a": "b"}, "data": "aGVsbG8=", "artifactType": "application/x",
    "platform": {
        "architecture": "arm", "os": "windows", "os.version": "10.0", "os.features": ["win32k"], "variant": "v7",
    },
}
# Every property that the OCI image specification 1.1 names, and none with its default.
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "artifactType": "application/x", "config": DESCRIPTOR,
    "layers": [DESCRIPTOR, {"mediaType": "x", "digest": LONG, "size": 0}], "subject": DESCRIPTOR,
    "annotations": {"org.opencontainers.image.created": "2020-01-01T00:00:00Z"},
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "artifactType": "application/x", "manifests": [DESCRIPTOR],
    "subject": DESCRIPTOR, "annotations": {"a": "b"},
}
CONFIG: dict[str, Any] = {
    "created": "2020-01-01T00:00:00.123456789Z", "author": "me <me@example.com>", "architecture": "arm64",
    "os": "linux", "os.version": "1", "os.features": ["x"], "variant": "v8",
    "config": {
        "User": "alice:staff", "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Env": ["PATH=/bin", "A="],
        "Entrypoint": ["/entry"], "Cmd": ["a", "b"], "Volumes": {"/data": {}}, "WorkingDir": "/srv",
        "Labels": {"a": "b"}, "StopSignal": "SIGINT", "ArgsEscaped": True,
        "Healthcheck": {
            "Test": ["CMD-SHELL", "true"], "Interval": 30000000000, "Timeout": 1, "StartPeriod": 2, "StartInterval": 3,
            "Retries": 4,
        },
        "OnBuild": ["RUN x"], "StopTimeout": 10, "Shell": ["/bin/bash", "-c"],
    },
    "rootfs": {"type": "layers", "diff_ids": [DIGEST, LONG]},
    "history": [{
        "created": "2020-01-01T00:00:00Z", "created_by": "RUN x", "author": "me", "comment": "c", "empty_layer": True,
    }],
}
ARCHIVED = {"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["a/layer.tar"]}


def document(data: Any) -> bytes:
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("cls", "data"), [(Manifest, MANIFEST), (Index, INDEX), (ImageConfig, CONFIG), (ArchivedImage, ARCHIVED)]
)
def test_every_property_goes_there_and_back(cls: type[Frozen], data: dict[str, Any]) -> None:
    value = decode(cls, document(data), "it")
    assert json.loads(encode(value)) == data
    assert decode(cls, encode(value), "it") == value
    assert hash(decode(cls, encode(value), "it")) == hash(value)


def test_these_documents_leave_no_field_out() -> None:
    missing: list[str] = []
    seen: set[type[Frozen]] = set()

    def walk(value: Any) -> None:
        if isinstance(value, tuple):
            for item in value:
                walk(item)
        elif isinstance(value, Frozen) and type(value) not in seen:
            seen.add(type(value))
            layout = layout_of(type(value))
            for field, element in zip(layout.fields, layout.values(value), strict=True):
                if element == field.default and field.name not in ("schema_version", "type"):  # these have one value
                    missing.append(f"{type(value).__name__}.{field.name}")
                walk(element)

    for cls, data in ((Manifest, MANIFEST), (Index, INDEX), (ImageConfig, CONFIG), (ArchivedImage, ARCHIVED)):
        walk(decode(cls, document(data), "it"))
    assert missing == []
    classes = {value for value in vars(pycontain.spec.image).values() if isinstance(value, type)}
    assert seen == {cls for cls in classes if issubclass(cls, Frozen)} - {Frozen}


def test_a_value_is_written_in_few_bytes_and_always_the_same() -> None:
    config = Descriptor(media_types.OCI_CONFIG, DIGEST, 2)
    assert encode(Manifest(config)) == (
        b'{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%b","size":2},"layers":[],'
        b'"schemaVersion":2}' % DIGEST.encode()
    )
    assert encode(Index()) == b'{"manifests":[],"schemaVersion":2}'
    assert json.loads(encode(ImageConfig(RootFS()))) == {
        "rootfs": {"type": "layers", "diff_ids": []}, "architecture": "", "os": "",
    }
    assert encode_archived((ArchivedImage("c", layers=("l",)),)) == b'[{"Config":"c","Layers":["l"]}]'


def texts(**sizes: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), **sizes)


@given(st.fixed_dictionaries({
    "User": texts(max_size=5), "Env": st.lists(texts(max_size=9), max_size=3),
    "Labels": st.dictionaries(texts(min_size=1, max_size=9), texts(max_size=9), max_size=3),
    "ExposedPorts": st.dictionaries(texts(min_size=1, max_size=9), st.just({}), max_size=3),
    "StopTimeout": st.none() | st.integers(-(2**63), 2**63 - 1),
}))
def test_any_configuration_that_is_read_is_written_and_read_again(config: dict[str, Any]) -> None:
    value = decode(ImageConfig, document({"rootfs": {"type": "layers"}, "config": config}), "it")
    assert decode(ImageConfig, encode(value), "it") == value
    assert value.config.env == tuple(config["Env"])
    assert dict(value.config.labels) == config["Labels"]
    assert set(value.config.exposed_ports) == set(config["ExposedPorts"])


# ---- real documents

def test_a_configuration_of_docker_is_read_and_what_is_not_of_the_image_is_left_out() -> None:
    data = {
        "architecture": "amd64", "os": "linux", "container": "9f", "docker_version": "20.10.7", "id": "x",
        "container_config": {"Hostname": "9f", "Cmd": ["/bin/sh", "-c", "#(nop) CMD"], "Image": "sha256:x"},
        "created": "2021-08-31T23:18:31.206929891Z",
        "config": {
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "Tty": False, "OpenStdin": False,
            "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Image": "sha256:d3", "Volumes": None, "WorkingDir": "",
            "Entrypoint": None, "OnBuild": None, "Labels": None, "ExposedPorts": {"80/tcp": None}, "MacAddress": "",
        },
        "history": [{"created": "2021-08-31T23:18:30Z", "created_by": "/bin/sh -c #(nop) ADD file:aad in / "}],
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, "moby.buildkit.buildinfo.v1": "e30=",
    }
    config = decode(ImageConfig, document(data), "it")
    assert config.config == ConfigFields(cmd=("/bin/sh",), env=("PATH=/bin",), exposed_ports=("80/tcp",))
    assert config.history == (History("2021-08-31T23:18:30Z", "/bin/sh -c #(nop) ADD file:aad in / "),)


def test_null_is_absent() -> None:
    data = {"schemaVersion": 2, "config": {**DESCRIPTOR, "urls": None, "platform": None}, "layers": None}
    manifest = decode_manifest(document(data), media_types.DOCKER_MANIFEST, "it")
    assert isinstance(manifest, Manifest)
    assert manifest.layers == ()
    assert decode(ImageConfig, document({"rootfs": {"type": "layers", "diff_ids": None}, "config": None}), "it") == (
        ImageConfig(RootFS())
    )
    assert decode_archived(document([{**ARCHIVED, "RepoTags": None}]), "it")[0].repo_tags == ()


def test_the_type_of_a_manifest_decides_what_it_is_read_as() -> None:
    for media_type in (media_types.OCI_MANIFEST, media_types.DOCKER_MANIFEST):
        read = decode_manifest(document({**MANIFEST, "mediaType": media_type}), media_type, "it")
        assert isinstance(read, Manifest)
    for media_type in (media_types.OCI_INDEX, media_types.DOCKER_MANIFEST_LIST):
        read = decode_manifest(document({**INDEX, "mediaType": media_type}), media_type, "it")
        assert isinstance(read, Index)
        assert read.manifests[0].platform == Platform("arm", "windows", "10.0", ("win32k",), "v7")
    without = {key: value for key, value in MANIFEST.items() if key != "mediaType"}
    assert decode_manifest(document(without), media_types.OCI_MANIFEST, "it").media_type is None


def test_the_documents_that_umoci_and_skopeo_write_are_read(tmp_path: Path) -> None:
    tools = {name: shutil.which(name) for name in ("umoci", "skopeo")}
    if None in tools.values():
        pytest.skip("needs umoci and skopeo")
    layout = tmp_path / "layout"
    for words in (
        ["umoci", "init", "--layout", str(layout)],
        ["umoci", "new", "--image", f"{layout}:1"],
        [
            "umoci", "config", "--image", f"{layout}:1", "--config.exposedports=80/tcp", "--config.volume=/data",
            "--config.label=a=b", "--config.env=A=1", "--config.workingdir=/srv", "--config.stopsignal=SIGINT",
            "--config.user=1:2", "--config.entrypoint=/e", "--config.cmd=c", "--author=me",
        ],
        ["skopeo", "copy", "-q", "--format=v2s2", f"oci:{layout}:1", f"dir:{tmp_path}/docker"],
    ):
        subprocess.run(words, check=True, capture_output=True, timeout=60)
    (described,) = decode(Index, (layout / "index.json").read_bytes(), "it").manifests
    assert described.annotations["org.opencontainers.image.ref.name"] == "1"
    blobs = layout / "blobs/sha256"
    manifest = decode_manifest((blobs / described.digest[7:]).read_bytes(), described.media_type, "it")
    assert isinstance(manifest, Manifest)
    config = decode(ImageConfig, (blobs / manifest.config.digest[7:]).read_bytes(), "it")
    assert config.author == "me"
    assert config.config == ConfigFields(
        "1:2", ("80/tcp",), ("A=1",), ("/e",), ("c",), ("/data",), "/srv", FrozenMap({"a": "b"}), "SIGINT"
    )
    docker = decode_manifest((tmp_path / "docker/manifest.json").read_bytes(), media_types.DOCKER_MANIFEST, "it")
    assert isinstance(docker, Manifest)
    assert docker.config.media_type == media_types.DOCKER_CONFIG


# ---- what is refused

BAD: list[tuple[type[Frozen], Any, str]] = [
    (Manifest, {**MANIFEST, "schemaVersion": 1}, "schemaVersion: 1 is not 2"),
    (Manifest, {**MANIFEST, "schemaVersion": "2"}, "schemaVersion: must be an integer, not a string"),
    (Manifest, {"config": DESCRIPTOR, "layers": []}, "schemaVersion: is required"),
    (Manifest, {"schemaVersion": 2}, "config: is required"),
    (Manifest, {**MANIFEST, "layers": {}}, "layers: must be an array, not an object"),
    (Manifest, {**MANIFEST, "layers": [None]}, "layers[0]: must be an object, not null"),
    (Manifest, {**MANIFEST, "annotations": {"a": 1}}, "annotations['a']: must be a string, not an integer"),
    (Descriptor, {**DESCRIPTOR, "digest": "sha256:abc"}, "digest: 'sha256:abc' is not the sha256 or sha512 digest of"),
    (Descriptor, {**DESCRIPTOR, "digest": DIGEST.upper()}, "digest: 'SHA256:"),
    (Descriptor, {**DESCRIPTOR, "digest": DIGEST + "\n"}, "digest: 'sha256:"),
    (Descriptor, {**DESCRIPTOR, "digest": "md5:d41d8cd98f00b204e9800998ecf8427e"}, "digest: 'md5:"),
    (Descriptor, {**DESCRIPTOR, "digest": "sha256:../../../../etc/passwd"}, "digest: 'sha256:../"),
    (Descriptor, {**DESCRIPTOR, "size": -1}, "size: -1 is not between 0 and"),
    (Descriptor, {**DESCRIPTOR, "size": 2**63}, "size: 9223372036854775808 is not between"),
    (Descriptor, {**DESCRIPTOR, "size": 1.5}, "size: must be an integer, not a number with a fraction"),
    (Descriptor, {**DESCRIPTOR, "mediaType": ""}, "mediaType: must not be empty"),
    (Descriptor, {**DESCRIPTOR, "platform": {"os": "linux"}}, "platform.architecture: is required"),
    (ImageConfig, {}, "rootfs: is required"),
    (ImageConfig, {"rootfs": {"type": "layers+base"}}, "rootfs.type: 'layers+base' is not one of layers"),
    (ImageConfig, {**CONFIG, "rootfs": {"type": "layers", "diff_ids": ["x"]}}, "rootfs.diff_ids[0]: 'x' is not the"),
    (ImageConfig, {**CONFIG, "os.features": "x"}, "os.features: must be an array, not a string"),
    (ImageConfig, {**CONFIG, "config": {"Env": "A=1"}}, "config.Env: must be an array, not a string"),
    (ImageConfig, {**CONFIG, "config": {"Env": ["A=\0"]}}, r"config.Env[0]: 'A=\x00' contains a NUL byte"),
    (ImageConfig, {**CONFIG, "config": {"ExposedPorts": ["80"]}}, "config.ExposedPorts: must be an object, not an"),
    (ImageConfig, {**CONFIG, "config": {"Volumes": {"": {}}}}, "config.Volumes['']: must not be empty"),
    (ImageConfig, {**CONFIG, "history": [{"empty_layer": 1}]}, "history[0].empty_layer: must be a boolean"),
]


@pytest.mark.parametrize(("cls", "data", "message"), BAD, ids=[message[:30] for *_, message in BAD])
def test_a_bad_value_is_refused_with_its_path(cls: type[Frozen], data: Any, message: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        decode(cls, document(data), "the document x")
    assert str(caught.value).startswith(f"the document x is broken: {message}")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is not JSON: Expecting value"),
        (b"\xff\xfe", "it is not JSON: 'utf-8' codec"),
        (b"[]", "it is broken: must be an object, not an array"),
        (b"[" * 500_000, "it is nested too deeply"),
        (b'{"a":' * 500_000, "it is nested too deeply"),
        (b'{"schemaVersion": ' + b"1" * 5000 + b"}", "it is not JSON: Exceeds the limit"),
        (b" " * (4 << 20) + b"{}", "it is larger than 4194304 bytes"),
    ],
    ids=range(7),
)
def test_what_is_no_document_is_refused(data: bytes, message: str) -> None:
    for cls in (Manifest, Index, ImageConfig):
        with pytest.raises(InvalidImage) as caught:
            decode(cls, data, "it")
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("data", "media_type", "message"),
    [
        (MANIFEST, media_types.DOCKER_MANIFEST, "says of itself 'application/vnd.oci.image.manifest.v1+json'"),
        (INDEX, media_types.OCI_MANIFEST, "it is broken: config: is required"),
        ({**MANIFEST, "manifests": []}, media_types.OCI_MANIFEST, "has 'manifests' nevertheless"),
        ({**INDEX, "layers": [DESCRIPTOR]}, media_types.OCI_INDEX, "has 'layers' nevertheless"),
        (MANIFEST, "application/xml", "it is of the unknown type 'application/xml'"),
        (MANIFEST, "x" * 5000, "it is of the unknown type 'xxx"),
        (MANIFEST, media_types.DOCKER_SCHEMA_1_SIGNED, "it is of Docker's schema 1. Push the image again"),
    ],
)
def test_a_manifest_that_is_not_what_its_type_says_is_refused(data: Any, media_type: str, message: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        decode_manifest(document(data), media_type, "it")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["config", "layers", "digest", "size", "mediaType", "schemaVersion", "rootfs", "x"]), inner,
        max_size=4,
    ),
))
def test_no_document_raises_anything_else(data: Any) -> None:
    for cls in (Manifest, Index, ImageConfig, ArchivedImage):
        try:
            decode(cls, document(data), "it")
        except InvalidImage:
            pass
    try:
        decode_archived(document(data), "it")
    except InvalidImage:
        pass


def test_media_types_are_told_apart() -> None:
    assert media_types.is_index(media_types.DOCKER_MANIFEST_LIST)
    assert media_types.is_manifest(media_types.OCI_MANIFEST)
    assert media_types.is_config(media_types.DOCKER_CONFIG)
    assert not media_types.is_config("application/vnd.oci.empty.v1+json")
    assert media_types.is_layer(media_types.OCI_LAYER_ZSTD)
    assert media_types.is_layer(media_types.DOCKER_FOREIGN_LAYER_GZIP)
    assert media_types.is_foreign_layer(media_types.DOCKER_FOREIGN_LAYER_GZIP)
    assert not media_types.is_foreign_layer(media_types.DOCKER_LAYER_GZIP)
    assert not media_types.is_layer("application/octet-stream")
