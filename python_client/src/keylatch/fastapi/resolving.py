"""What the widget's route and `require_key` share: who resolves, and what a request presents."""

from collections.abc import Callable
from typing import Any

from fastapi import Request

from ..async_client import AsyncKeylatch
from ..errors import KeylatchError
from ..models import ResolvedKey
from ..secret import Secret
from .problems import unavailable


def as_dependency(resolver: AsyncKeylatch | Callable[..., Any]) -> Callable[..., Any]:
    """Give a resolver in the form that `Depends` takes.

    Args:
        resolver: A client, or a dependency that gives one.

    Returns:
        The dependency.

    Raises:
        TypeError: It is neither; the blocking client would hold up every other request.
    """
    if not isinstance(resolver, AsyncKeylatch):
        if not callable(resolver):
            raise TypeError(
                f"expected an AsyncKeylatch or a dependency, not {type(resolver).__name__}"
            )
        return resolver

    # A function that is not async would be sent to a thread for each request.
    async def give() -> AsyncKeylatch:
        return resolver

    return give


async def resolve(client: AsyncKeylatch, key: Secret, request: Request) -> ResolvedKey | None:
    """Ask which active key was presented, from where the request itself says that it comes.

    Args:
        client: Who resolves.
        key: What was presented.
        request: Its `Origin` header counts, and no field of a body.

    Returns:
        The key, or `None`.

    Raises:
        Problem: A 502 for any error: whoever presents a key can help none of them.
    """
    try:
        return await client.resolve(key, origin=origin_of(request))
    except KeylatchError as error:
        problem = unavailable(error)
    raise problem


def origin_of(request: Request) -> str | None:
    """Give the `Origin` header of a request; `None` if there was none."""
    # Two of them are no origin that anybody allows, and not a missing one either.
    origins = request.headers.getlist("origin")
    return ", ".join(origins) if origins else None


def bearer_tokens(request: Request) -> list[str]:
    """Give what stands behind `Authorization: Bearer`, once for each time that it was sent."""
    words = (value.partition(" ") for value in request.headers.getlist("authorization"))
    return [token.strip() for kind, _, token in words if kind.lower() == "bearer" and token.strip()]
