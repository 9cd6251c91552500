"""A database's REST API as its users meet it: PostgREST behind the gateway, and a client."""

import contextlib
from collections.abc import Mapping
from typing import Any, Self

import httpx

from stack.database import Database
from stack.gateway import Gateway
from stack.janitor import Janitor
from stack.postgrest import PostgREST
from stack.tokens import Tokens


class Rest:
    """The API of one database; a context manager that ends it.

    Attributes:
        url: What `supabase.create_client` takes.
        rest_url: PostgREST itself.
        postgrest: The process, with its log.
        tokens: Who signs tokens for it.
        anon_key: The project's key for browsers.
        service_key: The project's key for its own backend.
        publishable_key: The same as `anon_key`, in the form that is no JWT.
        secret_key: The same as `service_key`, in the form that is no JWT.
    """

    def __init__(
        self,
        database: Database,
        tokens: Tokens,
        *,
        janitor: Janitor,
        schemas: str = "public,keylatch",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Start it and wait until it is ready; see `PostgREST` for the options."""
        self._parts = contextlib.ExitStack()
        self.postgrest = self._parts.enter_context(
            PostgREST(
                database.authenticator_url,
                tokens.secret,
                janitor=janitor,
                schemas=schemas,
                settings=settings,
            )
        )
        self.rest_url = self.postgrest.url
        keys = {
            tokens.publishable_key: tokens.anon_key,
            tokens.secret_key: tokens.service_key,
        }
        self.url = self._parts.enter_context(Gateway(self.rest_url, keys)).url
        self.tokens = tokens
        self.token = tokens.token
        self.anon_key = tokens.anon_key
        self.service_key = tokens.service_key
        self.publishable_key = tokens.publishable_key
        self.secret_key = tokens.secret_key
        self._client = self._parts.enter_context(httpx.Client(base_url=f"{self.url}/rest/v1"))

    def __enter__(self) -> Self:
        """Returns the running API."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End it."""
        self._parts.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        content: str | bytes | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request through the gateway, to schema `keylatch` unless the headers name another.

        Args:
            method: The HTTP method.
            path: The path below `/rest/v1`, such as `/rpc/issue_key` or `/keys?id=eq.…`.
            token: Who asks; `anon` unless given.
            json: The body, as JSON.
            headers: More headers; they win over ours.
            content: The body, as it is; JSON unless the headers name another type.
            params: Query parameters.
        """
        sent = httpx.Headers({"apikey": self.anon_key, "Accept-Profile": "keylatch"})
        sent["Content-Profile"] = "keylatch"
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if content is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers)
        return self._client.request(
            method, path, json=json, content=content, headers=sent, params=params
        )
