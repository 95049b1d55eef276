"""Users are found in a root's passwd and group files as docker finds them, whatever an image has put there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolated import open_descriptors

from pycontain.errors import InvalidArgument
from pycontain.linux.users import (
    MAX_ID,
    GroupEntry,
    PasswdEntry,
    User,
    parse_group,
    parse_passwd,
    resolve_user,
)

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1::/:/sbin/nologin
alice:x:1000:1000:Alice,,,:/home/alice:/bin/sh
bob:x:1001:100::relative:/bin/sh
1000:x:0:0:named like an id:/root:/bin/sh
big:x:4294967295:0::/:
negative:x:-2:-2::/:
wide:x:5:4294967296::/:
twice:x:7:7::/first:
twice:x:8:8::/second:
"""
GROUP = """root:x:0:
alice:x:1000:
users:x:100:alice,bob
audio:x:29:alice
large:x:4294967295:carol
999:x:5:
"""

Resolve = Callable[[str], User]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root" / "etc"


@pytest.fixture
def resolve(etc: Path) -> Resolve:
    """Resolves in a root whose files the test may change before."""
    (etc / "passwd").write_text(PASSWD)
    (etc / "group").write_text(GROUP)

    def call(user: str) -> User:
        before = open_descriptors()
        fd = os.open(etc.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            return resolve_user(fd, user)
        finally:
            os.close(fd)
            assert open_descriptors() == before

    return call


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("root", User(0, 0, (0,), "/root", "root")),
        ("", User(0, 0, (0,), "/root", "root")),
        ("0", User(0, 0, (0,), "/root", "root")),
        ("alice", User(1000, 1000, (1000, 100, 29), "/home/alice", "alice")),
        ("1000", User(1000, 1000, (1000, 100, 29), "/home/alice", "alice")),
        ("alice:", User(1000, 1000, (1000, 100, 29), "/home/alice", "alice")),
        ("alice:audio", User(1000, 29, (29,), "/home/alice", "alice")),
        ("alice:7", User(1000, 7, (7,), "/home/alice", "alice")),
        ("1000:999", User(1000, 999, (999,), "/home/alice", "alice")),
        ("bob", User(1001, 100, (100,), "/", "bob")),
        ("5000", User(5000, 0, (0,), "/", None)),
        ("5000:audio", User(5000, 29, (29,), "/", None)),
        (f"{MAX_ID}:{MAX_ID}", User(MAX_ID, MAX_ID, (MAX_ID,), "/", None)),
        (":audio", User(0, 29, (29,), "/root", "root")),
        ("twice", User(7, 7, (7,), "/first", "twice")),
    ],
)
def test_a_user_resolves_to(resolve: Resolve, user: str, expected: User) -> None:
    assert resolve(user) == expected


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("carol", "no user 'carol' in /etc/passwd.*A number is accepted"),
        ("alice:none", "no group 'none' in /etc/group"),
        ("alice:1:2", "'alice:1:2' is not a user"),
        ("4294967295", "User '4294967295' is 4294967295, which is not an id"),
        ("4294967296", "not an id"),
        ("-1", "not an id"),
        ("0:-1", "Group '-1' is -1"),
        ("0:4294967295", "not an id"),
        ("big", "The id of user 'big' in /etc/passwd is 4294967295"),
        ("negative", "The id of user 'negative' in /etc/passwd is -2"),
        ("wide", "The group of user 'wide' in /etc/passwd is 4294967296"),
        ("0:large", "The id of group 'large' in /etc/group is 4294967295"),
        ("\u0661", "no user '\u0661'"),
        ("1_0", "no user '1_0'"),
        (" 0", "no user ' 0'"),
        ("a\0", "is not a user"),
        ("9" * 5000, "no user"),
    ],
)
def test_what_is_no_user_is_refused_by_name_and_file(resolve: Resolve, user: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        resolve(user)


def test_a_group_with_a_bad_id_that_lists_the_user_is_an_error(resolve: Resolve, etc: Path) -> None:
    (etc / "passwd").write_text("carol:x:3:3::/:\n")
    with pytest.raises(InvalidArgument, match="group 'large'"):
        resolve("carol")
    assert resolve("carol:3") == User(3, 3, (3,), "/", "carol")


def test_without_files_numbers_are_accepted_and_names_are_not(resolve: Resolve, etc: Path) -> None:
    for name in ("passwd", "group"):
        (etc / name).unlink()
    assert resolve("") == User(0, 0, (0,), "/", None)
    assert resolve("5:6") == User(5, 6, (6,), "/", None)
    with pytest.raises(InvalidArgument, match="no user 'root' in /etc/passwd"):
        resolve("root")
    etc.rmdir()
    etc.write_text("a file")
    assert resolve("5") == User(5, 0, (0,), "/", None)


def make_hostile(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path.name)  # a loop


@pytest.mark.parametrize("kind", ["fifo", "huge", "directory", "loop"])
@pytest.mark.parametrize("name", ["passwd", "group"])
def test_a_hostile_file_is_an_error_that_names_it(resolve: Resolve, etc: Path, name: str, kind: str) -> None:
    make_hostile(etc / name, kind)
    with pytest.raises(InvalidArgument, match=f"/etc/{name} of the container's root is not usable"):
        resolve("alice" if name == "group" else "5000")


def test_a_link_to_a_file_outside_finds_nothing_there(resolve: Resolve, etc: Path, tmp_path: Path) -> None:
    outside = tmp_path / "passwd"
    outside.write_text("mallory:x:0:0::/:\n")
    for target in (outside, Path("../../passwd")):
        (etc / "passwd").unlink()
        (etc / "passwd").symlink_to(target)
        with pytest.raises(InvalidArgument, match="no user 'mallory'"):
            resolve("mallory")


def test_lines_that_are_none_are_skipped() -> None:
    content = b"\n# comment:x:1:1\n+::::::\n-nis\nshort:x:1\nword:x:one:1\nplus:x:+1:1\n:x:1:1\n"
    assert parse_passwd(content + b"\xffname:x:3:4\ncr:x:1:1::/:/sh\r") == (
        PasswdEntry("\udcffname", 3, 4, "", ""),
        PasswdEntry("cr", 1, 1, "/", "/sh\r"),
    )
    assert parse_group(b"a:x:1\nb:x:2:,x,,y\nc:x\nd:x:e:f") == (GroupEntry("a", 1, ()), GroupEntry("b", 2, ("x", "y")))


characters = st.characters(blacklist_characters=":\n\0,", blacklist_categories=("Cs",))
words = st.text(characters, min_size=1, max_size=8).filter(lambda word: not word.startswith(("#", "+", "-")))
ids = st.integers(0, MAX_ID)


@given(st.lists(st.builds(PasswdEntry, words, ids, ids, words, words)), st.lists(st.binary(max_size=9)))
def test_what_was_written_is_read_back_between_lines_of_garbage(entries: list[PasswdEntry], noise: list[bytes]) -> None:
    lines = [f"{e.name}:x:{e.uid}:{e.gid}:gecos:{e.home}:{e.shell}".encode() for e in entries]
    garbage = [b"#" + junk.replace(b"\n", b"") for junk in noise]
    assert parse_passwd(b"\n".join([*garbage, *lines, *garbage])) == tuple(entries)


@given(st.lists(st.builds(GroupEntry, words, ids, st.lists(words).map(tuple))))
def test_groups_that_were_written_are_read_back(entries: list[GroupEntry]) -> None:
    content = "\n".join(f"{entry.name}:x:{entry.gid}:{','.join(entry.members)}" for entry in entries)
    assert parse_group(content.encode()) == tuple(entries)


@given(st.binary())
def test_any_bytes_are_parsed(content: bytes) -> None:
    parse_passwd(content)
    parse_group(content)
