"""Tokens like those of Supabase Auth, signed with a secret that is random for each run."""

import secrets
import time
from uuid import UUID

import jwt

_YEARS = 10 * 365 * 24 * 3600


class Tokens:
    """Signs tokens; PostgREST is given the same secret.

    Attributes:
        secret: The secret with which PostgREST checks signatures.
        anon_key: The key that a Supabase project gives to browsers.
        service_key: The key that a Supabase project gives to its own backend.
        publishable_key: The replacement of `anon_key`: not a JWT; only the gateway knows it.
        secret_key: The replacement of `service_key`: not a JWT; only the gateway knows it.
    """

    def __init__(self) -> None:
        """Make a random secret and the project's keys."""
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
            sub: The user's id; by default the token has none.
            role: The database role of a request with the token.
            seconds: How long the token is valid.
            **claims: Claims that override or extend ours.
        """
        now = int(time.time())
        content: dict[str, object] = {"iss": "keylatch-tests", "role": role, "iat": now}
        content["exp"] = now + int(seconds)
        if sub is not None:
            content |= {"sub": str(sub), "aud": "authenticated"}
        return jwt.encode(content | claims, self.secret, algorithm="HS256")
