"""Errors of real servers: the client says what is wrong and the next step."""

from collections.abc import Callable
from typing import Any, cast
from uuid import uuid4

import httpx
import psycopg
import pytest
import supabase
from postgrest import SyncPostgrestClient

from client.system import Clients, System
from client.vectors import SECRET
from keylatch import Keylatch
from keylatch.cached import CachedResolver
from keylatch.errors import (
    InvalidArgument,
    KeylatchError,
    PermissionDenied,
    UnexpectedAnswer,
)
from stack import Database, Tokens

pytestmark = pytest.mark.one_server


@pytest.mark.parametrize(
    ("token", "detail", "hint"),
    [
        (lambda t: f'"{t.service_key}"', "the token is not a JWT", "without quotation marks"),
        (
            lambda t: f"{t.service_key.rpartition('.')[0]}.{'A' * 43}",
            "is not signed with this project",
            "JWT_SECRET",
        ),
        (lambda _: Tokens().service_key, "is not signed with this project", "JWT Keys"),
        (lambda t: t.token("x", seconds=-3600), "the token has expired", "sign in again"),
        (lambda t: t.token(role="nobody"), "the role nobody in the token", "keylatch_resolver"),
        (lambda t: t.anon_key, "may not call list_keys", "a user who administers"),
    ],
)
def test_each_wrong_token_has_its_own_message_and_next_step(
    system: System, token: Callable[[Tokens], str], detail: str, hint: str
) -> None:
    with httpx.Client() as session:
        client = SyncPostgrestClient(system.rest.rest_url, http_client=session)
        client.auth(token(system.rest.tokens))
        with pytest.raises(KeylatchError) as caught:
            Keylatch.from_postgrest(client).list(system.people.a)
    assert detail in str(caught.value.detail)
    assert hint in str(caught.value.hint)


def test_a_user_who_is_not_an_admin_is_told_how_to_become_an_admin(system: System) -> None:
    connection = system.database.connect("authenticated", system.claims("bob"))
    with pytest.raises(PermissionDenied) as caught:
        Keylatch.from_psycopg(connection).issue(system.people.a)
    assert caught.value.detail == "the user does not administer the workspace"
    assert "insert into keylatch.workspace_membership values" in str(caught.value.hint)


def test_a_sub_that_is_no_uuid_names_what_works_and_that_works(
    system: System, core: Database
) -> None:
    """Clerk, Auth0 and Firebase have subjects such as `user_2abc`."""
    claims = {"sub": "user_2abc", "role": "authenticated"}
    connection = system.database.connect("authenticated", claims)
    with pytest.raises(InvalidArgument) as caught:
        Keylatch.from_psycopg(connection).issue(system.people.a)
    assert "sub claim is not a UUID" in str(caught.value.detail)
    assert "Clerk, Auth0 or Firebase" in str(caught.value.hint)
    # The advice of the hint:
    core.connect().execute(
        "create table public.members (user_id text, workspace_id uuid);"
        f"insert into public.members values ('user_2abc', '{system.people.a}');"
        "create or replace function keylatch.admin_workspace_ids() returns setof uuid"
        " language sql stable set search_path = pg_catalog, pg_temp as $$"
        " select m.workspace_id from public.members as m"
        " where m.user_id = auth.jwt() ->> 'sub' $$"
    )
    kl = Keylatch.from_psycopg(core.connect("authenticated", claims))
    issued = kl.issue(system.people.a, kind="secret")
    assert kl.show(issued.id).created_by is None


def test_a_sub_that_is_no_uuid_is_named_over_http_too(system: System) -> None:
    with httpx.Client() as session:
        client = SyncPostgrestClient(system.rest.rest_url, http_client=session)
        client.auth(system.rest.tokens.token("user_2abc"))
        with pytest.raises(InvalidArgument, match="sub claim is not a UUID"):
            Keylatch.from_postgrest(client).issue(system.people.a)


def test_a_malformed_id_that_was_sent_is_named_and_is_no_bad_sub(clients: Clients) -> None:
    """The client's methods refuse a malformed id. A direct call of the transport sends it."""
    transport = clients.act_as("alice")._transport
    for function, arguments in (
        ("revoke_key", {"key_id": "user_2abc", "reason": None, "cascade": False}),
        ("list_keys", {"workspace_id": SECRET}),
    ):
        with pytest.raises(InvalidArgument) as caught:
            transport.call(function, arguments)
        field = next(iter(arguments))
        assert caught.value.detail == f"{field} is not a valid value of its type"
        assert caught.value.sqlstate == "22P02"
        assert SECRET not in repr(caught.value)


def test_a_login_without_the_grant_is_told_the_sql_that_helps(database: Database) -> None:
    owner = database.connect(superuser=True)
    login = f"shop_{uuid4().hex}"
    owner.execute(f"create role {login} login password 'x'".encode())
    url = database.url.replace(
        f"//postgres:{database.server.passwords['postgres']}", f"//{login}:x"
    )
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            kl = Keylatch.from_psycopg(connection)
            acting = Keylatch.from_psycopg(connection, claims={"role": "keylatch_resolver"})
            for client in (kl, acting):
                with pytest.raises(PermissionDenied) as caught:
                    client.resolve("x")
                hint = str(caught.value.hint)
                assert "grant keylatch_resolver to <login>;" in hint
            owner.execute(hint.partition(": ")[2].replace("<login>", login).encode())
            admin = Keylatch.from_psycopg(owner, claims={"role": "service_role"})
            issued = admin.issue(uuid4(), kind="secret")
            for client in (kl, acting):
                found = client.resolve(issued.key)
                assert found is not None
                assert found.key_id == issued.id
    finally:
        owner.execute(f"drop role {login}".encode())


def test_a_project_address_that_ends_in_rest_v1_is_named(system: System) -> None:
    client = supabase.create_client(f"{system.rest.url}/rest/v1", system.rest.service_key)
    with pytest.raises(UnexpectedAnswer) as caught:
        Keylatch.from_supabase(client).list(system.people.a)
    assert "ends in /rest/v1" in str(caught.value.detail)
    with httpx.Client() as session:
        bare = SyncPostgrestClient(system.rest.url, http_client=session)
        with pytest.raises(UnexpectedAnswer, match="ends in /rest/v1"):
            Keylatch.from_postgrest(bare).list(system.people.a)


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:hunter2@h/d", "postgresql://u:a%zz@h/d"])
def test_a_cache_does_not_listen_at_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidArgument, match="listen is not a valid") as caught:
        CachedResolver(Keylatch(cast(Any, None)), listen=url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None
