"""Answers: each row and each value is read by itself, from any JSON."""

import copy
import dataclasses
import json
import pickle
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.samples import JSON
from client.vectors import SECRET
from keylatch import Keylatch, Secret
from keylatch.errors import KeylatchError, UnexpectedAnswer, UnreadableRow
from keylatch.models import (
    ImportOutcome,
    ImportReport,
    IssuedKey,
    Key,
    ResolvedKey,
)
from keylatch.rows import read_all, read_one, read_optional
from keylatch.transports.wire import as_rows, plain, read_json

pytestmark = pytest.mark.one_server


# PostgreSQL stores these values, but Python cannot read them: a number of 5,000 digits, and 11,000
# nested lists (Python 3.13 reads 10,000).
HUGE, DEEP = "1" * 5000, "[" * 11_000 + "]" * 11_000
BAD = [f'{{"n": {HUGE}}}', f'{{"a": [{{"b": {DEEP}}}]}}']


def written(row: dict[str, object], **instead: str) -> str:
    """Return a row in JSON. `instead` gives the JSON text of some fields."""
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
def test_readable_values_are_read_the_same_beside_unreadable_values(value: object) -> None:
    text = json.dumps({"good": value, "bad": 0, "last": value})
    answer = read_json("[" + text.replace('"bad": 0', f'"bad": {HUGE}', 1) + "]")
    (row,) = cast(list[dict[str, object]], answer)
    if '"bad": 0' not in json.dumps(value):
        assert (row["good"], row["last"]) == (value, value)


def test_a_row_whose_id_cannot_be_read_either_is_told_without_it() -> None:
    (row,) = read_all(ResolvedKey, [{**JSON[ResolvedKey], "key_id": 5, "scopes": 5}])
    with pytest.raises(UnreadableRow, match=r"scopes of the ResolvedKey \? cannot be read"):
        row.scopes  # noqa: B018


class Canned:
    """Answers every call with the same rows."""

    def __init__(self, *rows: dict[str, object]) -> None:
        self.rows = rows

    def call(self, function: str, arguments: object) -> Any:
        return as_rows(list(self.rows))


def test_a_batch_whose_answer_is_not_whole_is_an_unexpected_answer() -> None:
    row = {**JSON[ResolvedKey], "position": 1}
    for rows in ([], [row], [row, row], [row, {**row, "position": 3}]):
        with pytest.raises(UnexpectedAnswer, match=f"2 keys .* {len(rows)} answers.*max-rows"):
            Keylatch(Canned(*rows)).resolve_many(["a", "b"])
    answers: list[dict[str, object]] = [{}, {"keys": None}, {"keys": {}}]
    for answer in answers:
        with pytest.raises(UnexpectedAnswer, match="no list of keys"):
            Keylatch(Canned(answer)).issue_many(UUID(int=1), labels=["a"])
    with pytest.raises(UnexpectedAnswer, match="not a JSON object"):
        as_rows(read_json(HUGE))


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
