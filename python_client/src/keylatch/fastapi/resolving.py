"""Finds the resolver, and the key and the origin of a request, for the routes of FastAPI."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from fastapi import Request

from ..client import AsyncKeylatch
from ..errors import KeylatchError
from ..models import ResolvedKey
from ..secret import Secret
from ..transports import is_one_of
from .problems import unavailable

if TYPE_CHECKING:
    from ..cached import AsyncCachedResolver


Resolver: TypeAlias = "AsyncKeylatch | AsyncCachedResolver | Callable[..., Any]"
"""A client, a cached resolver, or a dependency that returns one of them."""


def as_dependency(resolver: Resolver) -> Callable[..., Any]:
    """Turn a resolver into a dependency.

    Args:
        resolver: A client, a cached resolver, or a dependency that returns one of them.

    Returns:
        The dependency.

    Raises:
        TypeError: The resolver has another type. A blocking client would block all other requests.
    """
    if callable(resolver):
        return resolver
    # The cached resolver needs psycopg, which may not be installed.
    if not is_one_of(
        resolver, "keylatch.client.AsyncKeylatch", "keylatch.cached.AsyncCachedResolver"
    ):
        raise TypeError(f"expected an AsyncKeylatch or a dependency, not {type(resolver).__name__}")

    # FastAPI would run a function that is not async in a thread for each request.
    async def give() -> Any:
        return resolver

    return give


async def resolve(client: AsyncKeylatch, key: Secret, request: Request) -> ResolvedKey | None:
    """Resolve the presented key with the request's `Origin` header.

    Args:
        client: The client that resolves.
        key: The presented text.
        request: The request. Only its `Origin` header is used, never a field of the body.

    Returns:
        The key, or `None`.

    Raises:
        Problem: A 502 for every error, because the sender of a key cannot fix any of them.
    """
    try:
        return await client.resolve(key, origin=origin_of(request))
    except KeylatchError as error:
        problem = unavailable(error)
    raise problem


def origin_of(request: Request) -> str | None:
    """Return the `Origin` header of a request, or `None` if there is no header."""
    # Two headers make an origin that no key allows, which is not the same as no origin.
    origins = request.headers.getlist("origin")
    return ", ".join(origins) if origins else None


def bearer_tokens(request: Request) -> list[str]:
    """Return the text after `Authorization: Bearer`, for each time that the header was sent."""
    words = (value.partition(" ") for value in request.headers.getlist("authorization"))
    return [token.strip() for kind, _, token in words if kind.lower() == "bearer" and token.strip()]
