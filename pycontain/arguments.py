"""What callers give, checked and made into what the specification takes: paths, namespaces, clocks, encodings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Union

from pycontain.errors import InvalidArgument, TaskError
from pycontain.linux.namespaces import NamespaceType
from pycontain.network import NetworkNamespace
from pycontain.spec import TimeOffset
from pycontain.task import Task

if TYPE_CHECKING:
    from pycontain.spec.choices import NamespaceType as NamespaceName

Path = Union[str, "os.PathLike[str]"]


def on_host(path: Path, what: str) -> str:
    """The path made absolute. An empty one, of a variable that was not set, would be the working directory."""
    text = os.fspath(path)
    if not text:
        raise InvalidArgument(f"{what} cannot be an empty path")
    return os.path.abspath(text)


def absolute(path: Path) -> str:
    """The target of a mount, a path inside."""
    text = os.fspath(path)
    if not text.startswith("/"):
        raise InvalidArgument(f"the mount target {text!r} is not an absolute path")
    return "/" + text.lstrip("/")  # POSIX leaves it open what two slashes mean


def namespace_path(kind: NamespaceName, where: NetworkNamespace | Task | Path) -> str | None:
    """The file of the namespace to join; None for a new one."""
    if where == "new":
        return None
    if isinstance(where, NetworkNamespace):
        if kind != "network":
            raise InvalidArgument(f"a network namespace cannot be the container's {kind} namespace")
        return where.path
    if isinstance(where, Task):
        where._check_owner()
        if where.state not in ("running", "paused"):
            raise TaskError(f"{where!r} does not run: its namespaces cannot be joined")
        return f"/proc/{where.pid}/ns/{NamespaceType.from_name(kind).file_name}"
    path = os.fspath(where)
    if not path.startswith("/"):
        raise InvalidArgument(
            f"{path!r} is not a {kind} namespace",
            remedy='Give "new", "host", a task, or the absolute path of a namespace file',
        )
    return path


def time_offset(seconds: float) -> TimeOffset:
    """How far a clock is from the host's."""
    if not -(2**63) < seconds < 2**63:
        raise InvalidArgument(f"{seconds} is not an offset of a clock in seconds")
    return TimeOffset(*divmod(round(seconds * 1_000_000_000), 1_000_000_000))


def profile_text(profile: Path | Mapping[str, Any]) -> str:
    """A seccomp profile as JSON text: from a mapping, a file, or as it is. Raises `SpecError` when it is none."""
    import json

    from pycontain.linux.capabilities import DEFAULT
    from pycontain.linux.seccomp_document import LARGEST, read_profile

    if isinstance(profile, Mapping):
        try:
            text = json.dumps(profile)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"the seccomp profile cannot be written as JSON: {error}") from None
    elif not isinstance(profile, (str, os.PathLike)):
        raise InvalidArgument(f"{profile!r} is not a seccomp profile")
    elif isinstance(profile, str) and profile.lstrip().startswith("{"):
        text = profile
    else:
        try:
            with open(profile, encoding="utf-8") as file:
                text = file.read(LARGEST + 1)
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null byte
            cause = error.strerror if isinstance(error, OSError) else error
            remedy = 'A file, or one of "default" and "unconfined"'
            raise InvalidArgument(f"the seccomp profile {profile!r} cannot be read: {cause}", remedy=remedy) from None
    read_profile(text, DEFAULT)
    return text


def check_encoding(encoding: str, errors: str) -> None:
    """Raises `InvalidArgument` for an encoding, or a way to treat its errors, that Python does not know."""
    import codecs

    try:
        codecs.lookup(encoding)
        codecs.lookup_error(errors)
    except LookupError as error:
        raise InvalidArgument(str(error)) from None
