"""The base of every typed result: a frozen dataclass that reads like a dictionary and comes from JSON checked.

A field without a default is always in the JSON, as null where it is None. A field whose default is None is left out of
the JSON and of the mapping where it is None; a ``nullable`` one is written as null. Own code rather than cattrs: that
converts the string "0.5" to a number without a word, and reports errors as nested groups.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union

from ..files import plain, write_json

P = TypeVar("P", bound="Part")
_SPELLED: dict[object, str] = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
_NULL = {"written": "null"}


def nullable() -> Any:
    """Return the default of a field that may be absent in a file that is read, and is written as null where None."""
    return dataclasses.field(default=None, metadata=_NULL)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Part(Mapping[str, Any]):
    """A result, or a part of one: attributes for code, a read-only mapping for users.

    ``part["x"]``, ``part.get("x")``, ``"x" in part`` and ``dict(part)`` work, and it equals a mapping of equal JSON.
    """

    def __getitem__(self, name: str) -> Any:
        field = self.__dataclass_fields__.get(name)
        if field is None or self._left_out(field):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in dataclasses.fields(self) if not self._left_out(field))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self.to_json() == plain(other)

    def _left_out(self, field: "dataclasses.Field[object]") -> bool:
        return field.default is None and not field.metadata and getattr(self, field.name) is None

    def to_json(self) -> dict[str, object]:
        """Return dictionaries, lists, strings and numbers alone; a NaN or an infinity becomes None."""
        return {name: plain(value) for name, value in self.items()}

    def save(self, path: str | Path) -> Path:
        """Write the JSON atomically and return its path."""
        return write_json(path, self)

    @classmethod
    def from_json(cls: type[P], content: Mapping[str, object], source: str = "the result") -> P:
        """Build the dataclass from JSON, and check every field and its type.

        Args:
            content: as ``to_json`` returns it.
            source: named in errors: a file's path, or the path to a part of it.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        types_of = _types(cls)
        if unknown := [name for name in content if name not in types_of]:
            raise ValueError(f"{source} has the field {unknown[0]!r}, which {cls.__name__} does not have")
        if missing := [name for name in _required(cls) if name not in content]:
            raise ValueError(f"{source} lacks the field {missing[0]!r} of {cls.__name__}")
        return cls(**{name: _read(types_of[name], value, f"{source}: {name}") for name, value in content.items()})


@cache
def _types(cls: type[Part]) -> dict[str, object]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@cache
def _required(cls: type[Part]) -> tuple[str, ...]:
    missing = dataclasses.MISSING
    return tuple(f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing)


def _read(wanted: object, value: object, place: str) -> object:
    """Return ``value`` as the annotation ``wanted`` has it, or raise a ValueError that names the place."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, place)
    if isinstance(wanted, type) and issubclass(wanted, Part) and isinstance(value, Mapping):
        return wanted.from_json(value, place)
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is Ellipsis:
            return tuple(_read(arguments[0], item, f"{place}[{row}]") for row, item in enumerate(value))
        if len(value) == len(arguments):
            pairs = enumerate(zip(arguments, value, strict=True))
            return tuple(_read(kind, item, f"{place}[{row}]") for row, (kind, item) in pairs)
    if origin is dict and isinstance(value, Mapping):
        return {key: _read(arguments[1], item, f"{place}[{key!r}]") for key, item in value.items()}
    if origin is typing.Literal and value in arguments:
        return value
    if isinstance(wanted, type) and origin is None and _is_a(wanted, value):
        return value
    raise ValueError(f"{place} must be {_spelled(wanted)}, but is {_shown(value)}")


def _read_union(choices: tuple[object, ...], value: object, place: str) -> object:
    """Read a value of one of several types, of several dataclasses the one whose fields fit best."""
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    parts = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, Part)]
    if parts and isinstance(value, Mapping):
        return _read(max(parts, key=lambda part: _fit(part, value)), value, place)
    for choice in choices[:-1]:
        try:
            return _read(choice, value, place)
        except ValueError:
            continue
    return _read(choices[-1], value, place)


def _fit(part: type[Part], value: Mapping[str, object]) -> tuple[bool, int]:
    kind = _types(part).get("kind", str)
    own_kind = typing.get_origin(kind) is not typing.Literal or value.get("kind") in typing.get_args(kind)
    return own_kind, len(_types(part).keys() & value.keys()) - len(set(_required(part)) - value.keys())


def _is_a(wanted: type, value: object) -> bool:
    if isinstance(value, bool):  # which Python counts as an int
        return wanted in (bool, object)
    return isinstance(value, (int, float) if wanted is float else wanted)


def _spelled(wanted: object) -> str:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return "a list" if arguments[-1] is Ellipsis else f"a list of {len(arguments)}"
    return _SPELLED.get(wanted, "an object")


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
