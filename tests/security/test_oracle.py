"""No answer of any kind tells an outsider that somebody else's key exists."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from security.shared import NOWHERE, Target, answer, open_system, outcome
from security.system import ORIGIN, System
from stack import Cluster, Janitor, Tokens

pytestmark = pytest.mark.one_server

ELSEWHERE = "00000000-0000-4000-8000-000000000001"
WHO = ("bob", "mia", "stranger")
UNKNOWN = {"masked_key": "wk_sk_live_...zzzz", "label": "unheard-of"}
# Filters after `keys?`, with the values that an attacker may know of a key.
FILTERS = (
    "id=eq.{id}", "id=in.({id})", "id=neq.{id}", "id=is.null", "or=(id.eq.{id},id.eq.{nowhere})",
    "not.and=(id.eq.{id},label.eq.x)", "public_key=eq.{key}", "public_key=gte.{key}",
    "masked_key=eq.{masked_key}", "masked_key=like.{masked_key}*", "label=eq.{label}",
    "label=ilike.*{label}*",
    "label=match.{label}", "label=fts.{label}", "rotated_from=eq.{id}", "workspace_id=eq.{a}",
    "workspace_id=eq.{a}&order=created_at.desc", "id=eq.{id}&order=status,id.desc.nullsfirst",
    "id=eq.{id}&limit=1&offset=1", "id=eq.{id}&select=id::text,metadata->a",
    "id=eq.{id}&select=*,keys(*)", "id=eq.{id}&select=*,workspaces(*)",
    "id=eq.{id}&select=key_hash", "id=eq.{id}&select=label::uuid", "created_by=eq.{alice}",
    "status=eq.revoked&id=eq.{id}", "metadata->>a=eq.{id}", "scopes=cs.{{orders:read}}",
)  # fmt: skip
READING: tuple[dict[str, str], ...] = (
    {"Prefer": "count=exact"},
    {"Prefer": "count=estimated"},
    {"Accept": "application/vnd.pgrst.object+json"},
    {"Accept": "text/csv", "Range": "0-0", "Prefer": "count=exact"},
)
STATEMENTS = (
    "select * from keylatch.keys where id = '{id}'",
    "select count(*) from keylatch_internal.keys where id = '{id}'",
    "select id from keylatch_internal.keys where id = '{id}' for update nowait",
    "select id from keylatch.keys where id = '{id}' for share skip locked",
    "select id from keylatch.keys where public_key = '{key}' or masked_key = '{masked_key}'",
    "select 1 / (count(*)) from keylatch.keys where label = '{label}'",
    "update keylatch.keys set label = 'mine' where id = '{id}' returning *",
    "update keylatch.keys set revoked_at = now() where id = '{id}'",
    "update keylatch_internal.keys set workspace_id = '{b}' where id = '{id}'",
    "update keylatch_internal.keys set id = '{id}' where id = '{id}'",
    "update keylatch_internal.keys set rotated_from = '{id}', label = repeat('x', 300)",
    "insert into keylatch.keys (workspace_id, rotated_from) values ('{b}', '{id}')",
    "insert into keylatch.keys (workspace_id, rotated_from) values ('{a}', '{id}')",
    "insert into keylatch.keys (workspace_id, id) values ('{b}', '{id}')",
    "insert into keylatch.keys (workspace_id, public_key) values ('{b}', '{key}')",
    "insert into keylatch_internal.keys (workspace_id, rotated_from) values ('{b}', '{id}')"
    " on conflict do nothing",
    "insert into keylatch_internal.keys (workspace_id, rotated_from) values ('{b}', '{id}')"
    " on conflict (rotated_from) do update set label = 'mine' returning id",
    "merge into keylatch_internal.keys k using (select '{id}'::uuid as i) v on k.id = v.i"
    " when matched then update set label = 'mine'",
    "select keylatch.rotate_key('{id}')",
    "select keylatch.rotate_key('{id}', '400 days')",
    "select keylatch.rotate_key('{id}', '1 hour', 'infinity')",
    "select keylatch.revoke_key('{id}', repeat('x', 600), true)",
    "select keylatch.suspend_key('{id}')",
    "select keylatch.unsuspend_key('{id}')",
    "select keylatch_internal.set_suspended('{id}', false)",
    "select keylatch_internal.insert_key('{b}', 'secret', '', '{{}}', '{{}}', 'live', null, '{{}}',"
    " 'wk', '{id}')",
    "select verdict, detail, hint, key_id, expires_at from keylatch.explain_key('{key}')",
    "select keylatch.explain_key('{key}', '{origin}')",
    "select * from keylatch.resolve_key('{key}')",
    "create temporary table fk (id uuid references keylatch_internal.keys (id))",
    "create temporary table copied as select * from keylatch.keys where id = '{id}';"
    " drop table copied",
)


@pytest.fixture(scope="module")
def shared(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[System]:
    with open_system(server, template, tokens, janitor, "oracle") as system:
        yield system


def targets(system: System) -> list[Target]:
    """Return the keys of workspace A, and at the end a key that does not exist."""
    with system.database.connect() as owner:
        masked = dict(owner.execute("select id, masked_key from keylatch.keys").fetchall())
        row = owner.execute("select keylatch_internal.complete_key('wk_sk_live_')")
        unknown = row.fetchone()[0]  # type: ignore[index]
    known = [
        Target(str(made.id), made.key, masked[made.id], label)
        for label, made in system.keys.items()
    ]
    return [*known, Target(NOWHERE, unknown, **UNKNOWN)]


def filled(system: System, text: str, target: Target) -> str:
    """Fill a path or statement with the values of a key."""
    people = system.people
    return text.format(
        id=target.id, key=target.key, masked_key=target.masked_key, label=target.label,
        nowhere=ELSEWHERE,
        a=people.a, b=people.b, alice=people.alice, origin=ORIGIN,
    )  # fmt: skip


def all_alike(targets: list[Target], ask: Callable[[Target], Any]) -> None:
    """Fail if an existing key gets another answer than the last key, which does not exist."""
    unknown = ask(targets[-1])
    for target in targets[:-1]:
        assert ask(target) == unknown, target.label


@pytest.mark.parametrize("who", WHO)
def test_no_filter_order_or_count_tells_that_a_key_exists(shared: System, who: str) -> None:
    """Threat: error texts or list_keys tell bob that A's key exists: reading over HTTP."""
    every = targets(shared)
    # Other labels are words of each answer, such as `active`. The last target does not exist.
    some = [one for one in every if one.label in ("widget", "expired", "successor")] + every[-1:]
    assert len(some) == 4

    def ask(target: Target, path: str, headers: dict[str, str]) -> tuple[Any, ...]:
        path = f"keys?{filled(shared, path, target)}"
        return answer(shared.request(who, "GET", path, headers=headers), target)

    with shared.nothing_changes():
        for path in FILTERS:
            all_alike(some, partial(ask, path=path, headers=READING[0]))
        for headers in READING[1:]:
            for path in FILTERS[:5]:
                all_alike(some, partial(ask, path=path, headers=headers))
        all_alike(every, lambda t: answer(shared.request(who, "HEAD", f"keys?id=eq.{t.id}"), t))


def test_no_estimate_tells_what_other_tenants_have(system: System) -> None:
    """Threat: bob reads A's keys and events: the planner's statistics know the rows of all."""
    people = system.people
    with system.database.connect() as owner:
        issue = "select keylatch.issue_keys(%s, array(select %s from generate_series(1, %s)))"
        owner.execute(issue, [people.a, "Project Nightingale", 300])
        owner.execute(issue, [ELSEWHERE, "x", 900])  # the most frequent workspace
        owner.execute(
            "update keylatch.keys set revoked_at = now(), revoke_reason = 'Contoso'"
            " where label like 'Project%%'"
        )
        owner.execute("analyze")
    absent = {"label": "Project Nightingalf", "workspace_id": NOWHERE, "role": "nobody"}
    for table, column, value in (
        ("keys", "label", "Project Nightingale"),
        ("keys", "revoke_reason", "Contoso"),
        ("keys", "workspace_id", str(people.a)),
        ("key_events", "workspace_id", str(people.a)),
        ("key_events", "reason", "Contoso"),
        ("key_events", "role", "postgres"),
    ):
        for operator in ("eq", "gte", "lt"):
            if column == "workspace_id" and operator != "eq":
                continue  # the least and the greatest id of a workspace are no secret
            counts = {
                system.request(
                    "stranger",
                    "GET",
                    f"{table}?{column}={operator}.{one}",
                    headers={"Prefer": "count=planned"},
                ).headers["content-range"]
                for one in (value, absent.get(column, value + "f"))
            }
            assert len(counts) == 1, (table, column, operator, counts)


@pytest.mark.parametrize("who", WHO)
def test_no_write_over_http_tells_that_a_key_exists(shared: System, who: str) -> None:
    """Threat: the same by PATCH, PUT, DELETE, upserts on every unique column, and rotated_from."""
    b = str(shared.people.b if who == "bob" else shared.people.a)

    def ask(target: Target) -> list[tuple[Any, ...]]:
        own = f"keys?id=eq.{target.id}"
        merge = {"Prefer": "resolution=merge-duplicates,return=representation"}
        ignore = {"Prefer": "resolution=ignore-duplicates,return=representation"}
        whole = {"Prefer": "return=representation,count=exact"}
        asked = [
            ("PATCH", own, {"label": "x"}, whole),
            ("PATCH", own, {"workspace_id": b}, whole),
            ("PATCH", own, {"id": NOWHERE}, whole),
            ("PATCH", f"{own}&order=id&limit=1", {"revoked_at": "now"}, whole),
            ("PATCH", own, {"revoked_at": None, "scopes": ["a b"]}, whole),
            ("PUT", own, {"id": target.id, "workspace_id": b}, whole),
            ("DELETE", own, None, whole),
            ("POST", "keys", {"workspace_id": b, "rotated_from": target.id}, merge),
            ("POST", "keys?on_conflict=rotated_from",
             {"workspace_id": b, "rotated_from": target.id, "label": "x"}, merge),
            ("POST", "keys?on_conflict=id", {"workspace_id": b, "id": target.id}, merge),
            ("POST", "keys?on_conflict=id", {"workspace_id": b, "id": target.id}, ignore),
            ("POST", "keys", {"workspace_id": b, "public_key": target.key}, ignore),
            ("POST", "keys?columns=workspace_id,rotated_from",
             [{"workspace_id": b, "rotated_from": target.id}] * 2, ignore),
            ("POST", "rpc/rotate_key", {"key_id": target.id, "grace": "400 days"}, whole),
            ("POST", "rpc/rotate_key", {"key_id": target.id, "expires_at": "infinity"}, whole),
            ("POST", "rpc/revoke_key", {"key_id": target.id, "reason": "x" * 600}, whole),
            ("POST", "rpc/revoke_key?select=revoked_at", {"key_id": target.id}, whole),
            ("POST", "rpc/unsuspend_key", {"key_id": target.id}, whole),
            ("POST", "rpc/explain_key", {"key": target.key}, whole),
            ("POST", "rpc/explain_key", {"key": target.key, "origin": ORIGIN}, whole),
        ]  # fmt: skip
        return [
            answer(shared.request(who, method, path, json=body, headers=headers), target)
            for method, path, body, headers in asked
        ]

    with shared.nothing_changes():
        all_alike(targets(shared), ask)


@pytest.mark.parametrize("who", [*WHO, "anon", "keylatch_resolver"])
def test_no_statement_tells_that_a_key_exists(shared: System, who: str) -> None:
    """Threat: the same in SQL, by rows, row counts, messages, details, hints and contexts."""
    every = targets(shared)
    with shared.nothing_changes(), shared.connect(who) as outsider:

        def ask(target: Target, statement: str) -> tuple[str | None, ...]:
            return outcome(outsider, filled(shared, statement, target), target)

        for statement in STATEMENTS:
            if who == "keylatch_resolver" and (
                "resolve_key" in statement or "explain" in statement
            ):
                continue  # the resolver may resolve and explain keys
            all_alike(every, partial(ask, statement=statement))


def test_an_explanation_takes_the_same_steps_for_a_foreign_and_an_unknown_key(
    shared: System,
) -> None:
    """Threat: timing classes: the functions that run, and how often, are the same."""
    claims = f'{{"sub": "{shared.people.bob}"}}'

    def taken(target: Target) -> dict[str, int]:
        with psycopg.connect(shared.database.superuser_url, autocommit=True) as root:
            root.execute("set track_functions = 'all'")
            root.execute("set role authenticated")
            root.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            root.execute("select keylatch.explain_key(%s)", [target.key])
            counted = root.execute("select funcname, calls from pg_stat_xact_user_functions")
            return dict(counted.fetchall())

    secrets = [target for target in targets(shared) if "_sk_" in target.key]
    assert {"explain_key", "find_key", "key_form"} < set(taken(secrets[-1]))
    all_alike(secrets, taken)


@pytest.mark.parametrize("cast", ["uuid", "integer", "timestamptz", "json"])
def test_a_cast_that_fails_shows_rows_of_the_caller_alone(shared: System, cast: str) -> None:
    """Threat: an error that a caller provokes over HTTP quotes a row that they do not see."""
    shown = shared.request("bob", "GET", f"keys?select=label::{cast}").text
    assert "of bob" in shown or "Token" in shown
    for label in shared.keys:
        assert not re.search(rf"\b{label}\b", shown)
