"""References to images, normalised as docker does it, and the other places that an image can come from.

The grammar is that of the distribution project: https://pkg.go.dev/github.com/distribution/reference
"""

from __future__ import annotations

import re

from attrs import evolve, frozen

from pycontain.content.digest import Digest
from pycontain.errors import InvalidDigest, InvalidReference

DEFAULT_REGISTRY = "docker.io"
DEFAULT_NAMESPACE = "library/"
DEFAULT_TAG = "latest"

_LONGEST = 1024  # characters of a whole reference; the longest repository, tag and digest together have 522
_LONGEST_REPOSITORY = 255
_PORT_LIMIT = 65535

_LABEL = "(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::([0-9]{{1,5}}))?")
_COMPONENT = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_IDENTIFIER = re.compile("[a-f0-9]{64}")


@frozen
class Reference:
    """The name of an image in a registry: `Reference.parse("debian:12")` is `docker.io/library/debian:12`.

    Attributes:
        registry: host name or address, with the port if one was given.
        repository: the path there, `library/debian`.
        tag: None only where there is a digest.
        digest: the digest of a manifest or index, which identifies the image whatever the tag says.

    Raises `InvalidReference` when one of them breaks docker's grammar.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __attrs_post_init__(self) -> None:
        registry = _REGISTRY.fullmatch(self.registry)
        if registry is None or int(registry[1] or 0) > _PORT_LIMIT:
            raise InvalidReference(f"{self.registry!r} is not the name of a registry")
        if not _REPOSITORY.fullmatch(self.repository):
            lower = self.repository.lower()
            remedy = f"Names are lower-case: {lower}" if _REPOSITORY.fullmatch(lower) else None
            raise InvalidReference(f"{self.repository!r} is not the name of a repository", remedy=remedy)
        if len(self.repository) > _LONGEST_REPOSITORY:
            raise InvalidReference(f"the name of a repository has at most {_LONGEST_REPOSITORY} characters")
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise InvalidReference(
                f"{self.tag!r} is not a tag",
                remedy="Use 1 to 128 letters, digits, '_', '.' and '-', the last two not at the beginning",
            )
        if self.digest is not None:
            try:
                Digest.parse(self.digest)
            except InvalidDigest as error:
                raise InvalidReference(error.message, remedy=error.remedy) from None
        if self.tag is None and self.digest is None:
            raise InvalidReference(f"{self.name!r} has neither a tag nor a digest")

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`.

        The part before the first slash is a registry when it has a dot, a colon or an upper-case letter, or is
        `localhost`. Otherwise it is `docker.io`, whose repositories without a slash are in `library`. The tag
        is `latest` when neither tag nor digest is given. Raises `InvalidReference`.
        """
        if len(text) > _LONGEST:
            raise _invalid(text[:64] + "...", f"a reference has at most {_LONGEST} characters")
        if _IDENTIFIER.fullmatch(text):
            raise _invalid(text, "64 hexadecimal digits are no name", f"As a digest write NAME@sha256:{text}")
        registry, rest = _split_registry(text)
        rest, at, digest = rest.partition("@")
        repository, colon, tag = rest.partition(":")
        if registry == DEFAULT_REGISTRY and "/" not in repository:
            repository = DEFAULT_NAMESPACE + repository
        if not colon and not at:
            colon, tag = ":", DEFAULT_TAG
        try:
            return cls(registry, repository, tag if colon else None, digest if at else None)
        except InvalidReference as error:
            raise _invalid(text, error.message, error.remedy) from None

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What to ask the repository for: the digest if there is one, else the tag."""
        target = self.digest or self.tag
        assert target is not None
        return target

    @property
    def familiar(self) -> str:
        """The shortest form, which people write: `debian:12`, `localhost:5000/debian:12`. It parses to the same."""
        return self._suffixed(_familiar_name(self.registry, self.repository))

    def with_digest(self, digest: str) -> Reference:
        """The same name, pinned to a digest; the tag is left out."""
        return evolve(self, tag=None, digest=digest)

    def __str__(self) -> str:
        """The canonical form, with registry and tag. It parses to an equal reference."""
        return self._suffixed(self.name)

    def _suffixed(self, name: str) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return f"{name}{tag}@{self.digest}" if self.digest is not None else name + tag


@frozen
class Layout:
    """A directory in the format of the OCI image layout, and a tag in its index: `oci:DIRECTORY[:TAG]`."""

    path: str
    tag: str | None = None

    def __str__(self) -> str:
        return _join("oci", self.path, self.tag)


@frozen
class OciArchive:
    """A tar file of an OCI image layout, and a tag in its index: `oci-archive:FILE[:TAG]`."""

    path: str
    tag: str | None = None

    def __str__(self) -> str:
        return _join("oci-archive", self.path, self.tag)


@frozen
class DockerArchive:
    """A tar file as `docker save` writes it, and an image in it: `docker-archive:FILE[:REFERENCE]`."""

    path: str
    reference: Reference | None = None

    def __str__(self) -> str:
        return _join("docker-archive", self.path, None if self.reference is None else str(self.reference))


Source = Reference | Layout | OciArchive | DockerArchive


def parse_source(text: str) -> Source:
    """Reads a place that an image comes from or goes to: a reference, or one of

    - `oci:DIRECTORY[:TAG]`
    - `oci-archive:FILE[:TAG]`
    - `docker-archive:FILE[:REFERENCE]`

    A path ends at its first colon, as skopeo's does. An image of docker.io with one of these names needs its registry:
    `docker.io/library/oci:latest`. Raises `InvalidReference`.
    """
    transport, colon, rest = text.partition(":")
    if not colon or transport not in ("oci", "oci-archive", "docker-archive"):
        return Reference.parse(text)
    path, _, name = rest.partition(":")
    if not path or "\0" in text:
        raise _invalid(text, f"{transport}: needs the path of a {'directory' if transport == 'oci' else 'file'}")
    if transport == "docker-archive":
        return DockerArchive(path, Reference.parse(name) if name else None)
    return Layout(path, name or None) if transport == "oci" else OciArchive(path, name or None)


def _split_registry(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        return first, rest
    return DEFAULT_REGISTRY, text


def _familiar_name(registry: str, repository: str) -> str:
    if registry != DEFAULT_REGISTRY:
        return f"{registry}/{repository}"
    short = repository.removeprefix(DEFAULT_NAMESPACE)
    if "/" not in short:
        return short
    # The registry is needed where the first part of the path would be taken for one.
    return repository if _split_registry(repository)[0] == DEFAULT_REGISTRY else f"{registry}/{repository}"


def _join(transport: str, path: str, name: str | None) -> str:
    return f"{transport}:{path}" if name is None else f"{transport}:{path}:{name}"


def _invalid(text: str, problem: str, remedy: str | None = None) -> InvalidReference:
    return InvalidReference(f"{text!r} names no image: {problem}", remedy=remedy)
