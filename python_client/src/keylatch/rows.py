"""Turns the JSON rows of an answer into the dataclasses of `models`, field by field."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar, cast
from uuid import UUID

from . import models
from .errors import NotInstalled, UnexpectedAnswer
from .models import ImportOutcome, ImportProbe, ReadOnlyDict
from .secret import Secret

T = TypeVar("T")


def read_one(model: type[T], rows: Iterable[Mapping[str, object]]) -> T:
    """Read an answer of exactly one row. Raise `NotInstalled` if a field is missing."""
    found = tuple(rows)
    if len(found) != 1:
        raise UnexpectedAnswer(detail=f"the answer has {len(found)} rows, not one {model.__name__}")
    return _read(model, found[0], whole=True)


def read_optional(model: type[T], rows: Iterable[Mapping[str, object]]) -> T | None:
    """Read an answer of one row or none."""
    rows = tuple(rows)
    return read_one(model, rows) if rows else None


def read_all(model: type[T], rows: Iterable[Mapping[str, object]]) -> tuple[T, ...]:
    """Read any number of rows. An unreadable value does not affect other rows: see `Row`."""
    return tuple(_read(model, row, whole=False) for row in rows)


def read_each_once(model: type[T], rows: Iterable[Mapping[str, object]]) -> tuple[T, ...]:
    """Like `read_all`, without repeated ids: two pages overlap if a row was inserted meanwhile."""
    return read_all(model, {str(row.get("id")): row for row in rows}.values())


def reader(result: str) -> Callable[[Iterable[Mapping[str, object]], object], object]:
    """Choose how to read an answer by the annotation of its call, such as `models.Key | None`."""
    if result == "None":
        return lambda *_: None
    model = result.removesuffix(" | None").removeprefix("tuple[").removesuffix(", ...]")
    read: Any = read_each_once if result.startswith("tuple[") else read_one
    read = read_optional if result.endswith(" | None") else read
    kind = getattr(models, model.removeprefix("models."))
    return lambda rows, _: read(kind, rows)


def _read(model: type[T], row: Mapping[str, object], *, whole: bool) -> T:
    made = object.__new__(model)
    unreadable: list[tuple[str, str]] = []
    for name, kind, read, write in _fields_of(cast(Hashable, model)):
        if name not in row:
            del made  # printing this frame must not raise
            raise NotInstalled(
                "schema_too_old",
                detail=f"the answer has no {name}, which this client reads into {model.__name__}",
                hint="Run: keylatch install . && supabase db push",
            )
        try:
            write(made, read(row[name]))
        except (TypeError, ValueError, OverflowError, RecursionError):
            unreadable.append((name, kind))
    # Outside the except block: Python's own error would repeat the unreadable value.
    if whole and unreadable:
        del made  # as above
        name, kind = unreadable[0]
        raise UnexpectedAnswer(detail=f"{name} of {model.__name__} cannot be read as {kind}")
    return made


@cache
def _fields_of(model: Hashable) -> list[tuple[str, str, Callable[[object], object], Any]]:
    """For each field: its name, annotation, reader, and the function that sets its slot."""
    named = [(one.name, str(one.type)) for one in fields(cast(Any, model))]
    return [(name, kind, _reader(kind), getattr(model, name).__set__) for name, kind in named]


def _reader(kind: str) -> Callable[[object], object]:
    """Choose how to read a value by its field's annotation, so that a field is described once."""
    if kind.startswith("tuple["):
        each = _reader(kind.removeprefix("tuple[").removesuffix(", ...]"))
        return lambda value: tuple([each(one) for one in _checked(list, value)])
    of, make = _READERS[kind.removesuffix(" | None")]
    may_lack = kind.endswith(" | None")

    # One function for each kind: an answer may have thousands of rows.
    def read(value: object) -> object:
        if value is None and may_lack:
            return None
        return make(value if type(value) is of else _checked(of, value))

    return read


def _checked(kind: Any, value: object) -> Any:
    # In Python a bool is an int; in JSON it is not a number.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    return value


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.utcoffset() is None:
        raise ValueError
    # Always UTC, whatever the session's time zone, so that equal times print equally.
    return time.astimezone(UTC)


# For each annotation: the type in JSON, and the function that makes the Python value.
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
