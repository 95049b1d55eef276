"""What may stand in a field: text, integers with the ranges of the OCI, enumerations, sequences, mappings, objects.
The annotations of the classes are the only place where a field's kind is said; here they are given their meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

from pycontain.spec.frozen import Frozen, FrozenMap
from pycontain.spec.layout import FieldError, join, layout_of


class Kind:
    """`check` is for values made in Python; `load` and `dump` go from and to JSON data."""

    __slots__ = ()

    def check(self, value: Any) -> None:
        """Raises `FieldError` unless the value may stand here."""
        raise NotImplementedError

    def load(self, data: Any, path: str, unknown: list[str]) -> Any:
        """The value for the JSON data at `path`; paths of unknown properties are appended to `unknown`."""
        try:
            self.check(data)
        except FieldError as error:
            raise error.under(path) from None
        return data

    def dump(self, value: Any) -> Any:
        return value


class Text(Kind):
    """A string that the kernel can take: no NUL byte, and encodable with `os.fsencode`."""

    __slots__ = ("absolute", "empty", "longest")

    def __init__(self, *, absolute: bool = False, empty: bool = True, longest: int | None = None) -> None:
        self.absolute = absolute
        self.empty = empty
        self.longest = longest

    def check(self, value: Any) -> None:
        if not isinstance(value, str):
            raise _wrong_type("a string", value)
        if "\0" in value:
            raise FieldError(f"{_short(value)} contains a NUL byte")
        if not value.isascii():
            try:
                value.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                raise FieldError(f"{_short(value)} cannot be encoded as UTF-8") from None
        if not value and not self.empty:
            raise FieldError("must not be empty")
        if self.absolute and value[:1] != "/":
            raise FieldError(f"{_short(value)} is not an absolute path")
        if self.longest is not None and len(value.encode("utf-8", "surrogateescape")) > self.longest:
            raise FieldError(f"{_short(value)} is longer than {self.longest} bytes")


class Pattern(Text):
    """A string that matches a regular expression as a whole. `meaning` says in the message what that is."""

    __slots__ = ("meaning", "pattern")

    def __init__(self, pattern: str, meaning: str) -> None:
        super().__init__()
        self.pattern = pattern
        self.meaning = meaning

    def check(self, value: Any) -> None:
        import re

        super().check(value)
        if not re.fullmatch(self.pattern, value, re.ASCII):
            raise FieldError(f"{_short(value)} is not {self.meaning}")


class Integer(Kind):
    """An integer from `lowest` to `highest`, both included."""

    __slots__ = ("highest", "lowest")

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest = lowest
        self.highest = highest

    def check(self, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_type("an integer", value)
        if not self.lowest <= value <= self.highest:
            raise FieldError(f"{_short(value)} is not between {self.lowest} and {self.highest}")


class Boolean(Kind):
    __slots__ = ()

    def check(self, value: Any) -> None:
        if not isinstance(value, bool):
            raise _wrong_type("a boolean", value)


class Choice(Kind):
    """One of a fixed set of strings."""

    __slots__ = ("values",)

    def __init__(self, values: tuple[str, ...]) -> None:
        self.values = frozenset(values)

    def check(self, value: Any) -> None:
        if not isinstance(value, str):
            raise _wrong_type("a string", value)
        if value not in self.values:
            raise FieldError(f"{_short(value)} is not one of {', '.join(sorted(self.values))}")


class Sequence(Kind):
    """An array in JSON, a tuple in Python."""

    __slots__ = ("item",)

    def __init__(self, item: Kind) -> None:
        self.item = item

    def check(self, value: Any) -> None:
        if not isinstance(value, tuple):
            raise FieldError(f"must be a tuple, not {type(value).__name__}")
        index = 0
        try:
            for index, element in enumerate(value):  # noqa: B007 (used in the handler)
                self.item.check(element)
        except FieldError as error:
            raise error.under(f"[{index}]") from None

    def load(self, data: Any, path: str, unknown: list[str]) -> Any:
        if not isinstance(data, list | tuple):
            raise _wrong_type("an array", data).under(path)
        return tuple(self.item.load(element, f"{path}[{index}]", unknown) for index, element in enumerate(data))

    def dump(self, value: Any) -> Any:
        return [self.item.dump(element) for element in value]


class Table(Kind):
    """An object with free keys in JSON, a `FrozenMap` in Python."""

    __slots__ = ("item",)
    _key = Text(empty=False)

    def __init__(self, item: Kind) -> None:
        self.item = item

    def check(self, value: Any) -> None:
        if not isinstance(value, FrozenMap):
            raise FieldError(f"must be a FrozenMap, not {type(value).__name__}")
        for key, element in value.items():
            try:
                self._key.check(key)
                self.item.check(element)
            except FieldError as error:
                raise error.under(f"[{_short(key)}]") from None

    def load(self, data: Any, path: str, unknown: list[str]) -> Any:
        if not isinstance(data, dict):
            raise _wrong_type("an object", data).under(path)
        items = {}
        for key, element in data.items():
            where = f"{path}[{_short(key)}]"
            items[self._key.load(key, where, unknown)] = self.item.load(element, where, unknown)
        return FrozenMap(items)

    def dump(self, value: Any) -> Any:
        return {key: self.item.dump(element) for key, element in value.items()}


class Keys(Kind):
    """A set of strings: an object whose values say nothing in JSON (`{"80/tcp": {}}`), a tuple in Python."""

    __slots__ = ()
    _key = Text(empty=False)

    def check(self, value: Any) -> None:
        Sequence(self._key).check(value)

    def load(self, data: Any, path: str, unknown: list[str]) -> Any:
        if not isinstance(data, dict):
            raise _wrong_type("an object", data).under(path)
        return tuple(self._key.load(key, f"{path}[{_short(key)}]", unknown) for key in data)

    def dump(self, value: Any) -> Any:
        return {key: {} for key in value}


class Object(Kind):
    """An object with known properties in JSON, an instance of a class of the specification in Python."""

    __slots__ = ("cls",)

    def __init__(self, cls: type[Frozen]) -> None:
        self.cls = cls

    def check(self, value: Any) -> None:
        if not isinstance(value, self.cls):
            raise FieldError(f"must be a {self.cls.__name__}, not {type(value).__name__}")

    def load(self, data: Any, path: str, unknown: list[str]) -> Any:
        if not isinstance(data, dict):
            raise _wrong_type("an object", data).under(path)
        layout = layout_of(self.cls)
        values: dict[str, Any] = {}
        for key, element in data.items():
            field = layout.by_json.get(key)
            if field is None:
                unknown.append(join(path, key if isinstance(key, str) and key.isidentifier() else f"[{_short(key)}]"))
            elif element is not None or field.required:
                # null for an optional property means absent: Go's encoder writes it for empty slices and pointers.
                values[field.name] = field.kind.load(element, join(path, field.json), unknown)
        for field in layout.required:
            if field.name not in values:
                raise FieldError("is required", join(path, field.json))
        try:
            return self.cls(**values)
        except FieldError as error:
            # Every field is known to be good; this is a rule between fields, whose path is at most one Python name.
            raise FieldError(error.problem, join(path, self.cls._json_name(error.path))) from None

    def dump(self, value: Any) -> Any:
        layout = layout_of(self.cls)
        return {
            field.json: field.kind.dump(element)
            for field, element in zip(layout.fields, layout.values(value), strict=True)
            if field.always or element != field.default
        }


# Annotations with a meaning beyond their type. The ranges are those of the OCI's types, except where the kernel's are
# narrower and a value outside can only fail.
Int32 = Annotated[int, Integer(-(2**31), 2**31 - 1)]
Int64 = Annotated[int, Integer(-(2**63), 2**63 - 1)]
UInt16 = Annotated[int, Integer(0, 2**16 - 1)]
UInt32 = Annotated[int, Integer(0, 2**32 - 1)]
UInt64 = Annotated[int, Integer(0, 2**64 - 1)]
ID = Annotated[int, Integer(0, 2**32 - 2)]  # 2**32 - 1 is (uid_t) -1, which means "no change" to chown and setresuid
Limit = Annotated[int, Integer(-1, 2**63 - 1)]  # -1: no limit
Percentage = Annotated[int, Integer(0, 100)]
Nanoseconds = Annotated[int, Integer(0, 10**9 - 1)]
HookTimeout = Annotated[int, Integer(1, 2**63 - 1)]
OOMScoreAdj = Annotated[int, Integer(-1000, 1000)]  # proc(5)
IOPriorityLevel = Annotated[int, Integer(0, 7)]  # ioprio_set(2)
IdleFlag = Annotated[int, Integer(0, 1)]  # cpu.idle
ArgumentIndex = Annotated[int, Integer(0, 5)]  # a system call has six arguments
Errno = Annotated[int, Integer(0, 4095)]  # MAX_ERRNO; seccomp(2) caps what is above
Name = Annotated[str, Text(empty=False)]
AbsolutePath = Annotated[str, Text(absolute=True)]
HostName = Annotated[str, Text(longest=64)]  # __NEW_UTS_LEN, see sethostname(2)
Version = Annotated[str, Pattern(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", "a version such as 1.2.0")]
DeviceAccess = Annotated[str, Pattern("[rwm]*", "made of r, w and m")]
HugepageSize = Annotated[str, Pattern("[1-9][0-9]*[KMGT]B", "a size such as 64KB, 2MB or 1GB")]
DigestText = Annotated[
    str, Pattern("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", "the sha256 or sha512 digest of a blob")
]
LayersType = Literal["layers"]
Size = Annotated[int, Integer(0, 2**63 - 1)]  # bytes
KeySet = Annotated[tuple[str, ...], Keys()]
CPUList = Annotated[str, Pattern("[0-9, -]*", "a list such as 0-3,7")]


def kind_of_annotation(annotation: str) -> Kind:
    """The kind for the annotation of a field, as written in the source of a class of this package."""
    kind = _kinds.get(annotation)
    if kind is None:
        # `| None` is for type checkers: None is the default then, and "not given" everywhere else.
        # What is evaluated is this package's own source, never a document.
        source = annotation.removesuffix(" | None")
        kind = _kinds[annotation] = _kind_of_type(eval(source, {}, _Names()))
    return kind


_kinds: dict[str, Kind] = {}


def _kind_of_type(tp: Any) -> Kind:
    if tp in _PLAIN:
        return _PLAIN[tp]
    if isinstance(tp, type) and issubclass(tp, Frozen):
        return Object(tp)
    origin, arguments = get_origin(tp), get_args(tp)
    if origin is Annotated:
        kind: Kind = arguments[1]
        return kind
    if origin is Literal:
        return Choice(arguments)
    make: Callable[[Kind], Kind] = {tuple: Sequence, FrozenMap: Table}[origin]
    return make(_kind_of_type(arguments[0]))


_PLAIN: dict[Any, Kind] = {str: Text(), bool: Boolean()}


class _Names(dict[str, Any]):
    """The names that annotations use: those of this module, of `choices`, and the classes of the specification."""

    def __missing__(self, name: str) -> Any:
        from pycontain import spec
        from pycontain.spec import choices

        if name in globals():
            return globals()[name]
        if hasattr(choices, name):
            return getattr(choices, name)
        try:
            return getattr(spec, name)
        except AttributeError:
            raise KeyError(name) from None


_JSON_NAMES = {bool: "a boolean", int: "an integer", float: "a number with a fraction", str: "a string"}
_JSON_NAMES |= {list: "an array", dict: "an object", type(None): "null"}


def _wrong_type(expected: str, value: object) -> FieldError:
    return FieldError(f"must be {expected}, not {_JSON_NAMES.get(type(value), type(value).__name__)}")


def _short(value: object, longest: int = 80) -> str:
    """The value for a message, which must not grow with a hostile document."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value[:longest] if isinstance(value, str) else value)
    return text if len(text) <= longest + 2 else text[:longest] + "..."
