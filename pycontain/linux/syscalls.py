"""What all wrappers of system calls share: arguments on their way in, errors on their way out."""

from __future__ import annotations

import os
from enum import Flag
from typing import Union

from pycontain.errors import InvalidArgument

PathArgument = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

_SHOWN = 200  # characters of one argument in a message: the data of a mount may have 4096


def check(result: int, call: str, *arguments: object) -> int:
    """The `result` of a binding. When it is -errno, raises the `OSError` that names the call and its arguments."""
    if result >= 0:
        return result
    raise error(-result, call, *arguments)


def error(errno: int, call: str, *arguments: object, detail: str = "") -> OSError:
    """The `OSError` (of the subclass that belongs to `errno`) for a failed call. `detail` says more than errno does."""
    shown = ", ".join(_show(argument) for argument in arguments)
    return OSError(errno, f"{call}({shown}): {os.strerror(errno)}{f' ({detail})' if detail else ''}")


def encode(argument: PathArgument) -> bytes:
    """A path or string as the kernel wants it.

    Raises `InvalidArgument` for a NUL byte, at which C would silently end the string.
    """
    encoded = os.fsencode(argument)
    if b"\0" in encoded:
        raise InvalidArgument(f"{os.fsdecode(encoded)!r} holds a NUL byte")
    return encoded


def _show(argument: object) -> str:
    if isinstance(argument, Flag):
        names = [member.name or "" for member in type(argument) if member.value and member in argument]
        return "|".join(names) or "0"
    if argument is None:
        return "NULL"
    if isinstance(argument, (bytes, os.PathLike)):
        argument = os.fsdecode(argument)
    text = repr(argument)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
