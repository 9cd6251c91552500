"""Checks a database against anchors: checkpoints of its events that were stored elsewhere."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from keylatch.errors import InvalidArgument

from .report import Finding, Level, Unchecked

_DIGESTS = """
select c.number, pg_catalog.encode(c.digest, 'hex')
from keylatch_internal.key_event_checkpoints as c
where c.number = any(%s)
"""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A checkpoint that was stored outside the database. Source: `sql/ops/anchor_events.sql`.

    Attributes:
        number: The number of the checkpoint.
        digest: The digest of the checkpoint, in hex.
        anchored_at: When the script printed the checkpoint, as PostgreSQL writes the time.
    """

    number: int
    digest: str
    anchored_at: str


def read_anchors(file: Path) -> tuple[Anchor, ...]:
    """Read the stored anchors.

    Args:
        file: The file that `sql/ops/anchor_events.sql` appends to.

    Returns:
        The anchors.

    Raises:
        InvalidArgument: The file cannot be read, or has another format.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return tuple(
                Anchor(int(number), digest, at) for number, digest, at in csv.reader(lines)
            )
    except (OSError, ValueError) as problem:
        raise InvalidArgument(
            "usage",
            detail=f"{file} cannot be read as anchors: {problem}",
            hint="Name the file that the script anchor_events appends to.",
        ) from None


def check(
    connection: psycopg.Connection[Any], anchors: tuple[Anchor, ...], parts: tuple[str, ...]
) -> Iterator[Finding | Unchecked]:
    """Compare the checkpoints with anchors.

    Args:
        connection: Inside a transaction, as the owner or as service_role.
        anchors: The anchors that were stored elsewhere.
        parts: The installed parts.

    Yields:
        A finding if checkpoints are missing, and a finding if digests differ.

    Raises:
        psycopg.Error: The checkpoints cannot be read.
    """
    if "events" not in parts:
        yield Unchecked("anchors", "module events is not installed")
        return
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(_DIGESTS, [[one.number for one in anchors]]).fetchall()
    digests: dict[int, str] = dict(rows)
    gone = [one for one in anchors if one.number not in digests]
    if gone:
        last = max(gone, key=lambda one: one.number)
        yield Finding(
            Level.ERROR,
            "rolled_back",
            f"checkpoint {last.number}",
            f"was anchored at {last.anchored_at}, but is not in the database",
            "The database is older than its last anchor: a backup was restored. Keys that were "
            "revoked after the backup are active again.",
            "keylatch revocations apply FILE  # the list that was exported before the restore",
        )
    changed = [one for one in anchors if digests.get(one.number, one.digest) != one.digest]
    if changed:
        first = min(changed, key=lambda one: one.number)
        yield Finding(
            Level.ERROR,
            "anchor_differs",
            f"checkpoint {first.number}",
            f"has another digest than the one anchored at {first.anchored_at}",
            "Past events were changed, or new events were written to a restored copy.",
            "keylatch script compare_anchors > compare_anchors.sql\n"
            'psql --no-psqlrc --file compare_anchors.sql "$DATABASE_URL" < anchors.csv',
        )
