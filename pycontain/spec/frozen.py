"""The base class of the specification's classes, `Frozen`, and the read-only mapping in their fields, `FrozenMap`.
Values are checked when they are made, so that every instance is valid, whether it comes from Python or from JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pycontain.spec.layout import FieldError, join, json_name, layout_of

if TYPE_CHECKING:
    from attrs import Attribute

V = TypeVar("V")


class FrozenMap(Mapping[str, V]):
    """A mapping that cannot be changed and can be hashed. It equals every mapping with the same items."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, V] | Iterable[tuple[str, V]] = ()) -> None:
        self._items: dict[str, V] = dict(items)

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == (other._items if isinstance(other, FrozenMap) else other)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({self._items!r})"


EMPTY: FrozenMap[Any] = FrozenMap()


class Frozen:
    """Base of the specification's classes: immutable, checked when made, compared and hashed by value.

    A subclass is decorated with `@frozen(eq=False, repr=False)`: attrs compiles every method that it generates at the
    time the class is made, which for the forty classes here took as long as the import of the whole library may. The
    methods below do the same for all; `__init__`, slots and `attrs.evolve` are attrs' own.
    """

    __slots__ = ()
    __attrs_attrs__: ClassVar[tuple[Attribute[Any], ...]]
    _json_name = staticmethod(json_name)  # the property of a field; image documents spell theirs in several ways

    def __attrs_post_init__(self) -> None:
        layout = layout_of(type(self))
        path = ""
        try:
            for field, value in zip(layout.fields, layout.values(self)):  # noqa: B905 (strict= costs 10% here)
                # Defaults are valid, and most fields have theirs: the identity test keeps this cheap.
                if value is not field.default:
                    path = field.name
                    field.check(value)
            path = ""
            self._check_together()
        except FieldError as error:
            raise FieldError(error.problem, join(path, error.path), type(self).__name__) from None

    def _check_together(self) -> None:
        """The rules that concern more than one field. Raises `FieldError`."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        values = layout_of(type(self)).values
        return values(self) == values(other)

    def __hash__(self) -> int:
        return hash((type(self), layout_of(type(self)).values(self)))

    def __repr__(self) -> str:
        """The class and the fields that differ from their defaults."""
        layout = layout_of(type(self))
        pairs = zip(layout.fields, layout.values(self), strict=True)
        return f"{type(self).__name__}({', '.join(f'{f.name}={v!r}' for f, v in pairs if v != f.default)})"
