"""`require_key` and `require_key_or_user`: dependencies that let only known senders through."""

import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from ..async_client import AsyncKeylatch
from ..models import ResolvedKey
from ..secret import Secret
from .problems import Problem, unauthorized
from .reasons import log_refusal, log_refused_key, verdict_on_form
from .resolving import as_dependency, bearer_tokens, resolve

Fallback = Callable[[str], ResolvedKey | Awaitable[ResolvedKey | None] | None]
"""Knows the keys of another system; a function that blocks is run in a thread."""

Verify = Callable[[str], Any]
"""Gives the user of a JWT, or `None`, or raises; a function that blocks is run in a thread."""

_HEADER = APIKeyHeader(
    name="x-api-key", scheme_name="apiKey", description="The key.", auto_error=False
)
_BEARER = HTTPBearer(
    scheme_name="apiKeyAsBearer", description="The key, in place of `x-api-key`.", auto_error=False
)
_KEY_OR_TOKEN = HTTPBearer(
    scheme_name="apiKeyOrUserToken",
    description="The token of a signed-in user; or the key, in place of `x-api-key`.",
    auto_error=False,
)
# Each JWT begins so, as its first part is a JSON object; a key of keylatch has no dot.
_JWT = re.compile(r"ey[\w-]*\.[\w-]+\.[\w-]*", re.ASCII)


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

    The sender does not learn why a key is refused. The logger `keylatch` does, at level INFO: the
    verdict of `explain`, the id of the key, the masked key and the fingerprint; never the key. At
    that level a refused key costs a second call.

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
    rule = _Rule(_words("scopes", scopes), _words("kinds", kinds), fallback)

    async def required_key(
        request: Request,
        client: Annotated[AsyncKeylatch, Depends(as_dependency(resolver))],
        _header: Annotated[object, Security(_HEADER)],
        _bearer: Annotated[object, Security(_BEARER)],
    ) -> ResolvedKey:
        keys = _header_keys(request) | set(bearer_tokens(request))
        if not keys:
            log_refusal("key_missing")
            raise unauthorized(
                "key_missing", "No key was sent.", "Send it as x-api-key or Authorization: Bearer."
            )
        return await rule.admit(client, _only_key(keys), request)

    return required_key


def require_key_or_user(
    resolver: AsyncKeylatch | Callable[..., Any],
    verify: Verify,
    *,
    scopes: Iterable[str] = (),
    kinds: Iterable[str] = ("secret",),
    fallback: Fallback | None = None,
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Make a dependency that takes a key or the JWT of a signed-in user.

    What has the form of a JWT behind `Authorization: Bearer` goes to `verify` and to nothing else;
    everything else is a key, as in `require_key`. A request with a key and a JWT is answered 400,
    one with neither 401, and a JWT that `verify` refuses 401. The log of `require_key` is kept
    here too; of a token it has the fingerprint, and the class of what `verify` raised.

    Args:
        resolver: Who resolves, as in `require_key`.
        verify: Your check of the JWT: signature, expiry, audience. It gives the user, in any form
            but `None`. `None` or an exception is a 401; an `HTTPException` is your own answer,
            such as 503 where the public keys cannot be read. The project's anon key is a signed
            JWT as well: refuse a token without a `sub`.
        scopes: The words that a key must have. What a user may do, the route decides.
        kinds: What a key may be, as in `require_key`.
        fallback: Knows other keys, as in `require_key`.

    Returns:
        A dependency that gives the `ResolvedKey`, or what `verify` gave.

    Raises:
        TypeError: An argument is of another kind.
    """
    rule = _Rule(_words("scopes", scopes), _words("kinds", kinds), fallback)
    if not callable(verify):
        raise TypeError(f"verify is {type(verify).__name__}, not a function of a token")

    async def key_or_user(
        request: Request,
        client: Annotated[AsyncKeylatch, Depends(as_dependency(resolver))],
        _header: Annotated[object, Security(_HEADER)],
        _bearer: Annotated[object, Security(_KEY_OR_TOKEN)],
    ) -> Any:
        sent = set(bearer_tokens(request))
        tokens = {text for text in sent if _JWT.fullmatch(text)}
        keys = _header_keys(request) | (sent - tokens)
        if keys and tokens:
            log_refusal("key_and_token")
            raise Problem(
                400,
                "key_and_token",
                "A key and a user's token were sent.",
                "Send only one of them.",
            )
        if keys:
            return await rule.admit(client, _only_key(keys), request)
        if not tokens:
            log_refusal("credentials_missing")
            raise unauthorized(
                "credentials_missing",
                "Neither a key nor a user's token was sent.",
                "Send a key as x-api-key, or a user's token as Authorization: Bearer.",
            )
        if len(tokens) > 1:
            log_refusal("tokens_differ")
            raise Problem(400, "tokens_differ", "Two different tokens were sent.", "Send one.")
        return await _user_of(verify, Secret(tokens.pop()))

    return key_or_user


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which keys a route lets through."""

    scopes: tuple[str, ...]
    kinds: tuple[str, ...]
    fallback: Fallback | None

    async def admit(self, client: AsyncKeylatch, key: Secret, request: Request) -> ResolvedKey:
        """Give the key of this text, or refuse the request."""
        found = await resolve(client, key, request)
        # A text in our form never reaches another system, mistyped or not.
        if found is None and self.fallback and verdict_on_form(key) == "malformed":
            found = await _ask(self.fallback, key)
        if found is None:
            await log_refused_key(client, key, request)
            raise unauthorized(
                "key_invalid",
                "This key is not accepted.",
                "Ask an admin of the workspace to call explain_key.",
                challenge='error="invalid_token"',
            )
        if refusal := self._refusal_of(found):
            log_refusal(refusal.slug, key, found.key_id)
            raise refusal
        return found

    def _refusal_of(self, found: ResolvedKey) -> Problem | None:
        if found.kind not in self.kinds:
            return Problem(
                403,
                "kind_not_accepted",
                f"A {found.kind} key is not accepted here.",
                f"Use a {' or '.join(self.kinds)} key.",
            )
        missing = [word for word in self.scopes if word not in found.scopes]
        if missing:
            wanted = " ".join(self.scopes)
            return Problem(
                403,
                "scope_missing",
                f"The key does not have the scope {' '.join(missing)}.",
                "Use a key that was issued with it.",
                {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{wanted}"'},
            )
        return None


def _words(name: str, words: Iterable[str]) -> tuple[str, ...]:
    # A text is iterable too, and would be taken for its characters.
    if isinstance(words, str):
        raise TypeError(f"{name} is one text; write a list of texts")
    return tuple(words)


def _header_keys(request: Request) -> set[str]:
    return {*request.headers.getlist("x-api-key")} - {""}


def _only_key(keys: set[str]) -> Secret:
    if len(keys) > 1:
        log_refusal("keys_differ")
        raise Problem(400, "keys_differ", "Two different keys were sent.", "Send one.")
    return Secret(keys.pop())


async def _user_of(verify: Verify, token: Secret) -> Any:
    """Give the user of a token, or refuse the request."""
    reason = "verify gave None"
    try:
        user = await _ask(verify, token)
    except HTTPException:
        raise
    # The library that checks the token is the application's. Its messages may repeat the token.
    except Exception as error:
        user, reason = None, f"verify raised {type(error).__name__}"
    if user is None:
        log_refusal(f"token_invalid ({reason})", token)
        raise unauthorized(
            "token_invalid",
            "This token is not accepted.",
            "Sign in again, and send the new token.",
            challenge='error="invalid_token"',
        )
    return user


async def _ask(function: Callable[[str], Any], text: Secret) -> Any:
    # The text stays out of the frames in between, should the function raise.
    def ask() -> Any:
        return function(text.reveal())

    answer = ask() if inspect.iscoroutinefunction(function) else await run_in_threadpool(ask)
    return await answer if inspect.isawaitable(answer) else answer
