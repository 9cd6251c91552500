"""The REST API of a database as users see it: PostgREST behind the gateway, with a client."""

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
    """The API of one database; a context manager that ends the API's processes.

    Attributes:
        url: The URL for `supabase.create_client`.
        rest_url: The URL of PostgREST itself.
        postgrest: The PostgREST process, with its log.
        tokens: Signs tokens for the API.
        anon_key: The project's key for browsers.
        service_key: The project's key for its own backend.
        publishable_key: The same as `anon_key`, but not a JWT.
        secret_key: The same as `service_key`, but not a JWT.
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
        """Start the API and wait until it is ready; see `PostgREST` for the options."""
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
        """End the gateway and PostgREST."""
        self.close()

    def close(self) -> None:
        """End the gateway and PostgREST."""
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
        """Send a request through the gateway; the headers can name a schema other than `keylatch`.

        Args:
            method: The HTTP method.
            path: The path below `/rest/v1`, such as `/rpc/issue_key` or `/keys?id=eq.…`.
            token: The bearer token; by default the request is `anon`.
            json: The body, sent as JSON.
            headers: Headers that override or extend ours.
            content: The body, sent unchanged; its type is JSON unless the headers say otherwise.
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
