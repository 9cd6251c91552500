"""Turns errors into HTTP answers: one body for every refusal, and the status of each error."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from ..errors import (
    InvalidArgument,
    KeylatchError,
    KeyNotFound,
    KeyNotUsable,
    LatchViolation,
    PermissionDenied,
    SessionNotFound,
    TooManyRequests,
)

_log = logging.getLogger("keylatch.fastapi")

_STATUS: dict[type[KeylatchError], int] = {
    InvalidArgument: 400,
    KeyNotFound: 404,
    SessionNotFound: 404,
    KeyNotUsable: 409,
    LatchViolation: 409,
    TooManyRequests: 429,
}


class ProblemBody(BaseModel):
    """Why a request was refused."""

    slug: str = Field(description="The word that programs match on.")
    detail: str = Field(description="What is wrong, in a sentence that names the field.")
    hint: str | None = Field(description="The next step.")


class Problem(HTTPException):
    """A refusal as an HTTP error.

    The routers of this package, and an application that has called `install_error_handlers`, answer
    with `slug`, `detail` and `hint`. Without these handlers, FastAPI treats a `Problem` as any
    other `HTTPException`: the three fields are inside `detail`.

    Attributes:
        slug: The word that programs match on.
        status_code: The HTTP status.
        detail: The body: `slug`, `detail` and `hint`. None of them contains a key.
        headers: Extra headers of the answer, or `None`.
    """

    def __init__(
        self,
        status_code: int,
        slug: str,
        detail: str,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.slug = slug
        body = ProblemBody(slug=slug, detail=detail, hint=hint)
        super().__init__(status_code, body.model_dump(), dict(headers) if headers else None)

    def response(self) -> JSONResponse:
        """Return the HTTP response, whose body has only `slug`, `detail` and `hint`."""
        return JSONResponse(self.detail, self.status_code, self.headers)


def unauthorized(slug: str, detail: str, hint: str | None, *, challenge: str = "") -> Problem:
    """Refuse a request whose sender is not known.

    Args:
        slug: The word that programs match on.
        detail: What is wrong.
        hint: What to do.
        challenge: The text after `Bearer` in `WWW-Authenticate`, as in RFC 6750; empty if
            nothing was presented.

    Returns:
        The problem, a 401.
    """
    return Problem(401, slug, detail, hint, {"WWW-Authenticate": f"Bearer {challenge}".strip()})


def problem_of(error: KeylatchError) -> Problem:
    """Choose the HTTP status for an error of a call that ran with the rights of the sender.

    Args:
        error: The error of the call.

    Returns:
        400, 401, 403, 404, 409 or 429 with the error's own texts; 502 for every error that the
        sender cannot fix.
    """
    detail = error.detail or error.slug
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return Problem(status, error.slug, detail, error.hint)
    if isinstance(error, PermissionDenied):
        if error.sqlstate == "42501":
            return Problem(403, error.slug, detail, error.hint)
        # Without a SQLSTATE, the token was refused before the database. With another SQLSTATE,
        # the application itself may not log in.
        if error.sqlstate is None:
            return unauthorized(error.slug, detail, error.hint, challenge='error="invalid_token"')
    return unavailable(error)


def unavailable(error: Exception) -> Problem:
    """Log an internal failure, and return an answer that reveals nothing about it.

    Args:
        error: The error of the call, which is written to the logger `keylatch.fastapi`.

    Returns:
        The problem: the same 502 for every failure.
    """
    _log.error("a call of keylatch failed: %s", error)
    return Problem(
        502,
        "unavailable",
        "The service that keeps the keys did not answer.",
        "Try again in a moment. Check the list of keys before you issue or rotate again.",
    )


def install_error_handlers(app: FastAPI) -> None:
    """Make the application's own routes answer keylatch's errors as the routers here do.

    Without these handlers, an uncaught error of keylatch in a route is a 500.

    Args:
        app: The application.
    """

    async def answer(_: Request, error: Any) -> Response:
        return (error if isinstance(error, Problem) else problem_of(error)).response()

    app.add_exception_handler(Problem, answer)
    app.add_exception_handler(KeylatchError, answer)
