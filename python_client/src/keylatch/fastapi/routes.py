"""The route class of the routers: limits the size of a body, and makes all refusals alike."""

import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from ..errors import InvalidArgument, KeylatchError, UnreadableRow
from ..secret import Secret
from .problems import Problem, ProblemBody, problem_of

_log = logging.getLogger("keylatch.fastapi")

# Twice the size of a key with 100 origins and the largest metadata.
_LONGEST_BODY = 128 * 1024
# Python can read ten times this depth, but cannot write it again.
_DEEPEST_BODY = 100

REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ProblemBody, "description": "Refused; `slug` says why."},
    502: {"model": ProblemBody, "description": "The service that keeps the keys did not answer."},
}
"""The refusals of every route, for OpenAPI."""


class ProblemRoute(APIRoute):
    """A route that answers every refusal with a `ProblemBody`, and forbids caching of answers.

    FastAPI's own errors would repeat the body, and so a key in it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler, so that its errors become refusals with a `ProblemBody`."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(_JsonRequest(request.scope, _limited(request.receive)))
            except Problem as problem:
                response = problem.response()
            except _Unreadable as error:
                response = self.unreadable(error.detail).response()
            except RequestValidationError as error:
                response = self.unreadable(_sentence(error)).response()
            except KeylatchError as error:
                response = problem_of(error).response()
            response.headers["Cache-Control"] = "no-store"
            return response

        return answer

    def unreadable(self, detail: str) -> Problem:
        """Refuse a request that this route cannot read.

        Args:
            detail: What is wrong with the request.

        Returns:
            The refusal.
        """
        hint = "Send application/json as the OpenAPI description of this route says."
        return Problem(400, InvalidArgument.default_slug, detail, hint)


def to_json(result: object, status_code: int = 200) -> Response:
    """Answer with a result of keylatch. A new key is in plaintext.

    The metadata of a key may be nested deeper than pydantic allows.

    Args:
        result: A dataclass of `keylatch.models`, or a sequence of them.
        status_code: The HTTP status.

    Returns:
        The response.
    """
    return Response(json.dumps(result, default=_plain), status_code, media_type="application/json")


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return {field.name: _value_of(value, field.name) for field in fields(value)}
    raise TypeError(f"no JSON for {type(value).__name__}")


def _value_of(row: object, name: str) -> object:
    """Return a value of a row. If Python cannot read the value, log that and return null."""
    try:
        return getattr(row, name)
    except UnreadableRow as error:
        _log.error("a row of an answer is not complete: %s", error)
        return None


class _Unreadable(HTTPException):
    """FastAPI replaces other exceptions that occur while it reads a body, but not this class."""


class _JsonRequest(Request):
    async def json(self) -> Any:
        try:
            body = await super().json()
        except (ValueError, RecursionError):
            pass
        else:
            if _is_deep(body):
                raise _Unreadable(400, f"The body is nested deeper than {_DEEPEST_BODY} levels.")
            return body
        # Outside the except block: the parser's error holds the whole body.
        raise _Unreadable(400, "The body is not JSON.")


def _is_deep(body: object) -> bool:
    level: list[Any] = [[body]]
    for _ in range(_DEEPEST_BODY + 1):
        level = [
            child
            for one in level
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, dict | list)
        ]
    return bool(level)


def _limited(receive: Receive) -> Receive:
    """Stop reading a body that is too long for any valid request."""
    left = _LONGEST_BODY

    async def receive_limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            detail = f"The body is longer than {_LONGEST_BODY // 1024} kB."
            raise Problem(413, "body_too_large", detail)
        return message

    return receive_limited


def _sentence(error: RequestValidationError) -> str:
    """Name the first wrong field and its rule, without anything that was sent."""
    first = error.errors()[0]
    source, *path = first["loc"]
    if first["type"] == "extra_forbidden":
        # The name of the extra field was chosen by the sender, so it is not repeated.
        return f"{source} has an unknown field."
    field = ".".join(map(str, [source, *path[:1]]))
    position = "".join(f"[{index}]" for index in path[1:] if isinstance(index, int))
    # The text after a comma may quote the value.
    return f"{field}{position}: {first['msg'].partition(',')[0]}."
