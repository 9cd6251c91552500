"""`require_key_or_user`: a key or a user's JWT, and the log line of each refusal."""

import logging
from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any

import httpx
import jwt
import pytest
from fastapi import Depends, FastAPI
from postgrest import AsyncPostgrestClient
from starlette.exceptions import HTTPException

from client.vectors import mistyped
from keylatch import AsyncKeylatch
from keylatch.errors import PermissionDenied
from keylatch.fastapi import require_key, require_key_or_user
from keylatch.keys import fingerprint
from keylatch.models import Explanation, ResolvedKey
from keylatch.secret import mask_keys
from stack import People, Rest, Tokens
from web.site import LEGACY_KEY, LegacySystem, Site

pytestmark = pytest.mark.one_server

SHOP = "https://shop.example"
Headers = list[tuple[str, str]]
# A well-formed key that was never issued.
UNKNOWN = "wk_sk_live_" + "7" * 30 + "ZfCiob"
ROUTES = ("/sync", "/async")


class Resolver:
    """The application's client. It records the keys to explain, and can fail to explain."""

    def __init__(self, client: AsyncKeylatch) -> None:
        self.failure: Exception | None = None
        self.explained: list[str] = []
        self.resolve = client.resolve
        self._client = client

    async def explain(self, key: Any, *, origin: str | None) -> Explanation:
        self.explained.append(key.reveal())
        if self.failure:
            raise self.failure
        return await self._client.explain(key, origin=origin)


class Users:
    """The application's check of a token, with a record of the checked tokens."""

    def __init__(self, secret: str) -> None:
        self.asked: list[str] = []
        self._secret = secret

    def verify(self, token: str) -> str | None:
        """Return the user. This call blocks, like a library that reads public keys."""
        self.asked.append(token)
        claims = jwt.decode(token, self._secret, ["HS256"], audience="authenticated")
        if claims["sub"] == str(People.mia):
            raise HTTPException(503, "of the application")
        return None if claims["sub"] == str(People.bob) else str(claims["sub"])

    async def verify_later(self, token: str) -> str | None:
        """Return the user, in an event loop."""
        return self.verify(token)


class Shop(Site):
    """The application of these tests, with its resolver and its check of tokens."""

    def __init__(self, issuer: Site, rest: Rest, tokens: Tokens) -> None:
        self.users = Users(tokens.secret)
        self.issuer = issuer
        http = httpx.AsyncClient(timeout=10)
        client = AsyncPostgrestClient(
            f"{rest.url}/rest/v1", headers={"apikey": tokens.anon_key}, http_client=http
        )
        token = tokens.token(role="keylatch_resolver")
        self.resolver = Resolver(
            AsyncKeylatch.from_postgrest(client.schema("keylatch").auth(token))
        )
        super().__init__("", tokens, app=self._make_app())

    def _make_app(self) -> FastAPI:
        app = FastAPI()

        def resolver() -> Resolver:
            return self.resolver

        for path, verify in (("/sync", self.users.verify), ("/async", self.users.verify_later)):
            either = require_key_or_user(
                resolver, verify, scopes=["orders:read"], fallback=LegacySystem().find
            )

            @app.get(path)
            async def orders(caller: Annotated[ResolvedKey | str, Depends(either)]) -> str:
                return caller if isinstance(caller, str) else str(caller.workspace_id)

        @app.get("/key")
        async def key(caller: Annotated[ResolvedKey, Depends(require_key(resolver))]) -> str:
            return str(caller.workspace_id)

        return app

    def key(self, **fields: Any) -> str:
        """Issue a secret key that may read orders, and return its text."""
        return str(self.issued(**fields)["key"])

    def issued(self, **fields: Any) -> dict[str, Any]:
        """Issue a secret key that may read orders, and return all its fields."""
        return self.issuer.issue(**{"kind": "secret", "scopes": ["orders:read"], **fields})

    def refusal(self, path: str, headers: Headers) -> tuple[int, str, str]:
        """Return a refusal's status, slug and only log line. None of them may show a secret."""
        self.log.lines.clear()
        answer = self.get(path, headers=httpx.Headers(headers))
        body = answer.json()["detail"]
        assert set(body) == {"slug", "detail", "hint"}
        assert ("www-authenticate" in answer.headers) is (
            answer.status_code == 401 or body["slug"] == "scope_missing"
        )
        lines = [line for line in self.log.lines if line.startswith("request refused: ")]
        assert len(lines) == 1, self.log.text()
        for _, value in headers:
            for word in value.split():
                assert len(word) < 12 or word not in self.log.text() + answer.text
        return answer.status_code, body["slug"], lines[0].removeprefix("request refused: ")


@pytest.fixture(scope="module")
def running(site: Site, upstream: Rest, tokens: Tokens) -> Iterator[Shop]:
    with Shop(site, upstream, tokens) as shop:
        yield shop


@pytest.fixture
def shop(running: Shop) -> Shop:
    running.resolver.failure = None
    running.resolver.explained.clear()
    running.users.asked.clear()
    return running


def bearer(text: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {text}"


@pytest.mark.parametrize("path", ROUTES)
def test_a_key_or_a_user_opens_the_route(shop: Shop, path: str) -> None:
    key = shop.key()
    opening: list[Headers] = [
        [("x-api-key", key)],
        [bearer(key)],
        [("x-api-key", key), bearer(key)],
    ]
    for headers in opening:
        answer = shop.get(path, headers=httpx.Headers(headers))
        assert (answer.status_code, answer.json()) == (200, str(People.a))
    assert shop.users.asked == [], "a key is no token"
    assert shop.get(path, headers={"x-api-key": LEGACY_KEY}).status_code == 200
    token = shop.token("alice")
    signed_in: list[Headers] = [[bearer(token)], [bearer(token), ("x-api-key", "")]]
    for headers in signed_in:
        answer = shop.get(path, headers=httpx.Headers(headers))
        assert (answer.status_code, answer.json()) == (200, str(People.alice))
    assert shop.users.asked == [token, token]


@pytest.mark.parametrize("path", ROUTES)
def test_a_key_and_a_token_together_are_refused(shop: Shop, path: str) -> None:
    key, token = shop.key(), shop.token("alice")
    both: list[Headers] = [
        [("x-api-key", key), bearer(token)],
        [("x-api-key", "x"), bearer(token)],
        [bearer(key), bearer(token)],
    ]
    for headers in both:
        assert shop.refusal(path, headers) == (400, "key_and_token", "key_and_token")
    tokens = [bearer(token), bearer(shop.token("bob"))]
    assert shop.refusal(path, tokens) == (400, "tokens_differ", "tokens_differ")
    keys = [bearer(key), ("x-api-key", "x")]
    assert shop.refusal(path, keys) == (400, "keys_differ", "keys_differ")
    assert shop.users.asked == shop.resolver.explained == []


@pytest.mark.parametrize("path", ROUTES)
def test_a_request_without_a_key_or_a_token_is_told_how_to_send_one(shop: Shop, path: str) -> None:
    neither: list[Headers] = [
        [],
        [("x-api-key", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Basic YTpi")],
    ]
    for headers in neither:
        assert shop.refusal(path, headers) == (401, "credentials_missing", "credentials_missing")
    assert shop.refusal("/key", []) == (401, "key_missing", "key_missing")


@pytest.mark.parametrize("path", ROUTES)
def test_a_token_that_is_not_verified_is_401_and_the_log_says_why(shop: Shop, path: str) -> None:
    for token, why in (
        (shop.token("bob"), "verify gave None"),
        (shop.token("anon"), "verify raised MissingRequiredClaimError"),
        (Tokens().token(People.alice), "verify raised InvalidSignatureError"),
        (f"{shop.token('alice')[:-8]}AAAAAAAA", "verify raised InvalidSignatureError"),
        (f"{shop.token('alice').rpartition('.')[0]}.", "verify raised InvalidSignatureError"),
    ):
        line = f"token_invalid ({why}), ..., fingerprint {fingerprint(token)}"
        assert shop.refusal(path, [bearer(token)]) == (401, "token_invalid", line)
    assert shop.resolver.explained == [], "a token never reaches the database as a key"
    answer = shop.get(path, headers=dict([bearer(shop.token("mia"))]))
    assert (answer.status_code, answer.json()) == (503, {"detail": "of the application"})


@pytest.mark.parametrize("path", [*ROUTES, "/key"])
def test_the_log_says_why_a_key_was_refused(shop: Shop, path: str) -> None:
    revoked, active = shop.issued(), shop.issued()
    shop.issuer.act("alice", "POST", f"/widget-keys/{revoked['id']}/revoke")
    cases: list[tuple[str, Headers, str]] = [
        (revoked["key"], [], f"revoked, key_id {revoked['id']}"),
        (active["key"], [("Origin", SHOP)], f"secret_in_browser, key_id {active['id']}"),
        ("legacy-other", [], "malformed"),
        (UNKNOWN, [], "unknown"),
    ]
    for text, more, verdict in cases:
        masked = mask_keys(text) if text.startswith("wk_") else "..."
        line = f"{verdict}, {masked}, fingerprint {fingerprint(text)}"
        assert shop.refusal(path, [("x-api-key", text), *more]) == (401, "key_invalid", line)
    assert shop.resolver.explained == [text for text, *_ in cases]


def test_a_mistyped_key_is_explained_without_the_database(shop: Shop) -> None:
    key = shop.key()
    typo = mistyped(key)
    line = f"checksum_failed, {mask_keys(typo)}, fingerprint {fingerprint(typo)}"
    assert shop.refusal("/key", [("x-api-key", typo)]) == (401, "key_invalid", line)
    assert shop.resolver.explained == []


def test_the_log_names_the_key_that_may_not_do_this(shop: Shop) -> None:
    cases: list[tuple[dict[str, Any], Headers, str]] = [
        ({"scopes": []}, [], "scope_missing"),
        (
            {"kind": "publishable", "allowed_origins": [SHOP]},
            [("Origin", SHOP)],
            "kind_not_accepted",
        ),
    ]
    for fields, more, slug in cases:
        issued = shop.issued(**fields)
        key = issued["key"]
        shown = f"{mask_keys(key)}, fingerprint {fingerprint(key)}"
        line = f"{slug}, key_id {issued['id']}, {shown}"
        assert shop.refusal("/sync", [("x-api-key", key), *more]) == (403, slug, line)
    assert shop.resolver.explained == []


def test_an_error_while_explaining_changes_no_answer(shop: Shop) -> None:
    issued = shop.issued()
    shop.issuer.act("alice", "POST", f"/widget-keys/{issued['id']}/revoke")
    key = issued["key"]
    answer = shop.get("/key", headers={"x-api-key": key})
    failures = (
        (PermissionDenied(detail=f"not for {key}"), "permission_denied"),
        (ValueError(key), "ValueError"),
        (AttributeError("explain"), "AttributeError"),
    )
    for (failure, said), path in product(failures, (*ROUTES, "/key")):
        shop.resolver.failure = failure
        status, slug, line = shop.refusal(path, [("x-api-key", key)])
        assert (status, slug) == (401, "key_invalid")
        assert line.startswith(f"not explained ({said}), wk_sk_live_...")
        assert shop.get(path, headers={"x-api-key": key}).content == answer.content


def test_a_refusal_is_not_explained_if_the_log_level_hides_it(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="keylatch"):
        answer = shop.get("/key", headers={"x-api-key": "legacy-other"})
    assert answer.status_code == 401
    assert shop.resolver.explained == []


def test_a_verify_that_is_no_function_shows_at_once() -> None:
    with pytest.raises(TypeError, match="verify is str, not a function of a token"):
        require_key_or_user(lambda: None, "secret")  # type: ignore[arg-type]
