"""HTTP: project keys that are not JWTs go into the header that Supabase's documentation names."""

import asyncio
from collections.abc import Callable
from typing import Any

import postgrest
import pytest
import supabase

from client.system import System
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import PermissionDenied

pytestmark = pytest.mark.one_server

Connect = Callable[..., Keylatch]

KINDS = ("secret", "publishable")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_project_key_that_is_no_jwt_goes_into_apikey_alone(
    system: System, kind: str, is_async: bool
) -> None:
    """supabase-py also sends the key as a bearer token, which Supabase's documentation forbids."""
    key = {"secret": system.rest.secret_key, "publishable": system.rest.publishable_key}[kind]
    if is_async:
        async_client = await supabase.create_async_client(system.rest.url, key)
        call = AsyncKeylatch.from_supabase(async_client).issue(system.people.a)
        outcome: Any = await asyncio.gather(call, return_exceptions=True)
        await async_client.postgrest.aclose()
    else:
        client = supabase.create_client(system.rest.url, key)
        assert client.postgrest.session.headers["authorization"] == f"Bearer {key}"
        with pytest.raises(postgrest.APIError, match="Invalid JWT"):
            client.schema("keylatch").from_("keys").select("id").execute()
        kl = Keylatch.from_supabase(client)
        outcome = await asyncio.gather(
            asyncio.to_thread(kl.issue, system.people.a), return_exceptions=True
        )
        client.postgrest.aclose()
    if kind == "secret":
        assert system.rows(outcome[0].id), "it acts as service_role"
    else:
        assert isinstance(outcome[0], PermissionDenied), "it acts as anon"
        assert outcome[0].sqlstate == "42501"


@pytest.mark.parametrize("kind", KINDS)
def test_beside_a_project_key_that_is_no_jwt_the_token_of_the_user_counts(
    connect: Connect, system: System, kind: str
) -> None:
    key = {"secret": system.rest.secret_key, "publishable": system.rest.publishable_key}[kind]
    url = f"{system.rest.url}/rest/v1"
    alice = connect(url, system.token("alice"), headers={"apikey": key})
    assert alice.issue(system.people.a).created_by == system.people.alice
    with pytest.raises(PermissionDenied):
        alice.issue(system.people.b)


def test_a_bearer_that_is_no_jwt_never_acts_with_the_key_beside_it(
    connect: Connect, system: System
) -> None:
    """An application forwards a stranger's `Authorization` together with its own secret key."""
    url = f"{system.rest.url}/rest/v1"
    for bearer in (system.rest.publishable_key, "sb_secret_guessed", "sb_"):
        stranger = connect(url, bearer, headers={"apikey": system.rest.secret_key})
        with pytest.raises(PermissionDenied):
            stranger.issue(system.people.a)
    service = connect(url, system.rest.secret_key, headers={"apikey": system.rest.publishable_key})
    assert service.issue(system.people.a).created_by is None


def test_a_secret_key_from_a_browser_is_denied(connect: Connect, system: System) -> None:
    headers = {"apikey": system.rest.secret_key, "User-Agent": "Mozilla/5.0 (X11) Firefox/140.0"}
    with pytest.raises(PermissionDenied, match="in browser"):
        connect(f"{system.rest.url}/rest/v1", headers=headers).issue(system.people.a)
