"""resolve_key writes nothing and locks no row, so it works on a standby."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from core.racing import Connection
from stack import HANG_SECONDS, Database, Janitor, People, Rest, Server, Tokens, until
from stack.postgrest import PostgREST
from stack.standby import Standby

RESOLVE = "select key_id from keylatch.resolve_key(%s, %s)"
ORIGIN = "https://client.example"
TRIES = 4  # the server itself sometimes writes in the background


class Keys:
    """A key in every state, by name, and the expected result of resolving the key."""

    def __init__(self, database: Database, people: People) -> None:
        self.texts: dict[str, tuple[str, str | None]] = {}
        self.ids: dict[str, Any] = {}
        with database.connect("authenticated", people.claims("alice")) as alice:
            for name in ("publishable", "secret", "revoked", "suspended", "superseded"):
                kind = "publishable" if name == "publishable" else "secret"
                row = alice.execute(
                    "select id, key from keylatch.issue_key(%s, %s, allowed_origins => %s)",
                    [people.a, kind, [ORIGIN] if kind == "publishable" else []],
                ).fetchone()
                assert row is not None
                self.ids[name] = row[0]
                self.texts[name] = (row[1], ORIGIN if kind == "publishable" else None)
            alice.execute("select keylatch.revoke_key(%s)", [self.ids["revoked"]])
            alice.execute("select keylatch.suspend_key(%s)", [self.ids["suspended"]])
            alice.execute("select keylatch.rotate_key(%s, '1 day')", [self.ids["superseded"]])
        self.texts["unknown"] = ("wk_sk_live_" + "1" * 36, None)
        self.texts["foreign"] = (self.texts["publishable"][0], "https://evil.example")

    def check(self, runtime: Connection) -> None:
        """Resolve each key once, and compare the results."""
        for name, (text, origin) in self.texts.items():
            found = runtime.execute(RESOLVE, [text, origin]).fetchall()
            lives = name in ("publishable", "secret", "superseded")
            assert found == ([(self.ids[name],)] if lives else []), name


@pytest.fixture
def keys(database: Database, people: People) -> Keys:
    return Keys(database, people)


def value(connection: Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return row[0]


def test_resolving_takes_no_transaction_id_no_row_lock_and_no_lock_but_a_readers(
    database: Database, keys: Keys
) -> None:
    """Threat: a read leaves a write or a row lock."""
    with psycopg.connect(database.superuser_url, autocommit=True) as watcher:
        xmax = "select array_agg(xmax::text order by id) from keylatch_internal.keys"
        before = value(watcher, xmax)
        runtime = database.connect("keylatch_resolver", autocommit=False)
        keys.check(runtime)
        assert value(runtime, "select pg_current_xact_id_if_assigned()") is None
        assert value(watcher, xmax) == before
        locks = watcher.execute(
            "select distinct locktype, mode from pg_locks where pid = %s",
            [runtime.info.backend_pid],
        ).fetchall()
        assert set(locks) == {("relation", "AccessShareLock"), ("virtualxid", "ExclusiveLock")}
        # A session that locks the same rows does not wait for the open transaction that resolved.
        with watcher.transaction(force_rollback=True):
            watcher.execute("select 1 from keylatch_internal.keys for update nowait")
        # Check the measure itself: it sees a row lock.
        assert value(watcher, xmax) != before


def test_a_thousand_resolves_write_nothing_to_the_log(database: Database, keys: Keys) -> None:
    """Threat: a read leaves a WAL record."""
    runtime = database.connect("keylatch_resolver")
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute("vacuum (freeze, analyze)")
        superuser.execute("checkpoint")
        keys.check(runtime)

        def written() -> int:
            position = "select pg_current_wal_insert_lsn()"
            start = value(superuser, position)
            for _ in range(125):
                keys.check(runtime)  # eight each
            return int(value(superuser, f"select ({position}) - %s::pg_lsn", start))

        amounts: list[int] = []
        while 0 not in amounts and len(amounts) < TRIES:
            amounts.append(written())
        assert 0 in amounts, f"bytes of log: {amounts}"
        # Check the measure itself: it sees a write.
        before = value(superuser, "select pg_current_wal_insert_lsn()")
        superuser.execute("update keylatch_internal.keys set label = 'x'")
        assert value(superuser, "select pg_current_wal_insert_lsn() > %s::pg_lsn", before)


def test_the_plan_of_a_resolve_counts_no_log_record(database: Database, keys: Keys) -> None:
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute("vacuum (freeze, analyze)")
        # The first read of a catalog page may prune the page, which writes WAL.
        for _ in range(2):
            keys.check(superuser)
        for name, (text, origin) in keys.texts.items():
            plan = value(
                superuser,
                "explain (analyze, wal, buffers, format json) "
                "select * from keylatch.resolve_key(%s, %s)",
                text,
                origin,
            )[0]["Plan"]
            assert (plan["WAL Records"], plan["WAL Bytes"]) == (0, 0), name
            assert plan["Shared Dirtied Blocks"] == 0, name


def test_resolving_works_in_a_read_only_transaction(database: Database, keys: Keys) -> None:
    runtime = database.connect("keylatch_resolver")
    runtime.execute("set default_transaction_read_only = on")
    keys.check(runtime)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        runtime.execute("create temporary table t ()")


def resolve_by(method: str, url: str, token: str, text: str, origin: str | None) -> httpx.Response:
    given = {"key": text} | ({} if origin is None else {"origin": origin})
    query = "&".join(f"{name}={quote(part)}" for name, part in given.items())
    return httpx.request(
        method,
        f"{url}/rpc/resolve_key" + (f"?{query}" if method == "GET" else ""),
        headers={
            "Authorization": f"Bearer {token}",
            "Accept-Profile": "keylatch",
            "Content-Profile": "keylatch",
            "Content-Type": "application/json",
        },
        content=json.dumps(given) if method == "POST" else None,
        timeout=HANG_SECONDS,
    )


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_resolving_works_over_http_by_get_which_is_read_only_and_by_post(
    keys: Keys, rest: Rest, tokens: Tokens, method: str
) -> None:
    for role in ("service_role", "keylatch_resolver"):
        for name, (text, origin) in keys.texts.items():
            answer = resolve_by(method, rest.rest_url, tokens.token(role=role), text, origin)
            assert answer.status_code == 200, answer.text
            lives = name in ("publishable", "secret", "superseded")
            found = [row["key_id"] for row in answer.json()]
            assert found == ([str(keys.ids[name])] if lives else []), name


class Replicated:
    """A database with people and keys, and a standby of its server."""

    def __init__(self, primary: Database, standby: Standby, people: People) -> None:
        self.primary = primary
        self.standby = standby
        self.people = people
        self.keys = Keys(primary, people)

    def on_standby(self, role: str, claims: dict[str, str] | None = None) -> Connection:
        connection = psycopg.connect(
            self.standby.url("replicated", "authenticator"), autocommit=True
        )
        connection.execute(f"set role {role}".encode())
        connection.execute(
            "select set_config('request.jwt.claims', %s, false)",
            [json.dumps(claims or {"role": role})],
        )
        return connection


@pytest.fixture(scope="module")
def replicated(
    local_server: Server, template: str, janitor: Janitor, tokens: Tokens
) -> Iterator[Replicated]:
    people = People(tokens)
    with Database(local_server, "replicated", template) as primary:
        people.seed(primary.url)
        with Standby(local_server, janitor=janitor) as standby:
            yield Replicated(primary, standby, people)


def test_a_standby_resolves_in_sql_and_makes_no_key(replicated: Replicated) -> None:
    replicated.standby.catch_up()
    with replicated.on_standby("keylatch_resolver") as runtime:
        replicated.keys.check(runtime)
        assert value(runtime, "select pg_is_in_recovery()") is True
    alice = replicated.people.claims("alice")
    with (
        replicated.on_standby("authenticated", alice) as admin,
        pytest.raises(psycopg.Error) as refused,
    ):
        admin.execute("select keylatch.issue_key(%s)", [replicated.people.a])
    assert refused.value.sqlstate == "25006"


def test_a_standby_resolves_over_http_and_hears_of_a_revocation(
    replicated: Replicated, tokens: Tokens, janitor: Janitor
) -> None:
    alice = replicated.people.claims("alice")
    with replicated.primary.connect("authenticated", alice) as admin:
        row = admin.execute(
            "select id, key from keylatch.issue_key(%s, 'secret')", [replicated.people.a]
        ).fetchone()
        assert row is not None
        replicated.standby.catch_up()
        token = tokens.token(role="keylatch_resolver")
        with PostgREST(
            replicated.standby.url("replicated", "authenticator"),
            tokens.secret,
            janitor=janitor,
            settings={"DB_CHANNEL_ENABLED": "false"},
        ) as api:
            for method in ("GET", "POST"):
                answer = resolve_by(method, api.url, token, row[1], None)
                assert (answer.status_code, len(answer.json())) == (200, 1), answer.text
            admin.execute("select keylatch.revoke_key(%s, 'leaked')", [row[0]])
            replicated.standby.catch_up()
            for method in ("GET", "POST"):
                answer = resolve_by(method, api.url, token, row[1], None)
                assert (answer.status_code, answer.json()) == (200, []), answer.text


def installation(connection: Connection) -> dict[str, Any]:
    row = connection.execute("select to_jsonb(i) from keylatch.installation() i").fetchone()
    assert row is not None
    found: dict[str, Any] = row[0]
    return found


def test_a_standby_says_that_it_is_one_and_of_which_installation(replicated: Replicated) -> None:
    replicated.standby.catch_up()
    with (
        replicated.primary.connect("keylatch_resolver") as there,
        replicated.on_standby("keylatch_resolver") as here,
    ):
        first, second = installation(there), installation(here)
    different = {name for name in first if first[name] != second[name]}
    assert different <= {"is_replica", "replica_lag_seconds"}
    assert first["id"] is not None and len(first["system_identifier"]) > 10
    assert (first["is_replica"], first["replica_lag_seconds"]) == (False, 0)
    assert second["is_replica"] is True


def test_a_standby_that_falls_behind_says_how_far_and_says_so_when_it_is_back(
    replicated: Replicated,
) -> None:
    replicated.standby.catch_up()
    control = psycopg.connect(replicated.standby.url("postgres", "supabase_admin"), autocommit=True)
    with control, replicated.on_standby("keylatch_resolver") as runtime:
        control.execute("select pg_wal_replay_pause()")
        try:
            with psycopg.connect(replicated.primary.url) as owner:
                owner.execute("create table public.written as select generate_series(1, 10)")
            lags: list[float] = []

            def falls_behind() -> bool:
                lag = installation(runtime)["replica_lag_seconds"]
                lags.extend([lag] if lag else [])
                return len(set(lags)) > 5

            until(falls_behind, "it does not see that it falls behind")
            assert lags == sorted(lags), "it grows"
            replicated.keys.check(runtime)
        finally:
            control.execute("select pg_wal_replay_resume()")
        replicated.standby.catch_up()
        # The primary sometimes writes WAL on its own, so the standby soon catches up.
        until(
            lambda: installation(runtime)["replica_lag_seconds"] == 0,
            "it does not see that it is back",
        )
