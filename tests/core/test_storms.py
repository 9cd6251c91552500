"""Every pair of calls on one workspace at once: no deadlock, and no revoked key resolves.

Each round has a workspace of its own with a family of two keys and a key beside it.
"""

import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.racing import Connection, Outcome, attempt, together
from stack import Cluster, Database, People, Tokens

# The caller and the statement. The family is the superseded %(old)s and its successor %(young)s.
CALLS = {
    "issue": ("alice", "select id, key from keylatch.issue_key(%(workspace)s, 'secret')"),
    "rotate": ("alice", "select id, key from keylatch.rotate_key(%(young)s)"),
    "rotate with grace": ("alice", "select id, key from keylatch.rotate_key(%(young)s, '1 hour')"),
    "revoke": ("alice", "select id from keylatch.revoke_key(%(young)s, 'leaked')"),
    "cascade": ("alice", "select id from keylatch.revoke_key(%(old)s, 'leaked', true)"),
    "cascade from the end": ("alice", "select id from keylatch.revoke_key(%(young)s, 'x', true)"),
    "suspend": ("alice", "select id from keylatch.suspend_key(%(young)s)"),
    "patch": (
        "alice",
        "update keylatch.keys set expires_at = now() + interval '2 hours' where id = %(young)s"
        " returning id",
    ),
    "retire": ("alice", "select is_done from keylatch.retire_workspace(%(workspace)s)"),
    "delete": (
        "service_role",
        "delete from keylatch.workspaces where id = %(workspace)s returning id",
    ),
    "import": (
        "postgres",
        "insert into keylatch_internal.keys"
        " (id, workspace_id, kind, masked_key, key_hash, created_at, updated_at)"
        " values (gen_random_uuid(), %(workspace)s, 'secret', '...',"
        " sha256(gen_random_uuid()::text::bytea), now(), now()) returning id",
    ),
}
EXPECTED = {
    "done",
    "42501",  # the workspace was deleted, so the caller is not its admin
    "key_not_found",
    "key_revoked",
    "key_already_rotated",
    "key_suspended",
    "revoked_is_final",
    "superseded_is_final",
    "workspace_deleted",
}
ROUNDS = 8


@dataclass
class Round:
    """The workspace of one round, and the keys that the calls use."""

    workspace: UUID
    old: UUID
    young: UUID
    other: UUID


class Storm:
    """Sessions of all roles on one database, and checks of its keys."""

    def __init__(self, database: Database, people: People) -> None:
        claims = people.claims("alice")
        self._sessions = {
            "alice": [database.connect("authenticated", claims) for _ in range(8)],
            "service_role": [database.connect("service_role") for _ in range(8)],
            "postgres": [database.connect() for _ in range(8)],
        }
        self.owner = database.connect()
        self.seed = secrets.randbits(32)
        self.chance = random.Random(self.seed)  # noqa: S311 - it only shuffles
        self.met: Counter[tuple[str, str]] = Counter()

    def prepare(self) -> Round:
        """Make a workspace of alice with a family of two keys and a key beside the family."""
        workspace = uuid4()
        self.owner.execute(
            "insert into keylatch.workspaces (id, name) values (%s, 'W')", [workspace]
        )
        self.owner.execute(
            "insert into keylatch.workspace_membership (workspace_id, user_id, role)"
            " values (%s, %s, 'admin')",
            [workspace, People.alice],
        )
        issue = "select id from keylatch.issue_key(%s, 'secret')"
        old = self._id(issue, workspace)
        other = self._id(issue, workspace)
        young = self._id("select id from keylatch.rotate_key(%s, '1 day')", old)
        return Round(workspace, old, young, other)

    def play(self, names: list[str], prepared: Round) -> list[Outcome]:
        """Make these calls at about the same time, and check their outcomes."""
        calls: list[Callable[[], Outcome]] = []
        for number, name in enumerate(names):
            who, statement = CALLS[name]
            delay = self.chance.choice([0, 0, 0.001, 0.003])
            calls.append(self._later(delay, self._sessions[who][number], statement, vars(prepared)))
        outcomes = together(calls)
        told = f"seed {self.seed}: {[(n, o.word) for n, o in zip(names, outcomes, strict=True)]}"
        assert {outcome.word for outcome in outcomes} <= EXPECTED, told
        self.met.update((n, o.word) for n, o in zip(names, outcomes, strict=True))
        unrevoked = self.unrevoked(prepared.workspace)
        family = self.family(prepared.old)
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome.word != "done" or not outcome.row:
                continue
            if name == "delete":
                assert not unrevoked, told
            elif name in ("revoke", "rotate"):
                assert prepared.young not in unrevoked, told
            elif name.startswith("cascade"):
                assert not family & unrevoked, told
            elif name == "retire" and outcome.row == (True,):
                assert not (family | {prepared.other}) & unrevoked, told
        return outcomes

    def unrevoked(self, workspace: UUID) -> set[UUID]:
        rows = self.owner.execute(
            "select id from keylatch.keys where workspace_id = %s and revoked_at is null",
            [workspace],
        )
        return {row[0] for row in rows}

    def family(self, oldest: UUID) -> set[UUID]:
        rows = self.owner.execute(
            "with recursive f as (select %s::uuid as id union all"
            " select k.id from keylatch.keys as k join f on k.rotated_from = f.id)"
            " select id from f",
            [oldest],
        )
        return {row[0] for row in rows}

    def _id(self, statement: str, value: UUID) -> UUID:
        row = self.owner.execute(statement.encode(), [value]).fetchone()
        assert row is not None
        found: UUID = row[0]
        return found

    @staticmethod
    def _later(
        delay: float, session: Connection, statement: str, values: dict[str, Any]
    ) -> Callable[[], Outcome]:
        def call() -> Outcome:
            time.sleep(delay)
            return attempt(session, statement, values)  # type: ignore[arg-type]

        return call


@pytest.fixture(scope="module")
def storm(server: Cluster, template: str, tokens: Tokens) -> Iterator[Storm]:
    with Database(server, "storms", template) as database:
        people = People(tokens)
        people.seed(database.url)
        yield Storm(database, people)


@pytest.mark.parametrize("pair", list(combinations_with_replacement(CALLS, 2)), ids=" & ".join)
def test_two_calls_at_once_do_not_deadlock_and_leave_no_revoked_key_active(
    storm: Storm, pair: tuple[str, str]
) -> None:
    """Threat: revoke racing rotate, issue racing deletion: whatever the order."""
    for _ in range(ROUNDS):
        storm.play(list(pair), storm.prepare())


def test_eight_sessions_at_once_do_not_deadlock_and_leave_no_revoked_key_active(
    storm: Storm,
) -> None:
    """Threat: a cascade, a retirement and a deletion meet rotations that make one key more."""
    always = ["cascade", "cascade from the end", "rotate with grace"]
    for _ in range(40):
        more = storm.chance.choices(list(CALLS), k=5)
        storm.play([*always, *more], storm.prepare())
    assert storm.met["rotate with grace", "done"]
    assert storm.met["rotate with grace", "key_revoked"]


def test_a_workspace_whose_admin_goes_on_rotating_is_deleted_all_the_same(storm: Storm) -> None:
    """Threat: who administers a workspace keeps it from being deleted."""
    prepared = storm.prepare()
    # The deletion needs longer to read this many keys than a rotation takes.
    storm.owner.execute(
        "select keylatch.issue_keys(%s, array(select n::text from generate_series(1, 3000) as n))",
        [prepared.workspace],
    )
    (rotator, *_), (deleter, *_) = storm._sessions["alice"], storm._sessions["service_role"]

    def rotate_on() -> Outcome:
        key, outcome = prepared.young, Outcome("none")
        for _ in range(5000):
            outcome = attempt(rotator, "select id from keylatch.rotate_key(%s)", [key])
            if outcome.word != "done":
                break
            key = outcome.row[0]
        return outcome

    def delete() -> Outcome:
        time.sleep(0.05)
        return attempt(deleter, CALLS["delete"][1], vars(prepared))  # type: ignore[arg-type]

    rotated, deleted = together([rotate_on, delete])
    assert deleted.word == "done"
    assert rotated.word in ("workspace_deleted", "key_not_found", "key_revoked", "42501")
    assert storm.unrevoked(prepared.workspace) == set()
