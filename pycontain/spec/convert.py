"""JSON to and from the classes of the specification. Bad documents raise `SpecError` with the path of the field;
properties that are not in the specification are left out with a warning, as the OCI asks of every reader."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pycontain.errors import SpecError
from pycontain.spec.frozen import Frozen
from pycontain.spec.kinds import Object

T = TypeVar("T", bound=Frozen)


class UnknownProperty(UserWarning):
    """A property that the specification does not have, or not for Linux, and that was left out."""


def to_dict(value: Frozen) -> dict[str, Any]:
    """The JSON data for any object of the specification, without the properties that have their defaults."""
    data: dict[str, Any] = Object(type(value)).dump(value)
    return data


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """An object of the class `cls` from JSON data.

    Unknown properties are left out with an `UnknownProperty` warning; null is the same as absent.

    Raises:
        SpecError: the data does not describe such an object. The message begins with the path of the field.
    """
    return _load(cls, data, stacklevel=3)


def to_json(value: Frozen, indent: int | None = None) -> str:
    """`to_dict` as JSON text; `indent` as in `json.dumps`."""
    import json

    return json.dumps(to_dict(value), indent=indent)


def from_json(cls: type[T], text: str | bytes) -> T:
    """`from_dict` for JSON text; bytes are UTF-8.

    Raises:
        SpecError: also when the text is not JSON, or nested too deeply to be read.
    """
    import json

    try:
        data = json.loads(text.decode() if isinstance(text, bytes) else text, parse_constant=_refuse_constant)
    except RecursionError:
        raise SpecError("the document is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"not JSON: {error}") from None
    except ValueError as error:  # JSONDecodeError, and integers of more digits than int() takes
        raise SpecError(f"not JSON: {error}") from None
    return _load(cls, data, stacklevel=4)


def _load(cls: type[T], data: Any, *, stacklevel: int) -> T:
    unknown: list[str] = []
    value: T = Object(cls).load(data, "", unknown)
    for path in unknown:
        warnings.warn(f"{path} is not in the specification and was left out", UnknownProperty, stacklevel=stacklevel)
    return value


def _refuse_constant(name: str) -> NoReturn:
    # Python's reader takes NaN and Infinity, which are not JSON.
    raise ValueError(f"{name} is not a JSON value")
