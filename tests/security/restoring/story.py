"""A database with keys in many states, and the checks that a restored copy must pass."""

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from core.fingerprint import access
from stack import Database, People


def _salted(text: str) -> str:
    """Return what an old system stored of a key."""
    digest = hashlib.pbkdf2_hmac("sha256", text.encode(), b"salt", 1000)
    return f"pbkdf2_sha256$1000$salt${base64.b64encode(digest).decode()}"


_OLD_KEYS = ("legacy-key-of-2019", "legacy-key-of-2020")
LEGACY = json.dumps(
    [
        {
            "workspace_id": str(People.a),
            "kind": "secret",
            "label": text,
            "alg": "django",
            "hash": _salted(text),
        }
        for text in _OLD_KEYS
    ]
)
ORIGIN = "https://shop.example"
APPLICATION = """
create table public.orders (id bigint generated always as identity, workspace_id uuid not null);
alter table public.orders enable row level security;
create policy orders_select_key on public.orders for select to anon
using (workspace_id = (select keylatch.current_workspace_id()));
"""
GUARDS = """
select t.tgrelid::regclass::text, t.tgname, t.tgenabled
from pg_trigger as t join pg_class as c on c.oid = t.tgrelid
where c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
  and not t.tgisinternal order by 1, 2
"""
LATCH = """
update keylatch_internal.keys set revoked_at = null, revoked_by = null, revoke_reason = null
where id = %s
"""
OPEN = """
select p.oid::regprocedure::text from pg_proc as p
where p.pronamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
  and has_function_privilege('public', p.oid, 'execute')
"""


@dataclass
class Story:
    """The contents of the source database when the dump is made.

    Attributes:
        keys: The text of each key, by its label.
        ids: The id of each key, by its label.
        session: The token of a visitor's session.
        rows: Every row of every table.
    """

    keys: dict[str, str] = field(default_factory=dict)
    ids: dict[str, UUID] = field(default_factory=dict)
    session: str = ""
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """The catalog of a fresh install.

    Attributes:
        guards: The triggers, and the mode in which each fires.
        access: Who may do what.
        catalog: The fingerprint of the whole catalog.
    """

    guards: list[tuple[Any, ...]]
    access: list[str]
    catalog: list[str]


def tell(database: Database) -> Story:
    """Fill a migrated database with people, keys in many states, legacy keys and sealed events."""
    story = Story()
    People.seed(database.url)
    with connected(database.url) as owner:
        owner.execute(APPLICATION.encode())
        owner.execute("insert into public.orders (workspace_id) values (%s)", [People.a])
        for label in ("active", "revoked", "later", "rotated", "graced", "suspended"):
            issued = owner.execute(
                "select key, id from keylatch.issue_key(%s, 'secret', %s)", [People.a, label]
            ).fetchone()
            assert issued
            story.keys[label], story.ids[label] = issued.key, issued.id
        page = "select key, id from keylatch.issue_key(%s, 'publishable', 'page', %s)"
        issued = owner.execute(page, [People.a, [ORIGIN]]).fetchone()
        assert issued
        story.keys["page"], story.ids["page"] = issued.key, issued.id
        owner.execute("select keylatch.revoke_key(%s, 'leaked')", [story.ids["revoked"]])
        owner.execute("select keylatch.rotate_key(%s)", [story.ids["rotated"]])
        owner.execute("select keylatch.rotate_key(%s, '1 hour')", [story.ids["graced"]])
        owner.execute("select keylatch.suspend_key(%s)", [story.ids["suspended"]])
        [report] = owner.execute(
            "select * from keylatch.import_keys(%s, source => 'old')", [LEGACY]
        ).fetchall()
        assert report.waiting == 2
        expiring = owner.execute(
            "select key, id from keylatch.issue_key(%s, 'secret', 'expired',"
            " expires_at => clock_timestamp() + '1 second')",
            [People.a],
        ).fetchone()
        assert expiring
        story.keys["expired"], story.ids["expired"] = expiring.key, expiring.id
        owner.execute("select keylatch.seal_events()")
        owner.execute("update keylatch.keys set label = 'x' where id = %s", [story.ids["page"]])
    headers = json.dumps({"origin": ORIGIN})
    with database.connect("anon") as visitor:
        visitor.execute("select set_config('request.headers', %s, false)", [headers])
        opened = visitor.execute("select token from keylatch.open_session(%s)", [issued.key])
        (story.session,) = opened.fetchone() or ("",)
    time.sleep(1)  # until the last key has expired
    story.rows = rows(database)
    return story


def connected(url: str) -> psycopg.Connection[Any]:
    """Return a connection whose rows are named tuples."""
    return psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)


def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table, as the superuser sees it."""
    with psycopg.connect(database.superuser_url) as connection:
        tables = connection.execute(
            "select oid::regclass::text from pg_class where relkind = 'r'"
            " and relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal', 'public')"
        ).fetchall()
        return {
            table: connection.execute(f"select t::text from {table} as t order by 1").fetchall()
            for (table,) in tables
        }


def open_functions(database: Database) -> list[str]:
    """Return the functions of keylatch that everybody may execute."""
    with psycopg.connect(database.superuser_url) as connection:
        return [name for (name,) in connection.execute(OPEN.encode()).fetchall()]


def guards(database: Database) -> list[tuple[Any, ...]]:
    """Return every trigger of keylatch, and the mode in which it fires."""
    with psycopg.connect(database.superuser_url) as connection:
        return connection.execute(GUARDS.encode()).fetchall()


def faults(database: Database, model: Model, story: Story) -> list[str]:
    """Return the differences from a fresh install: none for a healthy database."""
    found = []
    if guards(database) != model.guards:
        found.append("triggers")
    if access(database.superuser_url, is_whole=False) != model.access:
        found.append("grants")
    if open_functions(database):
        found.append("open functions")
    with psycopg.connect(database.superuser_url, autocommit=True) as owner:
        for mode in ("origin", "replica"):
            owner.execute(f"set session_replication_role = {mode}")
            if _lets(owner, LATCH, story.ids["revoked"]):
                found.append(f"latch in {mode} mode")
        member = "select pg_has_role('authenticator', 'keylatch_resolver', 'member')"
        if _lets(owner, "select 'keylatch_resolver'::regrole where %s::uuid is not null", None):
            row = owner.execute(member.encode()).fetchone()
            if not (row and row[0]):
                found.append("members of the role")
        else:
            found.append("role")
    return found


def _lets(owner: psycopg.Connection[Any], statement: str, value: object) -> bool:
    """Whether a statement succeeds. Its changes are rolled back."""
    try:
        with owner.transaction(force_rollback=True):
            owner.execute(statement.encode(), [value])
    except psycopg.Error:
        return False
    return True


def use_every_call(database: Database, story: Story) -> None:
    """Call each function of the API as a role that may call it, and check the answer."""
    a, ids, keys = People.a, story.ids, story.keys
    report = {str(ids["active"]): {"uses": 1}}
    header = {"x-api-key": keys["page"], "origin": ORIGIN}
    called = set()
    with connected(database.superuser_url) as connection:

        def call(role: str, name: str, *arguments: object) -> Any:
            called.add(name)
            places = ", ".join(["%s"] * len(arguments))
            connection.execute(f"set role {role}")
            answer = connection.execute(
                f"select * from keylatch.{name}({places})", list(arguments)
            ).fetchall()
            connection.execute("reset role")
            return answer

        claims = {"sub": str(People.alice), "role": "authenticated"}
        connection.execute(
            "select set_config('request.jwt.claims', %s, false)", [json.dumps(claims)]
        )
        admin = "authenticated"
        assert call(admin, "admin_workspace_ids")
        [new] = call(admin, "issue_key", a, "secret", "new")
        assert call(admin, "issue_keys", a, ["one"])[0].keys
        [successor] = call(admin, "rotate_key", new.id)
        assert call(admin, "suspend_key", successor.id)[0].status == "suspended"
        assert call(admin, "unsuspend_key", successor.id)[0].status == "active"
        assert call(admin, "list_keys", a)
        assert call(admin, "explain_key", keys["revoked"])[0].verdict == "revoked"
        assert call("keylatch_resolver", "explain_key", keys["revoked"])[0].verdict == "revoked"
        assert call(admin, "installation")[0].id
        assert call(admin, "list_events", a)
        assert call(admin, "verify_events")[0].is_intact
        assert call("service_role", "seal_events")[0].is_done
        assert call("service_role", "verify_events")[0].is_intact
        assert call(admin, "revoke_key", successor.id)[0].already_revoked is False
        assert call("service_role", "hash_key", "x")
        for runtime in ("keylatch_resolver", "service_role"):
            assert call(runtime, "resolve_key", keys["active"])
            for label in ("revoked", "expired"):
                assert not call(runtime, "resolve_key", keys[label])
        assert call("keylatch_resolver", "resolve_session", story.session)
        assert call("keylatch_resolver", "resolve_keys", [keys["active"]])[0].key_id
        assert call("keylatch_resolver", "record_usage", json.dumps(report))
        assert call("keylatch_resolver", "replay_position")[0].timeline
        with pytest.raises(psycopg.Error, match="There is no synchronous standby"):
            call("keylatch_resolver", "wait_for_replicas")
        connection.execute("select set_config('request.jwt.claims', '', false)")
        connection.execute("select set_config('request.headers', %s, false)", [json.dumps(header)])
        assert call("anon", "current_workspace_id")[0][0] == a
        assert call("anon", "current_key_id")[0][0] == ids["page"]
        assert call("anon", "has_scope", "x")[0][0] is False
        assert call("anon", "key_metadata")[0][0] == {}
        assert call("anon", "check_request")[0][0]
        assert call("anon", "current_session_id")[0][0] is None
        [session] = call("anon", "open_session", keys["page"])
        connection.execute("select set_config('request.headers', '', false)")
        assert call("keylatch_resolver", "attach_subject", session.token, "visitor")[0].subject
        assert call("keylatch_resolver", "resolve_session", session.token)
        assert call("keylatch_resolver", "close_session", session.token)
        assert call("service_role", "end_sessions", ids["page"])
        assert call("service_role", "prune_sessions")
        assert call("service_role", "import_keys", LEGACY)[0].existing == 2
        assert call("keylatch_resolver", "upgrade_key", _OLD_KEYS[0], a)
        call("service_role", "declare_scheme", "old", json.dumps({"after": "|", "digest": "md5"}))
        ending = datetime.now(UTC) + timedelta(days=1)
        assert call("service_role", "end_scheme", "old", ending)[0].is_done
        named = "select source, import_id from keylatch.imported_keys limit 1"
        assert call("service_role", "finish_import", *connection.execute(named).fetchall()[0])
        waiting = "select id from keylatch.legacy_keys where label = %s"
        legacy = connection.execute(waiting, [_OLD_KEYS[1]]).fetchone()
        assert legacy
        assert call("service_role", "revoke_legacy_key", legacy.id)
        connection.execute(
            "select set_config('request.jwt.claims', %s, false)", [json.dumps(claims)]
        )
        assert call(admin, "retire_workspace", a)[0].is_done
        every = connection.execute(
            "select proname from pg_proc where pronamespace = 'keylatch'::regnamespace"
        ).fetchall()
    assert called == {row[0] for row in every}
