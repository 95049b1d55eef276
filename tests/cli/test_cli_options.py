"""The values of the options: what is understood, and that everything else is refused in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontain import InvalidArgument
from pycontain.cli import options

word = st.text(st.characters(exclude_characters=":,=/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
path = st.lists(word, min_size=1, max_size=4).map(lambda words: "/" + "/".join(words))


@given(source=path, target=path, mode=st.sampled_from(["", ":ro", ":rw"]))
def test_a_volume_is_source_target_and_mode(source: str, target: str, mode: str) -> None:
    assert options.volume(f"{source}:{target}{mode}") == (source, target, mode == ":ro")


@pytest.mark.parametrize("value", ["", ":", "/a", "/a:", ":/b", "a:/b", "/a:/b:", "/a:/b:x", "/a:/b:ro:ro"])
def test_a_volume_of_another_form_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument, match="the volume"):
        options.volume(value)


@pytest.mark.parametrize("source", [".", "..", "./a", "a/b"])
def test_the_source_of_a_volume_may_be_relative(source: str) -> None:
    assert options.volume(f"{source}:/b") == (source, "/b", False)


@given(target=path, size=st.integers(1, 2**40), mode=st.integers(0, 0o7777))
def test_a_tmpfs_is_a_target_with_size_and_mode(target: str, size: int, mode: int) -> None:
    assert options.tmpfs(f"{target}:size={size},mode={mode:o}") == (target, str(size), mode)
    assert options.tmpfs(target) == (target, None, 0o1777)


@pytest.mark.parametrize("value", ["/a:exec", "/a:mode", "/a:mode=", "/a:mode=8", "/a:mode=-1", "/a:mode=10000"])
def test_an_option_of_a_tmpfs_that_is_not_known_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument):
        options.tmpfs(value)


limit = st.integers(0, 2**64 - 1)


@given(limit, limit)
def test_a_ulimit_is_a_soft_and_a_hard_limit(one: int, other: int) -> None:
    soft, hard = sorted((one, other))
    assert options.ulimit(f"nofile={soft}:{hard}") == ("RLIMIT_NOFILE", soft, hard)
    assert options.ulimit(f"core={soft}") == ("RLIMIT_CORE", soft, soft)
    assert options.ulimit(f"nofile={soft}:unlimited") == ("RLIMIT_NOFILE", soft, 2**64 - 1)


@pytest.mark.parametrize(
    "value", ["", "nofile", "nofile=", "nofile=x", "nofile=1:", "nofile=:1", "nofile=-2", "nofile=2:1", "nofile=1:2:3",
              "nofile=unlimited:1", "nofile=18446744073709551616", "nofile=\u0661", "NOFILE=1", "bogus=1", "=1"],
)  # fmt: skip
def test_a_ulimit_of_another_form_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument, match="ulimit"):
        options.ulimit(value)


@given(st.text(), st.text())
def test_a_sysctl_is_a_name_and_a_value(name: str, value: str) -> None:
    if name and "=" not in name:
        assert options.sysctl(f"{name}={value}") == (name, value)


@pytest.mark.parametrize("value", ["", "a", "=1"])
def test_a_sysctl_of_another_form_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument, match="is not name=value"):
        options.sysctl(value)


def test_a_variable_without_a_value_is_the_callers_and_the_last_one_counts() -> None:
    values = ["A=1", "B", "C", "D=", "E=x=y", "A=2"]
    assert options.environment(values, {"B": "caller's", "Z": "secret"}) == {
        "A": "2", "B": "caller's", "D": "", "E": "x=y",
    }  # fmt: skip


@given(st.text(max_size=30))
def test_no_text_makes_a_parser_fail_in_another_way(text: str) -> None:
    for parse in (options.volume, options.tmpfs, options.ulimit, options.sysctl):
        try:
            parse(text)
        except InvalidArgument:
            pass
