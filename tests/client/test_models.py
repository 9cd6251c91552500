"""Results: read by name from JSON, and closed to writing."""

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.vectors import SECRET
from keylatch import Secret, models
from keylatch.errors import KeylatchError, NotInstalled, UnexpectedAnswer, UnreadableRow
from keylatch.models import (
    EventVerification,
    Explanation,
    ImportOutcome,
    ImportProbe,
    ImportReport,
    Installation,
    IssuedKey,
    Key,
    KeyEvent,
    KeyUsage,
    LegacyKey,
    ReplayPosition,
    ReplicaWait,
    ResolvedKey,
    Retirement,
    Revocation,
    Sealing,
    Session,
    SessionEnding,
    SessionPruning,
)
from keylatch.rows import read_all, read_one, read_optional
from keylatch.transports import as_rows, plain, read_json

pytestmark = pytest.mark.one_server

TIME = datetime(2026, 11, 20, 19, 46, 29, 957480, tzinfo=UTC)

# Each model as the database gives it.
JSON: dict[type[Any], dict[str, object]] = {
    IssuedKey: {
        "key": Secret(SECRET),
        "id": str(UUID(int=1)),
        "workspace_id": str(UUID(int=2)),
        "kind": "secret",
        "environment": "live",
        "masked_key": "wk_sk_live_...abcd",
        "fingerprint": "0123abcd",
        "label": "Bücher",
        "allowed_origins": [],
        "scopes": ["read", "write"],
        "metadata": {"a": [1, None]},
        "expires_at": "2026-11-20T20:46:29.95748+01:00",
        "rotated_from": None,
        "created_at": "2026-11-20T19:46:29.95748+00:00",
        "created_by": str(UUID(int=3)),
    },
    Revocation: {
        "id": str(UUID(int=1)),
        "revoked_at": "2026-11-20T19:46:29.95748+00:00",
        "already_revoked": False,
        "also_revoked": [str(UUID(int=2))],
    },
    ResolvedKey: {
        "key_id": str(UUID(int=1)),
        "workspace_id": str(UUID(int=2)),
        "kind": "publishable",
        "environment": "test",
        "scopes": [],
        "metadata": {},
        "expires_at": None,
    },
    KeyUsage: {
        "key_id": str(UUID(int=1)),
        "last_used_at": "2026-11-20T19:46:29.95748+00:00",
        "uses": 3,
    },
    KeyEvent: {
        "id": str(UUID(int=4)),
        "workspace_id": str(UUID(int=2)),
        "key_id": str(UUID(int=1)),
        "event": "changed",
        "occurred_at": "2026-11-20T19:46:29.95748+00:00",
        "user_id": None,
        "role": "service_role",
        "login": "authenticator",
        "address": "203.0.113.7",
        "agent": None,
        "reason": None,
        "changes": {"label": {"old": "", "new": "shop"}},
        "checkpoint": 7,
    },
    Sealing: {"checkpoint": None, "events": 0, "is_done": True},
    EventVerification: {
        "is_intact": True,
        "checkpoints": 1,
        "events": 3,
        "unsealed": 2,
        "next_checkpoint": None,
        "broken_checkpoint": None,
        "problem": None,
        "digest": "00" * 32,
    },
    ReplayPosition: {
        "system_identifier": "7710342416666718126",
        "timeline": 1,
        "is_replica": True,
        "position": None,
    },
    ReplicaWait: {"is_synchronous": True, "waited_for": 2},
    Retirement: {"revoked": 3, "is_done": False},
    Session: {
        "session_id": str(UUID(int=3)),
        "workspace_id": str(UUID(int=2)),
        "key_id": str(UUID(int=1)),
        "origin": "https://client.example",
        "subject": None,
        "expires_at": "2026-11-20T19:46:29.95748+00:00",
    },
    SessionPruning: {"pruned": 7},
    SessionEnding: {
        "id": str(UUID(int=1)),
        "revoked_at": "2026-11-20T19:46:29.95748+00:00",
        "already_revoked": True,
        "ended": 5,
    },
    LegacyKey: {
        "id": str(UUID(int=1)),
        "workspace_id": str(UUID(int=2)),
        "scheme": "bcrypt",
        "masked_key": "...",
        "label": "",
        "kind": "secret",
        "environment": "live",
        "expires_at": None,
        "suspended_at": None,
        "revoked_at": None,
        "imported_at": "2026-11-20T19:46:29.95748+00:00",
        "upgraded_at": None,
        "key_id": None,
        "status": "waiting",
    },
    ImportProbe: {
        "position": 1,
        "verdict": "valid",
        "key_id": "00000000-0000-4000-8000-000000000009",
    },
    ImportOutcome: {
        "position": 2,
        "outcome": "refused",
        "key_id": None,
        "slug": "invalid_argument",
        "detail": "The line has neither key nor hash.",
        "hint": "Give one of them.",
    },
    Explanation: {
        "verdict": "unknown",
        "detail": "No workspace has this key.",
        "hint": "Ask.",
        "key_id": None,
        "fingerprint": "0123abcd",
        "expires_at": None,
    },
    Installation: {
        "id": str(UUID(int=1)),
        "schema_version": "0.1.0",
        "modules": ["events", "usage"],
        "database_name": "postgres",
        "database_oid": 5,
        "installed_at": "2026-11-20T19:46:29.95748+00:00",
        "system_identifier": "7710342416666718126",
        "is_replica": True,
        "replica_lag_seconds": 1.5,
    },
}
JSON[Key] = {
    **{name: value for name, value in JSON[IssuedKey].items() if name != "key"},
    "public_key": None,
    "suspended_at": None,
    "superseded_at": None,
    "revoked_at": "2026-11-20T19:46:29.95748+00:00",
    "revoked_by": str(UUID(int=3)),
    "revoke_reason": "leaked",
    "updated_at": "2026-11-20T19:46:29.95748+00:00",
    "imported_at": "2026-11-20T19:46:29.95748+00:00",
    "status": "revoked",
}
JSON[ImportReport] = {
    "imported": 0,
    "waiting": 2,
    "moved": 0,
    "existing": 1,
    "refused": 1,
    "lines": [JSON[ImportOutcome]],
    "changed": 0,
    "import_id": "00000000-0000-4000-8000-000000000008",
    "probes": [JSON[ImportProbe]],
}


@pytest.mark.parametrize("model", JSON, ids=lambda model: model.__name__)
def test_a_row_is_read_into_ids_aware_times_and_tuples(model: type[Any]) -> None:
    result = read_one(model, [JSON[model]])
    assert hash(result) == hash(read_one(model, [JSON[model]]))
    for name, told in JSON[model].items():
        value = getattr(result, name)
        if told is None or isinstance(told, bool | float | Secret):
            assert value is told
        elif name.endswith("_at"):
            assert value == TIME
            assert value.tzinfo is UTC
        elif name.endswith(("id", "_by", "_from")) and name != "database_oid":
            assert value == UUID(str(told))
        elif name == "lines":
            assert value == (read_one(ImportOutcome, [JSON[ImportOutcome]]),)
        elif name == "probes":
            assert value == (read_one(ImportProbe, [JSON[ImportProbe]]),)
        elif isinstance(told, list):
            assert value == tuple(UUID(one) if name == "also_revoked" else one for one in told)
        else:
            assert value == told


@pytest.mark.parametrize("model", JSON, ids=lambda model: model.__name__)
def test_a_result_is_frozen_slotted_and_named(model: type[Any]) -> None:
    result = read_one(model, [JSON[model]])
    name = dataclasses.fields(model)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, name, None)
    with pytest.raises(TypeError):
        vars(result)
    with pytest.raises(TypeError):
        model(*JSON[model].values())
    assert copy.deepcopy(result) == result
    if model is not IssuedKey:
        assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301


def test_every_model_is_tried_here() -> None:
    declared = {
        one
        for one in vars(models).values()
        if isinstance(one, type) and dataclasses.is_dataclass(one)
    }
    assert declared == set(JSON)
    assert all(issubclass(model, models.Row) for model in declared)


@pytest.mark.parametrize("model", JSON, ids=lambda model: model.__name__)
def test_a_field_of_a_newer_schema_is_left_out(model: type[Any]) -> None:
    assert read_one(model, [{**JSON[model], "new": 1}]) == read_one(model, [JSON[model]])


@pytest.mark.parametrize(
    ("model", "name"),
    [(model, field.name) for model in JSON for field in dataclasses.fields(model)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_missing_or_unreadable_field_is_named(model: type[Any], name: str) -> None:
    row = {field: value for field, value in JSON[model].items() if field != name}
    with pytest.raises(NotInstalled, match=rf"schema_too_old: .* no {name}\b.*db push"):
        read_one(model, [row])
    for wrong in (object(), -1j, [SECRET] if name in ("lines", "probes") else [{SECRET: 1}]):
        with pytest.raises(UnexpectedAnswer, match=rf"{name} of {model.__name__}") as caught:
            read_one(model, [{**row, name: wrong}])
        assert caught.value.__context__ is None
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("created_at", "infinity"),
        ("created_at", "12000-01-01T00:00:00+00:00"),
        ("created_at", "2026-11-20T19:46:29"),
        ("created_at", "9999-12-31T23:59:59-01:00"),
        ("id", SECRET),
        ("scopes", "read"),
        ("scopes", [None]),
        ("metadata", []),
        ("label", None),
    ],
)
def test_a_value_that_python_cannot_hold_is_an_unexpected_answer(name: str, value: object) -> None:
    with pytest.raises(UnexpectedAnswer, match=name) as caught:
        read_one(IssuedKey, [{**JSON[IssuedKey], name: value}])
    assert SECRET not in str(caught.value)


# As PostgreSQL writes what Python cannot read: a number of 5,000 digits, and 11,000 lists within
# each other (Python 3.13 reads 10,000).
HUGE, DEEP = "1" * 5000, "[" * 11_000 + "]" * 11_000
BAD = [f'{{"n": {HUGE}}}', f'{{"a": [{{"b": {DEEP}}}]}}']


def written(row: dict[str, object], **instead: str) -> str:
    """A row in JSON, with the texts of these fields in it as they are."""
    members = [
        f"{json.dumps(name)}: {instead.get(name) or json.dumps(value, default=plain)}"
        for name, value in row.items()
    ]
    return "{" + ", ".join(members) + "}"


@pytest.mark.parametrize("bad", BAD, ids=["digits", "nested"])
def test_a_value_that_python_cannot_read_costs_no_other_value_and_no_other_row(bad: str) -> None:
    row = {**JSON[Key], "label": 'a "quoted" \\ [label], {with: marks}'}
    answer = f"[{written(row)}, {written(row, metadata=bad)}, {written(row)}]"
    rows = as_rows(read_json(answer))
    good, broken, last = read_all(Key, rows)
    assert good == last == read_one(Key, [row])
    for field in dataclasses.fields(Key):
        if field.name != "metadata":
            assert getattr(broken, field.name) == getattr(good, field.name)
    with pytest.raises(
        UnreadableRow, match=f"metadata of the Key {UUID(int=1)} cannot be read"
    ) as caught:
        broken.metadata  # noqa: B018
    assert caught.value.slug == "unreadable_row"
    with pytest.raises(UnexpectedAnswer, match="metadata of Key"):
        read_one(Key, rows[1:2])
    for use in (repr, pickle.dumps, copy.copy, lambda one: one == good):
        with pytest.raises(KeylatchError):
            use(broken)
    with pytest.raises(AttributeError, match="Key has no attribute hint"):
        broken.hint  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("bad", BAD, ids=["digits", "nested"])
def test_rows_within_an_answer_are_read_each_for_itself(bad: str) -> None:
    issued = written(JSON[IssuedKey])
    broken = written(JSON[IssuedKey], metadata=bad)
    (answer,) = as_rows(read_json(f'{{"keys": [{issued}, {broken}]}}'))
    one, other = read_all(IssuedKey, cast(Any, answer["keys"]))
    assert one.key == other.key == Secret(SECRET)
    assert one.metadata == {"a": [1, None]}
    with pytest.raises(UnreadableRow):
        other.metadata  # noqa: B018

    line, odd = written(JSON[ImportOutcome]), written(JSON[ImportOutcome], detail=bad)
    report = read_one(
        ImportReport,
        as_rows(read_json(written(JSON[ImportReport], lines=f"[{line}, {odd}]"))),
    )
    assert report.lines[0].detail == JSON[ImportOutcome]["detail"]
    assert report.lines[1].slug == "invalid_argument"
    with pytest.raises(UnreadableRow):
        report.lines[1].detail  # noqa: B018


def test_a_time_that_python_cannot_hold_costs_no_other_row() -> None:
    row = JSON[ResolvedKey]
    far, near = read_all(ResolvedKey, [{**row, "expires_at": "12000-01-01T00:00:00+00:00"}, row])
    assert near == read_one(ResolvedKey, [row])
    assert far.key_id == near.key_id
    with pytest.raises(UnreadableRow, match="expires_at"):
        far.expires_at  # noqa: B018


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_python_can_read_is_read_the_same_beside_what_it_cannot(value: object) -> None:
    text = json.dumps({"good": value, "bad": 0, "last": value})
    answer = read_json("[" + text.replace('"bad": 0', f'"bad": {HUGE}', 1) + "]")
    (row,) = cast(list[dict[str, object]], answer)
    if '"bad": 0' not in json.dumps(value):
        assert (row["good"], row["last"]) == (value, value)


def test_a_text_that_is_not_json_is_refused() -> None:
    for text in ("", "<html>", "[1", '{"a": nonsense}'):
        with pytest.raises(json.JSONDecodeError):
            read_json(text)


def test_a_number_of_rows_that_no_call_gives_is_an_unexpected_answer() -> None:
    row = JSON[ResolvedKey]
    for rows in ([], [row, row]):
        with pytest.raises(UnexpectedAnswer, match=f"{len(rows)} rows"):
            read_one(ResolvedKey, rows)
    with pytest.raises(UnexpectedAnswer, match="2 rows"):
        read_optional(ResolvedKey, [row, row])
    assert read_optional(ResolvedKey, []) is None
    assert read_optional(ResolvedKey, [row]) == read_one(ResolvedKey, [row])
    assert read_all(ResolvedKey, []) == ()


def test_metadata_is_a_dict_to_read_and_to_encode_and_refuses_every_change() -> None:
    metadata: Any = read_one(IssuedKey, [JSON[IssuedKey]]).metadata
    assert metadata == {"a": [1, None]}
    assert json.loads(json.dumps(metadata)) == metadata
    with pytest.raises(TypeError):
        vars(metadata)
    changes: list[Callable[[], object]] = [
        lambda: metadata.__setitem__("b", 1),
        lambda: metadata.__delitem__("a"),
        lambda: metadata.__ior__({"b": 1}),
        lambda: metadata.clear(),
        lambda: metadata.pop("a"),
        lambda: metadata.popitem(),
        lambda: metadata.setdefault("b", 1),
        lambda: metadata.update(b=1),
    ]
    for change in changes:
        with pytest.raises(TypeError, match=r"dict\(metadata\)"):
            change()
    assert metadata == {"a": [1, None]}
    for duplicate in (copy.copy(metadata), copy.deepcopy(metadata)):
        assert duplicate == metadata
        assert type(duplicate) is type(metadata)
    assert {**metadata, "b": 1} == dict(metadata) | {"b": 1} == metadata | {"b": 1}
