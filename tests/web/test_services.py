"""Services over SQLAlchemy and asyncpg, each running with a database of its own."""

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from client.alchemy import url_for
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import KeylatchError
from keylatch.fastapi import require_key
from keylatch.keys import fingerprint
from keylatch.models import ResolvedKey
from keylatch.secret import mask_keys
from stack import Database, People, Tokens
from web.site import Site

pytestmark = pytest.mark.one_server

RESOLVER = {"role": "keylatch_resolver"}
INSERT = "insert into public.customers (name) values ('{name}')"

Claims = dict[str, str]
Customers = Callable[[str, Claims, bool], Any]
"""Adds a customer of this name with a key, as the user in the claims; then fails if asked to."""


class Refused(Exception):
    """An error that makes a service roll back."""


def make_app(resolver: Any, add: Customers, lifespan: Callable[[FastAPI], Any]) -> FastAPI:
    """Make a service with a route that adds a customer, and a route that requires a key."""
    app = FastAPI(lifespan=contextlib.asynccontextmanager(lifespan))
    alice = People(Tokens()).claims("alice")

    @app.post("/customers")
    async def add_customer(name: str, fails: bool = False) -> str:
        try:
            return str(await add(name, alice, fails))
        except Refused:
            raise HTTPException(409) from None

    @app.get("/whoami")
    async def whoami(key: Annotated[ResolvedKey, Depends(require_key(resolver))]) -> UUID:
        return key.workspace_id

    @app.exception_handler(KeylatchError)
    async def refuse(_: Request, error: KeylatchError) -> JSONResponse:
        return JSONResponse({"slug": error.slug}, 400)

    return app


def over_sqlalchemy(database: Database) -> FastAPI:
    """Make a service that writes in blocking sessions, like most services."""
    engine = sqlalchemy.create_engine(url_for(database.authenticator_url, "psycopg"))
    async_engine = create_async_engine(url_for(database.authenticator_url, "psycopg-async"))

    async def add(name: str, claims: Claims, fails: bool) -> str:
        with Session(engine) as session, session.begin():
            kl = Keylatch.from_sqlalchemy(session, claims=claims)
            issued = kl.issue(People.a, kind="secret", label=name)
            session.execute(text(INSERT.format(name=name)))
            if fails:
                raise Refused
        return issued.key.reveal()

    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()
        await async_engine.dispose()

    return make_app(AsyncKeylatch.from_sqlalchemy(async_engine, claims=RESOLVER), add, lifespan)


def over_async_sqlalchemy(database: Database) -> FastAPI:
    """Make a service that is async everywhere."""
    engine = create_async_engine(url_for(database.authenticator_url, "asyncpg-async"))

    async def add(name: str, claims: Claims, fails: bool) -> str:
        async with AsyncSession(engine) as session, session.begin():
            kl = AsyncKeylatch.from_sqlalchemy(session, claims=claims)
            issued = await kl.issue(People.a, kind="secret", label=name)
            await session.execute(text(INSERT.format(name=name)))
            if fails:
                raise Refused
        return issued.key.reveal()

    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    return make_app(AsyncKeylatch.from_sqlalchemy(engine, claims=RESOLVER), add, lifespan)


def over_asyncpg(database: Database) -> FastAPI:
    """Make a service on a pool of asyncpg. The pool opens when the service starts."""
    pool: Any = None

    async def add(name: str, claims: Claims, fails: bool) -> str:
        async with pool.acquire() as connection, connection.transaction():
            kl = AsyncKeylatch.from_asyncpg(connection, claims=claims)
            issued = await kl.issue(People.a, kind="secret", label=name)
            await connection.execute(INSERT.format(name=name))
            if fails:
                raise Refused
        return issued.key.reveal()

    async def resolver() -> AsyncKeylatch:
        return AsyncKeylatch.from_asyncpg(pool, claims=RESOLVER)

    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        nonlocal pool
        # asyncpg binds a pool to the event loop in which it is made.
        async with asyncpg.create_pool(database.authenticator_url, min_size=1, max_size=2) as pool:
            yield

    return make_app(resolver, add, lifespan)


@pytest.fixture(params=[over_sqlalchemy, over_async_sqlalchemy, over_asyncpg])
def service(
    request: pytest.FixtureRequest, database: Database, people: People, tokens: Tokens
) -> Iterator[Site]:
    """One of the services, running."""
    with database.connect() as owner:
        owner.execute("create table public.customers (name text)")
        owner.execute("grant insert on public.customers to authenticator")
    with Site("", tokens, app=request.param(database)) as site:
        yield site


def count(database: Database) -> tuple[Any, ...]:
    """Return the number of customers and the number of keys."""
    with database.connect() as owner:
        row = owner.execute(
            "select (select count(*) from public.customers),"
            " (select count(*) from keylatch_internal.keys)"
        ).fetchone()
    return row or ()


def test_a_key_is_saved_with_the_customer_or_not_at_all(service: Site, database: Database) -> None:
    for _ in range(2):
        assert service.post("/customers", params={"name": "Bob", "fails": True}).status_code == 409
        assert count(database) == (0, 0)
    for number in (1, 2):
        key = service.post("/customers", params={"name": "Ann"}).json()
        assert count(database) == (number, number)
        answer = service.get("/whoami", headers={"x-api-key": key})
        assert (answer.status_code, answer.json()) == (200, str(People.a))


def test_a_refused_key_is_401_and_an_error_of_keylatch_has_its_slug(
    service: Site, database: Database
) -> None:
    key = service.post("/customers", params={"name": "Ann"}).json()
    with database.connect() as owner:
        owner.execute("update keylatch.keys set revoked_at = now()")
    assert service.get("/whoami", headers={"x-api-key": key}).status_code == 401
    why = f"{mask_keys(key)}, fingerprint {fingerprint(key)}"
    assert re.search(
        f"request refused: revoked, key_id [0-9a-f-]{{36}}, {re.escape(why)}", service.log.text()
    )
    refused = service.post("/customers", params={"name": "x" * 201})
    assert (refused.status_code, refused.json()) == (400, {"slug": "invalid_argument"})
    assert count(database) == (1, 1)
    assert key not in service.log.text()
