"""`require_key`: a dependency that lets a request through if it has a good key."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPBearer

from ..async_client import AsyncKeylatch
from ..errors import InvalidArgument
from ..keys import parse_key
from ..models import ResolvedKey
from ..secret import Secret
from .problems import Problem, unauthorized
from .resolving import as_dependency, bearer_tokens, resolve

Fallback = Callable[[str], ResolvedKey | Awaitable[ResolvedKey | None] | None]
"""Knows the keys of another system; a function that blocks is run in a thread."""

_HEADER = APIKeyHeader(
    name="x-api-key", scheme_name="apiKey", description="The key.", auto_error=False
)
_BEARER = HTTPBearer(
    scheme_name="apiKeyAsBearer", description="The key, in place of `x-api-key`.", auto_error=False
)


def require_key(
    resolver: AsyncKeylatch | Callable[..., Any],
    *,
    scopes: Iterable[str] = (),
    kinds: Iterable[str] = ("secret",),
    fallback: Fallback | None = None,
) -> Callable[..., Coroutine[Any, Any, ResolvedKey]]:
    """Make a dependency that asks for a key in `x-api-key` or `Authorization: Bearer`.

    Without an active key it answers 401, with one that may not do this 403, with two different
    keys 400. The request's `Origin` goes along, so that a secret key from a page is refused.

    Args:
        resolver: Who resolves: an `AsyncKeylatch` of role `keylatch_resolver` or with the service
            key, or a dependency that gives one.
        scopes: The words that the key must have, all of them, letter for letter: `orders:*` is
            a word like any other.
        kinds: What it may be. A `publishable` key, which any visitor can read and any program
            can send, names a workspace and proves nothing; so it has to be asked for.
        fallback: Asked about a text that is no active key and does not have the form of one, so
            that a revoked key of keylatch is never taken for somebody else. Kind and scopes of
            its answer count like those of any other key. It is also asked about an imported key
            in a legacy form after its revocation: revoke that key in the other system too.

    Returns:
        A dependency that gives the `ResolvedKey`.

    Raises:
        TypeError: The resolver is neither, or one text stands where several should.
    """
    wanted, accepted = _words("scopes", scopes), _words("kinds", kinds)

    async def required_key(
        request: Request,
        client: Annotated[AsyncKeylatch, Depends(as_dependency(resolver))],
        _header: Annotated[object, Security(_HEADER)],
        _bearer: Annotated[object, Security(_BEARER)],
    ) -> ResolvedKey:
        key = _presented(request)
        found = await resolve(client, key, request)
        if found is None and fallback is not None and not _has_our_form(key):
            found = await _ask(fallback, key)
        if found is None:
            raise unauthorized(
                "key_invalid",
                "This key is not accepted.",
                "Ask an admin of the workspace to call explain_key.",
                challenge='error="invalid_token"',
            )
        if found.kind not in accepted:
            raise Problem(
                403,
                "kind_not_accepted",
                f"A {found.kind} key is not accepted here.",
                f"Use a {' or '.join(accepted)} key.",
            )
        missing = [word for word in wanted if word not in found.scopes]
        if missing:
            raise Problem(
                403,
                "scope_missing",
                f"The key does not have the scope {' '.join(missing)}.",
                "Use a key that was issued with it.",
                {
                    "WWW-Authenticate": "Bearer "
                    f'error="insufficient_scope", scope="{" ".join(wanted)}"'
                },
            )
        return found

    return required_key


def _words(name: str, words: Iterable[str]) -> tuple[str, ...]:
    # A text is iterable too, and would be taken for its characters.
    if isinstance(words, str):
        raise TypeError(f"{name} is one text; write a list of texts")
    return tuple(words)


def _presented(request: Request) -> Secret:
    """Give the one key of a request."""
    given = {*request.headers.getlist("x-api-key"), *bearer_tokens(request)} - {""}
    if not given:
        raise unauthorized(
            "key_missing", "No key was sent.", "Send it as x-api-key or Authorization: Bearer."
        )
    if len(given) > 1:
        raise Problem(400, "keys_differ", "Two different keys were sent.", "Send one.")
    return Secret(given.pop())


def _has_our_form(key: Secret) -> bool:
    """Tell whether a text is a key of keylatch, mistyped or not."""
    try:
        parse_key(key)
    except InvalidArgument as problem:
        return "checksum" in str(problem.detail)
    return True


async def _ask(fallback: Fallback, key: Secret) -> ResolvedKey | None:
    # The text stays out of the frames in between, should the fallback raise.
    def ask() -> Any:
        return fallback(key.reveal())

    answer = ask() if inspect.iscoroutinefunction(fallback) else await run_in_threadpool(ask)
    found: ResolvedKey | None = await answer if inspect.isawaitable(answer) else answer
    return found
