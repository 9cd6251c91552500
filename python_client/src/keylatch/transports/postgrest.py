"""Sends calls over HTTP, with the session and headers of a supabase-py or postgrest-py client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from ..errors import KeylatchError, Unavailable, UnexpectedAnswer, error_for
from ..secret import mask_keys
from . import VIEWS, AnyTransport, Rows
from .wire import as_rows, dump_json, read_json

# Answers that a server may cut at its `max-rows`: 1000 on a Supabase project.
_PAGED = frozenset({"legacy_keys", "list_events", "list_keys"})
# The prefix of project keys that are not JWTs: `sb_secret_…`, `sb_publishable_…`.
_NO_JWT = "sb_"


class PostgrestTransport(AnyTransport):
    """Calls through a client that the caller creates, signs in and signs out.

    Requests go through the client's own session, not its `rpc()`, whose errors lack the HTTP
    status. The status shows whether a gateway refused the API key or reached no server.
    """

    def __init__(self, client: Any, *, is_async: bool = False) -> None:
        super().__init__(is_async=is_async)
        self._client = client

    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        rows: list[Mapping[str, object]] = []
        while True:
            # Read each time: the headers change with a sign-in or a refreshed token.
            rest = self._client.schema("keylatch")
            if rest.session.is_closed:
                raise Unavailable(
                    detail="the HTTP session of the client is closed", hint="Make a new client."
                )
            # As in postgrest-py: a token replaces the session's own auth.
            auth = None if "Authorization" in rest.headers else httpx.USE_CLIENT_DEFAULT
            try:
                # Not in a variable: a traceback may print variables, and the request has the key.
                response = await self._wait(
                    rest.session.send(
                        _request(rest, function, arguments, offset=len(rows)),
                        auth=rest.basic_auth or auth,
                    )
                )
            except httpx.HTTPError as problem:
                failure = no_answer(problem)
            else:
                page = _read(response, function, arguments)
                rows += page
                # `Content-Range` is `0-999/2345`, or `0-999/*` if the rows were not counted.
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                if not page or not total.isdecimal() or len(rows) >= int(total):
                    return rows
                continue
            # Outside the except block, so that the request, with the key, is not in the chain.
            raise failure


def _request(
    rest: Any, function: str, arguments: Mapping[str, object], *, offset: int
) -> httpx.Request:
    is_view = function in VIEWS
    # A copy: `schema()` makes new headers for each caller.
    headers = rest.headers
    headers["Accept"] = headers["Content-Type"] = "application/json"
    params = {name: f"eq.{value}" for name, value in arguments.items()} if is_view else {}
    if function == "legacy_keys":
        params["order"] = "id"
    if function in _PAGED:
        # These rows are never deleted, and a new row moves others only to later pages. So a row
        # may come twice, and no row is skipped.
        headers["Prefer"] = "count=exact"
        params["offset"] = str(offset)
    request: httpx.Request = rest.session.build_request(
        method="GET" if is_view else "POST",
        url=str(rest.base_url.joinpath(*([] if is_view else ["rpc"]), function)),
        params=params,
        headers=headers,
        content=None if is_view else dump_json(arguments).encode(),
    )
    _send_key_as_apikey(request.headers)
    return request


def _send_key_as_apikey(headers: httpx.Headers) -> None:
    """Move a key that is not a JWT out of `Authorization`, because Supabase refuses it there.

    The session of supabase-py sends the project's key in both headers until a user signs in.
    """
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.lstrip().startswith(_NO_JWT):
        del headers["Authorization"]
        # Replaces any other apikey: the request must act with this key only.
        headers["apikey"] = key.strip()


def _read(response: httpx.Response, function: str, arguments: Mapping[str, object]) -> Rows:
    """Return the rows of a successful answer, or raise the error of a failed one."""
    # The only function that returns nothing.
    if response.status_code == httpx.codes.NO_CONTENT and function == "declare_scheme":
        return []
    try:
        answer = read_json(response.text)
    except ValueError:
        answer = None
    if response.is_success:
        if answer is None:
            raise UnexpectedAnswer(
                detail=f"the answer (HTTP {response.status_code}) is not JSON",
                hint="Check the address: keylatch needs the address of PostgREST.",
            )
        return as_rows(answer)
    if "/rest/v1/rest/v1/" in response.url.path:
        raise UnexpectedAnswer(
            detail="the project's address ends in /rest/v1, and the client adds /rest/v1 again",
            hint="Pass create_client the address without /rest/v1.",
        )
    said = answer if isinstance(answer, dict) else {}
    texts = (
        text if isinstance(text := said.get(name), str) else None
        for name in ("message", "code", "details", "hint")
    )
    raise error_for(*texts, status=response.status_code, arguments=arguments)


def no_answer(problem: httpx.HTTPError) -> KeylatchError:
    """Turn an error of httpx into keylatch's error, without the headers that it may quote."""
    detail = type(problem).__name__
    # Messages of these classes are only about the socket. Others may quote a header with a token.
    if isinstance(problem, httpx.NetworkError | httpx.TimeoutException):
        detail = f"{detail}: {mask_keys(str(problem))}"
    return Unavailable(
        detail=detail, hint="Check that the server runs and that the address is right."
    )
