"""How an import reads lines, and sends batches that grow, shrink, and are halved if too slow."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from keylatch.errors import KeylatchError
from keylatch.models import ImportOutcome, ImportReport
from keylatch_cli.importing.batches import FIRST, Import, Outcome, import_file
from keylatch_cli.importing.lines import Line, Reading, read_lines
from keylatch_cli.importing.rows import Row


class Slow:
    """A database that cancels every statement with more lines than this."""

    def __init__(self, most: int) -> None:
        self.most, self.taken, self.ids = most, [], set[UUID]()  # type: ignore[var-annotated]

    def import_keys(self, lines: Sequence[Any], *, import_id: UUID, **_: object) -> ImportReport:
        if len(lines) > self.most:
            raise KeylatchError("query_canceled", sqlstate="57014")
        self.taken.append(len(lines))
        self.ids.add(import_id)
        outcomes = tuple(
            ImportOutcome(
                position=place,
                outcome="imported",
                key_id=None,
                slug=None,
                detail=str(line["label"]),
                hint=None,
            )
            for place, line in enumerate(lines, 1)
        )
        return ImportReport(
            imported=len(lines),
            waiting=0,
            moved=0,
            existing=0,
            refused=0,
            lines=outcomes,
            changed=0,
            import_id=import_id,
            probes=(),
        )


def run(database: Slow, count: int) -> list[Outcome]:
    told: list[Outcome] = []
    lines = (Line(number=number, fields={"label": str(number)}) for number in range(1, count + 1))
    import_file(
        [database],  # type: ignore[list-item]
        lines,
        Import(source="", id=uuid4()),
        done=lambda _, outcomes: told.extend(outcomes),
    )
    return told


def test_a_batch_that_took_too_long_is_sent_in_halves_and_no_line_is_lost() -> None:
    database = Slow(300)
    told = run(database, 2 * FIRST + 7)
    assert [one.number for one in told] == list(range(1, 2 * FIRST + 8))
    assert [one.outcome.detail for one in told] == [str(one.number) for one in told]
    assert max(database.taken) <= 300
    assert len(database.ids) == 1


def test_a_batch_of_one_line_that_takes_too_long_is_an_error() -> None:
    with pytest.raises(KeylatchError, match="query_canceled"):
        run(Slow(0), 3)


def test_batches_grow_where_the_database_is_fast() -> None:
    database = Slow(10**6)
    run(database, 40 * FIRST)
    assert database.taken[0] == FIRST
    assert max(database.taken) > FIRST


USUAL: dict[str, object] = {"workspace_id": str(UUID(int=1)), "hash": "ab", "hash_encoding": "hex"}
VALUES: list[object] = [
    *("", "\\N", "\\N\n", "plain", "two words", "a\tb", "a\0b", "\ud800", "ü", "\u201cquoted"),
    *("1e5", "1E+5", "+1,5E-10", "1E+5\n", "yes", "0", "2024-02-03", "2024-02-03T04:05:06Z"),
    *("2024-02-03T04:05:06.1234567Z", "1700000000", "{a,b}", "[]", '["a"]', "{}"),
    *(None, True, 7, 1.5, [], ["a"], ["a", 7], ["a\0"], ["ü"], {}, {"a": "\0"}, {"a": 1}),
]


@pytest.mark.parametrize("name", ["label", "hash", "workspace_id", "alg", "created_at", "iter"])
def test_a_line_that_needs_no_change_is_read_as_any_other(name: str) -> None:
    # An option switches the shortcut for such lines off: each value is read by itself.
    slowly = Reading(without=frozenset({"unused"}))
    for place in (name, name.upper(), "key", "scopes", "metadata", "hash encoding"):
        for value in VALUES:
            rows = [Row(number=1, cells={**USUAL, place: value})]
            assert list(read_lines(rows, Reading())) == list(read_lines(rows, slowly)), value
