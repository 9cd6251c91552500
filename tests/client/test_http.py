"""HTTP: gateways, timeouts, closed sessions, the sent token, and truncated answers."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import postgrest
import psycopg
import pytest
import supabase
from supabase_auth.types import Session, User

from client.answers import FixedServer
from client.system import System
from client.vectors import SECRET
from keylatch import AsyncKeylatch, Keylatch, Secret
from keylatch.errors import (
    InvalidArgument,
    KeylatchError,
    NotInstalled,
    PermissionDenied,
    SchemaNotExposed,
    Unavailable,
    UnexpectedAnswer,
)
from stack import Cluster, Database, Janitor, People, Rest, Tokens

pytestmark = pytest.mark.one_server

Connect = Callable[..., Keylatch]


def failure(call: Callable[[], object]) -> KeylatchError:
    """Return the error of a call. It must have no cause or context, and no key in its text."""
    with pytest.raises(KeylatchError) as caught:
        call()
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    assert SECRET not in str(error) + repr(error)
    return error


HTML = b"<html><h1>Bad gateway</h1>" + SECRET.encode() + b"</html>"
ANSWERS: dict[str, tuple[int, bytes, type[KeylatchError], str]] = {
    "a gateway's page": (502, HTML, Unavailable, "HTTP 502"),
    "a gateway's empty page": (503, b"", Unavailable, "HTTP 503"),
    "a gateway's JSON": (503, b'{"message": "name resolution failed"}', Unavailable, "name resol"),
    "an API key that is refused": (
        401,
        b'{"message": "Invalid API key", "hint": "Double check it."}',
        PermissionDenied,
        "the gateway does not know the API key",
    ),
    "a firewall": (403, HTML, PermissionDenied, "HTTP 403"),
    "a limit on bodies": (413, HTML, InvalidArgument, "HTTP 413"),
    "a limit on requests": (429, b"{}", Unavailable, "HTTP 429"),
    "a wrong address": (404, b'{"message": "no Route matched"}', UnexpectedAnswer, "no Route"),
    "a page instead of an API": (200, HTML, UnexpectedAnswer, "is not JSON"),
    "nothing": (204, b"", UnexpectedAnswer, "is not JSON"),
    "another API": (200, b"[1, 2]", UnexpectedAnswer, "not a JSON object"),
    "a text": (200, b'"hello"', UnexpectedAnswer, "not a JSON object"),
    "another object": (200, b'{"ok": true}', NotInstalled, "schema_too_old"),
    "a list of errors": (500, b"[]", Unavailable, "HTTP 500"),
    "an error of odd types": (500, b'{"message": 5, "code": {}}', Unavailable, "HTTP 500"),
    "a schema cache that loads": (
        503,
        b'{"code": "PGRST002", "message": "Could not query the database"}',
        Unavailable,
        "PGRST002",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_of_a_gateway_has_a_class_and_is_not_repeated(
    connect: Connect, name: str
) -> None:
    status, body, kind, words = ANSWERS[name]
    content_type = "text/html" if body == HTML else "application/json"
    with FixedServer(status, body, content_type) as server:
        error = failure(lambda: connect(server.url).explain(SECRET))
    assert type(error) is kind
    assert words in str(error)


def test_a_call_posts_the_arguments_to_the_schema_with_the_token(connect: Connect) -> None:
    with FixedServer(200, b"[]") as server:
        assert connect(f"{server.url}/rest/v1", "a.b.c").resolve(SECRET, origin=None) is None
        ((method, path, headers, body),) = server.requests
    assert (method, path) == ("POST", "/rest/v1/rpc/resolve_key")
    assert headers["content-profile"] == headers["accept-profile"] == "keylatch"
    assert headers["content-type"] == headers["accept"] == "application/json"
    assert headers["authorization"] == "Bearer a.b.c"
    assert json.loads(body) == {"key": SECRET, "origin": None}


def test_no_answer_in_time_is_unavailable(connect: Connect) -> None:
    with FixedServer(200, b"", silent=True) as server:
        error = failure(lambda: connect(server.url, timeout=1).resolve(SECRET))
    assert type(error) is Unavailable
    assert "ReadTimeout" in str(error)


def test_a_server_that_is_gone_is_unavailable(
    connect: Connect, database: Database, people: People, tokens: Tokens, janitor: Janitor
) -> None:
    with Rest(database, tokens, janitor=janitor) as rest:
        direct = connect(rest.rest_url, people.token("alice"))
        through_gateway = connect(f"{rest.url}/rest/v1", people.token("alice"))
        direct.issue(people.a)
        # `rest` closes PostgREST later and may close it only once, so kill the process.
        rest.postgrest._process.kill()
        rest.postgrest._process.wait()
        assert type(failure(lambda: direct.issue(people.a))) is Unavailable
        error = failure(lambda: through_gateway.issue(people.a))
        assert type(error) is Unavailable
        assert "HTTP 502" in str(error)
    words = str(failure(lambda: through_gateway.list(people.a)))
    assert re.search(r"ConnectError: \S", words)


def test_a_database_that_is_gone_is_unavailable(
    connect: Connect, tokens: Tokens, janitor: Janitor, server: Cluster, template: str
) -> None:
    people = People(tokens)
    with Database(server, "going", template) as database:
        people.seed(database.url)
        with Rest(database, tokens, janitor=janitor) as rest:
            kl = connect(rest.rest_url, people.token("alice"))
            kl.issue(people.a)
            with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
                connection.execute("alter database going allow_connections false")
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'going'"
                )
                assert type(failure(lambda: kl.issue(people.a))) is Unavailable


def test_a_token_that_does_not_hold_is_denied(
    connect: Connect, system: System, tokens: Tokens
) -> None:
    ended = tokens.token(system.people.alice, seconds=-3600)
    foreign = Tokens().token(system.people.alice)
    for token in (ended, foreign, "not.a.token", "nonsense"):
        error = failure(partial(connect(system.rest.rest_url, token).list, system.people.a))
        assert type(error) is PermissionDenied
        assert token not in str(error)
    # The error message of h11 repeats a header like this.
    error = failure(partial(connect(system.rest.rest_url, "hunter2\n").list, system.people.a))
    assert type(error) is Unavailable
    assert "hunter2" not in str(error)


def test_a_schema_that_is_not_exposed_is_named_with_its_setting(
    connect: Connect, database: Database, people: People, tokens: Tokens, janitor: Janitor
) -> None:
    with Rest(database, tokens, janitor=janitor, schemas="public") as rest:
        error = failure(lambda: connect(rest.rest_url, people.token("alice")).list(people.a))
    assert type(error) is SchemaNotExposed
    assert "[api] schemas" in str(error)


def test_a_database_without_the_schema_is_not_installed(
    connect: Connect, server: Cluster, tokens: Tokens, janitor: Janitor
) -> None:
    with Database(server, "bare") as database:
        server.install_platform(database.name)
        with Rest(database, tokens, janitor=janitor) as rest:
            kl = connect(rest.rest_url, tokens.token(uuid4()))
            for call in (lambda: kl.issue(uuid4()), kl.installation, lambda: kl.resolve(SECRET)):
                error = failure(call)
                assert type(error) is NotInstalled
                assert "supabase db push" in str(error)


def test_a_list_is_whole_however_little_the_server_gives_at_once(
    connect: Connect, database: Database, people: People, tokens: Tokens, janitor: Janitor
) -> None:
    with Rest(database, tokens, janitor=janitor, settings={"DB_MAX_ROWS": "2"}) as rest:
        kl = connect(rest.rest_url, people.token("alice"))
        assert kl.list(people.a) == ()
        made = [kl.issue(people.a).id for _ in range(5)]
        assert [key.id for key in kl.list(people.a)] == made[::-1]
        kl.issue(people.a)
        assert len({key.id for key in kl.list(people.a)}) == 6


def test_legacy_keys_are_whole_however_little_the_server_gives_at_once(
    connect: Connect, database: Database, people: People, tokens: Tokens, janitor: Janitor
) -> None:
    lines = [
        {"workspace_id": str(people.a), "alg": "bcrypt", "hash": f"$2b$04${letter * 53}"}
        for letter in "abcde"
    ]
    with Rest(database, tokens, janitor=janitor, settings={"DB_MAX_ROWS": "2"}) as rest:
        service = connect(rest.rest_url, tokens.token(role="service_role"))
        assert service.import_keys(lines).waiting == 5
        listed = connect(rest.rest_url, people.token("alice")).legacy_keys(people.a)
        assert len({key.id for key in listed}) == len(listed) == 5


def test_a_list_holds_each_key_once_though_others_are_made_between_its_pages(
    database: Database, people: People, tokens: Tokens, janitor: Janitor
) -> None:
    with (
        Rest(database, tokens, janitor=janitor, settings={"DB_MAX_ROWS": "2"}) as rest,
        database.connect(claims=people.claims("alice")) as alice,
    ):

        def make_another(_: httpx.Response) -> None:
            alice.execute("select keylatch.issue_key(%s)", [people.a])

        with httpx.Client(event_hooks={"response": [make_another]}) as session:
            client = postgrest.SyncPostgrestClient(rest.rest_url, http_client=session)
            kl = Keylatch.from_postgrest(client.auth(people.token("alice")))
            made = [kl.issue(people.a).id for _ in range(4)]
            listed = [key.id for key in kl.list(people.a)]
        assert len(set(listed)) == len(listed)
        assert [id_ for id_ in listed if id_ in made] == made[::-1]


def session_of(token: str) -> Session:
    """Return the session that Supabase Auth gives at a sign-in."""
    user = User(
        id=str(uuid4()),
        app_metadata={},
        user_metadata={},
        aud="authenticated",
        created_at=datetime.now(UTC),
    )
    return Session(
        access_token=token, refresh_token="r", expires_in=3600, token_type="bearer", user=user
    )


def test_the_client_uses_the_new_token_after_a_sign_in_or_refresh(system: System) -> None:
    client = supabase.create_client(system.rest.url, system.rest.anon_key)
    kl = Keylatch.from_supabase(client)
    with pytest.raises(PermissionDenied):
        kl.list(system.people.a)
    client.auth._notify_all_subscribers("SIGNED_IN", session_of(system.token("alice")))
    assert kl.issue(system.people.a).created_by == system.people.alice
    client.auth._notify_all_subscribers("TOKEN_REFRESHED", session_of(system.token("bob")))
    assert kl.issue(system.people.b).created_by == system.people.bob
    client.auth._notify_all_subscribers("SIGNED_OUT", None)
    with pytest.raises(PermissionDenied):
        kl.list(system.people.a)


async def test_the_async_client_uses_the_new_token_after_a_sign_in(system: System) -> None:
    client = await supabase.create_async_client(system.rest.url, system.rest.anon_key)
    kl = AsyncKeylatch.from_supabase(client)
    with pytest.raises(PermissionDenied):
        await kl.list(system.people.a)
    client.auth._notify_all_subscribers("SIGNED_IN", session_of(system.token("alice")))
    assert (await kl.issue(system.people.a)).created_by == system.people.alice


def test_the_client_uses_a_later_token_of_postgrest_and_stays_unchanged(
    system: System,
) -> None:
    with httpx.Client() as session:
        client = postgrest.SyncPostgrestClient(
            system.rest.rest_url, schema="public", http_client=session
        )
        kl = Keylatch.from_postgrest(client)
        with pytest.raises(PermissionDenied):
            kl.list(system.people.a)
        client.auth(system.token("alice"))
        kl.issue(system.people.a)
        assert client.headers["Content-Profile"] == "public"
        assert not session.is_closed


def test_a_session_that_signs_requests_by_itself_may_do_so(system: System) -> None:
    class Bearer(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
            request.headers["Authorization"] = f"Bearer {system.token('alice')}"
            yield request

    with httpx.Client(auth=Bearer()) as session:
        client = postgrest.SyncPostgrestClient(system.rest.rest_url, http_client=session)
        assert Keylatch.from_postgrest(client).issue(system.people.a).created_by
        client.auth(system.token("bob"))
        with pytest.raises(PermissionDenied):
            Keylatch.from_postgrest(client).issue(system.people.a)


async def test_a_closed_session_is_unavailable(system: System) -> None:
    client = postgrest.SyncPostgrestClient(system.rest.rest_url)
    client.aclose()
    async_client = postgrest.AsyncPostgrestClient(system.rest.rest_url)
    await async_client.aclose()
    with pytest.raises(Unavailable, match="closed"):
        Keylatch.from_postgrest(client).list(system.people.a)
    with pytest.raises(Unavailable, match="closed"):
        await AsyncKeylatch.from_postgrest(async_client).list(system.people.a)


async def test_twenty_calls_at_once_share_one_async_client(system: System) -> None:
    async with httpx.AsyncClient() as session:
        client = postgrest.AsyncPostgrestClient(system.rest.rest_url, http_client=session)
        kl = AsyncKeylatch.from_postgrest(client.auth(system.token("alice")))
        made = await asyncio.gather(*(kl.issue(system.people.a) for _ in range(20)))
    assert len({issued.key for issued in made}) == 20


async def test_the_client_of_the_other_kind_is_refused_with_the_one_to_use(system: System) -> None:
    url, key = system.rest.url, system.rest.anon_key
    sync_one, async_one = (
        supabase.create_client(url, key),
        await supabase.create_async_client(url, key),
    )
    sync_rest, async_rest = postgrest.SyncPostgrestClient(url), postgrest.AsyncPostgrestClient(url)
    attempts: list[tuple[Callable[[Any], object], object, str]] = [
        (Keylatch.from_supabase, async_one, r"use AsyncKeylatch\.from_supabase"),
        (AsyncKeylatch.from_supabase, sync_one, r"use Keylatch\.from_supabase"),
        (Keylatch.from_postgrest, async_rest, r"use AsyncKeylatch\.from_postgrest"),
        (AsyncKeylatch.from_postgrest, sync_rest, r"use Keylatch\.from_postgrest"),
        (Keylatch.from_supabase, sync_rest, r"use Keylatch\.from_postgrest"),
        (Keylatch.from_postgrest, Secret(SECRET), r"not keylatch\.secret\.Secret"),
        (Keylatch.from_psycopg, sync_one, r"use Keylatch\.from_supabase"),
    ]
    for make, given, words in attempts:
        with pytest.raises(TypeError, match=words):
            make(given)
