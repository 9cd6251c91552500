"""Each guard of the database has been taken away once, and a test went red."""

import json

import psycopg
import pytest

from stack import Database
from tools.mutations import RESULTS, Guard, guards

KINDS = {"trigger", "policy", "row security", "check", "unique", "foreign key", "grant"}
POLICIES = """
select schemaname || '.' || tablename, policyname, qual, with_check from pg_policies
where schemaname in ('keylatch', 'keylatch_internal')
"""


@pytest.fixture
def found(database: Database) -> list[Guard]:
    with psycopg.connect(database.url) as owner:
        return guards(owner)


def test_each_guard_of_the_catalog_was_tried_and_seen(found: list[Guard]) -> None:
    seen = json.loads(RESULTS.read_text())
    assert {one.kind for one in found} == KINDS
    assert {f"{one.kind}: {one.name}" for one in found} == set(seen), "run: make mutations"
    assert [guard for guard, red in seen.items() if not red] == []


def test_a_mutation_removes_one_guard_and_no_other(database: Database, found: list[Guard]) -> None:
    with psycopg.connect(database.url) as owner:
        policies = set(owner.execute(POLICIES).fetchall())
        for one in found:
            with owner.transaction(force_rollback=True):
                owner.execute(one.removal.encode())
                left = {(guard.kind, guard.name) for guard in guards(owner)}
                changed = policies - set(owner.execute(POLICIES).fetchall())
            gone = {(guard.kind, guard.name) for guard in found} - left
            if one.kind == "policy":
                # It stays, and lets everybody by, or nobody.
                assert [f"{table} {name}" for table, name, _, _ in changed] == [one.name]
                assert gone == set()
            else:
                assert changed == set()
                # Without a key nothing refers to it: those constraints go with it.
                assert (one.kind, one.name) in gone
                assert {kind for kind, _ in gone - {(one.kind, one.name)}} <= {"foreign key"}
