"""Calls over HTTP, with the session and the headers of a supabase-py or postgrest-py client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

from ..errors import KeylatchError, Unavailable, UnexpectedAnswer, error_for
from ..secret import mask_keys
from . import VIEWS, Awaited, Blocking, Calls, Rows
from .wire import VOID, as_rows, dump_json, read_json

if TYPE_CHECKING:
    from postgrest import AsyncPostgrestClient, SyncPostgrestClient

# What a server may cut at its `max-rows`: 1000 on a Supabase project.
_PAGED = frozenset({"legacy_keys", "list_events", "list_keys"})


# Of the project's keys that are no JWTs: `sb_secret_…`, `sb_publishable_…`.
_NO_JWT = "sb_"


class _Sending(NamedTuple):
    """What `httpx.Client.send` takes."""

    request: httpx.Request
    auth: Any


class _Calls(Calls):
    """The calls of both forms, written once: see `finish`.

    The request is posted on the client's own session rather than through its `rpc()`: the error
    of postgrest-py does not carry the HTTP status, without which a gateway that refuses an API
    key cannot be told from one that has lost its server, and it does carry the server's answer.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        rows: list[Mapping[str, object]] = []
        while True:
            # Asked for each time: signing in, or a refreshed token, changes the headers.
            rest = self._client.schema("keylatch")
            if rest.session.is_closed:
                raise _closed()
            try:
                # Not kept in a name: it has the key, and a traceback shows what has a name.
                response = await self._wait(
                    rest.session.send(
                        **_sending(rest, function, arguments, offset=len(rows))._asdict()
                    )
                )
            except httpx.HTTPError as problem:
                failure = _no_answer(problem)
            else:
                page = _read(response, arguments)
                rows += page
                if not page or _is_all(response, len(rows)):
                    return rows
                continue
            # Out of the except block, so that the request, with its key, is not in the chain.
            raise failure


class PostgrestTransport(Blocking, _Calls):
    """Calls through a client that the caller made, and signs in and out."""


class AsyncPostgrestTransport(Awaited, _Calls):
    """As `PostgrestTransport`, over the async clients."""


TRANSPORTS = (PostgrestTransport, AsyncPostgrestTransport)


def _sending(
    rest: SyncPostgrestClient | AsyncPostgrestClient,
    function: str,
    arguments: Mapping[str, object],
    *,
    offset: int,
) -> _Sending:
    # A copy of the client's: `schema()` makes one for each caller.
    headers = rest.headers
    headers["Accept"] = headers["Content-Type"] = "application/json"
    # The rule of postgrest-py: what the session signs with gives way to a token.
    auth = httpx.USE_CLIENT_DEFAULT if "Authorization" not in headers else None
    params = {}
    if function in VIEWS:
        params = {name: f"eq.{value}" for name, value in arguments.items()}
    if function == "legacy_keys":
        params["order"] = "id"
    if function in _PAGED:
        # These rows are never deleted, and a new one moves others only towards later pages: one may
        # come twice, none is skipped.
        headers["Prefer"] = "count=exact"
        params["offset"] = str(offset)
    request = rest.session.build_request(
        method="GET" if function in VIEWS else "POST",
        url=str(rest.base_url.joinpath(*([] if function in VIEWS else ["rpc"]), function)),
        params=params,
        headers=headers,
        content=_body(function, arguments),
    )
    _send_key_as_apikey(request.headers)
    return _Sending(request, rest.basic_auth or auth)


def _send_key_as_apikey(headers: httpx.Headers) -> None:
    """Move a key that is no JWT out of `Authorization`, where Supabase refuses it.

    supabase-py sends the project's key in both headers, and its session does so by itself, until
    somebody signs in.
    """
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.lstrip().startswith(_NO_JWT):
        del headers["Authorization"]
        # Replaces any other apikey: the sender of this key must not act with the other one.
        headers["apikey"] = key.strip()


def _body(function: str, arguments: Mapping[str, object]) -> bytes | None:
    if function in VIEWS:
        return None
    return dump_json(arguments).encode()


def _read(response: httpx.Response, arguments: Mapping[str, object]) -> Rows:
    """Give the rows of a good answer; raise the error of a bad one."""
    if response.status_code == httpx.codes.NO_CONTENT and response.url.path.endswith(VOID):
        return []
    try:
        answer = read_json(response.text)
    except ValueError:
        answer = None
    if response.is_success:
        if answer is None:
            raise UnexpectedAnswer(
                detail=f"HTTP {response.status_code} came without JSON",
                hint="Check the address: keylatch needs the one of PostgREST.",
            )
        return as_rows(answer)
    if "/rest/v1/rest/v1/" in response.url.path:
        raise UnexpectedAnswer(
            detail="the address of the project ends in /rest/v1, which its client adds once more",
            hint="Give create_client the address without /rest/v1.",
        )
    said = answer if isinstance(answer, dict) else {}
    raise error_for(
        message=_text(said, "message"),
        code=_text(said, "code"),
        detail=_text(said, "details"),
        hint=_text(said, "hint"),
        status=response.status_code,
        arguments=arguments,
    )


def _text(said: Mapping[str, object], name: str) -> str | None:
    value = said.get(name)
    return value if isinstance(value, str) else None


def _is_all(response: httpx.Response, count: int) -> bool:
    """Tell whether nothing follows. `Content-Range` is `0-999/2345`, or ends in `*` uncounted."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return not total.isdecimal() or count >= int(total)


def _closed() -> KeylatchError:
    return Unavailable(detail="the HTTP session of the client is closed", hint="Make a new client.")


def _no_answer(problem: httpx.HTTPError) -> KeylatchError:
    detail = type(problem).__name__
    # Only these speak of the socket alone; others may quote a header, and so a token.
    if isinstance(problem, httpx.NetworkError | httpx.TimeoutException):
        detail = f"{detail}: {mask_keys(str(problem))}"
    return Unavailable(
        detail=detail, hint="Check that the server runs and that the address is right."
    )
