"""Reads durations and times such as `24h`, `90d` and `2027-01-31`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from keylatch.errors import InvalidArgument

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(?:[0-9]{1,9}[smhdw])+|0")


def parse_duration(field: str, text: str) -> timedelta:
    """Read a duration.

    Args:
        field: The name of the field, for errors.
        text: Numbers with units: s, m (minutes), h, d (24 hours) or w, such as `1d12h`. Or 0.

    Returns:
        The duration.

    Raises:
        InvalidArgument: The text is not a duration, or is too long for Python.
    """
    if not _DURATION.fullmatch(text):
        raise InvalidArgument.of(field, "is not a duration", "Write 30m, 24h, 90d, 2w or 1d12h.")
    parts = re.findall(r"([0-9]+)([smhdw])", text)
    try:
        return sum((timedelta(**{_UNITS[unit]: int(n)}) for n, unit in parts), timedelta())
    except OverflowError:
        raise InvalidArgument.of(field, "is too long") from None


def parse_time(field: str, text: str | None) -> datetime | None:
    """Read an expiry.

    Args:
        field: The name of the field, for errors.
        text: A duration from now; or an ISO 8601 date or time, in UTC unless it has a time zone;
            or `None`.

    Returns:
        The time with its time zone; `None` for `None`.

    Raises:
        InvalidArgument: The text is not a time, or is after the year 9999.
    """
    if text is None:
        return None
    try:
        if _DURATION.fullmatch(text):
            return datetime.now(UTC) + parse_duration(field, text)
        time = datetime.fromisoformat(text)
    except OverflowError:
        raise InvalidArgument.of(field, "is after the year 9999") from None
    except InvalidArgument:
        raise
    except ValueError:
        raise InvalidArgument.of(
            field, "is neither a duration nor a time", "Write 90d, 2027-01-31 or 2027-01-31T09:30Z."
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
