"""Explains for `keylatch explain --workspace` why keys do not resolve."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from keylatch.models import Key, LegacyKey
from keylatch.secret import Secret

_ISSUE = "Issue a new key."
_IMPORT = (
    "Import the key. Its holder can keep using the key, and keylatch resolves the key at once."
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The explanation of one key.

    Attributes:
        verdict: A word for programs: `valid`, or why the key does not resolve.
        detail: Why, in a sentence.
        hint: What to do.
    """

    verdict: str
    detail: str
    hint: str


def explain_keys(keys: Iterable[Key]) -> Iterator[Finding]:
    """Explain for each key of a workspace whether it resolves.

    Args:
        keys: The keys.

    Yields:
        One finding for each key, in the same order: `valid`, `revoked`, `expired`, `suspended` or
        `origin_denied`.
    """
    for key in keys:
        if key.status in ("revoked", "expired"):
            yield Finding(key.status, f"The key is {key.status} for good.", _ISSUE)
        elif key.status == "suspended":
            yield Finding(
                "suspended", "An admin suspended the key.", f"Run: keylatch unsuspend {key.id}"
            )
        elif key.kind == "publishable" and not key.allowed_origins:
            yield Finding(
                "origin_denied",
                "The key allows no origin, so no page can use it.",
                "Add the origin of the page to allowed_origins.",
            )
        else:
            yield Finding("valid", "The key resolves.", "")


def explain_legacy(keys: Iterable[LegacyKey]) -> Iterator[Finding]:
    """Explain for each legacy key before its upgrade whether its first use would work.

    Args:
        keys: The legacy keys.

    Yields:
        One finding for each key, in the same order: `revoked`, `expired`, `suspended` or `waiting`.
    """
    for key in keys:
        if key.status in ("revoked", "expired"):
            yield Finding(key.status, f"The key is {key.status} for good.", _ISSUE)
        elif key.status == "suspended":
            yield Finding("suspended", "The key is suspended.", f"Run: keylatch unsuspend {key.id}")
        else:
            yield Finding(
                "waiting",
                f"The key has a salted hash ({key.scheme}), so resolve does not find it.",
                "Call upgrade_key when resolve finds nothing: the first use upgrades the key.",
            )


def explain_old(fields: Mapping[str, object], *, now: datetime) -> Finding:
    """Explain why a key of another system would not validate in a service of that system.

    Args:
        fields: A line of an import, which may have both the key and the hash.
        now: The time to compare the expiry with, with a time zone.

    Returns:
        The first of these verdicts that applies: `revoked`, `expired`, `suspended`, `hash_missing`,
        `hash_unreadable`, `hash_wrong`, `hash_salted`, `plaintext`, `valid`.
    """
    key, kept = fields.get("key"), fields.get("hash")
    if fields.get("revoked_at") is not None:
        return Finding(
            "revoked",
            "The other system revoked the key.",
            "Import the key, so that explain can show this reason.",
        )
    if _is_past(fields.get("expires_at"), now):
        return Finding(
            "expired",
            "The key expired in the other system.",
            "Import the key, so that explain can show this reason.",
        )
    if fields.get("suspended_at") is not None:
        return Finding(
            "suspended",
            "The other system suspended the key.",
            "Import the key, then run keylatch unsuspend.",
        )
    if kept is None:
        return Finding(
            "hash_missing",
            "The key was saved without a hash, so a service that compares hashes refuses the key."
            if key is not None
            else "The line has neither the key nor its hash.",
            _IMPORT if key is not None else _ISSUE,
        )
    if key is None:
        if fields.get("alg") == "sha256":
            return Finding(
                "valid",
                "The table stores the SHA-256 of the key, so services can find the key by its "
                "hash.",
                _IMPORT,
            )
        return Finding(
            "hash_salted",
            "The stored hash is salted, so services cannot find the key by its hash.",
            "Import the key: its first use upgrades it.",
        )
    matches = _matches(key.reveal() if isinstance(key, Secret) else str(key), fields)
    if matches is False:
        return Finding("hash_wrong", "The stored hash is the hash of another key.", _IMPORT)
    if matches is None:
        return Finding("hash_unreadable", "The stored hash cannot be read.", _IMPORT)
    return Finding(
        "plaintext",
        "The key validates, but everyone who can read the table or a dump can read the key.",
        _IMPORT,
    )


def _is_past(time: object, now: datetime) -> bool:
    try:
        read = datetime.fromisoformat(str(time))
    except ValueError:
        return False
    return (read if read.tzinfo else read.replace(tzinfo=UTC)) <= now


def _matches(key: str, fields: Mapping[str, object]) -> bool | None:
    """Check the hash of a key; `None` for a hash that Python cannot check, such as bcrypt."""
    alg, kept = fields.get("alg"), str(fields.get("hash"))
    try:
        if alg == "sha256":
            wanted = _bytes(kept, fields.get("hash_encoding"))
            found = hashlib.sha256(key.encode()).digest()
        elif alg == "pbkdf2_sha256":
            wanted = _bytes(kept, fields.get("hash_encoding"))
            salt = _bytes(str(fields.get("salt")), fields.get("salt_encoding"))
            found = _derive(key, salt, str(fields.get("iter")))
        elif alg == "django":
            _, rounds, salt_text, encoded = kept.split("$")
            wanted = base64.b64decode(encoded, validate=True)
            found = _derive(key, salt_text.encode(), rounds)
        else:
            return None
    except (ValueError, binascii.Error, OverflowError):
        return None
    return hmac.compare_digest(wanted, found)


def _derive(key: str, salt: bytes, rounds: str) -> bytes:
    if not 1 <= int(rounds) <= 2_000_000:
        raise ValueError
    return hashlib.pbkdf2_hmac("sha256", key.encode(), salt, int(rounds))


def _bytes(text: str, encoding: object) -> bytes:
    if encoding == "hex":
        return bytes.fromhex(text)
    if encoding == "base64":
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=None, validate=True)
    if encoding == "text":
        return text.encode()
    raise ValueError
