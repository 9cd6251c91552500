"""The file format of a revocation list, and the checks that refuse a damaged list.

Each line is a JSON object. The first line names the installation. Each further line is a key. The
last line has the number of keys and the SHA-256 of all bytes before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from keylatch.errors import KeylatchError

FORMAT = 1
"""The version of the format."""

_TIMES = ("revoked_at", "suspended_at", "expires_at")


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a list.

    Attributes:
        installation: The id of the installation.
        database: The name of the database.
        exported_at: When the list was written, by the clock of the database.
        since: Only changes since then are in the list; `None` for all changes.
        checkpoint: Number and digest of the last checkpoint of the events, or `None`.
    """

    installation: UUID
    database: str
    exported_at: datetime
    since: datetime | None = None
    checkpoint: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A key that a restore could reactivate.

    Attributes:
        id: The id of the key.
        revoked_at: When the key was revoked.
        reason: Why the key was revoked.
        suspended_at: Since when the key is suspended.
        expires_at: When the key expires.
    """

    id: UUID
    revoked_at: datetime | None
    reason: str | None
    suspended_at: datetime | None
    expires_at: datetime | None


def lines(head: Head, entries: Iterable[Entry]) -> Iterator[bytes]:
    """Write a list.

    Args:
        head: The first line.
        entries: The keys.

    Yields:
        The lines, the last one with the digest.
    """
    digest, count = sha256(), 0

    def sealed(line: Mapping[str, object]) -> bytes:
        text = json.dumps(line, default=_as_json, separators=(",", ":")).encode() + b"\n"
        digest.update(text)
        return text

    number, checkpoint = head.checkpoint or (None, None)
    yield sealed(
        {
            "keylatch": "revocations",
            "format": FORMAT,
            "installation": head.installation,
            "database": head.database,
            "exported_at": head.exported_at,
            "since": head.since,
            "checkpoint": number,
            "digest": checkpoint,
        }
    )
    for one in entries:
        count += 1
        fields = {name: getattr(one, name) for name in one.__slots__}
        yield sealed({name: value for name, value in fields.items() if value is not None})
    yield json.dumps({"keys": count, "sha256": digest.hexdigest()}).encode() + b"\n"


def read(path: Path) -> tuple[Head, int]:
    """Check a whole list before it is used.

    Args:
        path: The file.

    Returns:
        The first line, and how many keys follow.

    Raises:
        KeylatchError: `list_unreadable`, `list_incomplete` or `list_changed`.
        OSError: The file cannot be read.
    """
    digest, count, last = sha256(), -1, b""
    head: Head | None = None
    with path.open("rb") as file:
        for line in file:
            if head is None:
                head = _head(_object(line, path), path)
            if last:
                digest.update(last)
            last = line
            count += 1
    if head is None:
        raise _unreadable(path, "is empty")
    end = _object(last, path) if last.endswith(b"\n") else {}
    if "sha256" not in end:
        raise KeylatchError(
            "list_incomplete",
            detail=f"{path} has no last line with a digest: the end of the list is missing.",
            hint="Use another copy of the list. Nothing was changed.",
        )
    if end != {"keys": count - 1, "sha256": digest.hexdigest()}:
        raise KeylatchError(
            "list_changed",
            detail=f"{path} was changed after keylatch wrote it: the digest does not match.",
            hint="Use another copy of the list. Nothing was changed.",
        )
    return head, count - 1


def entries(path: Path) -> Iterator[Entry]:
    """Read the keys of a list that `read` has checked.

    Args:
        path: The file.

    Yields:
        The keys.

    Raises:
        KeylatchError: `list_unreadable` if a line is not a key.
    """
    with path.open("rb") as file:
        next(file)
        for line in file:
            fields = _object(line, path)
            if "sha256" in fields:
                return
            try:
                times = {name: _time(fields.get(name)) for name in _TIMES}
                reason = fields.get("reason")
                yield Entry(UUID(fields["id"]), reason=reason and str(reason), **times)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise _unreadable(path, "has a line that is not a key") from None


def _head(fields: dict[str, Any], path: Path) -> Head:
    if fields.get("keylatch") != "revocations":
        raise _unreadable(path, "is not a revocation list")
    if fields.get("format") != FORMAT:
        raise KeylatchError(
            "client_older",
            detail=f"{path} was written by a newer version of keylatch.",
            hint="Run: pip install --upgrade keylatch",
        )
    try:
        exported_at = _time(fields["exported_at"])
        if exported_at is None:
            raise ValueError
        number = fields.get("checkpoint")
        return Head(
            UUID(fields["installation"]),
            str(fields["database"]),
            exported_at,
            _time(fields.get("since")),
            None if number is None else (int(number), str(fields["digest"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _unreadable(path, "has a first line that cannot be read") from None


def _object(line: bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _unreadable(path, "has a line that is not a JSON object")
    return found


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError
    return found


def _unreadable(path: Path, why: str) -> KeylatchError:
    return KeylatchError(
        "list_unreadable",
        detail=f"{path} {why}.",
        hint="Use the file that `keylatch revocations export` wrote. Nothing was changed.",
    )


def _as_json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
