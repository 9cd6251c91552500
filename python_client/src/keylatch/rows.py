"""How an answer is read: rows of JSON, field by field into the dataclasses of `models`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar, cast
from uuid import UUID

from .errors import NotInstalled, UnexpectedAnswer
from .models import ImportOutcome, ImportProbe, ReadOnlyDict
from .secret import Secret

T = TypeVar("T")


def read_one(model: type[T], rows: Iterable[Mapping[str, object]]) -> T:
    """Read the answer of a call that gives one row. `NotInstalled` says that a field is missing."""
    found = tuple(rows)
    if len(found) != 1:
        raise UnexpectedAnswer(detail=f"{len(found)} rows came where one {model.__name__} should")
    return _read(model, found[0], whole=True)


def read_optional(model: type[T], rows: Iterable[Mapping[str, object]]) -> T | None:
    """Read the answer of a call that gives one row or none."""
    rows = tuple(rows)
    return read_one(model, rows) if rows else None


def read_all(model: type[T], rows: Iterable[Mapping[str, object]]) -> tuple[T, ...]:
    """Read any number of rows, each for itself: see `Row`."""
    return tuple(_read(model, row, whole=False) for row in rows)


def read_each_once(model: type[T], rows: Iterable[Mapping[str, object]]) -> tuple[T, ...]:
    """As `read_all`, of rows with an id: pages overlap if a row was made between them."""
    return read_all(model, {str(row.get("id")): row for row in rows}.values())


def _read(model: type[T], row: Mapping[str, object], *, whole: bool) -> T:
    values: dict[str, object] = {}
    unreadable: list[tuple[str, str]] = []
    for name, kind, read in _fields_of(cast(Hashable, model)):
        if name not in row:
            raise NotInstalled(
                "schema_too_old",
                detail=f"the answer has no {name}, which this client reads into {model.__name__}",
                hint="Run: keylatch install . && supabase db push",
            )
        try:
            values[name] = read(row[name])
        except (TypeError, ValueError, OverflowError, RecursionError):
            unreadable.append((name, kind))
    if not unreadable:
        return model(**values)
    # Out of the except block: what Python says of an unreadable value repeats the value.
    if whole:
        name, kind = unreadable[0]
        raise UnexpectedAnswer(detail=f"{name} of {model.__name__} is not readable as {kind}")
    made = object.__new__(model)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


@cache
def _fields_of(model: Hashable) -> list[tuple[str, str, Callable[[object], object]]]:
    named = [(one.name, str(one.type)) for one in fields(cast(Any, model))]
    return [(name, kind, _reader(kind)) for name, kind in named]


def _reader(kind: str) -> Callable[[object], object]:
    """Give what reads a value by the annotation of its field, so that a field is described once."""
    if kind.endswith(" | None"):
        some = _reader(kind.removesuffix(" | None"))
        return lambda value: None if value is None else some(value)
    if kind.startswith("tuple["):
        each = _reader(kind.removeprefix("tuple[").removesuffix(", ...]"))
        return lambda value: tuple(each(one) for one in _checked(list, value))
    of, make = _READERS[kind]
    return lambda value: make(_checked(of, value))


def _checked(kind: Any, value: object) -> Any:
    # A bool is an int to Python, and no number to JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    return value


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.utcoffset() is None:
        raise ValueError
    # One zone, whatever the session's, so that the same time is also printed the same.
    return time.astimezone(UTC)


# By the annotation: the type that JSON has for it, and what makes the value of it.
_READERS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "Secret": (Secret, lambda value: value),
    "str": (str, str),
    "bool": (bool, bool),
    "int": (int, int),
    "float": (int | float, float),
    "UUID": (str, UUID),
    "datetime": (str, _time),
    "Mapping[str, Any]": (Mapping, ReadOnlyDict),
    "ImportOutcome": (Mapping, lambda value: _read(ImportOutcome, value, whole=False)),
    "ImportProbe": (Mapping, lambda value: _read(ImportProbe, value, whole=False)),
}
