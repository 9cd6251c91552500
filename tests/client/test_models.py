"""Results: read by name from JSON, and read-only."""

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from datetime import UTC
from typing import Any
from uuid import UUID

import pytest

from client.samples import JSON, TIME
from client.vectors import SECRET
from keylatch import Secret, models
from keylatch.errors import NotInstalled, UnexpectedAnswer
from keylatch.models import (
    ImportOutcome,
    ImportProbe,
    IssuedKey,
)
from keylatch.rows import read_one

pytestmark = pytest.mark.one_server


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
        if isinstance(one, type) and dataclasses.is_dataclass(one) and one.__name__[0] != "_"
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
