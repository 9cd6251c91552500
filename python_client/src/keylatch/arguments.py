"""Prepares arguments for sending. Each argument name is described once, for calls and transports.

The client refuses a value only if the value cannot be sent, or would arrive as another value. The
database checks all other rules, with the same message for every client.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from .errors import InvalidArgument
from .models import KeyUsage
from .secret import Secret

# The forms that PostgreSQL reads. `uuid.UUID` reads more, such as underscores and signs.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}")
# PostgreSQL's text cannot hold these characters. The second pattern is NUL as JSON writes it.
_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# Far longer than any real key or origin, and far shorter than what a gateway refuses.
_LONGEST_SENT = 8192
# PostgreSQL's interval counts microseconds in 64 bits.
_LONGEST_INTERVAL = timedelta(microseconds=2**63 - 1)


# The arguments of a call by name, and the names of those that may be `None`.
Given = Mapping[str, Any]
Optional = Collection[str]


class Batch(list[Any]):
    """Lines of an import that `import_line` has prepared."""


def sent(given: Given, optional: Optional = ()) -> dict[str, Any]:
    """Turn the arguments of a call into JSON values by name, and a key into a `Secret`.

    An argument whose name is in `optional` may be `None`: sent as null, or {} for `metadata`.

    Raises:
        InvalidArgument: A value has the wrong type, or cannot be sent.
    """
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        if value is None and name in optional:
            arguments[name] = {} if name == "metadata" else None
        else:
            kind, wanted, send, _ = _SENT[name]
            arguments[name] = send(name, _checked(name, value, kind, wanted))
    return arguments


def import_line(name: str, line: object) -> dict[str, object]:
    """Turn a line of an import into JSON values, and the key in it into a `Secret`."""
    return {
        # The short way for plain strings: a file may have millions of them.
        field
        if type(field) is str and field.isidentifier()
        else _text(name, _checked(name, field, str, "a string")): value
        if type(value) is str and value.isascii() and "\0" not in value and field != "key"
        else _line_value(f"{name}.{field}", field, value)
        for field, value in _checked(name, line, Mapping, "a JSON object").items()
    }


def _line_value(name: str, field: str, value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            raise InvalidArgument.of(name, "is not a number that JSON can hold")
        case None | bool() | int() | float() | Secret():
            return value
        case str():
            return Secret(_text(name, value)) if field == "key" else _text(name, value)
        case UUID():
            return str(value)
        case datetime():
            return _time(name, value)
        case Mapping():
            return json_object(name, value)
    return _each(_text)(name, _checked(name, value, Iterable, "a list of strings"))


def sent_usage(given: Given, _: Optional) -> dict[str, Any]:
    """Turn the arguments of `record_usage` into the counts of each key, by key id."""
    batch: dict[str, dict[str, object]] = {}
    for one in _checked("uses", given["uses"], Iterable, "a list of KeyUsage"):
        _checked("uses", one, KeyUsage, "a KeyUsage")
        names = ("key_id", "uses", "last_used_at")
        use = sent({name: getattr(one, name) for name in names})
        if (key_id := use.pop("key_id")) in batch:
            raise InvalidArgument.of("uses", "names a key twice")
        batch[key_id] = use
    refusals = _checked("refusals", given["refusals"] or {}, Mapping, "a mapping")
    for key_id, counts in refusals.items():
        use = batch.setdefault(sent({"key_id": key_id})["key_id"], {})
        use["refusals"] = json_object("refusals", counts)
    return {"batch": batch}


def _checked(name: str, value: Any, kind: Any, wanted: str) -> Any:
    # In Python a bool is an int, and a string would be taken for a list of characters.
    if (
        not isinstance(value, kind)
        or (kind is int and isinstance(value, bool))
        or (kind is Iterable and isinstance(value, str | bytes | Mapping))
    ):
        # Without the value: a caller may have passed a key in place of its id.
        found = "None" if value is None else type(value).__name__
        raise InvalidArgument.of(name, f"is {found}, not {wanted}")
    return value


def _each(send: Callable[[str, Any], object], kind: Any = str) -> Callable[[str, Any], Any]:
    def send_all(name: str, values: Any) -> list[object]:
        return [send(name, _checked(name, one, kind, "a string")) for one in values]

    return send_all


def _presented(_: str, text: str | Secret) -> Secret:
    """Accept any string as a presented key or token: the database checks it."""
    return Secret(_sendable("", text.reveal() if isinstance(text, Secret) else text))


def _sendable(_: str, text: str) -> str:
    if len(text) > _LONGEST_SENT:
        # The added character keeps the cut text from matching a real key or origin.
        text = text[:_LONGEST_SENT] + "\ufffd"
    return _UNSENDABLE.sub("\ufffd", text)


def _origin(name: str, value: str | None) -> str | None:
    return value if value is None else _sendable(name, value)


def _int(bits: int) -> Callable[[str, int], int]:
    def send(name: str, value: int) -> int:
        if abs(value) >= 2**bits:
            raise InvalidArgument.of(name, "is larger than the database can hold")
        return value

    return send


def _uuid(name: str, value: UUID | str) -> str:
    if not _UUID.fullmatch(str(value)):
        hint = "Give the id, not the key, the masked key or the label."
        if name == "workspace_id":
            hint = "Give the id of the workspace, not its name."
        raise InvalidArgument.of(name, "is not a UUID", hint)
    return str(UUID(str(value)))


def _text(name: str, text: str) -> str:
    if _UNSENDABLE.search(text):
        raise InvalidArgument.of(name, "has a NUL or a lone surrogate, which is not allowed")
    return text


def _lines(name: str, lines: Iterable[object]) -> Batch:
    if isinstance(lines, Batch):
        return lines  # read from a file: the reader has checked each line
    return Batch(import_line(f"{name}[{n}]", line) for n, line in enumerate(lines, 1))


def _time(name: str, value: datetime) -> str:
    if value.utcoffset() is None:
        raise InvalidArgument.of(
            name, "has no time zone", "Add a time zone: datetime(…, tzinfo=UTC)."
        )
    try:
        return value.astimezone(UTC).isoformat()
    except OverflowError:
        raise InvalidArgument.of(name, "is outside the years 1 to 9999") from None


def _interval(name: str, value: timedelta) -> str:
    if abs(value) > _LONGEST_INTERVAL:
        raise InvalidArgument.of(name, "is longer than an interval can be")
    # Not in days: PostgreSQL's day has 23 or 25 hours when the clocks change.
    return f"{value // timedelta(microseconds=1)} microseconds"


def json_object(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the value through JSON, so that later changes of the caller do not reach the call."""
    _checked(name, value, Mapping, "a JSON object")
    text = ""
    copy: dict[str, Any] | None = None
    with suppress(TypeError, ValueError, RecursionError):
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        copy = json.loads(text)
    if copy is None:
        raise InvalidArgument.of(name, "has a value that JSON cannot hold")
    _text(name, _ESCAPED_NUL.sub("\x00", text))
    return copy


# Names of arguments, their Python type, its name in messages, the function that sends them, and
# their type in SQL.
_SENT = {
    name: (kind, wanted, send, sql)
    for names, kind, wanted, send, sql in (
        ("after id key_id workspace_id import_id", UUID | str, "a UUID", _uuid, "uuid"),
        ("environment kind label name", str, "a string", _text, "text"),
        ("prefix reason source subject", str, "a string", _text, "text"),
        ("key token", str | Secret, "a string", _presented, "text"),
        ("keys", Iterable, "a list of strings", _each(_presented, str | Secret), "text[]"),
        ("origin", str, "a string", _sendable, "text"),
        ("origins", Iterable, "a list of strings", _each(_origin, str | None), "text[]"),
        ("allowed_origins labels scopes", Iterable, "a list of strings", _each(_text), "text[]"),
        ("lines", Iterable, "a list of lines", _lines, "jsonb"),
        ("probes", Iterable, "a list of probes", _lines, "jsonb"),
        ("batch limit", int, "an int", _int(31), "int4"),
        ("from_checkpoint uses", int, "an int", _int(63), "int8"),
        ("cascade dry_run extend strict", bool, "a bool", lambda _, given: given, "bool"),
        ("wait_for_replicas", bool, "a bool", lambda _, given: given, "bool"),
        ("ends_at expires_at last_used_at", datetime, "a datetime", _time, "timestamptz"),
        ("grace timeout", timedelta, "a timedelta", _interval, "interval"),
        ("metadata recipe", Mapping, "a JSON object", json_object, "jsonb"),
    )
    for name in names.split()
}
SQL_TYPES = {name: sql for name, (_, _, _, sql) in _SENT.items()}
"""The type in SQL of each argument."""
