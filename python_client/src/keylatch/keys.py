"""The key format, without a database: hash, fingerprint, comparison, parts and checksum."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from .errors import InvalidArgument
from .secret import Secret

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""The 58 characters of body and check. None of them is 0, O, I or l."""

_CHECK_LENGTH = 6
_FORMAT = re.compile(
    rf"([a-z][a-z0-9]{{1,11}})_(pk|sk)_(live|test)_[{ALPHABET}]{{30}}[{ALPHABET}]{{{_CHECK_LENGTH}}}"
)
_KINDS = {"pk": "publishable", "sk": "secret"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedKey:
    """The parts of a key's text. Only the database knows whether the key was ever issued."""

    prefix: str  #: The first word of the key: `wk` unless the issuer chose another prefix.
    kind: str  #: `publishable` or `secret`.
    environment: str  #: `live` or `test`.


def hash_key(key: str | Secret) -> bytes:
    """Hash a key as the database does. A fast hash is enough: a key has 175 random bits.

    Args:
        key: The whole key.

    Returns:
        SHA-256 of the key as UTF-8, 32 bytes. SQL `keylatch.hash_key(text)` returns the same.

    Raises:
        InvalidArgument: The key is not a string, or has a lone surrogate.
    """
    digest = _digest(key)
    if digest is None:
        raise InvalidArgument.of("key", "has a lone surrogate, which UTF-8 cannot hold")
    return digest


def fingerprint(key: str | Secret) -> str:
    """Return the fingerprint of a text, to log and to compare with `Key.fingerprint`.

    Nobody can use a fingerprint as a key. If the two differ, the service received another text.

    Args:
        key: The whole text that was presented.

    Returns:
        The first 8 hex characters of its hash. Source: `hash_key`.

    Raises:
        InvalidArgument: The key is not a string, or has a lone surrogate.
    """
    return hash_key(key).hex()[:8]


def matches_hash(key: str | Secret, key_hash: bytes) -> bool:
    """Compare a key with a stored hash in constant time.

    Args:
        key: Any text.
        key_hash: The stored hash, 32 bytes. Source: `hash_key`.

    Returns:
        Whether the hash belongs to the key; false for a text that cannot be hashed.

    Raises:
        InvalidArgument: `key` is not a string, or `key_hash` is not bytes.
    """
    if not isinstance(key_hash, bytes):
        raise InvalidArgument.of("key_hash", f"is {type(key_hash).__name__}, not bytes")
    found = _digest(key)
    return found is not None and hmac.compare_digest(found, key_hash)


def parse_key(text: str | Secret) -> ParsedKey:
    """Split a key into its parts and check its checksum, without a database.

    Args:
        text: The whole key and nothing else: a space or a newline around it is refused.

    Returns:
        Prefix, kind and environment.

    Raises:
        InvalidArgument: The text is malformed, or its checksum is wrong. `detail` says which.
    """
    parts = _take_apart(text)
    if parts is None:
        problem = "is malformed: a key is <prefix>_<pk|sk>_<live|test>_ and 36 more characters"
        raise InvalidArgument.of("key", problem, "Copy the whole key, without spaces around it.")
    prefix, kind, environment, is_right = parts
    if not is_right:
        problem = "fails its checksum: at least one character is wrong"
        raise InvalidArgument.of("key", problem, "Copy the key again instead of typing it.")
    return ParsedKey(prefix=prefix, kind=_KINDS[kind], environment=environment)


# The next two functions keep the plaintext key out of the frame that raises: a traceback may
# print the local variables of every frame.


def _digest(key: str | Secret) -> bytes | None:
    try:
        return hashlib.sha256(_plain(key).encode()).digest()
    except UnicodeEncodeError:
        return None


def _take_apart(key: str | Secret) -> tuple[str, str, str, bool] | None:
    """Return prefix, pk or sk, environment, and whether the checksum is right."""
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
        raise InvalidArgument.of("key", f"is {type(key).__name__}, not a string")
    return key
