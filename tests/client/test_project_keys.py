"""HTTP: a project's keys that are no JWTs go where Supabase's documents say."""

import asyncio
from collections.abc import Callable
from typing import Any

import postgrest
import pytest
import supabase

from client.world import World
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import PermissionDenied

pytestmark = pytest.mark.one_server

Connect = Callable[..., Keylatch]

KINDS = ("secret", "publishable")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_project_key_that_is_no_jwt_goes_into_apikey_alone(
    world: World, kind: str, is_async: bool
) -> None:
    """supabase-py sends it as a bearer token too, which Supabase's documents rule out."""
    key = {"secret": world.rest.secret_key, "publishable": world.rest.publishable_key}[kind]
    if is_async:
        async_client = await supabase.create_async_client(world.rest.url, key)
        call = AsyncKeylatch.from_supabase(async_client).issue(world.people.a)
        outcome: Any = await asyncio.gather(call, return_exceptions=True)
        await async_client.postgrest.aclose()
    else:
        client = supabase.create_client(world.rest.url, key)
        assert client.postgrest.session.headers["authorization"] == f"Bearer {key}"
        with pytest.raises(postgrest.APIError, match="Invalid JWT"):
            client.schema("keylatch").from_("keys").select("id").execute()
        kl = Keylatch.from_supabase(client)
        outcome = await asyncio.gather(
            asyncio.to_thread(kl.issue, world.people.a), return_exceptions=True
        )
        client.postgrest.aclose()
    if kind == "secret":
        assert world.rows(outcome[0].id), "it acts as service_role"
    else:
        assert isinstance(outcome[0], PermissionDenied), "it acts as anon"
        assert outcome[0].sqlstate == "42501"


@pytest.mark.parametrize("kind", KINDS)
def test_beside_a_project_key_that_is_no_jwt_the_token_of_the_user_counts(
    connect: Connect, world: World, kind: str
) -> None:
    key = {"secret": world.rest.secret_key, "publishable": world.rest.publishable_key}[kind]
    url = f"{world.rest.url}/rest/v1"
    alice = connect(url, world.token("alice"), headers={"apikey": key})
    assert alice.issue(world.people.a).created_by == world.people.alice
    with pytest.raises(PermissionDenied):
        alice.issue(world.people.b)


def test_a_bearer_that_is_no_jwt_never_acts_with_the_key_beside_it(
    connect: Connect, world: World
) -> None:
    """A stranger's `Authorization` that an application passes on, beside its own secret key."""
    url = f"{world.rest.url}/rest/v1"
    for bearer in (world.rest.publishable_key, "sb_secret_guessed", "sb_"):
        stranger = connect(url, bearer, headers={"apikey": world.rest.secret_key})
        with pytest.raises(PermissionDenied):
            stranger.issue(world.people.a)
    service = connect(url, world.rest.secret_key, headers={"apikey": world.rest.publishable_key})
    assert service.issue(world.people.a).created_by is None


def test_a_secret_key_from_a_browser_is_denied(connect: Connect, world: World) -> None:
    headers = {"apikey": world.rest.secret_key, "User-Agent": "Mozilla/5.0 (X11) Firefox/140.0"}
    with pytest.raises(PermissionDenied, match="in browser"):
        connect(f"{world.rest.url}/rest/v1", headers=headers).issue(world.people.a)
