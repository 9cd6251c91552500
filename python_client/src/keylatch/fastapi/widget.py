"""The route of the anonymous widget: is this key good, on the page that shows me."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, SecretStr

from ..async_client import AsyncKeylatch
from ..secret import Secret
from .problems import Problem, ProblemBody
from .reasons import log_refusal, log_refused_key
from .resolving import as_dependency, resolve
from .routes import REFUSALS, ProblemRoute


class PresentedKey(BaseModel):
    """The key that stands in the page."""

    key: SecretStr = Field(description="A publishable key.")


class ActiveKey(BaseModel):
    """A key that is good on this page. A visitor does not learn whose key it is."""

    environment: Literal["live", "test"] = Field(description="Whether this is a test.")


class _OpaqueRoute(ProblemRoute):
    def unreadable(self, detail: str) -> Problem:  # noqa: ARG002 - nothing is told
        """Refuse a request without a key in it as one with a wrong key."""
        return _refusal()


def resolve_router(resolver: AsyncKeylatch | Callable[..., Any]) -> APIRouter:
    """Make the route that a widget calls before anything else: `POST /widget/keys/resolve`.

    It answers 200 to an active publishable key from an origin that the key allows, and the same
    404 to all else. The origin is the `Origin` header of the request, which stops a foreign
    page and does not stop a program. For a page of another site to read the answer at all, the
    application needs `CORSMiddleware` with `allow_origins=["*"], allow_methods=["POST"]`.
    Why a key was refused is in the log, as for `require_key`.

    Args:
        resolver: Who resolves: an `AsyncKeylatch` of role `keylatch_resolver` or with the service
            key, or a dependency that gives one.

    Returns:
        A router to include, with a prefix if you like.

    Raises:
        TypeError: The resolver is neither.
    """
    router = APIRouter(route_class=_OpaqueRoute, tags=["widget"])
    refusals = {**REFUSALS, 404: {"model": ProblemBody, "description": "Refused."}}

    @router.post("/widget/keys/resolve", responses=refusals)
    async def resolve_widget_key(
        presented: PresentedKey,
        request: Request,
        client: Annotated[AsyncKeylatch, Depends(as_dependency(resolver))],
    ) -> ActiveKey:
        """Tell whether a publishable key is good on the page that sends this.

        Every refusal is the same 404: unknown, revoked, expired, suspended, or not for this page.
        """
        key = Secret(presented.key.get_secret_value())
        found = await resolve(client, key, request)
        if found is None:
            await log_refused_key(client, key, request)
            raise _refusal()
        # A secret key has no business in a widget, from wherever it comes.
        if found.kind != "publishable":
            log_refusal("kind_not_accepted", key, found.key_id)
            raise _refusal()
        return ActiveKey.model_validate({"environment": found.environment})

    return router


def _refusal() -> Problem:
    return Problem(
        404,
        "key_not_found",
        "This key does not open this page.",
        'Send {"key": …} as application/json, from a page that the key allows. An admin of the '
        "workspace can call explain_key for the reason.",
    )
