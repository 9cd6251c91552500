"""Each guard of the database was removed once, and a test failed."""

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
                # The policy stays, but allows everybody or nobody.
                assert [f"{table} {name}" for table, name, _, _ in changed] == [one.name]
                assert gone == set()
            else:
                assert changed == set()
                # Removing a unique constraint also removes the foreign keys that refer to it.
                assert (one.kind, one.name) in gone
                assert {kind for kind, _ in gone - {(one.kind, one.name)}} <= {"foreign key"}
