"""The application itself decides who calls: it checks claims, and uses a pool of psycopg."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import jwt
import psycopg_pool
import pytest
from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from keylatch import AsyncKeylatch
from keylatch.fastapi import admin_router, require_key, resolve_router
from keylatch.models import ResolvedKey
from stack import Database, People, Tokens
from web.site import Site, problem

pytestmark = pytest.mark.one_server

SHOP = "https://shop.example"


def make_app(database_url: str, secret: str) -> FastAPI:
    """Make an application without PostgREST. Its pool opens when the application starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with psycopg_pool.AsyncConnectionPool(database_url, open=False, min_size=1) as pool:
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    async def caller(
        sent: Annotated[HTTPAuthorizationCredentials, Security(HTTPBearer())],
    ) -> AsyncKeylatch:
        try:
            claims = jwt.decode(sent.credentials, secret, ["HS256"], audience="authenticated")
        except jwt.InvalidTokenError:
            raise HTTPException(401) from None
        return AsyncKeylatch.from_psycopg(app.state.pool, claims=claims)

    async def resolver() -> AsyncIterator[AsyncKeylatch]:
        yield AsyncKeylatch.from_psycopg(app.state.pool, claims={"role": "keylatch_resolver"})

    app.include_router(admin_router(caller), prefix="/api/support")
    app.include_router(resolve_router(resolver))

    @app.get("/whoami")
    def whoami(key: Annotated[ResolvedKey, Depends(require_key(resolver))]) -> str:
        return str(key.workspace_id)

    return app


def test_a_dependency_of_the_application_decides_who_calls(
    database: Database, people: People, tokens: Tokens
) -> None:
    app = make_app(database.authenticator_url, tokens.secret)
    with Site("", tokens, app=app) as site:

        def call(who: str, path: str, **body: Any) -> Any:
            return site.act(who, "POST", f"/api/support/widget-keys{path}", json=body)

        issued = call("alice", "", workspace_id=str(people.a), allowed_origins=[SHOP])
        assert issued.status_code == 201
        assert site.resolve(issued.json()["key"], SHOP).json() == {"environment": "live"}
        assert problem(site.resolve(issued.json()["key"])) == (404, "key_not_found")
        secret = call("alice", "", workspace_id=str(people.a), kind="secret").json()["key"]
        assert site.get("/whoami", headers={"x-api-key": secret}).json() == str(people.a)

        for who in ("bob", "mia", "stranger"):
            answer = call(who, "", workspace_id=str(people.a))
            assert problem(answer) == (403, "permission_denied")
            answer = call(who, f"/{issued.json()['id']}/revoke")
            assert problem(answer) == (404, "key_not_found")
        path = "/api/support/widget-keys"
        forged = {"Authorization": f"Bearer {Tokens().token(people.alice)}"}
        assert (
            site.get(path, params={"workspace_id": str(people.a)}, headers=forged).status_code
            == 401
        )

        # The database closes every connection, so the pool may hand out a closed connection.
        with database.connect(superuser=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where usename = 'authenticator'"
            )
        assert problem(site.resolve(secret, SHOP))[0] in (404, 502)
        assert problem(site.resolve(secret, SHOP)) == (404, "key_not_found")


def test_an_http_error_of_a_dependency_is_the_answer_of_the_application(tokens: Tokens) -> None:
    calls = []

    async def resolver() -> AsyncKeylatch:
        calls.append(1)
        raise HTTPException(503)

    app = FastAPI()
    app.include_router(resolve_router(resolver))
    with Site("", tokens, app=app) as site:
        assert site.resolve("x", SHOP).status_code == 503
    assert calls == [1]
