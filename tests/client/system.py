"""The database and API that the client's tests share, and every client that works over them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Self, cast
from uuid import UUID, uuid4

import asyncpg
import httpx
import postgrest
import psycopg
import psycopg_pool
import supabase
from psycopg.rows import TupleRow

from keylatch import AsyncKeylatch, Keylatch
from stack import Database, People, Rest

VARIANTS = [
    f"{library}-{form}"
    for library in ("supabase", "postgrest", "connection", "pool")
    for form in ("sync", "async")
] + ["asyncpg-async"]

# Lets a test run any statement through a transport, as the owner of the table. The latch must hold
# even then.
_RUN_AS_OWNER = """
create function keylatch.run_as_owner(statement text) returns setof keylatch.keys
language plpgsql volatile security definer set search_path = '' as $$
begin
  execute statement;
end;
$$;
grant execute on function keylatch.run_as_owner(text) to authenticated, service_role;
"""


class System:
    """One migrated and seeded database with its API, for tests that leave each other's rows alone.

    Attributes:
        database: The database.
        rest: Its REST API.
        people: The users and their workspaces.
        owner: A connection as `postgres`, which owns all objects.
    """

    def __init__(self, database: Database, rest: Callable[[], Rest], people: People) -> None:
        """Seed the database, then start the API."""
        self.database = database
        self.people = people
        people.seed(database.url)
        self.owner: psycopg.Connection[TupleRow] = database.connect()
        self.owner.execute(_RUN_AS_OWNER)
        self.rest = rest()

    def token(self, who: str) -> str:
        """Return a token for one of `People`, or for a role."""
        if hasattr(self.people, who):
            return self.people.token(who)
        return self.rest.tokens.token(role=who)

    def claims(self, who: str) -> dict[str, str]:
        """Return the claims for one of `People`, or for a role."""
        return self.people.claims(who) if hasattr(self.people, who) else {"role": who}

    def rows(self, *ids: UUID) -> dict[UUID, Any]:
        """Return the rows of these keys by id, with every column. Only the owner sees them all."""
        found = self.owner.execute(
            "select id, to_jsonb(k) from keylatch_internal.keys as k where id = any(%s)",
            [list(ids)],
        )
        return dict(found.fetchall())

    def count(self) -> int:
        """Return the number of keys."""
        (number,) = (
            self.owner.execute("select count(*) from keylatch_internal.keys").fetchone() or ()
        )
        return int(number)

    def expired_key(self, workspace: UUID) -> UUID:
        """Insert a key that has already expired, which only the owner can do."""
        id_ = uuid4()
        self.owner.execute(
            """
            insert into keylatch_internal.keys
              (id, workspace_id, kind, key_hash, masked_key, created_at, updated_at, expires_at)
            values (%s, %s, 'secret', sha256(%s), 'wk_sk_live_...dead', now() - interval '2 days',
              now(), now() - interval '1 day')
            """,
            [id_, workspace, id_.bytes],
        )
        return id_


class Clients:
    """The clients of one variant, one for each user or role; a context manager that closes them.

    `Blocking` runs the async clients, so that one test covers sync and async.
    """

    def __init__(self, system: System, variant: str) -> None:
        """Store a variant of `VARIANTS`."""
        self.system = system
        self.library, _, form = variant.partition("-")
        self.is_async = form == "async"
        self.is_http = self.library in ("supabase", "postgrest")
        self._made: dict[str, Keylatch] = {}
        self._open = contextlib.ExitStack()
        self.runner = self._open.enter_context(asyncio.Runner())

    def __enter__(self) -> Self:
        """Return the clients."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close everything that was opened for the clients."""
        self._open.close()

    def act_as(self, who: str) -> Keylatch:
        """Return a client that acts as one of `People` or as a role."""
        if who not in self._made:
            make = getattr(self, f"_{self.library}")
            self._made[who] = cast(Keylatch, make(who))
        return self._made[who]

    def _supabase(self, who: str) -> object:
        headers = {"Authorization": f"Bearer {self.system.token(who)}"}
        url, key = self.system.rest.url, self.system.rest.anon_key
        if not self.is_async:
            client = supabase.create_client(url, key, supabase.ClientOptions(headers=headers))
            self._open.callback(client.postgrest.aclose)
            return Keylatch.from_supabase(client)
        options = supabase.AsyncClientOptions(headers=headers)
        async_client = self._wait(supabase.create_async_client(url, key, options))
        self._open.callback(lambda: self._wait(async_client.postgrest.aclose()))
        return Blocking(AsyncKeylatch.from_supabase(async_client), self.runner)

    def _postgrest(self, who: str) -> object:
        url, token = self.system.rest.rest_url, self.system.token(who)
        if not self.is_async:
            client = postgrest.SyncPostgrestClient(url, http_client=httpx.Client())
            self._open.callback(client.aclose)
            return Keylatch.from_postgrest(client.auth(token))
        async_client = postgrest.AsyncPostgrestClient(url, http_client=httpx.AsyncClient())
        self._open.callback(lambda: self._wait(async_client.aclose()))
        return Blocking(AsyncKeylatch.from_postgrest(async_client.auth(token)), self.runner)

    def _connection(self, who: str) -> object:
        url, claims = self.system.database.authenticator_url, self.system.claims(who)
        if not self.is_async:
            connection = self._open.enter_context(psycopg.connect(url, autocommit=True))
            return Keylatch.from_psycopg(connection, claims=claims)
        async_connection = self._wait(psycopg.AsyncConnection.connect(url, autocommit=True))
        self._open.callback(lambda: self._wait(async_connection.close()))
        return Blocking(AsyncKeylatch.from_psycopg(async_connection, claims=claims), self.runner)

    def _pool(self, who: str) -> object:
        url, claims = self.system.database.authenticator_url, self.system.claims(who)
        # `_connection` uses autocommit and `_pool` does not, so that every call runs with both.
        size: dict[str, Any] = {"min_size": 1, "max_size": 2}
        if not self.is_async:
            pool = self._open.enter_context(psycopg_pool.ConnectionPool(url, open=False, **size))
            return Keylatch.from_psycopg(pool, claims=claims)
        async_pool = psycopg_pool.AsyncConnectionPool(url, open=False, **size)
        self._wait(async_pool.open())
        self._open.callback(lambda: self._wait(async_pool.close()))
        return Blocking(AsyncKeylatch.from_psycopg(async_pool, claims=claims), self.runner)

    def _asyncpg(self, who: str) -> object:
        # Two connections, so that one call may wait for another.
        make = asyncpg.create_pool(self.system.database.authenticator_url, min_size=1, max_size=2)
        pool = self._wait(make)
        self._open.callback(lambda: self._wait(pool.close()))
        kl = AsyncKeylatch.from_asyncpg(pool, claims=self.system.claims(who))
        return Blocking(kl, self.runner)

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        return self.runner.run(_as_coroutine(awaitable))


class Blocking:
    """An `AsyncKeylatch` with the methods of a `Keylatch`: each runs until it is done."""

    def __init__(self, client: AsyncKeylatch, runner: asyncio.Runner) -> None:
        """Store the client, and the runner of its coroutines."""
        self._client = client
        self._transport = _BlockingTransport(client._transport, runner)
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the method with this name."""
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))


class _BlockingTransport:
    def __init__(self, transport: Any, runner: asyncio.Runner) -> None:
        self.call = lambda *args: runner.run(transport.call(*args))


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
