"""keylatch for FastAPI: routes for admins and widgets, and dependencies that ask for a key.

    import os
    from contextlib import asynccontextmanager
    from typing import Annotated

    import httpx
    import jwt  # PyJWT, or any other library: keylatch brings none
    from fastapi import Depends, FastAPI
    from keylatch import AsyncKeylatch
    from keylatch.fastapi import (
        admin_router,
        as_caller,
        require_key,
        require_key_or_user,
        resolve_router,
    )
    from keylatch.models import ResolvedKey
    from postgrest import AsyncPostgrestClient

    url, anon_key = f"{os.environ['SUPABASE_URL']}/rest/v1", os.environ["SUPABASE_ANON_KEY"]
    http = httpx.AsyncClient(timeout=10)
    rest = AsyncPostgrestClient(url, headers={"apikey": anon_key}, http_client=http)
    # The token of a role that can only resolve. The service key works too.
    kl = AsyncKeylatch.from_postgrest(rest.schema("keylatch").auth(os.environ["RESOLVER_TOKEN"]))

    @asynccontextmanager
    async def lifespan(app):
        async with http:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(admin_router(as_caller(rest)))  # POST, GET /widget-keys, …/rotate, …/revoke
    app.include_router(resolve_router(kl))             # POST /widget/keys/resolve

    @app.get("/orders")
    async def orders(key: Annotated[ResolvedKey, Depends(require_key(kl, scopes=["orders:read"]))]):
        return {"workspace": key.workspace_id}

    # A route for programs (which send a key) and for signed-in users (who send their JWT).
    def verify(token):
        secret = os.environ["SUPABASE_JWT_SECRET"]
        return jwt.decode(token, secret, ["HS256"], audience="authenticated")["sub"]

    either = require_key_or_user(kl, verify)

    @app.get("/reports")
    async def reports(caller: Annotated[ResolvedKey | str, Depends(either)]):
        if isinstance(caller, ResolvedKey):
            return {"workspace": caller.workspace_id}
        return {"user": caller}

The sender does not learn why a key is refused. The reason is in your log, at level INFO of the
logger `keylatch`: the verdict of `explain`, the key's id, the masked key and the fingerprint.
Python shows that level after `logging.basicConfig(level=logging.INFO)`, for example.

The routers answer every refusal with `{"slug": …, "detail": …, "hint": …}`, and every failure
behind them with 502. The routers open no connection of their own.
"""

from .admin import admin_router, as_caller
from .guard import require_key, require_key_or_user
from .problems import Problem, install_error_handlers
from .widget import resolve_router

__all__ = [
    "Problem",
    "admin_router",
    "as_caller",
    "install_error_handlers",
    "require_key",
    "require_key_or_user",
    "resolve_router",
]
