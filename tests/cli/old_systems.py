"""A key of each old system, and the key's table row, made as the system itself makes it."""

import base64
import hashlib
import hmac
import secrets
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import uuid4

import bcrypt

from stack import People

A = str(People.a)
PEPPER = "the secret of the old application, 32 bytes"
NOW, FIRST, NEVER = "resolves", "resolves after first use", "refused"


@dataclass(frozen=True)
class OldSystem:
    """A row of a system's table, and the key as its holder has it.

    Attributes:
        key: The key.
        row: The row, as the system's own dump has it.
        becomes: Whether the key resolves at once, after its first use, or never.
        secret: The name of the system's secret in the database; empty without a secret.
        pepper: The value of the secret.
        owner: The tenant's id in the row; empty if the row has none.
        needs_workspace: Whether the first use must name the workspace.
    """

    key: str
    row: Mapping[str, object]
    becomes: str = NOW
    secret: str = ""
    pepper: str = PEPPER
    owner: str = "42"
    needs_workspace: bool = False


def sha(name: str, text: str | bytes) -> bytes:
    given = text.encode() if isinstance(text, str) else text
    return hashlib.new(name, given).digest()


def b64(given: bytes) -> str:
    return base64.b64encode(given).decode()


def url64(given: bytes) -> str:
    return base64.urlsafe_b64encode(given).decode().rstrip("=")


def crypted(key: str) -> str:
    return bcrypt.hashpw(key.encode(), bcrypt.gensalt(4)).decode()


def django(key: str, salt: str, rounds: int) -> str:
    kept = hashlib.pbkdf2_hmac("sha256", key.encode(), salt.encode(), rounds)
    return f"pbkdf2_sha256${rounds}${salt}${b64(kept)}"


HEX = secrets.token_hex(32)
WORD = secrets.token_urlsafe(33)[:40]
SEEN = "2026-03-01 09:30:00"


def sanctum() -> OldSystem:
    return OldSystem(
        key=f"12|{WORD}",
        row={
            "id": 12,
            "tokenable_type": "App\\Models\\User",
            "tokenable_id": 42,
            "name": "the shop",
            "token": sha("sha256", WORD).hex(),
            "abilities": '["orders:read", "*"]',
            "last_used_at": SEEN,
            "expires_at": "",
            "created_at": SEEN,
            "updated_at": SEEN,
        },
    )


def passport() -> OldSystem:
    row = {"id": 3, "user_id": 42, "name": "a client", "secret": crypted(WORD), "revoked": "f"}
    return OldSystem(key=WORD, row=row, becomes=FIRST, needs_workspace=True)


def knox() -> OldSystem:
    # knox/crypto.py: the SHA-512 hash of the token's characters, since version 4. Version 3 hashed
    # the bytes that the hex token encodes.
    return OldSystem(
        key=HEX,
        row={
            "digest": sha("sha512", HEX).hex(),
            "token_key": HEX[:15],
            "created": "2026-03-01 09:30:00.123456+00",
            "expiry": "2099-01-01 00:00:00+00",
            "user_id": 42,
        },
    )


def api_key(version: int) -> OldSystem:
    prefix = secrets.token_hex(4)
    key = f"{prefix}.{secrets.token_hex(16)}"
    kept = f"sha512$${sha('sha512', key).hex()}" if version == 3 else django(key, "salt1", 1000)
    row = {
        "id": f"{prefix}.{kept}",
        "created": SEEN,
        "name": "a partner",
        "revoked": "f",
        "expiry_date": "",
        "hashed_key": kept,
        "prefix": prefix,
    }
    return OldSystem(key=key, row=row, owner="", becomes=NOW if version == 3 else FIRST)


def gitea() -> OldSystem:
    key, salt = secrets.token_hex(20), "sAlT012345"
    # models/auth/access_token.go: PBKDF2 of 50 bytes, 10,000 rounds.
    kept = hashlib.pbkdf2_hmac("sha256", key.encode(), salt.encode(), 10_000, 50).hex()
    row = {
        "id": 1,
        "uid": 42,
        "name": "ci",
        "token_hash": kept,
        "token_salt": salt,
        "token_last_eight": key[-8:],
        "scope": "read:repository,write:issue",
        "created_unix": 1772357400,
        "updated_unix": 1772357400,
    }
    return OldSystem(key=key, row=row, becomes=FIRST)


def grafana() -> OldSystem:
    secret = secrets.token_hex(16)
    # pkg/components/satokengen: the checksum of the token is the salt of its secret.
    checksum = zlib.crc32(f"glsa_{secret}".encode()).to_bytes(4, "little").hex()
    kept = hashlib.pbkdf2_hmac("sha256", secret.encode(), checksum.encode(), 10_000, 50).hex()
    row = {
        "id": 1,
        "org_id": 42,
        "name": "ci",
        "key": kept,
        "role": "Viewer",
        "created": SEEN,
        "updated": SEEN,
        "expires": 4102444800,
        "service_account_id": 7,
        "last_used_at": SEEN,
        "is_revoked": 0,
    }
    return OldSystem(key=f"glsa_{secret}_{checksum}", row=row, becomes=FIRST)


def sentry() -> OldSystem:
    key = f"sntryu_{HEX}"
    row = {
        "user_id": 42,
        "token": "",
        "hashed_token": sha("sha256", key).hex(),
        "scope_list": "{org:read,project:write}",
        "expires_at": "",
        "date_added": "2026-03-01 09:30:00.1234567+00",
    }
    return OldSystem(key=key, row=row)


def posthog(kept: str, key: str, becomes: str) -> OldSystem:
    row = {
        "user_id": 42,
        "label": "mine",
        "mask_value": f"{key[:4]}...{key[-4:]}",
        "secure_value": kept,
        "scopes": "{feature_flag:read,*}",
        "created_at": "2026-03-01 09:30:00+00",
    }
    return OldSystem(key=key, row=row, becomes=becomes)


def strapi() -> OldSystem:
    key = secrets.token_hex(128)
    kept = hmac.new(PEPPER.encode(), key.encode(), "sha512").hexdigest()
    row = {
        "id": 1,
        "name": "site",
        "access_key": kept,
        "last_used_at": 1772357400123,
        "expires_at": "",
        "created_at": 1772357400123,
    }
    return OldSystem(key=key, row=row, secret="strapi", owner="")


def langfuse() -> OldSystem:
    key, pepper = f"sk-lf-{uuid4()}", sha("sha256", PEPPER).hex()
    row = {
        "id": "cl0",
        "created_at": "2026-03-01 09:30:00.123",
        "note": "prod",
        "hashed_secret_key": f"unused:{uuid4()}",
        "fast_hashed_secret_key": sha("sha256", key + pepper).hex(),
        "display_secret_key": f"{key[:6]}...{key[-4:]}",
        "project_id": "clproject0",
    }
    return OldSystem(key=key, row=row, secret="langfuse", pepper=pepper, owner="clproject0")


def phoenix() -> OldSystem:
    token = secrets.token_bytes(32)
    row = {
        "id": 1,
        "user_id": 42,
        "token": f"\\x{sha('sha256', token).hex()}",
        "context": "api-token",
        "inserted_at": SEEN,
    }
    return OldSystem(key=url64(token), row=row)


def identityserver() -> OldSystem:
    handle = secrets.token_hex(32).upper()
    row = {
        "Key": b64(sha("sha256", f"{handle}:reference_token")),
        "Type": "reference_token",
        "ClientId": "42",
        "CreationTime": "2026-03-01 09:30:00.1234567",
        "Expiration": "2099-01-01 00:00:00.0000000",
    }
    return OldSystem(key=handle, row=row)


def rails() -> OldSystem:
    kept = hmac.new(PEPPER.encode(), WORD.encode(), "sha256").hexdigest()
    row = {"id": 1, "bearer_id": 42, "token_digest": kept, "created_at": f"{SEEN}.123456"}
    return OldSystem(key=WORD, row=row, secret="rails")


def keyhippo() -> OldSystem:
    part = sha("sha512", secrets.token_bytes(64)).hex()
    row = {
        "id": str(uuid4()),
        "user_id": A,
        "description": "primary",
        "is_revoked": "f",
        "expires_at": "2126-03-01 09:30:00+00",
        "key_hash": sha("sha512", part).hex(),
    }
    return OldSystem(key=b64(secrets.token_bytes(24)) + part, row=row, owner="")


def simple(key: str, kept: object, **row: object) -> OldSystem:
    return OldSystem(key=key, row={"hash": kept, "user_id": 42, **row})


def systems() -> dict[str, Callable[[], OldSystem]]:
    phx, mb, sk = f"phx_{WORD}", f"mb_{b64(sha('sha256', HEX))}", f"sk-{WORD[:22]}"
    gl, cal = f"glpat-{WORD[:20]}", f"cal_{HEX[:32]}"
    return {
        "laravel-sanctum": sanctum,
        "passport": passport,
        "django-rest-knox": knox,
        "drf-authtoken": lambda: OldSystem(
            key=HEX[:40], row={"key": HEX[:40], "created": SEEN, "user_id": 42}
        ),
        "djangorestframework-api-key": lambda: api_key(3),
        "unkey": lambda: OldSystem(
            key=f"uk_{WORD}",
            row={
                "id": "key_1",
                "hash": b64(sha("sha256", f"uk_{WORD}")),
                "start": "uk_abc",
                "workspace_id": "42",
                "for_workspace_id": "",
                "enabled": 1,
                "created_at_m": 1772357400123,
                "deleted_at_m": "",
            },
        ),
        "better-auth": lambda: OldSystem(
            key=WORD,
            row={
                "id": "1",
                "name": "n",
                "key": url64(sha("sha256", WORD)),
                "userId": "42",
                "enabled": "true",
                "expiresAt": "",
                "createdAt": "2026-03-01T09:30:00.000Z",
            },
        ),
        "gitea": gitea,
        "grafana": grafana,
        "sentry": sentry,
        "posthog": lambda: posthog(f"sha256${sha('sha256', phx).hex()}", phx, NOW),
        "strapi": strapi,
        "langfuse": langfuse,
        "litellm": lambda: OldSystem(
            key=sk,
            row={
                "token": sha("sha256", sk).hex(),
                "key_name": f"sk-...{sk[-4:]}",
                "key_alias": "team",
                "user_id": "42",
                "expires": "2099-01-01 00:00:00",
                "blocked": "",
                "last_active": SEEN,
            },
        ),
        "cal.com": lambda: OldSystem(
            key=cal,
            row={
                "id": "c1",
                "userId": 42,
                "note": "n",
                "hashedKey": sha("sha256", HEX[:32]).hex(),
                "createdAt": f"{SEEN}.123",
                "expiresAt": "",
            },
        ),
        "plausible": lambda: OldSystem(
            key=WORD,
            row={
                "id": 1,
                "user_id": 42,
                "name": "n",
                "key_prefix": WORD[:6],
                "key_hash": sha("sha256", PEPPER + WORD).hex(),
                "scopes": "{stats:read:*}",
                "inserted_at": SEEN,
            },
            secret="plausible",
        ),
        "phoenix": phoenix,
        "identityserver": identityserver,
        "rails-hmac": rails,
        "supabase-digest": lambda: simple(WORD, f"\\x{sha('sha256', WORD).hex()}", is_active="t"),
        "supabase-crypt": lambda: OldSystem(
            key=WORD,
            row={"key_hash": crypted(WORD), "key_prefix": WORD[:8], "user_id": 42},
            becomes=FIRST,
        ),
        "keyhippo": keyhippo,
        "gitlab": lambda: OldSystem(
            key=gl,
            row={
                "user_id": 42,
                "name": "n",
                "revoked": "f",
                "expires_at": "2099-01-01",
                "token_digest": b64(sha("sha256", gl + PEPPER)),
            },
            secret="gitlab",
        ),
        "discourse": lambda: OldSystem(
            key=HEX,
            row={"key_hash": sha("sha256", HEX).hex(), "truncated_key": HEX[:4], "user_id": 42},
        ),
        "doorkeeper": lambda: OldSystem(
            key=WORD,
            row={
                "application_id": 42,
                "token": sha("sha256", WORD).hex(),
                "scopes": "read write",
                "expires_in": 3_000_000_000,
                "created_at": SEEN,
            },
        ),
        "metabase": lambda: OldSystem(
            key=mb,
            row={"id": 1, "user_id": 42, "key": crypted(mb), "key_prefix": mb[:7], "name": "n"},
            becomes=FIRST,
        ),
        "documenso": lambda: OldSystem(
            key=f"api_{WORD[:16]}",
            row={"token": sha("sha512", f"api_{WORD[:16]}").hex(), "userId": 42, "name": "n"},
        ),
        "md5": lambda: simple(WORD, sha("md5", WORD).hex(), active=1),
        "salted-sha256": lambda: OldSystem(
            key=WORD,
            row={
                "hash": sha("sha256", f"{WORD}pinch of salt").hex(),
                "salt": "pinch of salt",
                "user_id": 42,
            },
            becomes=FIRST,
            needs_workspace=True,
        ),
        "infisical": lambda: OldSystem(key="st.x.y", row={"secretHash": "$2b$"}, becomes=NEVER),
    }


OTHER_FORMS: dict[str, tuple[str, Callable[[], OldSystem]]] = {
    "version 2": ("djangorestframework-api-key", lambda: api_key(2)),
    "before 2024": (
        "posthog",
        lambda: posthog(
            django(f"phx_{WORD}", "posthog_personal_api_key", 260_000), f"phx_{WORD}", FIRST
        ),
    ),
}
