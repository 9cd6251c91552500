"""Why the keys of an older system do not validate. For `keylatch explain --workspace`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from .models import Key, UnclaimedKey
from .secret import Secret

_ROTATE = "Rotate it, or issue another."
_IMPORT = "Import it: it is native at once, and nobody needs a new key."


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of one key.

    Attributes:
        verdict: A word for programs: `valid`, or why it would not validate.
        detail: Why, in a sentence.
        hint: What to do.
    """

    verdict: str
    detail: str
    hint: str


def explain_keys(keys: Iterable[Key], unclaimed: Iterable[UnclaimedKey]) -> Iterator[Finding]:
    """Say of each key of a workspace whether it would validate.

    Args:
        keys: The keys.
        unclaimed: Those of the workspace that were imported with a salted hash.

    Yields:
        One finding for each key, in their order: `valid`, `revoked`, `expired`, `suspended`,
        `unclaimed` or `origin_denied`.
    """
    algorithms = {one.key_id: one.algorithm for one in unclaimed}
    for key in keys:
        if key.status in ("revoked", "expired"):
            yield Finding(key.status, f"The key is {key.status}, for good.", _ROTATE)
        elif key.status == "suspended":
            yield Finding("suspended", "An admin suspended it.", "keylatch resume KEY_ID")
        elif key.id in algorithms:
            yield Finding(
                "unclaimed",
                f"It was imported under {algorithms[key.id]}, which nobody can look up.",
                "resolve(key, workspace_id=…) claims it at its first use.",
            )
        elif key.kind == "publishable" and not key.allowed_origins:
            yield Finding(
                "origin_denied", "It allows no origin, so no page can use it.", "Add the page's."
            )
        else:
            yield Finding("valid", "It resolves.", "")


def explain_old(fields: Mapping[str, object], *, now: datetime) -> Finding:
    """Say why a key of an older system would not validate there, where a service looks it up.

    Args:
        fields: A line of an import, which may have key and hash both.
        now: The time that decides whether it has expired, with a zone.

    Returns:
        The first that applies of `revoked`, `expired`, `suspended`, `hash_missing`,
        `hash_unreadable`, `hash_wrong`, `hash_salted`, `kept_in_clear` and `valid`.
    """
    key, kept = fields.get("key"), fields.get("hash")
    if fields.get("revoked_at") is not None:
        return Finding("revoked", "The older system revoked it.", "Import it, to recognise it.")
    if _is_past(fields.get("expires_at"), now):
        return Finding("expired", "It ended in the older system.", "Import it, to recognise it.")
    if fields.get("suspended_at") is not None:
        return Finding("suspended", "The older system had it off.", "Import it, then resume it.")
    if kept is None:
        return Finding(
            "hash_missing",
            "No hash was saved with it, so a service that compares hashes refuses it."
            if key is not None
            else "Neither the key nor its hash is there.",
            _IMPORT if key is not None else "Issue a new key.",
        )
    if key is None:
        if fields.get("alg") == "sha256":
            return Finding("valid", "Its SHA-256 is kept: services can look it up.", _IMPORT)
        return Finding(
            "hash_salted",
            "Its hash has a salt: hashed again it comes out different, and is not found.",
            "Import it: its first use makes it native.",
        )
    matches = _matches(key.reveal() if isinstance(key, Secret) else str(key), fields)
    if matches is False:
        return Finding("hash_wrong", "The hash beside it is that of another key.", _IMPORT)
    if matches is None:
        return Finding("hash_unreadable", "The hash beside it cannot be read.", _IMPORT)
    return Finding(
        "kept_in_clear", "It validates, and whoever reads the table or a dump has it.", _IMPORT
    )


def _is_past(time: object, now: datetime) -> bool:
    try:
        read = datetime.fromisoformat(str(time))
    except ValueError:
        return False
    return (read if read.tzinfo else read.replace(tzinfo=UTC)) <= now


def _matches(key: str, fields: Mapping[str, object]) -> bool | None:
    """Whether the hash is that of the key; `None` where it cannot be told here, as for bcrypt."""
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
