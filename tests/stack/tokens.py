"""Tokens as Supabase Auth issues them, signed with a secret of the run's own."""

import secrets
import time
from uuid import UUID

import jwt

_YEARS = 10 * 365 * 24 * 3600


class Tokens:
    """Signs tokens; PostgREST is given the same secret.

    Attributes:
        secret: What PostgREST checks signatures with.
        anon_key: The key that a Supabase project gives to browsers.
        service_key: The key that a Supabase project gives to its own backend.
        publishable_key: What replaces `anon_key`: no JWT, and known to the gateway alone.
        secret_key: What replaces `service_key`, likewise.
    """

    def __init__(self) -> None:
        """Draw a secret and make the project's two keys."""
        self.secret = secrets.token_hex(32)
        self.anon_key = self.token(role="anon", seconds=_YEARS)
        self.service_key = self.token(role="service_role", seconds=_YEARS)
        self.publishable_key = f"sb_publishable_{secrets.token_urlsafe(24)}"
        self.secret_key = f"sb_secret_{secrets.token_urlsafe(24)}"

    def token(
        self,
        sub: UUID | str | None = None,
        role: str = "authenticated",
        *,
        seconds: float = 3600,
        **claims: object,
    ) -> str:
        """Sign a token.

        Args:
            sub: The user's id; left out when none is given.
            role: The database role that a request with it takes.
            seconds: How long it is good for.
            **claims: Any other claims; they win over ours.
        """
        now = int(time.time())
        content: dict[str, object] = {"iss": "keylatch-tests", "role": role, "iat": now}
        content["exp"] = now + int(seconds)
        if sub is not None:
            content |= {"sub": str(sub), "aud": "authenticated"}
        return jwt.encode(content | claims, self.secret, algorithm="HS256")
