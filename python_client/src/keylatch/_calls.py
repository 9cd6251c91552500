"""Every call once: the SQL function, its arguments, and how its answer is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from ._rows import read_all, read_one, read_optional
from .errors import InvalidArgument, KeyNotFound, UnexpectedAnswer
from .models import (
    EventVerification,
    Explanation,
    ImportReport,
    Installation,
    IssuedKey,
    Key,
    KeyEvent,
    KeyUsage,
    ResolvedKey,
    Revocation,
    Session,
    SessionPruning,
    UnclaimedKey,
)
from .secret import Secret
from .transports import Batch, Rows

T = TypeVar("T")

# PostgreSQL reads these forms; `uuid.UUID` reads more, such as underscores and signs.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}")
# What no text of PostgreSQL can hold.
_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")
# Far above every key and origin there is, far below what a gateway refuses.
_LONGEST_SENT = 8192
# An interval of PostgreSQL counts microseconds in 64 bits.
_LONGEST_INTERVAL = timedelta(microseconds=2**63 - 1)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call of the database.

    Attributes:
        function: The function's name in schema `keylatch`, or that of a view to read.
        arguments: Its arguments by name: JSON values, and a `Secret` where a key goes.
        decode: Reads the rows of the answer.
    """

    function: str
    arguments: Mapping[str, object]
    decode: Callable[[Rows], T]


def issue(
    workspace_id: UUID | str,
    *,
    kind: str,
    label: str,
    allowed_origins: Iterable[str],
    scopes: Iterable[str],
    environment: str,
    expires_at: datetime | None,
    metadata: Mapping[str, Any] | None,
    prefix: str,
) -> Call[IssuedKey]:
    """Describe `issue_key`."""
    arguments = {
        "workspace_id": _uuid("workspace_id", workspace_id),
        "kind": _text("kind", kind),
        "label": _text("label", label),
        "allowed_origins": _texts("allowed_origins", allowed_origins),
        "scopes": _texts("scopes", scopes),
        "environment": _text("environment", environment),
        "expires_at": _time("expires_at", expires_at),
        "metadata": _json("metadata", {} if metadata is None else metadata),
        "prefix": _text("prefix", prefix),
    }
    return Call("issue_key", arguments, partial(read_one, IssuedKey))


def issue_many(
    workspace_id: UUID | str,
    *,
    labels: Iterable[str],
    kind: str,
    allowed_origins: Iterable[str],
    scopes: Iterable[str],
    environment: str,
    expires_at: datetime | None,
    metadata: Mapping[str, Any] | None,
    prefix: str,
) -> Call[tuple[IssuedKey, ...]]:
    """Describe `issue_keys`."""
    common = issue(
        workspace_id,
        kind=kind,
        label="",
        allowed_origins=allowed_origins,
        scopes=scopes,
        environment=environment,
        expires_at=expires_at,
        metadata=metadata,
        prefix=prefix,
    )
    arguments = {**common.arguments, "labels": _texts("labels", labels)}
    del arguments["label"]
    return Call("issue_keys", arguments, _read_issued)


def rotate(key_id: UUID | str, *, grace: timedelta, expires_at: datetime | None) -> Call[IssuedKey]:
    """Describe `rotate_key`."""
    arguments = {
        "key_id": _uuid("key_id", key_id),
        "grace": _interval("grace", grace),
        "expires_at": _time("expires_at", expires_at),
    }
    return Call("rotate_key", arguments, partial(read_one, IssuedKey))


def revoke(
    key_id: UUID | str,
    *,
    reason: str | None,
    cascade: bool,
    wait_for_replicas: bool,
    end_sessions: bool,
) -> Call[Revocation]:
    """Describe `revoke_key`."""
    arguments = {
        "key_id": _uuid("key_id", key_id),
        "reason": None if reason is None else _text("reason", reason),
        "cascade": _bool("cascade", cascade),
        "wait_for_replicas": _bool("wait_for_replicas", wait_for_replicas),
        "end_sessions": _bool("end_sessions", end_sessions),
    }
    return Call("revoke_key", arguments, partial(read_one, Revocation))


def suspend(key_id: UUID | str) -> Call[Key]:
    """Describe `suspend_key`."""
    arguments = {"key_id": _uuid("key_id", key_id)}
    return Call("suspend_key", arguments, partial(read_one, Key))


def resume(key_id: UUID | str) -> Call[Key]:
    """Describe `resume_key`."""
    arguments = {"key_id": _uuid("key_id", key_id)}
    return Call("resume_key", arguments, partial(read_one, Key))


def show(key_id: UUID | str) -> Call[Key]:
    """Describe the reading of one row of `keys`."""
    arguments = {"id": _uuid("key_id", key_id)}
    return Call("keys", arguments, _read_found)


def list_keys(workspace_id: UUID | str) -> Call[tuple[Key, ...]]:
    """Describe `list_keys`."""
    arguments = {"workspace_id": _uuid("workspace_id", workspace_id)}
    return Call("list_keys", arguments, _each_once)


def resolve(key: str | Secret, *, origin: str | None) -> Call[ResolvedKey | None]:
    """Describe `resolve_key`."""
    return Call("resolve_key", _presented(key, origin), partial(read_optional, ResolvedKey))


def resolve_many(
    keys: Iterable[str | Secret], *, origins: Iterable[str | None] | None
) -> Call[tuple[ResolvedKey | None, ...]]:
    """Describe `resolve_keys`."""
    if isinstance(keys, str | Secret):
        raise InvalidArgument.of("keys", "is one text, not a list of texts")
    presented = list(keys)
    came_from = [None] * len(presented) if origins is None else list(origins)
    if len(came_from) != len(presented):
        raise InvalidArgument.of("origins", f"has {len(came_from)}, and keys has {len(presented)}")
    each = [_presented(key, origin) for key, origin in zip(presented, came_from, strict=True)]
    arguments = {
        "keys": [one["key"] for one in each],
        "origins": None if origins is None else [one["origin"] for one in each],
    }
    return Call("resolve_keys", arguments, partial(_read_places, len(presented)))


def claim(
    key: str | Secret, *, workspace_id: UUID | str, origin: str | None
) -> Call[ResolvedKey | None]:
    """Describe `claim_key`."""
    arguments = {**_presented(key, origin), "workspace_id": _uuid("workspace_id", workspace_id)}
    return Call("claim_key", arguments, partial(read_optional, ResolvedKey))


def import_keys(lines: Iterable[Mapping[str, object]], *, dry_run: bool) -> Call[ImportReport]:
    """Describe `import_keys`."""
    if isinstance(lines, str | bytes | Mapping) or not isinstance(lines, Iterable):
        raise InvalidArgument.of("lines", f"is {_name(lines)}, not a list of lines")
    if isinstance(lines, Batch):
        batch = lines  # of a file, whose reader looked at each line
    else:
        batch = Batch(import_line(f"lines[{n}]", line) for n, line in enumerate(lines, 1))
    arguments = {"batch": batch, "dry_run": _bool("dry_run", dry_run)}
    return Call("import_keys", arguments, partial(read_one, ImportReport))


def import_line(name: str, line: object) -> dict[str, object]:
    """Give a line of an import as JSON values, with a `Secret` for the key.

    Args:
        name: What the line is called in an error.
        line: What the caller gave.

    Returns:
        A copy.

    Raises:
        InvalidArgument: A value cannot be sent, or would arrive as something else.
    """
    if not isinstance(line, Mapping):
        raise InvalidArgument.of(name, f"is {_name(line)}, not a JSON object")
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


def unclaimed(workspace_id: UUID | str) -> Call[tuple[UnclaimedKey, ...]]:
    """Describe the reading of the rows of `unclaimed_keys` of one workspace."""
    arguments = {"workspace_id": _uuid("workspace_id", workspace_id)}
    return Call("unclaimed_keys", arguments, partial(read_all, UnclaimedKey))


def resume_session(token: str | Secret, *, slide: bool) -> Call[Session | None]:
    """Describe `resume_session`."""
    arguments = {**_token(token), "slide": _bool("slide", slide)}
    return Call("resume_session", arguments, partial(read_optional, Session))


def close_session(token: str | Secret) -> Call[Session]:
    """Describe `close_session`."""
    return Call("close_session", _token(token), partial(read_one, Session))


def attach_subject(token: str | Secret, subject: str) -> Call[Session]:
    """Describe `attach_subject`."""
    arguments = {**_token(token), "subject": _text("subject", subject)}
    return Call("attach_subject", arguments, partial(read_one, Session))


def prune_sessions(*, batch: int) -> Call[SessionPruning]:
    """Describe `prune_sessions`."""
    if isinstance(batch, bool) or not isinstance(batch, int):
        raise InvalidArgument.of("batch", f"is {_name(batch)}, not an int")
    return Call("prune_sessions", {"batch": batch}, partial(read_one, SessionPruning))


def record_usage(uses: Iterable[KeyUsage]) -> Call[frozenset[UUID]]:
    """Describe `record_usage`."""
    batch: dict[str, dict[str, object]] = {}
    for one in uses:
        if str(one.key_id) in batch:
            raise InvalidArgument.of("uses", "names a key twice")
        batch[str(one.key_id)] = {
            "uses": one.uses,
            "last_used_at": _time("last_used_at", one.last_used_at),
        }
    return Call("record_usage", {"batch": batch}, _read_again)


def usage(key_id: UUID | str) -> Call[KeyUsage | None]:
    """Describe the reading of one row of `key_usage`."""
    arguments = {"key_id": _uuid("key_id", key_id)}
    return Call("key_usage", arguments, partial(read_optional, KeyUsage))


def events(workspace_id: UUID | str) -> Call[tuple[KeyEvent, ...]]:
    """Describe `list_events`."""
    arguments = {"workspace_id": _uuid("workspace_id", workspace_id)}
    return Call("list_events", arguments, _each_event_once)


def verify_events(workspace_id: UUID | str) -> Call[EventVerification]:
    """Describe `verify_events`."""
    arguments = {"workspace_id": _uuid("workspace_id", workspace_id)}
    return Call("verify_events", arguments, partial(read_one, EventVerification))


def explain(key: str | Secret, *, origin: str | None) -> Call[Explanation]:
    """Describe `explain_key`."""
    return Call("explain_key", _presented(key, origin), partial(read_one, Explanation))


def installation() -> Call[Installation]:
    """Describe `installation`."""
    return Call("installation", {}, partial(read_one, Installation))


def _each_once(rows: Rows) -> tuple[Key, ...]:
    """Read the keys; pages overlap where a key was made between them."""
    return tuple({key.id: key for key in read_all(Key, rows)}.values())


def _each_event_once(rows: Rows) -> tuple[KeyEvent, ...]:
    """Read the events, the newest first as they come; pages overlap as those of keys."""
    return tuple({event.number: event for event in read_all(KeyEvent, rows)}.values())


def _read_issued(rows: Rows) -> tuple[IssuedKey, ...]:
    issued = rows[0].get("keys") if len(rows) == 1 else None
    if not isinstance(issued, list):
        raise UnexpectedAnswer(detail="the answer of issue_keys has no list of keys")
    return read_all(IssuedKey, issued)


def _read_places(count: int, rows: Rows) -> tuple[ResolvedKey | None, ...]:
    places = {row.get("position"): row for row in rows}
    if len(rows) != count or set(places) != set(range(1, count + 1)):
        raise UnexpectedAnswer(
            detail=f"{count} keys were asked for and {len(rows)} answers came",
            hint="ask for fewer at once, or raise the API's max-rows",
        )
    found = (places[place] for place in range(1, count + 1))
    return tuple(
        None if row.get("key_id") is None else read_one(ResolvedKey, [row]) for row in found
    )


def _read_again(rows: Rows) -> frozenset[UUID]:
    again = rows[0].get("again") if len(rows) == 1 else None
    if not isinstance(again, list):
        raise UnexpectedAnswer(detail="the answer of record_usage does not say what is left")
    return frozenset(UUID(str(one)) for one in again)


def _read_found(rows: Rows) -> Key:
    found = read_optional(Key, rows)
    if found is None:
        raise KeyNotFound(
            detail="There is no key of that id that you administer.",
            hint="List the keys of the workspace.",
        )
    return found


# Below, a value is refused only where it cannot be sent, or would arrive as something else than
# the caller meant. All other rules are the database's, which words them once for everybody.


def _bool(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument.of(name, f"is {_name(value)}, not a bool")
    return value


def _token(token: str | Secret) -> dict[str, object]:
    """Carry a session's token as `_presented` carries a key."""
    if not isinstance(token, str | Secret):
        raise InvalidArgument.of("token", f"is {_name(token)}, not a text")
    return {"token": _presented(token, None)["key"]}


def _presented(key: str | Secret, origin: str | None) -> dict[str, object]:
    """Carry what a stranger sent, whatever it is: the database says what it thinks of it."""
    if not isinstance(key, str | Secret):
        raise InvalidArgument.of("key", f"is {_name(key)}, not a text")
    if origin is not None and not isinstance(origin, str):
        raise InvalidArgument.of("origin", f"is {_name(origin)}, not a text")
    return {
        "key": Secret(_sendable(key.reveal() if isinstance(key, Secret) else key)),
        "origin": None if origin is None else _sendable(origin),
    }


def _sendable(text: str) -> str:
    if len(text) > _LONGEST_SENT:
        # The mark keeps the cut text from being a key or an origin that the whole was not.
        text = text[:_LONGEST_SENT] + "\ufffd"
    return _UNSENDABLE.sub("\ufffd", text)


def _uuid(field: str, value: object) -> str:
    text = str(value) if isinstance(value, UUID) else value
    # The value is not repeated: somebody may have put a key where its id belongs.
    if not isinstance(text, str):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a UUID")
    if not _UUID.fullmatch(text):
        raise InvalidArgument.of(
            field, "is not a UUID", "give the id, not the key, a hint or a label"
        )
    return str(UUID(text))


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a text")
    if _UNSENDABLE.search(value):
        raise InvalidArgument.of(field, "holds a NUL or a lone surrogate, which no text may hold")
    return value


def _texts(field: str, value: object) -> list[str]:
    # A text is iterable too, and would arrive as its characters.
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a list of texts")
    return [_text(field, one) for one in value]


def _time(field: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a datetime")
    if value.utcoffset() is None:
        raise InvalidArgument.of(
            field, "has no time zone", "say which instant is meant: datetime(…, tzinfo=UTC)"
        )
    try:
        return value.astimezone(UTC).isoformat()
    except OverflowError:
        raise InvalidArgument.of(field, "is outside the years 1 to 9999") from None


def _interval(field: str, value: object) -> str:
    if not isinstance(value, timedelta):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a timedelta")
    if abs(value) > _LONGEST_INTERVAL:
        raise InvalidArgument.of(field, "is longer than an interval can be")
    # Not days: a day of PostgreSQL has 23 or 25 hours when the clocks change.
    return f"{value // timedelta(microseconds=1)} microseconds"


def _json(field: str, value: object) -> object:
    """Give a copy of what JSON makes of the value, so that later changes do not reach the call."""
    if not isinstance(value, Mapping):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a JSON object")
    try:
        copy = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        copy = None
    if copy is None:
        raise InvalidArgument.of(field, "holds something that JSON cannot carry")
    _check_json(field, copy)
    return copy


def _check_json(field: str, value: object) -> None:
    if isinstance(value, str):
        _text(field, value)
    elif isinstance(value, dict):
        for name, one in value.items():
            _text(field, name)
            _check_json(field, one)
    elif isinstance(value, list):
        for one in value:
            _check_json(field, one)


def _name(value: object) -> str:
    return "None" if value is None else type(value).__name__
