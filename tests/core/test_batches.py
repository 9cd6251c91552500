"""A batch of keys is issued and resolved with the same results as single calls."""

from typing import Any
from uuid import UUID

import psycopg
import pytest

from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import InvalidArgument, PermissionDenied
from stack import Database, Janitor, People, Rest, Tokens

SITE = "https://client.example"


@pytest.fixture
def admin(database: Database, people: People) -> Keylatch:
    return Keylatch.from_psycopg(database.connect("authenticated", people.claims("alice")))


@pytest.fixture
def runtime(database: Database, people: People) -> Keylatch:
    assert people
    return Keylatch.from_psycopg(database.connect("keylatch_resolver"))


def test_a_fleet_gets_a_key_for_each_label_in_their_order(
    admin: Keylatch, runtime: Keylatch
) -> None:
    labels = [f"device {n}" for n in range(1500)]
    issued = admin.issue_many(People.a, labels=labels, scopes=["report"], metadata={"fleet": 1})
    assert [one.label for one in issued] == labels
    assert len({one.key.reveal() for one in issued}) == len(labels)
    assert {(one.kind, one.scopes, one.masked_key[:11]) for one in issued} == {
        ("secret", ("report",), "wk_sk_live_")
    }
    found = runtime.resolve_many([one.key for one in issued[:1000]])
    assert [one.key_id for one in found if one] == [one.id for one in issued[:1000]]
    assert admin.issue_many(People.a, labels=[]) == ()


@pytest.mark.parametrize(
    "labels", [["a", "b\x07"], ["a", "x" * 201], ["x"] * 100_001], ids=["odd", "long", "many"]
)
def test_a_fleet_is_made_whole_or_not_at_all(admin: Keylatch, labels: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="label"):
        admin.issue_many(People.a, labels=labels)
    assert admin.list(People.a) == ()


@pytest.mark.parametrize("who", ["mia", "bob", "stranger"])
def test_only_an_admin_makes_a_fleet(database: Database, people: People, who: str) -> None:
    outsider = Keylatch.from_psycopg(database.connect("authenticated", people.claims(who)))
    with pytest.raises(PermissionDenied):
        outsider.issue_many(People.a, labels=["a"])


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_only_services_resolve_a_batch(database: Database, people: People, role: str) -> None:
    client = database.connect(role, people.claims("alice"))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        client.execute("select keylatch.resolve_keys('{wk}')")


def test_a_batch_gets_what_each_of_it_gets_alone(
    database: Database, people: People, admin: Keylatch, runtime: Keylatch
) -> None:
    public = admin.issue(People.a, allowed_origins=[SITE, "https://*.wide.example"])
    wild = admin.issue(People.a, environment="test", allowed_origins=["*", "http://localhost:*"])
    secret = admin.issue(People.a, kind="secret", metadata={"n": [1, None]})
    revoked, suspended, old = (admin.issue(People.a, kind="secret") for _ in range(3))
    admin.revoke(revoked.id)
    admin.suspend(suspended.id)
    admin.rotate(old.id)
    database.connect("authenticated", people.claims("alice")).execute(
        "update keylatch.keys set scopes = '{later}' where id = %s", [secret.id]
    )
    keys = [one.key.reveal() for one in (public, wild, secret, revoked, suspended, old)]
    keys += ["", "wk_sk_live_none", "\u202e", keys[0] + " ", keys[0].lower()]
    origins = [None, "", SITE, "https://a.wide.example", "https://wide.example", "*", "null"]
    origins += ["http://localhost:3000", "https://*.wide.example", SITE.upper(), f"{SITE}/"]
    pairs = [(key, origin) for key in keys for origin in origins]
    together = runtime.resolve_many([key for key, _ in pairs], origins=[o for _, o in pairs])
    alone = tuple(runtime.resolve(key, origin=origin) for key, origin in pairs)
    assert together == alone
    assert len({one.key_id for one in together if one}) == 3


def test_a_batch_out_of_its_rule_is_refused(database: Database, runtime: Keylatch) -> None:
    for keys, origins in ((["k"] * 1001, None), (["k"], ["a", "b"]), ("wk_sk_live_x", None)):
        with pytest.raises(InvalidArgument):
            runtime.resolve_many(keys, origins=origins)
    service = database.connect("service_role")
    for arguments in ("null", "array['a'], array['a', 'b']", "array_fill('k'::text, array[1001])"):
        with pytest.raises(psycopg.Error) as refused:
            service.execute(f"select keylatch.resolve_keys({arguments})".encode())
        assert refused.value.sqlstate == "PT400"
    assert runtime.resolve_many([]) == ()


def test_batches_go_over_http_whatever_the_most_rows_of_the_api(
    database: Database, people: People, tokens: Tokens, janitor: Janitor
) -> None:
    from postgrest import SyncPostgrestClient

    from keylatch.errors import UnexpectedAnswer

    settings = {"DB_MAX_ROWS": "5"}
    with Rest(database, tokens, janitor=janitor, settings=settings) as rest:

        def client(token: str) -> Any:
            return SyncPostgrestClient(
                f"{rest.url}/rest/v1", headers={"apikey": rest.anon_key}
            ).auth(token)

        admin = Keylatch.from_postgrest(client(people.token("alice")))
        runtime = Keylatch.from_postgrest(client(tokens.token(role="keylatch_resolver")))
        issued = admin.issue_many(People.a, labels=[str(n) for n in range(12)])
        assert len(issued) == 12
        assert "sk_live" not in repr(issued).replace("wk_sk_live_...", "")
        keys = [one.key for one in issued]
        assert [one and one.key_id for one in runtime.resolve_many(keys[:5])] == [
            one.id for one in issued[:5]
        ]
        # The client does not read a cut answer as refusals.
        with pytest.raises(UnexpectedAnswer, match="max-rows"):
            runtime.resolve_many(keys)


async def test_the_async_client_has_the_same_methods(database: Database, people: People) -> None:
    async with await psycopg.AsyncConnection.connect(
        database.authenticator_url, autocommit=True
    ) as connection:
        admin = AsyncKeylatch.from_psycopg(connection, claims=people.claims("alice"))
        runtime = AsyncKeylatch.from_psycopg(connection, claims={"role": "keylatch_resolver"})
        issued = await admin.issue_many(People.a, labels=["a", "b"])
        found = await runtime.resolve_many([issued[1].key, "wk"])
        assert [one and one.key_id for one in found] == [issued[1].id, None]
        assert isinstance(issued[0].id, UUID)
