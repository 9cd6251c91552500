"""Log why a request was refused. The sender does not learn the reason."""

import logging
from uuid import UUID

from fastapi import Request

from ..client import AsyncKeylatch
from ..errors import InvalidArgument, KeylatchError
from ..keys import fingerprint, parse_key
from ..secret import Secret
from .resolving import origin_of

_log = logging.getLogger("keylatch")


def verdict_on_form(key: Secret) -> str | None:
    """Check the format of a text without the database.

    Args:
        key: The presented text.

    Returns:
        `malformed`, `checksum_failed`, or `None` for the format of a key.
    """
    try:
        parse_key(key)
    except InvalidArgument as problem:
        return "checksum_failed" if "checksum" in str(problem.detail) else "malformed"
    return None


def log_refusal(reason: str, presented: Secret | None = None, key_id: UUID | None = None) -> None:
    """Log why a request was refused, at level INFO.

    Args:
        reason: The verdict of `explain`, or the slug of the refusal.
        presented: The key or token. Only its masked form and its fingerprint are logged.
        key_id: The id of the key, if a key was found.
    """
    words = [reason]
    if key_id is not None:
        words.append(f"key_id {key_id}")
    if presented is not None:
        words += [str(presented), _fingerprint_of(presented)]
    _log.info("request refused: %s", ", ".join(words))


async def log_refused_key(client: AsyncKeylatch, key: Secret, request: Request) -> None:
    """Find out why a key did not resolve, and log the reason. An error here is only logged.

    The database is not asked if the log level hides the reason, or if the checksum is wrong.

    Args:
        client: The client that resolves keys, with a role that may also call `explain`.
        key: The presented text.
        request: The request that presented the key.
    """
    if not _log.isEnabledFor(logging.INFO):
        return
    verdict, key_id = verdict_on_form(key), None
    # An imported key can have any format, so only the database can explain a malformed text.
    if verdict != "checksum_failed":
        try:
            found = await client.explain(key, origin=origin_of(request))
            verdict, key_id = found.verdict, found.key_id
        # The message of an error may repeat the key, above all in the application's own resolver.
        except KeylatchError as error:
            verdict = f"not explained ({error.slug})"
        except Exception as error:
            verdict = f"not explained ({type(error).__name__})"
    log_refusal(verdict, key, key_id)


def _fingerprint_of(presented: Secret) -> str:
    try:
        return f"fingerprint {fingerprint(presented)}"
    except InvalidArgument:
        # JSON can carry a lone surrogate, which has no bytes to hash.
        return "not valid Unicode"
