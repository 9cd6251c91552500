"""The kind of route that the routers here are made of: bounded, and with refusals of one form."""

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

# Twice what a key with a hundred origins and all the metadata there can be needs.
_LONGEST_BODY = 128 * 1024
# Python would read ten times as much, and then not be able to write it.
_DEEPEST_BODY = 100

REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ProblemBody, "description": "Refused; `slug` says why."},
    502: {"model": ProblemBody, "description": "The service that keeps the keys did not answer."},
}
"""What any of the routes may answer beside its success, for OpenAPI."""


class ProblemRoute(APIRoute):
    """A route that answers every refusal with a `ProblemBody`, and whose answers nobody stores.

    The errors of FastAPI itself repeat the body, and so a key in it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give what FastAPI made of the route, with our answers in place of its errors."""
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
        """Refuse a request that does not have the form of this route.

        Args:
            detail: What is wrong with it.

        Returns:
            What to answer with.
        """
        hint = "Send what the OpenAPI description of this route says, as application/json."
        return Problem(400, InvalidArgument.default_slug, detail, hint)


def to_json(result: object, status_code: int = 200) -> Response:
    """Answer with a result of keylatch, a new key in plaintext.

    The metadata of a key may be nested deeper than pydantic would follow.

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
    """Give a value of a row; null, and a word in the log, if Python cannot read it."""
    try:
        return getattr(row, name)
    except UnreadableRow as error:
        _log.error("a row of an answer is not complete: %s", error)
        return None


class _Unreadable(HTTPException):
    """Of a class that FastAPI lets pass while it reads a body."""


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
        # Out of the except block: the error of the parser holds the whole body.
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
    """Stop where a body is longer than any that has a meaning here."""
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
    """Name the first field that is wrong and its rule, and nothing of what was sent."""
    first = error.errors()[0]
    source, *path = first["loc"]
    if first["type"] == "extra_forbidden":
        # The end of its path is a name that the sender chose.
        return f"{source} has a field that is not known here."
    field = ".".join(map(str, [source, *path[:1]]))
    position = "".join(f"[{index}]" for index in path[1:] if isinstance(index, int))
    # What follows a comma may quote.
    return f"{field}{position}: {first['msg'].partition(',')[0]}."
