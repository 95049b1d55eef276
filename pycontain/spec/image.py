"""The documents of an image as frozen values: descriptor, index, manifest and configuration, by the OCI image
specification 1.1, and those of Docker's schema 2, which have the same properties. Unknown properties are ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from attrs import field, frozen

from pycontain.errors import InvalidImage, SpecError
from pycontain.spec import media_types
from pycontain.spec.frozen import EMPTY, Frozen, FrozenMap
from pycontain.spec.layout import ALWAYS, REQUIRED, FieldError, capitalised_name, dotted_name, plain_name

if TYPE_CHECKING:
    from pycontain.spec.kinds import DigestText, Int64, KeySet, LayersType, Name, Size

LARGEST_DOCUMENT = 4 << 20  # bytes; what registries take as a manifest (OCI distribution specification, "Push")


@frozen(eq=False, repr=False)
class Platform(Frozen):
    """What an image runs on, in the words of Go: `Platform("amd64", "linux")`."""

    architecture: str
    os: str
    os_version: str | None = None
    os_features: tuple[str, ...] = ()
    variant: str | None = None

    _json_name = staticmethod(dotted_name)


@frozen(eq=False, repr=False)
class Descriptor(Frozen):
    """A reference to a blob: its kind, its digest and its size in bytes. `data` is its content in base64."""

    media_type: Name
    digest: DigestText
    size: Size
    urls: tuple[str, ...] = ()
    annotations: FrozenMap[str] = EMPTY
    data: str | None = None
    platform: Platform | None = None
    artifact_type: str | None = None


@frozen(eq=False, repr=False)
class Manifest(Frozen):
    """One image: its configuration and its layers, the lowest first. `media_type` may be absent, as the OCI allows."""

    config: Descriptor
    layers: tuple[Descriptor, ...] = field(default=(), metadata=ALWAYS)
    media_type: str | None = None
    schema_version: Int64 = field(default=2, metadata=REQUIRED)
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: FrozenMap[str] = EMPTY

    def _check_together(self) -> None:
        _check_version(self.schema_version)


@frozen(eq=False, repr=False)
class Index(Frozen):
    """A list of manifests: one image for several platforms, or the images of a layout."""

    manifests: tuple[Descriptor, ...] = field(default=(), metadata=ALWAYS)
    media_type: str | None = None
    schema_version: Int64 = field(default=2, metadata=REQUIRED)
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: FrozenMap[str] = EMPTY

    def _check_together(self) -> None:
        _check_version(self.schema_version)


@frozen(eq=False, repr=False)
class Healthcheck(Frozen):
    """Docker's check of a running container. `test` begins with NONE, CMD or CMD-SHELL; times are in nanoseconds."""

    test: tuple[str, ...] = ()
    interval: Int64 = 0
    timeout: Int64 = 0
    start_period: Int64 = 0
    start_interval: Int64 = 0
    retries: Int64 = 0

    _json_name = staticmethod(capitalised_name)


@frozen(eq=False, repr=False)
class ConfigFields(Frozen):
    """What a container of the image runs, and how. Inert data: nothing in it has been checked beyond its type.

    `env` holds `NAME=value`, `exposed_ports` `80/tcp`, `volumes` paths. The fields from `healthcheck` on are Docker's.
    """

    user: str = ""
    exposed_ports: KeySet = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: KeySet = ()
    working_dir: str = ""
    labels: FrozenMap[str] = EMPTY
    stop_signal: str | None = None
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    stop_timeout: Int64 | None = None
    shell: tuple[str, ...] = ()

    _json_name = staticmethod(capitalised_name)


NO_CONFIG = ConfigFields()


@frozen(eq=False, repr=False)
class RootFS(Frozen):
    """The digests of the uncompressed layers, the lowest first."""

    type: LayersType = field(default="layers", metadata=REQUIRED)
    diff_ids: tuple[DigestText, ...] = field(default=(), metadata=ALWAYS)

    _json_name = staticmethod(plain_name)


@frozen(eq=False, repr=False)
class History(Frozen):
    """How one layer was made, or, with `empty_layer`, a change of the configuration alone. `created` is RFC 3339."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False

    _json_name = staticmethod(plain_name)


@frozen(eq=False, repr=False)
class ImageConfig(Frozen):
    """The configuration of an image (config.md). Images made by hand lack `architecture` and `os`: empty then."""

    rootfs: RootFS
    architecture: str = field(default="", metadata=ALWAYS)
    os: str = field(default="", metadata=ALWAYS)
    os_version: str | None = None
    os_features: tuple[str, ...] = ()
    variant: str | None = None
    created: str | None = None
    author: str | None = None
    config: ConfigFields = NO_CONFIG
    history: tuple[History, ...] = ()

    _json_name = staticmethod(dotted_name)


@frozen(eq=False, repr=False)
class ArchivedImage(Frozen):
    """One image of the `manifest.json` of a `docker save`: names of entries in the archive, the lowest layer first."""

    config: Name
    repo_tags: tuple[str, ...] = ()
    layers: tuple[Name, ...] = field(default=(), metadata=ALWAYS)

    _json_name = staticmethod(capitalised_name)


T = TypeVar("T", bound=Frozen)


def decode(cls: type[T], data: bytes, what: str) -> T:
    """The document of class `cls` in `data`; `what` names it in errors: "the manifest sha256:...".

    Raises:
        InvalidImage: it is larger than 4 MiB, not JSON, or not such a document.
    """
    return _load(cls, _parse(data, what), what)


def decode_archived(data: bytes, what: str) -> tuple[ArchivedImage, ...]:
    """The images that a `manifest.json` of Docker lists. Raises `InvalidImage` as `decode`."""
    listed = _parse(data, what)
    if not isinstance(listed, list):
        raise InvalidImage(f"{what} is not a JSON array")
    return tuple(_load(ArchivedImage, element, f"{what}, image {index},") for index, element in enumerate(listed))


def decode_manifest(data: bytes, media_type: str, what: str) -> Manifest | Index:
    """The manifest or index in `data`, whose descriptor (or registry) says that it is of `media_type`.

    Raises:
        InvalidImage: as `decode`; and when the type is unknown, is not that which the document gives itself, or when
            the document could be read as both kinds (CVE-2021-41190).
    """
    if media_type in (media_types.DOCKER_SCHEMA_1, media_types.DOCKER_SCHEMA_1_SIGNED):
        raise InvalidImage(f"{what} is of Docker's schema 1", remedy="Push the image again with a current tool")
    if not media_types.is_manifest(media_type) and not media_types.is_index(media_type):
        raise InvalidImage(f"{what} is of the unknown type {media_type[:200]!r}")
    parsed = _parse(data, what)
    cls: type[Manifest] | type[Index] = Manifest if media_types.is_manifest(media_type) else Index
    document = _load(cls, parsed, what)
    if document.media_type not in (None, "", media_type):
        raise InvalidImage(f"{what} is of the type {media_type}, and says of itself {document.media_type[:200]!r}")
    foreign = "manifests" if cls is Manifest else "layers"
    if isinstance(parsed, dict) and foreign in parsed:
        raise InvalidImage(f"{what} is of the type {media_type}, and has {foreign!r} nevertheless")
    return document


def encode(document: Frozen) -> bytes:
    """The document as compact JSON in ASCII: equal values give equal bytes, and so equal digests."""
    from pycontain.spec.convert import to_dict

    return _dump(to_dict(document))


def encode_archived(images: tuple[ArchivedImage, ...]) -> bytes:
    """The `manifest.json` of Docker for these images."""
    from pycontain.spec.convert import to_dict

    return _dump([to_dict(image) for image in images])


def _dump(data: object) -> bytes:
    import json

    return json.dumps(data, separators=(",", ":")).encode()


def _parse(data: bytes, what: str) -> object:
    import json

    if len(data) > LARGEST_DOCUMENT:
        raise InvalidImage(f"{what} is larger than {LARGEST_DOCUMENT} bytes")
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise InvalidImage(f"{what} is nested too deeply") from None
    except ValueError as error:  # also not UTF-8, and integers of more digits than int() takes
        raise InvalidImage(f"{what} is not JSON: {error}") from None


def _load(cls: type[T], parsed: object, what: str) -> T:
    from pycontain.spec.kinds import Object

    try:
        document: T = Object(cls).load(parsed, "", [])
    except SpecError as error:
        raise InvalidImage(f"{what} is broken: {error.message}") from None
    return document


def _check_version(version: int) -> None:
    if version != 2:
        raise FieldError(f"{version} is not 2, the only version that is supported", "schema_version")
