"""The route for an anonymous widget: is this key active and allowed on this page?"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, SecretStr

from ..client import AsyncKeylatch
from ..secret import Secret
from .problems import Problem, ProblemBody
from .reasons import log_refusal, log_refused_key
from .resolving import Resolver, as_dependency, resolve
from .routes import REFUSALS, ProblemRoute


class PresentedKey(BaseModel):
    """The key in the page."""

    key: SecretStr = Field(description="A publishable key.")


class ActiveKey(BaseModel):
    """A key that is valid on this page. The visitor does not learn whose key it is."""

    environment: Literal["live", "test"] = Field(description="Whether this is a test.")


class _OpaqueRoute(ProblemRoute):
    def unreadable(self, detail: str) -> Problem:  # noqa: ARG002 - nothing is told
        """Refuse a request without a key like a request with a wrong key."""
        return _refusal()


def resolve_router(resolver: Resolver) -> APIRouter:
    """Make the route that a widget calls first: `POST /widget/keys/resolve`.

    The answer is 200 for an active publishable key from an allowed origin, and the same 404 for
    everything else. The origin is the request's `Origin` header. This stops other web pages, but
    not programs. So that a page of another site can read the answer, the application needs
    `CORSMiddleware` with `allow_origins=["*"], allow_methods=["POST"]`. The log says why a key
    was refused, as for `require_key`.

    Args:
        resolver: An `AsyncKeylatch` with role `keylatch_resolver` or the service key, an
            `AsyncCachedResolver`, or a dependency that returns one of them.

    Returns:
        A router to include, with a prefix if you like.

    Raises:
        TypeError: The resolver has another type.
    """
    router = APIRouter(route_class=_OpaqueRoute, tags=["widget"])
    refusals = {**REFUSALS, 404: {"model": ProblemBody, "description": "Refused."}}

    @router.post("/widget/keys/resolve", responses=refusals)
    async def resolve_widget_key(
        presented: PresentedKey,
        request: Request,
        client: Annotated[AsyncKeylatch, Depends(as_dependency(resolver))],
    ) -> ActiveKey:
        """Check whether a publishable key is active and allowed on the page that sends this.

        Every refusal is the same 404: unknown, revoked, expired, suspended, or not for this page.
        """
        key = Secret(presented.key.get_secret_value())
        found = await resolve(client, key, request)
        if found is None:
            await log_refused_key(client, key, request)
            raise _refusal()
        # A secret key must not be used in a widget, whatever its origin.
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
        'Send {"key": …} as application/json from a page that the key allows. To find the reason, '
        "an admin of the workspace can call explain_key.",
    )
