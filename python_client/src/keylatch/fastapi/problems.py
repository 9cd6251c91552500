"""What goes wrong, as HTTP: one body for every refusal, and the status of each error."""

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
    hint: str | None = Field(description="What to do about it.")


class Problem(HTTPException):
    """A refusal as HTTP.

    The routers here answer it with `slug`, `detail` and `hint`, and so does an application that
    has called `install_error_handlers`. Any other answers it as it does every `HTTPException`:
    by FastAPI's own habit the three are then within `detail`.

    Attributes:
        slug: The word that programs match on.
        status_code: The HTTP status.
        detail: The body: `slug`, `detail` and `hint`, none of which holds a key.
        headers: More headers of the answer, or `None`.
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
        """Give the answer, with the three fields alone as its body."""
        return JSONResponse(self.detail, self.status_code, self.headers)


def unauthorized(slug: str, detail: str, hint: str | None, *, challenge: str = "") -> Problem:
    """Refuse a request whose sender is not known.

    Args:
        slug: The word that programs match on.
        detail: What is wrong.
        hint: What to do.
        challenge: What stands behind `Bearer` in `WWW-Authenticate`, as in RFC 6750; nothing
            where nothing was presented.

    Returns:
        The problem, a 401.
    """
    return Problem(401, slug, detail, hint, {"WWW-Authenticate": f"Bearer {challenge}".strip()})


def problem_of(error: KeylatchError) -> Problem:
    """Choose the status of an error in a call that was made as the sender of the request.

    Args:
        error: What the call raised.

    Returns:
        400, 401, 403, 404, 409 or 429 with the error's own texts; 502 for all that the sender of
        the request cannot change.
    """
    detail = error.detail or error.slug
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return Problem(status, error.slug, detail, error.hint)
    if isinstance(error, PermissionDenied):
        if error.sqlstate == "42501":
            return Problem(403, error.slug, detail, error.hint)
        # No database spoke, so the token did not get as far. With any other SQLSTATE it is the
        # application itself that may not log in.
        if error.sqlstate is None:
            return unauthorized(error.slug, detail, error.hint, challenge='error="invalid_token"')
    return unavailable(error)


def unavailable(error: Exception) -> Problem:
    """Log what failed behind the application, and give what its users may know of it.

    Args:
        error: What the call raised; its texts go to the logger `keylatch.fastapi`.

    Returns:
        The problem, a 502, which is the same for all of them.
    """
    _log.error("a call of keylatch failed: %s", error)
    return Problem(
        502,
        "unavailable",
        "The service that keeps the keys did not answer.",
        "Try again in a moment. Look at the list of keys before you issue or rotate again.",
    )


def install_error_handlers(app: FastAPI) -> None:
    """Let an application's own routes answer the errors of keylatch as the routers here do.

    Without it, an error of keylatch that leaves a route of the application is a 500.

    Args:
        app: The application.
    """

    async def answer(_: Request, error: Any) -> Response:
        return (error if isinstance(error, Problem) else problem_of(error)).response()

    app.add_exception_handler(Problem, answer)
    app.add_exception_handler(KeylatchError, answer)
