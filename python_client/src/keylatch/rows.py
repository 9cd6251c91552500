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
    for name, kind in _fields_of(cast(Hashable, model)):
        if name not in row:
            raise NotInstalled(
                "schema_too_old",
                detail=f"the answer has no {name}, which this client reads into {model.__name__}",
                hint="Run: keylatch install . && supabase db push",
            )
        try:
            values[name] = _READERS[kind](row[name])
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
def _fields_of(model: Hashable) -> list[tuple[str, str]]:
    return [(one.name, str(one.type)) for one in fields(cast(Any, model))]


def _of_type(kind: type[T]) -> Callable[[object], T]:
    def read(value: object) -> T:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return read


def _optional(read: Callable[[Any], T]) -> Callable[[object], T | None]:
    return lambda value: None if value is None else read(value)


def _several(read: Callable[[Any], T]) -> Callable[[object], tuple[T, ...]]:
    def several(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise TypeError
        return tuple(read(one) for one in value)

    return several


def _uuid(value: object) -> UUID:
    return UUID(_string(value))


def _time(value: object) -> datetime:
    time = datetime.fromisoformat(_string(value))
    if time.utcoffset() is None:
        raise ValueError
    # One zone, whatever the session's, so that the same time is also printed the same.
    return time.astimezone(UTC)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _outcome(value: object) -> ImportOutcome:
    if not isinstance(value, Mapping):
        raise TypeError
    return _read(ImportOutcome, value, whole=False)


def _probe(value: object) -> ImportProbe:
    if not isinstance(value, Mapping):
        raise TypeError
    return _read(ImportProbe, value, whole=False)


def _metadata(value: object) -> ReadOnlyDict:
    if not isinstance(value, Mapping):
        raise TypeError
    return ReadOnlyDict(value)


_string = _of_type(str)

# By the text of the annotation, so that a field is described once, where it is declared.
_READERS: dict[str, Callable[[Any], object]] = {
    "Secret": _of_type(Secret),
    "UUID": _uuid,
    "int": _count,
    "int | None": _optional(_count),
    "UUID | None": _optional(_uuid),
    "tuple[UUID, ...]": _several(_uuid),
    "tuple[ImportOutcome, ...]": _several(_outcome),
    "tuple[ImportProbe, ...]": _several(_probe),
    "str": _string,
    "str | None": _optional(_string),
    "tuple[str, ...]": _several(_string),
    "datetime": _time,
    "datetime | None": _optional(_time),
    "bool": _of_type(bool),
    "float | None": _optional(_seconds),
    "Mapping[str, Any]": _metadata,
}
