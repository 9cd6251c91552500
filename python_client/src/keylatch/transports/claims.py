"""Who calls in SQL are made as: a role and claims, set as PostgREST sets them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import InvalidArgument

BECOME = """
select pg_catalog.set_config('request.jwt.claims', {}, true),
       pg_catalog.set_config('role', {}, true)
"""
"""Takes an `Identity`, each `{}` a placeholder of the driver."""

WHO = """
select pg_catalog.current_setting('request.jwt.claims', true),
       pg_catalog.current_setting('role')
"""
"""Gives the claims and the role that `BECOME` takes to become who called."""


class Identity(NamedTuple):
    """Who the calls are made as: the text of the claims, and their role."""

    claims: str
    role: str


def identity_of(claims: Mapping[str, Any] | None) -> Identity | None:
    """Read the claims that the caller gave.

    Args:
        claims: The claims of a token, or `None` for the connection's own user.

    Returns:
        Who to become, or `None`.

    Raises:
        InvalidArgument: The claims are not a JSON object, or their role is not a text.
    """
    if claims is None:
        return None
    # As PostgREST: a token without a role is anonymous.
    role = claims.get("role", "anon")
    if not isinstance(role, str):
        raise InvalidArgument.of("claims", f"has a role that is {type(role).__name__}, not a text")
    try:
        text = json.dumps(dict(claims), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        text = ""
    if not text:
        raise InvalidArgument.of("claims", "has a value that JSON cannot hold")
    return Identity(text, role)
