"""Row policies that use the request's key: reads and writes through the API, by the recipe."""

import re

import httpx
import psycopg
import pytest

from modules.identity.shop import Shop
from security.system import ORIGIN, System, sqlstate
from stack import Janitor, Rest

REFUSED = "401 invalid_api_key"
TWO = "400 invalid_argument"
DENIED = "401 42501"
EVERYBODY = ("anon", "stranger", "mia", "bob", "alice", "service_role", "keylatch_resolver")


def test_a_key_reads_the_rows_of_its_workspace_as_far_as_its_scopes_go(shop: Shop) -> None:
    keys = shop.system.keys
    assert shop.items(shop.reader) == ["apples", "pears"]
    assert shop.items(shop.of_b) == ["of bob"]
    assert shop.items(shop.blind) == []
    assert shop.items(shop.page, origin=ORIGIN) == ["apples", "pears"]
    assert shop.items(keys["widget"].key, origin=ORIGIN) == []
    assert shop.items(keys["superseded"].key) == shop.items(keys["successor"].key) != []


def test_without_a_key_nobody_sees_a_row(shop: Shop) -> None:
    assert shop.items() == []
    assert shop.items(origin=ORIGIN) == []


@pytest.mark.parametrize("name", ["revoked", "suspended", "expired"])
def test_an_inactive_key_is_refused_and_does_not_become_an_anonymous_request(
    shop: Shop, name: str
) -> None:
    assert shop.items(shop.system.keys[name].key) == REFUSED


@pytest.mark.parametrize("key", ["", "null", "wk_sk_live_", "é" * 20, "x" * 20_000, "' or 1"])
def test_a_text_that_is_not_a_key_is_refused_and_not_a_failure(shop: Shop, key: str) -> None:
    assert shop.items(key) == REFUSED


@pytest.mark.parametrize("origin", [ORIGIN, "", "null", "https://evil.example"])
def test_a_secret_key_that_a_page_sends_is_refused(shop: Shop, origin: str) -> None:
    assert shop.items(shop.reader, origin=origin) == REFUSED


@pytest.mark.parametrize(
    "origin", [None, "", "null", "https://evil.example", f"{ORIGIN}, {ORIGIN}"]
)
def test_a_publishable_key_is_refused_from_elsewhere(shop: Shop, origin: str | None) -> None:
    assert shop.items(shop.page, origin=origin) == REFUSED


def test_the_last_of_two_headers_counts_and_two_joined_headers_are_no_key(shop: Shop) -> None:
    url, anon = f"{shop.system.rest.url}/rest/v1/orders?select=item", shop.system.rest.anon_key
    dead = shop.system.keys["revoked"].key

    def answer(*keys: str) -> int:
        sent = [("apikey", anon), *(("x-api-key", key) for key in keys)]
        return httpx.get(url, headers=sent).status_code

    # PostgREST keeps only the last header, so the database sees only the last key.
    assert answer(shop.reader, dead) == 401
    assert answer(dead, shop.reader) == 200
    # A gateway may join two headers.
    assert answer(f"{shop.reader}, {shop.reader}") == 401
    assert answer(f"{shop.reader},{dead}") == 401


def test_two_origin_headers_match_no_key(shop: Shop) -> None:
    headers = [("x-api-key", shop.page), ("Origin", ORIGIN), ("Origin", "https://evil.example")]
    url = f"{shop.system.rest.rest_url}/orders?select=item"
    assert httpx.get(url, headers=headers).status_code == 401


def test_a_key_writes_what_its_scopes_and_its_workspace_allow(shop: Shop) -> None:
    def write(key: str, method: str = "POST", path: str = "orders", **row: object) -> str | int:
        response = shop.send(key, method=method, path=path, json=row)
        answer = response.json() if response.content else {}
        return response.status_code if response.is_success else f"401 {answer['code']}"

    b = str(shop.system.people.b)
    assert write(shop.reader, item="plums") == DENIED
    assert write(shop.writer, item="plums", workspace_id=b) == DENIED
    assert write(shop.writer, item="plums", created_by_key=str(shop.page_id)) == DENIED
    assert shop.send(method="POST", path="orders", json={"item": "plums"}).status_code == 401
    revoked = shop.system.keys["revoked"].key
    assert write(revoked, item="plums") == "401 PT401"
    assert shop.items(shop.writer) == ["apples", "pears"]

    assert write(shop.writer, item="plums") == 201
    assert write(shop.blind, item="figs") == 201
    assert shop.items(shop.reader) == ["apples", "figs", "pears", "plums"]
    assert shop.items(shop.of_b) == ["of bob"]

    plums, bobs = "orders?item=eq.plums", "orders?item=eq.of bob"
    assert write(shop.writer, "PATCH", plums, workspace_id=b) == DENIED
    for key, path in ((shop.reader, plums), (shop.blind, plums), (shop.of_b, plums)):
        assert shop.send(key, method="PATCH", path=path, json={"item": "taken"}).is_success
        assert shop.send(key, method="DELETE", path=path).is_success
    assert shop.send(shop.writer, method="DELETE", path=bobs).is_success
    assert shop.items(shop.reader) == ["apples", "figs", "pears", "plums"]
    assert shop.items(shop.of_b) == ["of bob"]

    assert write(shop.writer, "PATCH", plums, item="grapes") == 204
    for item in ("grapes", "figs"):
        path = f"orders?item=eq.{item}"
        assert shop.send(shop.writer, method="DELETE", path=path).status_code == 204
    assert shop.items(shop.reader) == ["apples", "pears"]


def test_a_key_gets_no_right_that_no_policy_stops(shop: Shop) -> None:
    with shop.system.database.connect("anon") as key:
        assert sqlstate(key, "truncate public.orders") == "42501"


def test_a_user_without_a_key_is_the_user_and_a_user_with_a_key_is_nobody(shop: Shop) -> None:
    dead = shop.system.keys["revoked"].key
    assert shop.items(who="alice") == ["apples", "pears"]
    for who in ("alice", "bob", "mia", "stranger"):
        for key in (shop.reader, shop.of_b, dead, "mistyped"):
            # The request sees neither the user's rows nor the key's.
            assert shop.items(key, who=who) == TWO
    # The anon key is a token too, but names no user.
    anon = {"Authorization": f"Bearer {shop.system.rest.anon_key}"}
    assert shop.items(shop.reader, headers=anon) == ["apples", "pears"]
    # A backend may pass on its caller's key. No row policy applies to the backend.
    assert shop.items(dead, who="service_role") == ["apples", "of bob", "pears"]


@pytest.mark.parametrize("who", ["anon", "service_role"])
def test_the_holder_of_the_key_can_call_the_functions(shop: Shop, who: str) -> None:
    def ask(function: str, sent: str | None, **arguments: str) -> object:
        return shop.send(
            sent,
            method="POST",
            path=f"rpc/{function}",
            json=arguments,
            who=who,
            headers={"Content-Profile": "keylatch"},
        ).json()

    assert ask("current_workspace_id", shop.reader) == str(shop.system.people.a)
    assert ask("has_scope", shop.reader, scope="orders:read") is True
    assert ask("has_scope", shop.reader, scope="orders:write") is False
    assert ask("key_metadata", shop.reader) == {}
    assert ask("check_request", shop.reader) is True
    assert ask("current_key_id", None) is None
    # Only the header can name a key.
    assert "schema cache" in str(ask("request_identity", shop.reader))
    for function in ("resolve_key", "explain_key", "hash_key"):
        answer = ask(function, None, key=shop.reader)
        assert who == "service_role" or "42501" in str(answer)


def test_each_function_of_a_policy_runs_once_a_statement(shop: Shop) -> None:
    with shop.system.database.connect(superuser=True) as root:
        root.autocommit = False
        root.execute("set local track_functions = 'all'")
        root.execute(
            "insert into public.orders (workspace_id, item, created_by_key)"
            " select %s, n, null from generate_series(1, 20000) as n",
            [shop.system.people.a],
        )
        root.execute("set local role anon")
        root.execute(
            "select set_config('request.headers', json_build_object('x-api-key', %s::text)::text,"
            " true)",
            [shop.reader],
        )
        counted = "select count(*) from public.orders"
        plan = "\n".join(row[0] for row in root.execute(f"explain (costs off) {counted}"))
        assert root.execute(counted).fetchone() == (20_002,)
        calls = dict(
            root.execute(
                "select funcname, calls from pg_stat_xact_user_functions"
                " where schemaname like 'keylatch%'"
            ).fetchall()
        )
        root.rollback()
    # `^` skips the conditions, which also name the InitPlans from PostgreSQL 17 on.
    assert len(re.findall(r"^ +InitPlan", plan, re.MULTILINE)) == 3
    assert calls == {
        "current_workspace_id": 1,
        "has_scope": 1,
        "check_request": 1,
        "request_identity": 3,
        "other_identity": 3,
        "require_one_identity": 3,
        "resolve_key": 3,
    }


def test_a_key_in_the_url_or_under_another_name_is_not_a_key(shop: Shop) -> None:
    assert shop.items(headers={"api-key": shop.reader}) == []
    assert shop.items(headers={"X-API-KEY": shop.reader}) == ["apples", "pears"]
    assert shop.items(headers={"Authorization": f"Bearer {shop.reader}"}) != ["apples", "pears"]


def test_a_session_of_psycopg_without_headers_is_nobody(shop: Shop) -> None:
    for role in ("anon", "authenticated", "service_role"):
        with shop.system.database.connect(role) as session:
            row = session.execute(
                "select keylatch.current_workspace_id(), keylatch.current_key_id(),"
                " keylatch.has_scope('orders:read'), keylatch.key_metadata(),"
                " keylatch.check_request()"
            ).fetchone()
            assert row == (None, None, False, None, True)


PRE_REQUESTS = {
    "alone": "keylatch.check_request",
    "in another": "public.before_each_request",
}


@pytest.mark.parametrize("setting", PRE_REQUESTS.values(), ids=PRE_REQUESTS)
def test_as_pre_request_it_refuses_a_bad_key_before_anything_else(
    shop: Shop, janitor: Janitor, setting: str
) -> None:
    system = shop.system
    with system.database.connect() as owner:
        owner.execute(
            """
            create or replace function public.before_each_request() returns void
            language plpgsql set search_path = ''
            as $$ begin perform keylatch.check_request(); end $$
            """
        )
        owner.execute("create table if not exists public.empty (like public.orders)")
        owner.execute("alter table public.empty enable row level security")
        owner.execute("drop policy if exists asks on public.empty")
        owner.execute(
            "create policy asks on public.empty using ((select keylatch.check_request()))"
        )
        owner.execute("notify pgrst, 'reload schema'")
    dead = system.keys["revoked"].key
    # No policy of `news` asks for a key, and `empty` has no row for which its policy would ask.
    assert shop.send(dead, path="news").status_code == 200
    with system.connect("anon") as anon:
        anon.execute(
            "select set_config('request.headers', json_build_object('x-api-key', %s::text)::text,"
            " false)",
            [dead],
        )
        assert anon.execute("select * from public.empty").fetchall() == []
    with Rest(
        system.database,
        system.rest.tokens,
        janitor=janitor,
        settings={"DB_PRE_REQUEST": setting},
    ) as rest:
        guarded = Shop(
            System(system.database, rest, system.people, system.keys),
            *(shop.reader, shop.writer, shop.blind, shop.of_b, shop.page, shop.page_id),
        )
        for path in ("news", "empty", "", "rpc/before_each_request"):
            assert guarded.send(dead, path=path).json()["message"] == "invalid_api_key"
            assert guarded.send(shop.reader, path=path).status_code in (200, 204)
            assert guarded.send(shop.reader, path=path, origin=ORIGIN).status_code == 401
        for who in EVERYBODY:
            assert guarded.send(path="", who=who).status_code == 200, who
        assert guarded.items(dead, who="service_role") == REFUSED
        assert guarded.items(dead, who="alice") == TWO
        # PostgREST answers a preflight without the database.
        assert guarded.send(dead, method="OPTIONS", path="news", origin=ORIGIN).is_success


def test_a_recipe_without_its_guards_would_let_an_inactive_key_through(shop: Shop) -> None:
    """Without the restrictive policy, a permissive policy that shows all rows hides the refusal."""
    dead = shop.system.keys["revoked"].key
    with shop.system.database.connect(autocommit=False) as owner:
        owner.execute("create policy open on public.orders for select to anon using (true)")
        owner.execute("set local role anon")
        owner.execute(
            "select set_config('request.headers', json_build_object('x-api-key', %s::text)::text,"
            " true)",
            [dead],
        )
        with pytest.raises(psycopg.Error) as refused, owner.transaction():
            owner.execute("select item from public.orders")
        assert refused.value.sqlstate == "PT401"
        owner.execute("reset role")
        owner.execute("drop policy orders_all_check_request on public.orders")
        owner.execute("set local role anon")
        assert sqlstate(owner, "select item from public.orders") is None
        owner.rollback()


def test_no_log_has_the_key_of_a_request(shop: Shop) -> None:
    """Threat: a key shows up in server logs; here it comes with every request."""
    keys = [
        shop.reader,
        shop.of_b,
        shop.system.keys["revoked"].key,
        shop.system.keys["expired"].key,
    ]
    for key in keys:
        for who in ("anon", "alice", "service_role"):
            shop.items(key, who=who)
            shop.send(key, who=who, method="POST", path="orders", json={"item": "of no workspace"})
    with shop.system.database.connect() as owner:
        owner.execute("delete from public.orders where item = 'of no workspace'")
        busy = str(owner.execute("select query from pg_stat_activity").fetchall())
    written = shop.system.database.server.log() + shop.system.rest.postgrest.log()
    # The log is really read: it contains a refusal.
    assert "invalid_api_key" in written
    assert [key[:15] for key in keys if key[11:-6] in written + busy] == []
