"""Users and groups by name: the passwd and group files of a root directory, which may be those of a hostile image."""

from __future__ import annotations

from attrs import frozen

from pycontain.errors import InvalidArgument
from pycontain.linux.paths import read_file_in_root

PASSWD = "/etc/passwd"
GROUP = "/etc/group"
MAX_ID = 2**32 - 2  # 2^32-1 is "no id" to setresuid(2) and chown(2)

_MAX_FILE = 1 << 20
_REMEDY = "A number is accepted without an entry"


@frozen
class User:
    """Whom a process runs as.

    Attributes:
        uid, gid: ids inside the root's user namespace.
        additional_gids: the supplementary groups. `gid` is the first one, as login programs have it: without it, a
            process could drop the group, and pass where the group is denied what others may do.
        home: home directory, "/" when it is not known.
        name: login name, None for an id that passwd does not name.
    """

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str
    name: str | None


@frozen
class PasswdEntry:
    """A line of passwd(5). The ids are as written, so they may be out of range."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


@frozen
class GroupEntry:
    """A line of group(5). The id is as written, so it may be out of range."""

    name: str
    gid: int
    members: tuple[str, ...]


def parse_passwd(content: bytes) -> tuple[PasswdEntry, ...]:
    """The entries of a passwd file. Other lines (comments, NIS, too few fields, an id of letters) are skipped."""
    entries = []
    for fields in _lines(content):
        if len(fields) < 4:
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            home, shell = (*fields[5:7], "", "")[:2]
            entries.append(PasswdEntry(fields[0], uid, gid, home, shell))
    return tuple(entries)


def parse_group(content: bytes) -> tuple[GroupEntry, ...]:
    """The entries of a group file. Lines that are none are skipped."""
    entries = []
    for fields in _lines(content):
        gid = _number(fields[2]) if len(fields) >= 3 else None
        if gid is not None:
            members = fields[3].split(",") if len(fields) > 3 else []
            entries.append(GroupEntry(fields[0], gid, tuple(member for member in members if member)))
    return tuple(entries)


def resolve_user(root_fd: int, user: str) -> User:
    """The user that `user` means in the root directory `root_fd`: "name", "uid", either followed by ":group" or ":gid".

    As docker understands `--user`: a number need not be known, and then has group 0; a name has to be in the file; the
    supplementary groups are those that list the user, but only when no group is given; "" is root. Other than there,
    a number is always an id, also when some user has it as a name: an image cannot turn "1000" into root.

    Raises `InvalidArgument` naming the user and the file when a name is not there, an id is not in 0 to 2^32-2, or a
    file is not usable (not a regular file, above 1 MiB). A missing file is an empty one.
    """
    user_part, _, group_part = user.partition(":")
    if ":" in group_part or "\0" in user:
        raise InvalidArgument(f"{user!r} is not a user: give NAME or UID, and with a colon GROUP or GID")
    entry, uid = _find_user(root_fd, user_part or "0")
    if group_part:
        gid = _find_group(root_fd, group_part)
        additional: tuple[int, ...] = ()
    else:
        gid = _checked(entry.gid, f"The group of user {user_part!r} in {PASSWD}") if entry else 0
        additional = _groups_of(root_fd, entry.name) if entry else ()
    return User(
        uid=uid,
        gid=gid,
        additional_gids=tuple(dict.fromkeys((gid, *additional))),
        home=entry.home if entry and entry.home.startswith("/") else "/",
        name=entry.name if entry else None,
    )


def _find_user(root_fd: int, user: str) -> tuple[PasswdEntry | None, int]:
    entries = parse_passwd(_read(root_fd, PASSWD))
    uid = _number(user)
    if uid is not None:
        _checked(uid, f"User {user!r}")
        return next((entry for entry in entries if entry.uid == uid), None), uid
    for entry in entries:
        if entry.name == user:
            return entry, _checked(entry.uid, f"The id of user {user!r} in {PASSWD}")
    raise InvalidArgument(f"There is no user {user!r} in {PASSWD} of the container's root", remedy=_REMEDY)


def _find_group(root_fd: int, group: str) -> int:
    gid = _number(group)
    if gid is not None:
        return _checked(gid, f"Group {group!r}")
    for entry in parse_group(_read(root_fd, GROUP)):
        if entry.name == group:
            return _checked(entry.gid, f"The id of group {group!r} in {GROUP}")
    raise InvalidArgument(f"There is no group {group!r} in {GROUP} of the container's root", remedy=_REMEDY)


def _groups_of(root_fd: int, name: str) -> tuple[int, ...]:
    return tuple(
        _checked(entry.gid, f"The id of group {entry.name!r} in {GROUP}")
        for entry in parse_group(_read(root_fd, GROUP))
        if name in entry.members
    )


def _read(root_fd: int, path: str) -> bytes:
    try:
        return read_file_in_root(root_fd, path, _MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise InvalidArgument(f"{path} of the container's root is not usable: {error.strerror}") from error


def _lines(content: bytes) -> list[list[str]]:
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    return [line.split(":") for line in lines if not line.startswith(("#", "+", "-", ":"))]


def _number(text: str) -> int | None:
    """A decimal number as the files have it. int() would also take blanks, underscores and digits of other scripts."""
    digits = text[1:] if text.startswith("-") else text
    return int(text) if digits.isascii() and digits.isdecimal() and len(digits) <= 20 else None


def _checked(number: int, what: str) -> int:
    if not 0 <= number <= MAX_ID:
        raise InvalidArgument(f"{what} is {number}, which is not an id: they go from 0 to {MAX_ID}")
    return number
