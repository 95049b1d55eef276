"""How a class of the specification is laid out: its fields with their OCI names, defaults and kinds, worked out once
a class and at first use; and the error that is given the path of the field on its way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from attrs import NOTHING, fields

from pycontain.errors import SpecError

if TYPE_CHECKING:
    from pycontain.spec.frozen import Frozen
    from pycontain.spec.kinds import Kind

# Metadata of fields that have a default in Python.
REQUIRED = {"required": True}  # a document must have it
ALWAYS = {"always": True}  # written to the document also when it is the default


class FieldError(SpecError):
    """A `SpecError` whose path grows from the inside out, while it leaves the nested values."""

    def __init__(self, problem: str, path: str = "", owner: str = "") -> None:
        where = join(owner, path)
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem = problem
        self.path = path

    def under(self, path: str) -> FieldError:
        """The same problem, seen from further out."""
        return FieldError(self.problem, join(path, self.path))


def join(path: str, name: str) -> str:
    """`linux.namespaces` and `[2]` give `linux.namespaces[2]`; and `type` then `linux.namespaces[2].type`."""
    return f"{path}.{name}" if path and name and name[0] != "[" else path + name


class Field:
    """One field: its names, its default, and what may stand in it."""

    __slots__ = ("_annotation", "_kind", "always", "check", "default", "json", "name", "required")

    def __init__(self, name: str, json: str, annotation: str, default: object, metadata: Mapping[str, bool]) -> None:
        self.name = name
        self.json = json
        self.default = default
        self.required = default is NOTHING or "required" in metadata
        self.always = self.required or "always" in metadata
        self._annotation = annotation
        self._kind: Kind | None = None
        self.check: Callable[[Any], None] = self._resolve_and_check

    @property
    def kind(self) -> Kind:
        """Resolved at first use: a field that is never set does not import the class that may stand in it."""
        if self._kind is None:
            from pycontain.spec.kinds import kind_of_annotation

            self._kind = kind_of_annotation(self._annotation)
            self.check = self._kind.check
        return self._kind

    def _resolve_and_check(self, value: Any) -> None:
        self.kind.check(value)


class Layout:
    """The fields of one class, and a function that reads them all."""

    __slots__ = ("by_json", "fields", "required", "values")

    def __init__(self, cls: type[Frozen]) -> None:
        self.fields = tuple(
            Field(a.name, cls._json_name(a.name), str(a.type), a.default, a.metadata) for a in fields(cls)
        )
        self.by_json = {field.json: field for field in self.fields}
        self.required = tuple(field for field in self.fields if field.required)
        names = [field.name for field in self.fields]
        read = attrgetter(*names)
        # attrgetter gives a tuple only when it has several names.
        self.values: Callable[[object], tuple[Any, ...]] = read if len(names) > 1 else lambda value: (read(value),)


_layouts: dict[type, Layout] = {}


def layout_of(cls: type[Frozen]) -> Layout:
    """The layout of a class, made once."""
    layout = _layouts.get(cls)
    if layout is None:
        layout = _layouts[cls] = Layout(cls)
    return layout


# Words that the OCI writes in capitals, unless they come first: hostID, blockIO, kernelTCP, but ioPriority.
_ACRONYMS = frozenset({"cmt", "cpu", "id", "io", "iops", "mbm", "oom", "tcp"})


def json_name(name: str) -> str:
    """The OCI name of a Python name: `throttle_read_iops_device` gives `throttleReadIOPSDevice`."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.upper() if word in _ACRONYMS else word.capitalize() for word in rest)


def capitalised_name(name: str) -> str:
    """`working_dir` gives `WorkingDir`: Docker's configuration, whose Go structures had no names for JSON."""
    spelled = json_name(name)
    return spelled[0].upper() + spelled[1:]


def plain_name(name: str) -> str:
    """The Python name itself, as in `diff_ids`."""
    return name


def dotted_name(name: str) -> str:
    """`os_version` gives `os.version`."""
    return name.replace("_", ".")
