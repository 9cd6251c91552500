"""How an argument is sent, by its name: each is described once, whatever call it belongs to.

A value is refused only where it cannot be sent, or would arrive as something else than the caller
meant. All other rules are the database's, which words them once for everybody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from .errors import InvalidArgument
from .models import KeyUsage
from .secret import Secret
from .transports import Batch

T = TypeVar("T")

# PostgreSQL reads these forms; `uuid.UUID` reads more, such as underscores and signs.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}")
# No text of PostgreSQL can hold these characters.
_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")
# Far above every key and origin there is, far below what a gateway refuses.
_LONGEST_SENT = 8192
# An interval of PostgreSQL counts microseconds in 64 bits.
_LONGEST_INTERVAL = timedelta(microseconds=2**63 - 1)


def sent(given: Mapping[str, Any]) -> dict[str, object]:
    """Give the arguments of a call as JSON values by their names, a key as a `Secret`."""
    return {name: _SENT[name](name, value) for name, value in given.items()}


def presented(name: str, text: object) -> Secret:
    """Carry what a stranger sent, whatever it is: the database judges it."""
    if not isinstance(text, str | Secret):
        raise _wrong(name, text, "a text")
    return Secret(_sendable(text.reveal() if isinstance(text, Secret) else text))


def origin(name: str, value: object) -> str | None:
    """Carry the `Origin` of a request, whatever it is; `None` if there was none."""
    if value is not None and not isinstance(value, str):
        raise _wrong(name, value, "a text")
    return None if value is None else _sendable(value)


def import_line(name: str, line: object) -> dict[str, object]:
    """Give a line of an import as JSON values, the key in it as a `Secret`."""
    if not isinstance(line, Mapping):
        raise _wrong(name, line, "a JSON object")
    return {
        # Most are plain texts, and of a file there are millions.
        _text(name, field): value
        if type(value) is str and field != "key" and not _UNSENDABLE.search(value)
        else _line_value(f"{name}.{field}", field, value)
        for field, value in line.items()
    }


def _line_value(name: str, field: str, value: object) -> object:
    match value:
        case None | bool() | int() | float() | Secret():
            return value
        case str():
            return Secret(_text(name, value)) if field == "key" else _text(name, value)
        case UUID():
            return str(value)
        case datetime():
            return _time(name, value)
        case Mapping():
            return _json(name, value)
    return _texts(name, value)


def _lines(name: str, value: object) -> Batch:
    if isinstance(value, Batch):
        return value  # of a file, whose reader looked at each line
    lines = _list(name, value, "a list of lines")
    return Batch(import_line(f"{name}[{n}]", line) for n, line in enumerate(lines, 1))


def _probes(name: str, value: object) -> Batch:
    probes = _list(name, value, "a list of probes")
    return Batch(import_line(f"{name}[{n}]", probe) for n, probe in enumerate(probes, 1))


def usage_batch(
    uses: Iterable[KeyUsage], refusals: Mapping[UUID, Mapping[str, int]]
) -> dict[str, dict[str, object]]:
    """Give what `record_usage` sends of each key, by its id."""
    batch: dict[str, dict[str, object]] = {}
    for one in uses:
        if str(one.key_id) in batch:
            raise InvalidArgument.of("uses", "names a key twice")
        batch[str(one.key_id)] = {
            "uses": one.uses,
            "last_used_at": _time("last_used_at", one.last_used_at),
        }
    for key_id, counts in refusals.items():
        batch.setdefault(str(key_id), {})["refusals"] = dict(counts)
    return batch


def _sendable(text: str) -> str:
    if len(text) > _LONGEST_SENT:
        # The mark keeps the cut text from being a key or an origin that the whole was not.
        text = text[:_LONGEST_SENT] + "\ufffd"
    return _UNSENDABLE.sub("\ufffd", text)


def _int(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, value, "an int")
    if abs(value) >= 2**63:
        raise InvalidArgument.of(name, "is larger than the database can hold")
    return value


def _uuid(name: str, value: object) -> str:
    text = str(value) if isinstance(value, UUID) else value
    # The value is not repeated: somebody may have put a key where its id belongs.
    if not isinstance(text, str):
        raise _wrong(name, value, "a UUID")
    if not _UUID.fullmatch(text):
        raise InvalidArgument.of(
            name, "is not a UUID", "Give the id, not the key, its masked key or its label."
        )
    return str(UUID(text))


def _text(name: str, value: object) -> str:
    text = _of(str, "a text")(name, value)
    if _UNSENDABLE.search(text):
        raise InvalidArgument.of(name, "has a NUL or a lone surrogate, which no text may have")
    return text


def _texts(name: str, value: object) -> list[str]:
    return [_text(name, one) for one in _list(name, value, "a list of texts")]


def _list(name: str, value: object, wanted: str) -> Iterable[Any]:
    # A text is iterable too, and would arrive as its characters.
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _wrong(name, value, wanted)
    return value


def _time(name: str, value: object) -> str:
    if not isinstance(value, datetime):
        raise _wrong(name, value, "a datetime")
    if value.utcoffset() is None:
        raise InvalidArgument.of(
            name, "has no time zone", "Give the time a zone: datetime(…, tzinfo=UTC)."
        )
    try:
        return value.astimezone(UTC).isoformat()
    except OverflowError:
        raise InvalidArgument.of(name, "is outside the years 1 to 9999") from None


def _interval(name: str, value: object) -> str:
    if not isinstance(value, timedelta):
        raise _wrong(name, value, "a timedelta")
    if abs(value) > _LONGEST_INTERVAL:
        raise InvalidArgument.of(name, "is longer than an interval can be")
    # Not days: a day of PostgreSQL has 23 or 25 hours when the clocks change.
    return f"{value // timedelta(microseconds=1)} microseconds"


def _json(name: str, value: object) -> object:
    """Give a copy of what JSON makes of the value, so that later changes do not reach the call."""
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a JSON object")
    try:
        copy = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        copy = None
    if copy is None:
        raise InvalidArgument.of(name, "has a value that JSON cannot hold")
    _check_json(name, copy)
    return copy


def _check_json(name: str, value: object) -> None:
    if isinstance(value, str):
        _text(name, value)
    elif isinstance(value, dict):
        for member, one in value.items():
            _text(name, member)
            _check_json(name, one)
    elif isinstance(value, list):
        for one in value:
            _check_json(name, one)


def _of(kind: type[T], wanted: str) -> Callable[[str, object], T]:
    """Give what refuses a value of another type, and gives one of this type as it is."""

    def check(name: str, value: object) -> T:
        if not isinstance(value, kind):
            raise _wrong(name, value, wanted)
        return value

    return check


def _or_none(send: Callable[[str, object], T]) -> Callable[[str, object], T | None]:
    return lambda name, value: None if value is None else send(name, value)


def _wrong(name: str, value: object, wanted: str) -> InvalidArgument:
    kind = "None" if value is None else type(value).__name__
    return InvalidArgument.of(name, f"is {kind}, not {wanted}")


boolean = _of(bool, "a bool")
_SENT: dict[str, Callable[[str, Any], object]] = {
    **dict.fromkeys(("id", "key_id", "workspace_id"), _uuid),
    **dict.fromkeys(("environment", "kind", "label", "name", "prefix", "source", "subject"), _text),
    **dict.fromkeys(("allowed_origins", "labels", "scopes"), _texts),
    **dict.fromkeys(("batch", "from_checkpoint", "limit"), _int),
    **dict.fromkeys(("cascade", "dry_run", "extend", "strict"), boolean),
    **dict.fromkeys(("grace", "timeout"), _interval),
    **dict.fromkeys(("key", "token"), presented),
    "after": _or_none(_uuid),
    "ends_at": _time,
    "expires_at": _or_none(_time),
    "import_id": _or_none(_uuid),
    "lines": _lines,
    "metadata": lambda name, value: _json(name, {} if value is None else value),
    "origin": origin,
    "probes": _probes,
    "recipe": _json,
    "reason": _or_none(_text),
}
