"""An application as a user of keylatch would write it, served by uvicorn."""

import contextlib
import logging
import secrets
import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any, Self
from uuid import UUID, uuid5

import httpx
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from postgrest import AsyncPostgrestClient

from keylatch import AsyncKeylatch
from keylatch.errors import KeylatchError
from keylatch.fastapi import (
    admin_router,
    as_caller,
    install_error_handlers,
    require_key,
    resolve_router,
)
from keylatch.models import ResolvedKey
from stack import HANG_SECONDS, People, Tokens, until

LEGACY_KEY = "legacy-7f3a"
LEGACY_WORKSPACE = UUID("1e9ac000-0000-4000-8000-000000000001")


class LegacySystem:
    """The keys of another system, with a record of the keys that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find(self, key: str) -> ResolvedKey | None:
        """Find a key. This call blocks, like the library of a legacy system."""
        self.asked.append(key)
        if key != LEGACY_KEY:
            return None
        return ResolvedKey(
            key_id=uuid5(LEGACY_WORKSPACE, key),
            workspace_id=LEGACY_WORKSPACE,
            kind="secret",
            environment="live",
            scopes=("orders:read",),
            metadata={},
            expires_at=None,
        )

    async def find_later(self, key: str) -> ResolvedKey | None:
        """Find a key in an event loop."""
        return self.find(key)


def make_app(rest_url: str, tokens: Tokens, legacy: LegacySystem, seconds: float = 10) -> FastAPI:
    """Make the application.

    Args:
        rest_url: The URL of PostgREST.
        tokens: Signs the token of the resolver.
        legacy: The legacy system of the application.
        seconds: How long the application waits for an answer of PostgREST.
    """
    http = httpx.AsyncClient(timeout=seconds)
    rest = AsyncPostgrestClient(rest_url, headers={"apikey": tokens.anon_key}, http_client=http)
    resolver = AsyncKeylatch.from_postgrest(
        rest.schema("keylatch").auth(tokens.token(role="keylatch_resolver"))
    )
    conversations: dict[str, UUID] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with http:
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["POST"], allow_headers=["x-api-key"]
    )
    app.include_router(admin_router(as_caller(rest)))
    app.include_router(resolve_router(resolver))

    Caller = Annotated[ResolvedKey, Depends(require_key(resolver))]  # noqa: N806
    refusals: dict[int | str, dict[str, Any]] = {status: {} for status in (400, 401, 403, 502)}

    @app.get("/whoami", responses=refusals)
    async def whoami(key: Caller) -> UUID:
        return key.workspace_id

    reader = require_key(resolver, scopes=["orders:read"], fallback=legacy.find)

    @app.get("/orders", responses=refusals)
    async def orders(key: Annotated[ResolvedKey, Depends(reader)]) -> UUID:
        return key.workspace_id

    writer = require_key(
        resolver, scopes=["orders:read", "orders:write"], fallback=legacy.find_later
    )

    @app.post("/orders", responses=refusals)
    async def order(key: Annotated[ResolvedKey, Depends(writer)]) -> UUID:
        return key.workspace_id

    widget = require_key(resolver, kinds=["publishable"])

    @app.post("/widget/conversations", responses=refusals)
    async def converse(key: Annotated[ResolvedKey, Depends(widget)]) -> str:
        token = secrets.token_urlsafe()
        conversations[token] = key.workspace_id
        return token

    @app.get("/widget/conversations/{token}", responses={404: {}})
    async def read_conversation(token: str) -> bool:
        if token not in conversations:
            raise HTTPException(404)
        return True

    # Routes of the application's own, with the error handlers of keylatch.
    own = FastAPI()
    install_error_handlers(own)

    @own.post("/suspend/{key_id}")
    async def suspend(
        key_id: str, client: Annotated[AsyncKeylatch, Depends(as_caller(rest))]
    ) -> str:
        return (await client.suspend(key_id)).status

    @own.get("/broken")
    async def broken() -> None:
        raise KeylatchError(detail="a secret of the house")

    @own.get("/whoami")
    async def whoami_there(key: Caller) -> UUID:
        return key.workspace_id

    app.mount("/own", own)
    return app


class Log(logging.Handler):
    """A context manager that keeps all that this process logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        """Start to keep records of every level."""
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(logging.DEBUG)
        root.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop keeping records."""
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(self.format(record))

    def text(self) -> str:
        """Return all lines."""
        return "\n".join(self.lines)


class Site(httpx.Client):
    """An application served on a socket, and its client; a context manager that stops both.

    Attributes:
        legacy: The legacy system of the application.
        log: All that this process has logged.
    """

    def __init__(
        self, rest_url: str, tokens: Tokens, *, seconds: float = 10, app: FastAPI | None = None
    ) -> None:
        """Serve `app`, or else the application of `make_app`. Wait until the server listens."""
        self.legacy = LegacySystem()
        self.log = Log()
        self._people = People(tokens)
        self._tokens = tokens
        if app is None:
            app = make_app(rest_url, tokens, self.legacy, seconds)
        config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="uvicorn", daemon=True)
        self.log.__enter__()
        self._thread.start()

        def is_up() -> bool:
            assert self._thread.is_alive(), f"uvicorn did not start:\n{self.log.text()}"
            return bool(self._server.started)

        until(is_up)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        super().__init__(base_url=f"http://127.0.0.1:{port}", timeout=HANG_SECONDS)

    def __exit__(self, *details: Any) -> None:
        """Stop the client and the server."""
        super().__exit__(*details)
        self._server.should_exit = True
        self._thread.join()
        self.log.__exit__()

    def token(self, who: str) -> str:
        """Return a token for one of `People`, or for a role."""
        if hasattr(self._people, who):
            return self._people.token(who)
        return self._tokens.anon_key if who == "anon" else self._tokens.token(role=who)

    def act(self, who: str | None, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request as a user, a role, or nobody. The answer must not be a 500."""
        headers = dict(more.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {self.token(who)}"
        response = self.request(method, path, headers=headers, **more)
        assert response.status_code != 500, response.text
        return response

    def issue(self, **fields: Any) -> dict[str, Any]:
        """Issue a key of workspace A as alice, and return the answer."""
        response = self.act(
            "alice", "POST", "/widget-keys", json={"workspace_id": str(People.a), **fields}
        )
        assert response.status_code == 201, response.text
        issued: dict[str, Any] = response.json()
        return issued

    def resolve(self, key: object, origin: str | None = None, **more: Any) -> httpx.Response:
        """Resolve a key, like a page."""
        headers = {} if origin is None else {"Origin": origin}
        return self.act(
            None, "POST", "/widget/keys/resolve", json={"key": key}, headers=headers, **more
        )


def problem(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the slug of a refusal, and check its form."""
    body = response.json()
    assert set(body) == {"slug", "detail", "hint"}, body
    assert body["detail"]
    assert response.headers["content-type"] == "application/json"
    return response.status_code, body["slug"]
