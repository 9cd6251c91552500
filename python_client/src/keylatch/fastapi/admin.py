"""Routes for admins: issue, list, rotate and revoke keys. The database checks their rights."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.security import HTTPBearer
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, InstanceOf, PlainSerializer

from ..client import AsyncKeylatch
from ..models import IssuedKey, Key, Revocation
from ..secret import Secret
from .problems import unauthorized
from .resolving import bearer_tokens
from .routes import REFUSALS, ProblemRoute, to_json

if TYPE_CHECKING:
    from postgrest import AsyncPostgrestClient

_BEARER = HTTPBearer(
    scheme_name="userToken",
    bearerFormat="JWT",
    description="The token of the signed-in user; the row policies of the database decide.",
    auto_error=False,
)
# RFC 6750. A token with other characters cannot be forwarded.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class _Body(BaseModel):
    # Otherwise a misspelt field would be ignored silently.
    model_config = ConfigDict(extra="forbid")


class NewKey(_Body):
    """The properties of a new key. The database checks the values."""

    workspace_id: UUID = Field(description="The workspace of the key.")
    kind: Literal["publishable", "secret"] = Field(
        default="publishable",
        description="publishable: for a web page. secret: for servers only.",
    )
    label: str = Field(default="", description="A name for people, up to 200 characters.")
    allowed_origins: list[str] = Field(
        default=[],
        description="The origins of the pages that may use a publishable key, up to 100.",
    )
    scopes: list[str] = Field(default=[], description="Words for what the key may do, up to 64.")
    environment: Literal["live", "test"] = Field(
        default="live", description="live or test, which is part of the key's text."
    )
    expires_at: AwareDatetime | None = Field(
        default=None, description="When the key expires; null for never."
    )
    metadata: dict[str, Any] = Field(default={}, description="A JSON object of up to 8 kB.")
    prefix: str = Field(
        default="wk", description="The key's first word, 2 to 12 lower case letters and digits."
    )


class Rotation(_Body):
    """How to replace a key."""

    # In seconds, so that the limit of 30 days can be checked here as in the database.
    grace_seconds: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=30 * 24 * 3600,
        description="How long the old key still resolves, in seconds; 0 revokes it at once.",
    )
    expires_at: AwareDatetime | None = Field(
        default=None, description="When the new key expires; null for the same as the old one."
    )


class Withdrawal(_Body):
    """Why a key is revoked."""

    reason: str | None = Field(
        default=None, description="The reason, up to 500 characters, for the audit log."
    )
    cascade: bool = Field(
        default=False,
        strict=True,
        description="Also revoke every other key of its rotation family.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownKey(IssuedKey):
    """A new key. A secret key is shown only here."""

    key: Annotated[InstanceOf[Secret], PlainSerializer(Secret.reveal, return_type=str)]


_ROTATION = Rotation()
_WITHDRAWAL = Withdrawal()


def as_caller(client: "AsyncPostgrestClient") -> Callable[..., Any]:
    """Make a dependency: a client with the rights of the request's sender.

    Args:
        client: The client to call through. All requests share its session, and you close it. The
            token of each request is sent instead of the client's token.

    Returns:
        A dependency that returns an `AsyncKeylatch`, or refuses with 401 if nobody is signed in.

    Raises:
        TypeError: The client is of another kind.
    """
    AsyncKeylatch.from_postgrest(client)  # raises now instead of at every request

    async def caller(request: Request, _: Annotated[object, Security(_BEARER)]) -> AsyncKeylatch:
        tokens = bearer_tokens(request)
        # If nobody is signed in, Supabase's clients send the project's public key.
        if not tokens or tokens == [client.headers.get("apikey")]:
            raise unauthorized("token_missing", "Nobody is signed in.", "Send a user's token.")
        if len(tokens) > 1 or not _TOKEN.fullmatch(tokens[0]):
            raise unauthorized(
                "token_malformed",
                "Authorization holds no token.",
                "Send the header once: Bearer, a space, and the user's token.",
                challenge='error="invalid_token"',
            )
        return AsyncKeylatch.from_postgrest(client.schema("keylatch").auth(tokens[0]))

    return caller


def admin_router(caller: Callable[..., Any]) -> APIRouter:
    """Make the routes for admins who manage the keys of their workspaces.

    `POST` and `GET /widget-keys`, `POST /widget-keys/{key_id}/rotate` and `/revoke`. The routes
    have no rights of their own: the row policies decide for each caller.

    Args:
        caller: A dependency that returns an `AsyncKeylatch` with the rights of the request's
            sender, such as `as_caller(…)`. If you write your own dependency, over psycopg with
            `claims`, verify the token in the dependency, because no later step verifies it.

    Returns:
        A router to include, with a prefix if you like.
    """
    router = APIRouter(route_class=ProblemRoute, tags=["widget keys"], responses=REFUSALS)

    @router.post("/widget-keys", status_code=201, response_model=ShownKey)
    async def issue_widget_key(
        key: NewKey, client: Annotated[AsyncKeylatch, Depends(caller)]
    ) -> Response:
        """Make a key. A secret key is shown only in this answer."""
        return to_json(await client.issue(**dict(key)), 201)

    @router.get("/widget-keys", response_model=list[Key])
    async def list_widget_keys(
        workspace_id: UUID, client: Annotated[AsyncKeylatch, Depends(caller)]
    ) -> Response:
        """List the keys of a workspace, of any status; none if you do not administer it."""
        return to_json(await client.list(workspace_id))

    @router.post("/widget-keys/{key_id}/rotate", status_code=201, response_model=ShownKey)
    async def rotate_widget_key(
        key_id: UUID,
        client: Annotated[AsyncKeylatch, Depends(caller)],
        rotation: Rotation = _ROTATION,
    ) -> Response:
        """Replace a key by a new key with the same properties. The new key is shown only here.

        409 means `key_already_rotated`, `key_revoked`, `key_expired` or `key_suspended`.
        """
        grace = timedelta(seconds=rotation.grace_seconds)
        return to_json(
            await client.rotate(key_id, grace=grace, expires_at=rotation.expires_at), 201
        )

    @router.post("/widget-keys/{key_id}/revoke", response_model=Revocation)
    async def revoke_widget_key(
        key_id: UUID,
        client: Annotated[AsyncKeylatch, Depends(caller)],
        withdrawal: Withdrawal = _WITHDRAWAL,
    ) -> Response:
        """Revoke a key for good. Repeating the request is not an error."""
        return to_json(await client.revoke(key_id, **dict(withdrawal)))

    return router
