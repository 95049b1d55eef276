"""`WWW-Authenticate` is read as RFC 9110 has it, whatever else a server sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontain.registry.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        (None, []),
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        ("Basic realm=abc", [("basic", {"realm": "abc"})]),
        (r'Basic realm="a \"b\" \\c"', [("basic", {"realm": r'a "b" \c'})]),
        ('Basic realm = "a" , charset="UTF-8"', [("basic", {"realm": "a", "charset": "UTF-8"})]),
        (
            'Bearer realm="https://a/token",service="b",scope="repository:c:pull,push"',
            [("bearer", {"realm": "https://a/token", "service": "b", "scope": "repository:c:pull,push"})],
        ),
        ('Bearer realm="a", Basic realm="b"', [("bearer", {"realm": "a"}), ("basic", {"realm": "b"})]),
        ("Negotiate, Basic realm=b", [("negotiate", {}), ("basic", {"realm": "b"})]),
        ("Negotiate YWJj==, Basic realm=b", [("negotiate", {}), ("basic", {"realm": "b"})]),
        (", ,Basic realm=b,, ,", [("basic", {"realm": "b"})]),
        ("BEARER Realm=a,REALM=b", [("bearer", {"realm": "a"})]),
        ('Basic realm="open', [("basic", {})]),
        ("Basic realm=b, =, Bearer realm=c", [("basic", {"realm": "b"})]),
        ("=", []),
        ("\x00", []),
    ],
)
def test_challenges_are_read_with_their_parameters(
    header: str | None, challenges: list[tuple[str, dict[str, str]]]
) -> None:
    found = parse_challenges(header)
    assert [challenge.scheme for challenge in found] == [scheme for scheme, _ in challenges]
    for challenge, (_, parameters) in zip(found, challenges, strict=True):
        assert {name: challenge.get(name) for name, _ in challenge.parameters} == parameters
        assert challenge.get("absent") is None


_TOKEN = st.text("abcXYZ019-._~!#$", min_size=1, max_size=8)
_VALUE = st.text(st.characters(min_codepoint=9, max_codepoint=0xFF, exclude_characters="\x7f\n\r"), max_size=12)
_PARAMETERS = st.lists(st.tuples(_TOKEN, _VALUE), max_size=3, unique_by=lambda pair: pair[0].lower())
_CHALLENGES = st.lists(st.tuples(_TOKEN, _PARAMETERS), max_size=4)


def quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@given(_CHALLENGES, st.sampled_from([", ", ",", " , ", ",,\t"]))
def test_what_is_written_by_the_rules_is_read_as_it_was_meant(
    challenges: list[tuple[str, list[tuple[str, str]]]], separator: str
) -> None:
    header = separator.join(
        f"{scheme} {','.join(f'{name}={quote(value)}' for name, value in parameters)}"
        for scheme, parameters in challenges
    )
    expected = tuple(
        Challenge(scheme.lower(), tuple((name.lower(), value) for name, value in parameters))
        for scheme, parameters in challenges
    )
    assert parse_challenges(header) == expected


@given(st.text(max_size=60) | st.text('Basic realm="\\,= \t', max_size=60))
def test_any_header_is_read_without_an_error(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()


@pytest.mark.parametrize("piece", ["a ", "a=", 'a="', '\\"', ", ", "a b=c, ", "="])
def test_a_long_header_is_read_in_no_time(piece: str) -> None:
    parse_challenges(piece * 1_000_000)
    parse_challenges("Basic " + piece * 1_000_000)
