"""Who calls in SQL are made as: a role and claims, set as PostgREST sets them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import InvalidArgument

# The role and claims that stood there come back in the same row. They are read in a common table
# expression because nothing else promises that they are read before they are set.
BECOME = """
with former as materialized (
  select pg_catalog.current_setting('role') as role,
         pg_catalog.current_setting('request.jwt.claims', true) as claims
)
select former.role, former.claims,
       pg_catalog.set_config('request.jwt.claims', {}, true),
       pg_catalog.set_config('role', {}, true)
  from former
"""
"""Takes an `Identity`, each `{}` a placeholder of the driver; gives the former role and claims."""

BECOME_AGAIN = """
select pg_catalog.set_config('role', {}, true),
       pg_catalog.set_config('request.jwt.claims', {}, true)
"""
"""Takes the former role and claims."""


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
