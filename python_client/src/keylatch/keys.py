"""The format of a key, read without a database: hash, comparison, parts and checksum."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from .errors import InvalidArgument
from .secret import Secret

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""The 58 characters of body and check: none of 0, O, I and l, one word for a double click."""

_CHECK_LENGTH = 6
_FORMAT = re.compile(
    rf"([a-z][a-z0-9]{{1,11}})_(pk|sk)_(live|test)_[{ALPHABET}]{{30}}[{ALPHABET}]{{{_CHECK_LENGTH}}}"
)
_KINDS = {"pk": "publishable", "sk": "secret"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedKey:
    """What a key says about itself.

    Source: the text of the key alone. Whether it was ever issued, only the database knows.

    Attributes:
        prefix: Whose key it is, `wk` unless the issuer chose another.
        kind: `publishable` or `secret`.
        environment: `live` or `test`.
    """

    prefix: str
    kind: str
    environment: str


def hash_key(key: str | Secret) -> bytes:
    """Hash a key as the database does.

    A fast hash is right here: a body holds 175 bits, so there is nothing to guess.

    Args:
        key: The whole key.

    Returns:
        SHA-256 of its UTF-8, 32 bytes. Source: `keylatch.hash_key(text)` gives the same.

    Raises:
        InvalidArgument: It is not a text, or has a lone surrogate.
    """
    digest = _digest(key)
    if digest is None:
        raise InvalidArgument.of("key", "has a lone surrogate, which UTF-8 cannot hold")
    return digest


def fingerprint(key: str | Secret) -> str:
    """Give the fingerprint of a text, for logs: compare it with `Key.fingerprint`.

    It opens nothing, and it tells which text a service got: the stored key has the same
    fingerprint, or the text is another one.

    Args:
        key: The whole text that was presented.

    Returns:
        The first 8 hex characters of its hash. Source: `hash_key`.

    Raises:
        InvalidArgument: It is not a text, or has a lone surrogate.
    """
    return hash_key(key).hex()[:8]


def matches_hash(key: str | Secret, key_hash: bytes) -> bool:
    """Compare a key with a stored hash in constant time.

    Args:
        key: Any text.
        key_hash: The stored hash, 32 bytes. Source: `hash_key`.

    Returns:
        Whether the hash is that of the key; false for a text that cannot be hashed.

    Raises:
        InvalidArgument: `key` is not a text, or `key_hash` is not bytes.
    """
    if not isinstance(key_hash, bytes):
        raise InvalidArgument.of("key_hash", f"is {type(key_hash).__name__}, not bytes")
    found = _digest(key)
    return found is not None and hmac.compare_digest(found, key_hash)


def parse_key(text: str | Secret) -> ParsedKey:
    """Take a key apart and test its checksum; no network, no database.

    Args:
        text: The whole key and nothing else: a space or a newline around it is refused.

    Returns:
        Prefix, kind and environment.

    Raises:
        InvalidArgument: The text is not a key (`detail` says `malformed`) or was mistyped
            (`detail` says `checksum`). The text itself is never repeated.
    """
    parts = _take_apart(text)
    if parts is None:
        raise InvalidArgument.of(
            "key",
            "is malformed: a key is <prefix>_<pk|sk>_<live|test>_ and 36 more characters",
            "Copy the whole key, without spaces around it.",
        )
    if not parts[-1]:
        raise InvalidArgument.of(
            "key",
            "fails its checksum: at least one character is wrong",
            "Copy the key again instead of typing it.",
        )
    prefix, kind, environment, _ = parts
    return ParsedKey(prefix=prefix, kind=_KINDS[kind], environment=environment)


# The two below are functions of their own so that the frame that raises holds no plain key: a
# traceback may print the locals of every frame on its way.


def _digest(key: str | Secret) -> bytes | None:
    try:
        return hashlib.sha256(_plain(key).encode()).digest()
    except UnicodeEncodeError:
        return None


def _take_apart(key: str | Secret) -> tuple[str, str, str, bool] | None:
    """Give prefix, pk or sk, environment, and whether the checksum holds."""
    text = _plain(key)
    match = _FORMAT.fullmatch(text)
    if match is None:
        return None
    digest = hashlib.sha256(text[:-_CHECK_LENGTH].encode()).digest()
    check = "".join(ALPHABET[byte % len(ALPHABET)] for byte in digest[:_CHECK_LENGTH])
    return (match[1], match[2], match[3], text.endswith(check))


def _plain(key: str | Secret) -> str:
    if isinstance(key, Secret):
        return key.reveal()
    if not isinstance(key, str):
        raise InvalidArgument.of("key", f"is {type(key).__name__}, not a text")
    return key
