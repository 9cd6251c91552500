"""Turns the rows of a dump into the lines that `import_keys` accepts, by a preset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import Any, NamedTuple

from keylatch.arguments import import_line
from keylatch.errors import InvalidArgument, KeylatchError

from .cells import GOOD_TIME, READERS, SHORTENED, TIMES, Unfit, damage, hashed, state, time
from .presets import PLAIN, Column, Form, Preset
from .rows import Row

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# A person wrote these fields, so a number or a curly quotation mark in them is intended.
_FREE = frozenset({"label", "metadata", "revoke_reason", "force"})
# Match most texts that `_Reader._fields` and `import_line` would not change.
_GOOD_TEXT = re.compile(rf"(?!\\N\Z|{SHORTENED.pattern}\Z)[\x01-\x7f]+")
_GOOD_FREE = re.compile(r"(?!\\N\Z)[\x01-\x7f]+")
# Algorithms whose hash text has its own encoding.
_WHOLE = ("django", "bcrypt")


# A named tuple, because a frozen dataclass takes three times as long to make.
class Line(NamedTuple):
    """A line of an import.

    Attributes:
        number: The line number in the file, from 1. For a CSV record of several lines, the last.
        fields: The arguments of `import_keys` for this line; `None` if the line cannot be read.
        problem: Why the line cannot be read.
        columns: The file's column for each field, by the name of the field.
    """

    number: int
    fields: dict[str, object] | None = None
    problem: str = ""
    columns: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The settings for reading the rows of a file.

    Attributes:
        preset: Describes the system that the file comes from.
        defaults: Values for fields that a line lacks, written as in a CSV file.
        zone: The time zone of times without a zone. With `None`, a preset uses UTC, and a file
            without a preset must name the zone in each time.
        workspaces: The workspace id for each tenant id of the old system; `None` without a map.
        without: The fields that are not imported.
    """

    preset: Preset = PLAIN
    defaults: Mapping[str, str] = field(default_factory=dict)
    zone: tzinfo | None = None
    workspaces: Mapping[str, str] | None = None
    without: frozenset[str] = frozenset()


def read_lines(rows: Iterable[Row], reading: Reading) -> Iterator[Line]:
    """Turn rows into lines of an import.

    Args:
        rows: The rows, from `read_rows`.
        reading: The settings for reading the rows.

    Yields:
        The lines. The `problem` of an unreadable line names the file's column.

    Raises:
        KeylatchError: `usage` if the file has no column with hashes or keys.
    """
    reader = _Reader(reading)
    for row in rows:
        yield reader.read(row)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(
        type(one) is str and one.isascii() and "\0" not in one for one in value
    )


_GOOD: Mapping[str, Callable[[Any], object]] = {
    **dict.fromkeys(_FREE, _GOOD_FREE.fullmatch),
    **dict.fromkeys(TIMES, GOOD_TIME.fullmatch),
    **dict.fromkeys(READERS, _are_texts),
}


@dataclass(frozen=True, slots=True)
class _Layout:
    """The column of each field, for all rows that have the same columns."""

    found: tuple[tuple[str, Column, tuple[str, ...]], ...]
    columns: dict[str, str]
    # For each column, a function that checks whether a value can be sent as it is. `None` if the
    # layout needs a change in each row.
    checks: tuple[tuple[str, Callable[[Any], object]], ...] | None

    def fits(self, cells: Mapping[str, Any]) -> bool:
        """Check whether the cells are the fields of the line already, as in most large files."""
        if self.checks is None:
            return False
        try:
            for name, is_good in self.checks:
                if not is_good(cells[name]):
                    return False
        except TypeError:  # A pattern got a value that is not a string.
            return False
        return True


class _Reader:
    """Reads rows. The column of each field is looked up once for all rows with the same columns."""

    def __init__(self, reading: Reading) -> None:
        self._reading, self._preset = reading, reading.preset
        self._zone = reading.zone or (UTC if reading.preset.name else None)
        # A minute ago, so that this time is not in the future for a server whose clock is behind.
        self._now = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
        self._given = {
            name: READERS[name](value) if name in READERS else value
            for name, value in reading.defaults.items()
        }
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._layout = _Layout((), {}, None)

    def read(self, row: Row) -> Line:
        if row.cells is None:
            return Line(number=row.number, problem=row.problem)
        names = tuple(row.cells)
        if names not in self._layouts:
            self._layouts[names] = self._find(names)
        self._layout = self._layouts[names]
        if self._layout.fits(row.cells):
            return Line(number=row.number, fields=row.cells, columns=self._layout.columns)
        try:
            fields = self._fields(row.cells)
            sendable = import_line("line", fields)
        except InvalidArgument as problem:
            return Line(number=row.number, problem=str(problem.detail))
        except Unfit as problem:
            return Line(number=row.number, problem=str(problem))
        return Line(number=row.number, fields=sendable, columns=self._layout.columns)

    def _find(self, names: tuple[str, ...]) -> _Layout:
        """Find the file's column for each field. Upper and lower case do not matter."""
        own = {name.lower(): name for name in reversed(names)}
        wanted = self._preset.columns or {
            name.lower(): Column(names=(name,)) for name in names if name
        }
        found = [
            (word, column, tuple(own[name.lower()] for name in column.names if name.lower() in own))
            for word, column in wanted.items()
            if word not in self._reading.without and not (word == "owner" and self._has_workspace())
        ]
        columns = {word: " or ".join(those) for word, _, those in found if those}
        if "owner" in columns:
            columns |= dict.fromkeys(("workspace_id", "workspace"), columns["owner"])
        if self._preset.name and not {"hash", "key"} & set(columns):
            needed = [name for word in ("hash", "key") for name in self._names_of(word)]
            raise KeylatchError(
                "usage",
                detail=f"the file has no column {' or '.join(needed)}, which {self._preset.name} "
                f"needs. It has: {', '.join(names)}",
                hint=f"Export the table {self._preset.table} with column names in the first line.",
            )
        return _Layout(tuple(one for one in found if one[2]), columns, self._checks(names))

    def _checks(
        self, names: tuple[str, ...]
    ) -> tuple[tuple[str, Callable[[Any], object]], ...] | None:
        if (
            self._reading != Reading(zone=self._reading.zone)
            or not all(name.isidentifier() and name.islower() for name in names)
            or {"key", "metadata"} & set(names)
            or ("hash" in names and "hash_encoding" not in names)
        ):
            return None
        return tuple((name, _GOOD.get(name, _GOOD_TEXT.fullmatch)) for name in names)

    def _names_of(self, word: str) -> tuple[str, ...]:
        column = self._preset.columns.get(word)
        return column.names if column else ()

    def _has_workspace(self) -> bool:
        return bool({"workspace_id", "workspace"} & set(self._reading.defaults))

    def _fields(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for word, column, names in self._layout.found:
            for name in names:
                value = cells[name]
                if value is None or value == "" or value == "\\N":
                    continue
                try:
                    read = self._value(word, column, value)
                except Unfit as problem:
                    raise Unfit(f"{name} {problem}") from None
                if read is not None and read != "":
                    fields[word] = read
                break
        if self._preset.name:
            self._complete(fields)
        else:
            self._place(fields, fields.get("workspace_id"), "workspace_id")
        fields = {**self._given, **fields}
        text = fields.get("hash")
        if (
            isinstance(text, str)
            and "hash_encoding" not in fields
            and (fields.get("alg") not in _WHOLE)
        ):
            fields["hash"], fields["hash_encoding"] = hashed(text)
        return fields

    def _value(self, word: str, column: Column, value: Any) -> Any:
        if isinstance(value, str) and word not in _FREE and (problem := damage(value)):
            raise Unfit(problem)
        if word in TIMES:
            if word in ("revoked_at", "suspended_at"):
                return state(value, self._zone, inverted=column.inverted, now=self._now)
            return time(value, self._zone)
        if word in READERS:
            return READERS[word](value)
        if column.after:
            return str(value).partition(column.after)[2]
        if column.before:
            return str(value).partition(column.before)[0]
        return value

    def _complete(self, fields: dict[str, Any]) -> None:
        """Add the fields that the preset sets in every line."""
        preset = self._preset
        if "owner" in fields:
            owner = str(fields.pop("owner"))
            self._place(fields, owner, self._layout.columns["owner"])
        if "expires_in" in fields:
            seconds = int(fields.pop("expires_in"))
            if "created_at" in fields:
                created = datetime.fromisoformat(fields["created_at"])
                fields["expires_at"] = (created + timedelta(seconds=seconds)).isoformat()
        if "hash" not in fields:
            return
        fields.pop("key", None)
        text = str(fields["hash"])
        form = next((one for one in preset.forms if text.startswith(one.begins)), None)
        if preset.forms and form is None:
            raise Unfit(f"{self._layout.columns['hash']} is not a hash of {preset.name}")
        fields.update(preset.fixed)
        if form is not None:
            self._take(fields, text, form)

    def _take(self, fields: dict[str, Any], text: str, form: Form) -> None:
        text = text if form.keep else text.removeprefix(form.begins)
        fields.update(form.fields)
        if form.plaintext:
            del fields["hash"]
            fields["key"] = text
        else:
            fields["hash"] = text

    def _place(self, fields: dict[str, Any], owner: Any, column: str) -> None:
        """Set the workspace of a line."""
        if owner is None:
            return
        owner, map_ = str(owner), self._reading.workspaces
        if map_ is not None and owner in map_:
            fields["workspace_id"] = map_[owner]
        elif map_ is not None and not _UUID.fullmatch(owner):
            raise Unfit(f"{column}: {owner[:40]} is not in the workspace map")
        elif _UUID.fullmatch(owner) or not self._preset.name:
            fields["workspace_id"] = owner
        else:
            fields["workspace"] = owner
