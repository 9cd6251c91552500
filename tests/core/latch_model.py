"""A model of the rules that always hold for keys: it compares each state with the one before."""

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
from hypothesis import HealthCheck, Phase, given, seed, settings

from core.latch_statements import ANY_COLUMN, IMPORT, REPLICAS, Step, stories
from keylatch import hash_key
from stack import Database, People

Row = dict[str, Any]
ORIGINS = ("https://a.example", "https://b.example")
NEVER_CHANGE: tuple[str, ...] = (
    "workspace_id",
    "kind",
    "environment",
    "key_hash",
    "public_key",
    "masked_key",
)
NEVER_CHANGE += ("rotated_from", "created_at", "created_by", "imported_at")
# Times are seconds: a session in replication mode may write a time that Python cannot represent.
ROWS = """
    select
        coalesce(
            jsonb_agg(
                to_jsonb(k) || jsonb_build_object(
                    'revoked_at', extract(epoch from k.revoked_at),
                    'expires_at', extract(epoch from k.expires_at),
                    'superseded_at', extract(epoch from k.superseded_at),
                    'suspended_at', extract(epoch from k.suspended_at),
                    'updated_at', extract(epoch from k.updated_at)
                )
                order by k.created_at
            ),
            '[]'
        ),
        extract(epoch from clock_timestamp())
    from keylatch_internal.keys as k
    where k.workspace_id in (%s, %s) or k.id = any(%s)
"""
RESOLVED = """
    select c.id, o.origin, r.key_id, extract(epoch from clock_timestamp())
    from unnest(%s::uuid[], %s::text[]) as c (id, key)
    cross join unnest(%s::text[]) as o (origin)
    left join lateral keylatch.resolve_key(c.key, o.origin) as r on true
"""


class Violation(AssertionError):
    """A change of a key breaks a rule of the contract."""


class Found(Exception):
    """Ends the search after a violation was found."""


class System:
    """A database with a session of every role, and counts of the errors and states seen."""

    def __init__(self, database: Database, people: People) -> None:
        self.people = people
        self.errors: Counter[str] = Counter()
        self.deaths: Counter[str] = Counter()
        self.eye = database.connect(superuser=True)
        self.sessions = {
            "alice": database.connect("authenticated", people.claims("alice")),
            "bob": database.connect("authenticated", people.claims("bob")),
            "service_role": database.connect("service_role"),
            "postgres": database.connect(),
            "superuser": database.connect(superuser=True),
            REPLICAS[0]: database.connect(superuser=True),
            REPLICAS[1]: database.connect(),
        }
        for name in REPLICAS:
            self.sessions[name].execute("set session_replication_role = replica")
        for session in (self.eye, *self.sessions.values()):
            session.execute("set statement_timeout = '30s'")


class Story:
    """Two new workspaces, their keys, and the states of the keys that were seen last."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.a, self.b = uuid4(), uuid4()
        self.rows: dict[UUID, Row] = {}
        self.texts: dict[UUID, str] = {}
        self.deleted: set[str] = set()
        self.seen_at = 0.0
        self.said: list[str] = []
        owner = system.sessions["postgres"]
        owner.execute(
            "insert into keylatch.workspaces (id, name) values (%s, 'A'), (%s, 'B')",
            [self.a, self.b],
        )
        owner.execute(
            "insert into keylatch.workspace_membership (workspace_id, user_id, role) "
            "values (%s, %s, 'admin'), (%s, %s, 'admin')",
            [self.a, system.people.alice, self.b, system.people.bob],
        )
        self.observe("postgres")
        # Begin with a key of each kind: secret, publishable, soon expired, superseded and imported.
        issue = "select key, id from keylatch.issue_key(%(workspace)s, "
        soon = "clock_timestamp() + interval '15 ms'"
        for actor, statement in (
            ("alice", issue + "'secret')"),
            ("alice", issue + "'publishable', allowed_origins => '{https://a.example}')"),
            ("alice", issue + f"'secret', expires_at => {soon})"),
            ("alice", "select key, id from keylatch.rotate_key(%(key)s, '1 hour')"),
            (
                "postgres",
                IMPORT.format(id="gen_random_uuid()", time=soon)
                + " returning id, %(fresh)s::text as key",
            ),
        ):
            self.play(Step(actor, statement, 0, late=False))

    def play(self, step: Step) -> None:
        """Run a statement, accept every expected error, and check the keys."""
        session = self.system.sessions[step.actor]
        ids = list(self.rows) or [uuid4()]
        parameters = {
            "key": ids[step.key % len(ids)],
            "other": ids[step.key // 2 % len(ids)],
            "workspace": self.b if step.actor == "bob" or step.key % 6 == 5 else self.a,
            "a": self.a,
            "b": self.b,
            "fresh": secrets.token_hex(16),
        }
        self.said.append(f"{step.actor}: {' '.join(step.statement.split())} {parameters}")
        rows: list[tuple[Any, ...]] = []
        names: list[str] = []
        done = False
        try:
            with session.transaction() if step.late else contextlib.nullcontext():
                if step.late:
                    session.execute("select now()")
                    self.outlive()
                cursor = session.execute(step.statement.encode(), parameters)
                names = [column.name for column in cursor.description or ()]
                rows = cursor.fetchall() if names else []
                done = cursor.rowcount > 0
        except psycopg.Error as error:
            state = str(error.sqlstate)
            said = str(error.diag.message_primary) if state.startswith("PT") else state
            self.said.append(f"  {state} {error.diag.message_primary}")
            self.system.errors[said] += 1
            if not state.startswith(("PT4", "22", "23", "42501", "0A000")):
                self.fail(f"SQLSTATE {state} is none that a caller expects")
            return
        if sorted(names) == ["id", "key"]:
            self.texts.update({row[names.index("id")]: row[names.index("key")] for row in rows})
        self.observe(step.actor)
        gone = step.statement.startswith("delete from keylatch.workspaces") and done
        if gone and step.actor not in REPLICAS:
            self.deleted.add(str(parameters["workspace"]))
            for row in self.rows.values():
                if row["workspace_id"] == str(parameters["workspace"]) and not row["revoked_at"]:
                    self.fail("a workspace is gone and a key of it is not revoked")

    def outlive(self) -> None:
        """Wait until the keys that expire within 0.1 s have expired, and check all keys."""
        ends = [row["expires_at"] - self.seen_at for row in self.rows.values() if row["expires_at"]]
        if wait := max((seconds for seconds in ends if 0 < seconds < 0.1), default=0):
            time.sleep(wait + 0.001)
        self.observe(None)

    def fail(self, what: str) -> None:
        raise Violation("\n".join([what, *self.said[-12:]]))

    def observe(self, actor: str | None) -> None:
        """Compare all keys with their last states; `actor` made the changes, None means nobody."""
        seen = self.system.eye.execute(ROWS, [self.a, self.b, list(self.rows)]).fetchone()
        found, now = seen or ([], 0)
        rows = {UUID(row["id"]): row for row in found}
        if lost := set(self.rows) - set(rows):
            self.fail(f"rows are gone: {lost}")
        for key, new in rows.items():
            if key in self.rows:
                self.compare(self.rows[key], new, actor)
            elif new["workspace_id"] in self.deleted and actor not in REPLICAS:
                self.fail("a key was made in a deleted workspace")
            elif key in self.texts and new["key_hash"] != f"\\x{hash_key(self.texts[key]).hex()}":
                self.fail("a key and its hash differ")
            if new["public_key"] is not None:
                self.texts[key] = new["public_key"]
        self.rows, self.seen_at = rows, float(now)
        self.resolve()

    def compare(self, old: Row, new: Row, actor: str | None) -> None:
        """Check that the changes of a row are permitted."""
        moved = {name for name in new if new[name] != old[name]}
        if actor is None and moved:
            self.fail(f"{moved} changed by nobody")
        if bad := moved & set(NEVER_CHANGE):
            self.fail(f"{bad} changed")
        expired = old["expires_at"] is not None and old["expires_at"] <= self.seen_at
        bad = moved & {"revoked_at", "revoked_by", "revoke_reason"}
        if old["revoked_at"] is not None and bad:
            self.fail(f"{bad} of a revoked key changed")
        if old["revoked_at"] is not None or expired:
            self.system.deaths["expired" if old["revoked_at"] is None else "revoked"] += 1
            final = {"expires_at", "superseded_at", "suspended_at", "scopes"}
            if bad := moved & final:
                self.fail(f"{bad} of a revoked or expired key changed")
        if old["superseded_at"] is not None:
            self.system.deaths["superseded"] += 1
            if "superseded_at" in moved:
                self.fail("superseded_at changed")
            if new["expires_at"] is None or new["expires_at"] > old["expires_at"]:
                self.fail("a superseded key got more time")
        if new["superseded_at"] is not None and new["expires_at"] is None:
            self.fail("a superseded key has no end")
        if actor in REPLICAS:
            return
        if new["updated_at"] < (self.seen_at if moved else old["updated_at"]):
            self.fail("updated_at is not when the row last changed")
        for name in {"revoked_at", "superseded_at", "suspended_at"} & moved:
            if new[name] is not None and new[name] < self.seen_at:
                self.fail(f"{name} is not of the server's clock")
        by = getattr(self.system.people, actor) if actor in ("alice", "bob") else None
        if "revoked_at" in moved and new["revoked_by"] != (by and str(by)):
            self.fail("revoked_by is not who revoked it")

    def resolve(self) -> None:
        """Check that exactly the active keys resolve."""
        ids = [key for key in self.texts if key in self.rows]
        keys = [self.texts[key] for key in ids]
        found = self.system.eye.execute(RESOLVED, [ids, keys, [None, *ORIGINS]])
        for key, origin, resolved, after in found:
            row = self.rows[key]
            ends = row["expires_at"]
            active = row["revoked_at"] is None and row["suspended_at"] is None
            active &= ends is None or ends > self.seen_at
            if row["kind"] == "secret":
                active &= origin is None
            else:
                active &= origin in row["allowed_origins"] or (
                    origin is not None and "*" in row["allowed_origins"]
                )
            if resolved is not None and (not active or resolved != key):
                self.fail(f"{row['kind']} key {key} resolves from {origin}")
            if resolved is None and active and (ends is None or ends > after):
                self.fail(f"{row['kind']} key {key} does not resolve from {origin}")
            self.system.deaths["resolves"] += resolved is not None


def run(
    system: System, columns: Sequence[str] = ANY_COLUMN, *, examples: int = 60, beginnings: int = 6
) -> str | None:
    """Run random sequences until one fails. Return the failure, or None.

    Args:
        system: The database and its sessions.
        columns: The columns that the updates write.
        examples: The maximal number of sequences for each seed.
        beginnings: The number of seeds.
    """
    wrong: list[str] = []

    # No shrinking: the clock moves on, so a repeated sequence may have another outcome.
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(stories(columns))
    def tell(steps: list[Step]) -> None:
        if not wrong:
            try:
                story = Story(system)
                for step in steps:
                    story.play(step)
            except Violation as violation:
                wrong.append(str(violation))
        if wrong:
            raise Found

    # Some seeds lead to many similar sequences, so there are several seeds.
    for number in range(beginnings):
        with contextlib.suppress(Found):
            seed(number)(tell)()
        if wrong:
            return wrong[0]
    return None
