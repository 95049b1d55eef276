"""References follow docker's grammar and normalisation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontain.errors import InvalidReference
from pycontain.registry.reference import DockerArchive, Layout, OciArchive, Reference, parse_source

DIGEST = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("me/thing", "docker.io/me/thing:latest", "me/thing:latest"),
        ("docker.io/debian:12", "docker.io/library/debian:12", "debian:12"),
        ("docker.io/library/debian:12", "docker.io/library/debian:12", "debian:12"),
        ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}", f"debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}", f"debian:12@{DIGEST}"),
        (f"debian@{SHA512}", f"docker.io/library/debian@{SHA512}", f"debian@{SHA512}"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("localhost:5000/debian:12", "localhost:5000/debian:12", "localhost:5000/debian:12"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        ("[fe80::1]/a", "[fe80::1]/a:latest", "[fe80::1]/a:latest"),
        ("example.org/a", "example.org/a:latest", "example.org/a:latest"),
        ("HOST/a", "HOST/a:latest", "HOST/a:latest"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
        ("docker.io/localhost/c", "docker.io/localhost/c:latest", "docker.io/localhost/c:latest"),
        ("a--b/c__d/e_f.g---h", "docker.io/a--b/c__d/e_f.g---h:latest", "a--b/c__d/e_f.g---h:latest"),
        ("a:_.-", "docker.io/library/a:_.-", "a:_.-"),
        ("a/" + "b" * 253, "docker.io/a/" + "b" * 253 + ":latest", "a/" + "b" * 253 + ":latest"),
        ("a:" + "b" * 128, "docker.io/library/a:" + "b" * 128, "a:" + "b" * 128),
    ],
)
def test_a_reference_is_normalised_as_docker_does_it(text: str, canonical: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert (str(reference), reference.familiar) == (canonical, familiar)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "@", "/", "a/", "/a", "a//b", ":tag", "@" + DIGEST, "a:", "a:b:c", "a@", "a@sha256:", "a@b",
        "Debian", "localhost:5000/Debian", "a/B", "a..b", "a___b", "a_-b", "-a", "a-", "a.", "_a", "a:.b", "a:-b",
        "a:" + "b" * 129, "a" * 256, "a/" + "b" * 254, "a b", " a", "a\n", "a:b\n", "a\0", "é", "a:é", "٣:1", "a:٣",
        "example..org/a", "-example.org/a", "example.org-/a", "example.org:/a", "example.org:x/a",
        "example.org:65536/a", "[::1/a", "::1/a", "[::1%eth0]:5000/a", "user@example.org/a", "https://example.org/a",
        "a@md5:" + "0" * 32, "a@sha256:" + "0" * 63, "a@sha256:" + "A" * 64, f"a@{DIGEST}0", f"a@{DIGEST}@{DIGEST}",
        "0123456789abcdef" * 4, "a" * 2000, "../a", "a/../b", "./a", "~/a",
    ],
)
def test_what_breaks_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.parse(text)


def test_a_name_in_upper_case_is_refused_with_the_one_in_lower_case() -> None:
    with pytest.raises(InvalidReference, match="library/debian"):
        Reference.parse("Debian")


def test_the_digest_is_what_is_asked_for_and_otherwise_the_tag() -> None:
    assert Reference.parse("a:b").target == "b"
    assert Reference.parse(f"a:b@{DIGEST}").target == DIGEST
    assert str(Reference.parse("a:b").with_digest(DIGEST)) == f"docker.io/library/a@{DIGEST}"


@pytest.mark.parametrize(
    "parts",
    [("docker.io", "a", None, None), ("a/b", "c", "d", None), ("docker.io", "a", "b", "c"), ("x", "", "t", None)],
)
def test_a_reference_made_of_parts_is_checked_too(parts: tuple[str, str, str | None, str | None]) -> None:
    with pytest.raises(InvalidReference):
        Reference(*parts)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("oci:a/b", Layout("a/b")),
        ("oci:/a:1", Layout("/a", "1")),
        ("oci:a:docker.io/library/debian:12", Layout("a", "docker.io/library/debian:12")),
        ("oci-archive:a.tar", OciArchive("a.tar")),
        ("oci-archive:a.tar:x", OciArchive("a.tar", "x")),
        ("docker-archive:a.tar", DockerArchive("a.tar")),
        ("docker-archive:a.tar:me/thing:1", DockerArchive("a.tar", Reference.parse("me/thing:1"))),
        ("debian:12", Reference.parse("debian:12")),
        ("oci", Reference.parse("docker.io/library/oci:latest")),
        ("docker.io/library/oci:a", Reference("docker.io", "library/oci", "a")),
    ],
)
def test_the_other_places_of_images_are_named_as_skopeo_names_them(text: str, source: object) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize("text", ["oci:", "oci-archive:", "docker-archive::x", "docker-archive:a:B", "oci:a\0b"])
def test_a_place_without_a_path_or_with_a_wrong_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_source(text)


# The grammar, written as strategies: https://pkg.go.dev/github.com/distribution/reference
_ALPHANUMERIC = st.from_regex(r"\A[a-z0-9]{1,5}\Z")
_LABEL = st.from_regex(r"\A[a-zA-Z0-9]([a-zA-Z0-9-]{0,4}[a-zA-Z0-9])?\Z")
_PORT = st.integers(0, 65535).map(":{}".format)
_HOST = st.lists(_LABEL, min_size=2, max_size=4).map(".".join) | st.just("localhost") | st.just("[fe80::1]")
_REGISTRY = st.tuples(_HOST, st.just("") | _PORT).map("".join)
_COMPONENT = st.lists(_ALPHANUMERIC, min_size=1, max_size=3).flatmap(
    lambda words: st.lists(
        st.sampled_from(["", ".", "_", "__", "-", "--", "---"]), min_size=len(words) - 1, max_size=len(words) - 1
    ).map(lambda separators: "".join(a + b for a, b in zip(words, [*separators, ""], strict=True)))
)
_REPOSITORY = st.lists(_COMPONENT, min_size=1, max_size=4).map("/".join)
_TAG = st.from_regex(r"\A[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20}\Z")


@given(_REGISTRY, _REPOSITORY, _TAG, st.sampled_from([None, DIGEST, SHA512]))
def test_what_the_grammar_makes_is_read_as_its_parts(
    registry: str, repository: str, tag: str, digest: str | None
) -> None:
    text = f"{registry}/{repository}:{tag}" + (f"@{digest}" if digest else "")
    assert Reference.parse(text) == Reference(registry, repository, tag, digest)


@given(_REGISTRY | st.just("docker.io"), _REPOSITORY, _TAG | st.none(), st.sampled_from([None, DIGEST]))
def test_both_forms_of_a_reference_parse_to_the_same(
    registry: str, repository: str, tag: str | None, digest: str | None
) -> None:
    text = f"{registry}/{repository}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference


@given(st.text(max_size=40) | st.text("aA0./:@-_[]", max_size=20))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference
