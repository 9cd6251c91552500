"""`require_key` and `require_key_or_user`: dependencies that let only known senders in."""

import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from ..client import AsyncKeylatch
from ..models import ResolvedKey
from ..secret import Secret
from .problems import Problem, unauthorized
from .reasons import log_refusal, log_refused_key, verdict_on_form
from .resolving import Resolver, as_dependency, bearer_tokens, resolve

Fallback = Callable[[str], ResolvedKey | Awaitable[ResolvedKey | None] | None]
"""Looks up a key of another system. A blocking function runs in a thread."""

Verify = Callable[[str], Any]
"""Returns the user of a JWT, or `None`, or raises. A blocking function runs in a thread."""

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
# Every JWT begins like this, because its first part is a JSON object. A key has no dot.
_JWT = re.compile(r"ey[\w-]*\.[\w-]+\.[\w-]*", re.ASCII)


def require_key(
    resolver: Resolver,
    *,
    scopes: Iterable[str] = (),
    kinds: Iterable[str] = ("secret",),
    fallback: Fallback | None = None,
) -> Callable[..., Coroutine[Any, Any, ResolvedKey]]:
    """Make a dependency that requires a key in `x-api-key` or `Authorization: Bearer`.

    The answer is 401 without an active key, 403 for a key of the wrong kind or scopes, and 400 for
    two different keys. The `Origin` header is checked too, so a secret key from a web page is
    refused.

    The sender does not learn why a key is refused. The logger `keylatch` writes the reason at
    level INFO: the verdict of `explain`, the key's id, the masked key and the fingerprint; never
    the key. At level INFO, a refused key needs a second call.

    Args:
        resolver: An `AsyncKeylatch` with role `keylatch_resolver` or the service key, an
            `AsyncCachedResolver`, or a dependency that returns one of them.
        scopes: The scopes that the key must have, all of them. Scopes are compared literally:
            `orders:*` is not a pattern.
        kinds: The kinds of key that are accepted. `publishable` is not accepted by default, because
            any visitor of a page can read and send a publishable key.
        fallback: A function that looks up keys of another system. The dependency calls this
            function only for a text that is not an active key and does not have keylatch's format,
            so never for a revoked key of keylatch. The kind and scopes of its answer are checked
            too. A revoked key that was imported in another format does reach the function: revoke
            it in the other system too.

    Returns:
        A dependency that returns the `ResolvedKey`.

    Raises:
        TypeError: The resolver has another type, or `scopes` or `kinds` is a single string.
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
                "key_missing",
                "No key was sent.",
                "Send a key as x-api-key or Authorization: Bearer.",
            )
        return await rule.admit(client, _only_key(keys), request)

    return required_key


def require_key_or_user(
    resolver: Resolver,
    verify: Verify,
    *,
    scopes: Iterable[str] = (),
    kinds: Iterable[str] = ("secret",),
    fallback: Fallback | None = None,
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Make a dependency that accepts a key or the JWT of a signed-in user.

    A JWT in `Authorization: Bearer` goes to `verify` only. Any other text is treated as a key, as
    in `require_key`. The answer is 400 for a key together with a JWT, and 401 for neither or for a
    JWT that `verify` refuses. Refusals are logged as in `require_key`. For a refused JWT, the log
    has the fingerprint of the JWT and the class of the exception from `verify`.

    Args:
        resolver: As in `require_key`.
        verify: Checks the signature, expiry and audience of the JWT, and returns the user, as any
            value except `None`. `None` or an exception becomes a 401. An `HTTPException` is sent
            unchanged, such as a 503 if the public keys cannot be read. The project's anon key is
            also a signed JWT: refuse a token without a `sub`.
        scopes: The scopes that a key must have. Your route decides what a user may do.
        kinds: The kinds of key that are accepted, as in `require_key`.
        fallback: Looks up other keys, as in `require_key`.

    Returns:
        A dependency that returns the `ResolvedKey`, or the result of `verify`.

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
    """The keys that a route accepts."""

    scopes: tuple[str, ...]
    kinds: tuple[str, ...]
    fallback: Fallback | None

    async def admit(self, client: AsyncKeylatch, key: Secret, request: Request) -> ResolvedKey:
        """Resolve the presented key, or refuse the request."""
        found = await resolve(client, key, request)
        # A text in keylatch's format never reaches another system, even if it is mistyped.
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
                "Use a key that was issued with this scope.",
                {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{wanted}"'},
            )
        return None


def _words(name: str, words: Iterable[str]) -> tuple[str, ...]:
    # A string is iterable too, and would be split into characters.
    if isinstance(words, str):
        raise TypeError(f"{name} is a string; pass a list of strings")
    return tuple(words)


def _header_keys(request: Request) -> set[str]:
    return {*request.headers.getlist("x-api-key")} - {""}


def _only_key(keys: set[str]) -> Secret:
    if len(keys) > 1:
        log_refusal("keys_differ")
        raise Problem(400, "keys_differ", "Two different keys were sent.", "Send one.")
    return Secret(keys.pop())


async def _user_of(verify: Verify, token: Secret) -> Any:
    """Return the user of a token, or refuse the request."""
    reason = "verify gave None"
    try:
        user = await _ask(verify, token)
    except HTTPException:
        raise
    # The application's JWT library may repeat the token in its messages.
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
    # If the function raises, the frames in between must not hold the text.
    def ask() -> Any:
        return function(text.reveal())

    answer = ask() if inspect.iscoroutinefunction(function) else await run_in_threadpool(ask)
    return await answer if inspect.isawaitable(answer) else answer
