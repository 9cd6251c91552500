"""Reads the cells of a dump: times, lists, hashes. Finds cells that a spreadsheet has damaged."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

TIMES = frozenset({"expires_at", "suspended_at", "revoked_at", "created_at", "last_used_at"})
"""The fields whose values are times."""

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,9}))?"
    r" ?(Z|UTC|[+-]\d\d(?::?\d\d)?)?)?"
)
GOOD_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z")
"""The format of times that the database reads without a change."""
_EPOCH = re.compile(r"(\d{9,10})(?:\.(\d{1,9}))?|(\d{12,13})|(\d{15,16})")
# How Go, MySQL and PostgreSQL write "no time".
_NEVER = re.compile(r"0|0000-00-00.*|0001-01-01.*|infinity")
_TRUE, _FALSE = frozenset({"t", "true", "1", "yes", "y"}), frozenset({"f", "false", "0", "no", "n"})
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
SHORTENED = re.compile(r"[+-]?\d(?:[.,]\d+)?[eE][+-]\d+")
"""A number that a spreadsheet has shortened: one digit and a sign. 13260e07 is hex."""
_CURLY = re.compile("[\u201c-\u201f\u2018-\u201b\xab\xbb]")


class Unfit(Exception):
    """A cell does not have the type of its column. The message follows the column name."""


def damage(text: str) -> str | None:
    """Check whether a spreadsheet or a text editor has damaged a cell.

    Args:
        text: The text of the cell.

    Returns:
        What is wrong, worded to follow the column name; `None` if nothing is wrong.
    """
    if SHORTENED.fullmatch(text):
        return (
            f"{text} is a number that a spreadsheet has shortened. Export the table again, and "
            "do not open the file in a spreadsheet"
        )
    if not text.isascii() and _CURLY.search(text):
        return "has curly quotation marks from a text program. Export the table again"
    return None


def time(value: object, zone: tzinfo | None) -> str | None:
    """Convert a time to the format that `import_keys` accepts.

    Args:
        value: ISO 8601 with up to 9 fractional digits, or seconds, milliseconds or microseconds
            since 1970.
        zone: The time zone of a value without a zone.

    Returns:
        ISO 8601 with a zone; `None` for a value that means "no time", such as 0.

    Raises:
        Unfit: The value is not a time, or its time zone is unknown.
    """
    text = str(value)
    if GOOD_TIME.fullmatch(text):
        return text
    if _NEVER.fullmatch(text):
        return None
    if epoch := _EPOCH.fullmatch(text):
        seconds, part, milliseconds, microseconds = epoch.groups()
        count = (
            int(seconds) * 1_000_000 + int((part or "").ljust(6, "0")[:6])
            if seconds
            else int(milliseconds) * 1000
            if milliseconds
            else int(microseconds)
        )
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=count)).isoformat()
    found = _TIME.fullmatch(text)
    if found is None:
        raise Unfit("is not a time: write 2027-01-31T09:30:00Z, or seconds since 1970")
    day, clock, part, offset = found.groups()
    written = f"{day}T{clock or '00:00'}"
    if clock and clock.count(":") == 1:
        written += ":00"
    if part:
        written += f".{part[:6]}"
    if offset:
        return written + ("Z" if offset == "UTC" else offset)
    if clock is None and zone is None:
        return day
    if zone is None:
        raise Unfit("has no time zone: add --zone, for example --zone UTC")
    try:
        return datetime.fromisoformat(written.ljust(10)).replace(tzinfo=zone).isoformat()
    except ValueError:
        raise Unfit("is not a time that exists") from None


def state(value: object, zone: tzinfo | None, *, inverted: bool, now: str) -> str | None:
    """Return the time of a revocation or suspension. The cell has a time, or yes or no.

    Args:
        value: The value of the cell.
        zone: The time zone of a time without a zone.
        inverted: Whether yes means that the key is not revoked or suspended.
        now: The time to return if the key is revoked or suspended and the cell has no time.

    Returns:
        The time; `None` if the key is not revoked or suspended.

    Raises:
        Unfit: The value is neither a time nor yes or no.
    """
    word = str(value).lower()
    if word in _TRUE or word in _FALSE:
        return now if (word in _TRUE) != inverted else None
    return time(value, zone)


def texts(value: object) -> list[Any]:
    """Read a list: a PostgreSQL array, a JSON list, or words separated by spaces or commas.

    Raises:
        Unfit: The value is not a list.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise Unfit("is not a list")
    text = value.strip()
    if text.startswith("["):
        found = json_of(text)
        if isinstance(found, list):
            return found
    if text.startswith("{") and text.endswith("}"):
        inner = text[1:-1]
        return next(csv.reader([inner], escapechar="\\", doublequote=False)) if inner else []
    if text[:1] in "[{":
        raise Unfit("is not a list")
    return text.replace(",", " ").split()


def json_of(value: object) -> Any:
    """Read a cell that contains JSON.

    Raises:
        Unfit: The value is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    # The error does not repeat the cell, because the cell may contain a key.
    except (ValueError, RecursionError):
        raise Unfit("is not JSON") from None


def hashed(text: str) -> tuple[str, str]:
    r"""Detect whether a hash is written in hex or base64.

    Args:
        text: Hex, with or without PostgreSQL's `\x`, or base64.

    Returns:
        The text without `\x` or `0x`, and `hex` or `base64`.
    """
    bare = text[2:] if text.startswith(("\\x", "0x")) else text
    if _HEX.fullmatch(bare):
        return bare, "hex"
    return text, "base64" if _BASE64.fullmatch(text) else "hex"


READERS: dict[str, Callable[[object], Any]] = {
    "allowed_origins": texts,
    "scopes": texts,
    "metadata": json_of,
}
"""Functions that read the fields whose values are lists or JSON."""
