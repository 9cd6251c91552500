"""The table of all pairs of calls matches the database, and no pair breaks a rule of the latch."""

import json
from collections.abc import Iterator

import pytest

from core.interleavings import ADMINS, CALLS, FILE, REVOCATIONS, outcomes, written
from stack import Database, People

pytestmark = pytest.mark.long

TABLE: dict[str, dict[str, object]] = json.loads(FILE.read_text()) if FILE.exists() else {}


def cases() -> Iterator[tuple[str, str, str, dict[str, object]]]:
    """For each case: the first call, how it ends, the second call, and the outcome."""
    for name, result in TABLE.items():
        first, second = name.split(" | ")
        call, how = first.rsplit(", ", 1)
        yield call, how, second, result


def test_the_table_of_interleavings_is_what_two_sessions_do(
    database: Database, people: People
) -> None:
    assert people
    found = dict(outcomes(database))
    different = {name: one for name, one in found.items() if one != TABLE.get(name)}
    assert different == {}, "if it is meant: cd tests && ../.venv/bin/python -m core.interleavings"
    assert written(found) == FILE.read_text()


def test_the_table_of_interleavings_has_each_pair_in_both_orders_committed_and_rolled_back() -> (
    None
):
    assert len(TABLE) == len(CALLS) ** 2 * 2


def test_no_pair_meets_in_a_deadlock_a_time_out_or_a_constraint() -> None:
    # A row policy raises 42501. Every other error has a slug, also an error of the commit.
    raw = {
        name: result
        for name, result in TABLE.items()
        for which in ("first", "second")
        if " " in str(result[which]).removeprefix("commit: ")
        and not str(result[which]).startswith("42501 ")
    }
    assert raw == {}


def test_a_revocation_waits_for_nobody_but_the_admins_of_its_workspace() -> None:
    waiting = {
        first for first, _, second, result in cases() if second in REVOCATIONS and "waits" in result
    }
    assert waiting
    assert waiting <= ADMINS


@pytest.mark.parametrize("which", ["first", "second"])
def test_no_key_resolves_after_an_acknowledged_revocation(which: str) -> None:
    held = 0
    for first, how, second, result in cases():
        call = first if which == "first" else second
        acknowledged = result[which] == "done" and (which == "second" or how == "commit")
        if call in REVOCATIONS and acknowledged:
            revoked = "waiting" if call == "revoke the waiting key" else "successor"
            assert result[revoked] == "revoked", (first, how, second)
            held += 1
        if call == "revoke the family" and acknowledged:
            assert result["key"] == "revoked", (first, how, second)
    assert held > len(CALLS)


def test_no_key_is_active_in_a_deleted_workspace() -> None:
    deletions = 0
    for first, how, second, result in cases():
        deleted = first == "delete the workspace" and how == "commit"
        if deleted or (second == "delete the workspace" and result["second"] == "done"):
            known = [result[one] for one in ("key", "successor", "waiting")]
            states = [*known, *str(result.get("new", "")).split(", ")]
            assert {state for state in states if state} == {"revoked"}, (first, how, second)
            deletions += 1
    assert deletions > len(CALLS)
