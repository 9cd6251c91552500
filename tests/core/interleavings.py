"""Each pair of calls in two sessions, while the transaction of the first call is open.

`python -m core.interleavings`, run in tests, writes the outcomes to interleavings.json. A test
computes the outcomes again and compares. Each case has a new workspace with a key in its grace, the
key's successor, and an imported key that waits for its first use. The first session makes its call
and keeps its transaction open. The second session makes its call, which may wait. Then the first
session commits or rolls back, and the second session ends.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg

from stack import HANG_SECONDS, Database, People, Server, Tokens
from stack.database import make_template

FILE = Path(__file__).with_name("interleavings.json")
ORIGIN = "https://shop.example"
OLD_SECRET = "an-older-systems-Secret-"
# The role and the statement of each call. The names in braces are the fields of `Scene`.
CALLS = {
    "issue": ("authenticated", "select keylatch.issue_key('{w}')"),
    "rotate": ("authenticated", "select keylatch.rotate_key('{successor}')"),
    "rotate with a grace": ("authenticated", "select keylatch.rotate_key('{successor}', '1 day')"),
    "revoke": ("authenticated", "select keylatch.revoke_key('{successor}')"),
    "revoke the family": (
        "authenticated",
        "select keylatch.revoke_key('{key}', cascade => true)",
    ),
    "suspend": ("authenticated", "select keylatch.suspend_key('{successor}')"),
    "extend": (
        "authenticated",
        "update keylatch.keys set expires_at = now() + interval '2 days' where id = '{successor}'",
    ),
    "label": ("authenticated", "update keylatch.keys set label = 'x' where id = '{successor}'"),
    "retire the workspace": ("authenticated", "select keylatch.retire_workspace('{w}')"),
    "delete the workspace": ("postgres", "delete from keylatch.workspaces where id = '{w}'"),
    "open a session": ("anon", "select keylatch.open_session('{text}')"),
    "end the sessions": ("authenticated", "select keylatch.end_sessions('{successor}')"),
    "import": (
        "service_role",
        """select keylatch.import_keys(
          '[{{"workspace_id": "{w}", "key": "Imported-{w}", "label": "imported"}}]'
        )""",
    ),
    "upgrade": ("keylatch_resolver", "select * from keylatch.upgrade_key('{old}', '{w}')"),
    "revoke the waiting key": (
        "authenticated",
        "select keylatch.revoke_legacy_key('{waiting}')",
    ),
    "record usage": (
        "keylatch_resolver",
        """select keylatch.record_usage(
          '{{"{successor}": {{"uses": 1, "last_used_at": "{now}"}}}}'
        )""",
    ),
    "seal the events": ("service_role", "select keylatch.seal_events()"),
}
# The calls that may make a revocation wait: those of admins, and the deletion of the workspace.
ADMINS = {name for name, (role, _) in CALLS.items() if role in ("authenticated", "postgres")}
# This call waits at most 10 ms. Whether `waits` sees this wait depends on how busy the machine is.
GIVES_UP = "record usage"
REVOCATIONS = ("revoke", "revoke the family", "end the sessions", "revoke the waiting key")


@dataclass(frozen=True, slots=True)
class Scene:
    """The workspace of one case, and its keys."""

    w: UUID
    key: UUID
    successor: UUID
    waiting: UUID
    text: str
    old: str
    now: str

    def statement(self, call: str) -> str:
        """The SQL of a call."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return CALLS[call][1].format(**values)


@dataclass(slots=True)
class Session:
    """One of the two sessions: a connection, and the outcome of its call."""

    connection: psycopg.Connection[tuple[Any, ...]]
    outcome: str | None = None
    thread: threading.Thread | None = field(default=None)

    def call(self, scene: Scene, call: str) -> None:
        """Set the role and the request, then make the call in the open transaction."""
        role = CALLS[call][0]
        try:
            with self.connection.cursor() as cursor:
                cursor.execute("select set_config('request.headers', %s, true)", [HEADERS])
                cursor.execute("select set_config('request.jwt.claims', %s, true)", [CLAIMS[role]])
                cursor.execute(f"set local role {role}".encode())
                cursor.execute(scene.statement(call).encode())
            self.outcome = "done"
        except psycopg.Error as error:
            primary = error.diag.message_primary or ""
            self.outcome = primary if " " not in primary else f"{error.sqlstate} {primary}"

    def start(self, scene: Scene, call: str) -> None:
        """Make the call in a thread of its own."""
        self.thread = threading.Thread(target=self.call, args=(scene, call), daemon=True)
        self.thread.start()

    def end(self, how: str) -> None:
        """Commit or roll back; if that fails, the error becomes the outcome."""
        try:
            self.connection.execute(how.encode())
        except psycopg.Error as error:
            self.outcome = f"{how}: {error.diag.message_primary}"


HEADERS = json.dumps({"origin": ORIGIN})
CLAIMS = {
    "authenticated": json.dumps(People(Tokens()).claims("alice")),
    **dict.fromkeys(("postgres", "anon", "service_role", "keylatch_resolver"), ""),
}


def make_scene(owner: psycopg.Connection[tuple[Any, ...]]) -> Scene:
    """Make a workspace of alice with a key, its successor, and a waiting imported key."""
    w = uuid4()
    old = f"{OLD_SECRET}{w}"
    with owner.transaction():
        owner.execute("insert into keylatch.workspaces (id, name) values (%s, 'scene')", [w])
        owner.execute(
            "insert into keylatch.workspace_membership values (%s, %s, 'admin')", [w, People.alice]
        )
        [key, now] = owner.execute(
            "select id, to_char(now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
            " from keylatch.issue_key(%s, allowed_origins => %s)",
            [w, [ORIGIN]],
        ).fetchone() or (None, None)
        [successor, text] = owner.execute(
            "select id, key from keylatch.rotate_key(%s, '1 hour')", [key]
        ).fetchone() or (None, None)
        [waiting] = owner.execute(
            """
            select (r.lines[1]).key_id from keylatch.import_keys(jsonb_build_array(
              jsonb_build_object(
                'workspace_id', %(w)s::text, 'alg', 'bcrypt', 'label', 'waiting',
                'starts_with', 'an-older',
                'hash', extensions.crypt(%(old)s, extensions.gen_salt('bf', 4))
              )
            )) as r
            """,
            {"w": w, "old": old},
        ).fetchone() or (None,)
    return Scene(w, key, successor, waiting, text, old, now)


def waits(owner: psycopg.Connection[tuple[Any, ...]], session: Session) -> bool:
    """Wait until the session's call waits for a lock (true) or has ended (false)."""
    pid = session.connection.info.backend_pid
    assert session.thread is not None
    while session.thread.is_alive():
        [blocked] = owner.execute(
            "select cardinality(pg_blocking_pids(%s)) > 0", [pid]
        ).fetchone() or (False,)
        if blocked:
            return True
        session.thread.join(0.005)
    return False


def outcome(
    owner: psycopg.Connection[tuple[Any, ...]],
    connections: tuple[psycopg.Connection[Any], psycopg.Connection[Any]],
    first: str,
    second: str,
    how: str,
) -> dict[str, object]:
    """The outcome of one case."""
    scene = make_scene(owner)
    holder, other = (Session(one) for one in connections)
    for one in (holder, other):
        one.connection.execute("begin")
    holder.call(scene, first)
    other.start(scene, second)
    waited = waits(owner, other)
    if waited and second == GIVES_UP:
        assert other.thread is not None
        other.thread.join(HANG_SECONDS)
        waited = other.thread.is_alive()
    holder.end(how if holder.outcome == "done" else "rollback")
    assert other.thread is not None
    other.thread.join(HANG_SECONDS)
    assert not other.thread.is_alive(), f"{first}, {second}: it waits for ever"
    other.end("commit" if other.outcome == "done" else "rollback")
    statuses = dict(
        owner.execute(
            "select id, status from keylatch.keys where workspace_id = %s", [scene.w]
        ).fetchall()
    )
    known = {scene.key: "key", scene.successor: "successor", scene.waiting: "waiting"}
    others = sorted(status for one, status in statuses.items() if one not in known)
    result: dict[str, object] = {
        "first": holder.outcome,
        "second": other.outcome,
        **{name: statuses[one] for one, name in known.items()},
    }
    if waited:
        result["waits"] = True
    if others:
        result["new"] = ", ".join(others)
    return result


def outcomes(database: Database) -> Iterator[tuple[str, dict[str, object]]]:
    """All cases, by name, in order."""
    owner = database.connect()
    connections = (database.connect(superuser=True), database.connect(superuser=True))
    for first in CALLS:
        for second in CALLS:
            for how in ("commit", "rollback"):
                name = f"{first}, {how} | {second}"
                yield name, outcome(owner, connections, first, second, how)


def written(found: dict[str, dict[str, object]]) -> str:
    """The text of interleavings.json, one case a line."""
    lines = (f"{json.dumps(name)}: {json.dumps(result)}" for name, result in found.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    """Write the table."""
    started = time.monotonic()
    with (
        Server() as server,
        Database(server, "interleavings", make_template(server)) as database,
    ):
        People.seed(database.url)
        found = dict(outcomes(database))
    FILE.write_text(written(found))
    print(f"{len(found)} cases in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
