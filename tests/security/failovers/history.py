"""The questions and answers of clients, with times, and the rules that they must follow.

A key that somebody was told is inactive must not be found by a question that began more than a
bound after that. A change without an answer may have happened, and proves nothing. A change that
the promoted standby never had is lost: no bound holds for it from the failover on.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

ENDS = ("revoke", "suspend")
"""What makes a key inactive; `unsuspend` makes a suspended key active again."""


@dataclass(slots=True, eq=False)
class Change:
    """A change of a key.

    Attributes:
        kind: `revoke`, `suspend` or `unsuspend`.
        key: The id of the key.
        began: When the call was made.
        ended: When the answer came; infinite where none came.
        lost_at: When a failover began whose new primary does not have the change.
    """

    kind: str
    key: UUID
    began: float
    ended: float = math.inf
    lost_at: float = math.inf


@dataclass(frozen=True, slots=True)
class Found:
    """A question that was answered with the key.

    Attributes:
        reader: Who asked.
        key: The id of the key.
        began: When the question was asked.
        ended: When the answer came.
        bound: How old a change may be at the most that the answer misses; infinite for no promise.
    """

    reader: str
    key: UUID
    began: float
    ended: float
    bound: float


@dataclass(frozen=True, slots=True)
class Stale:
    """An answer that missed a change which was acknowledged so many seconds before the question."""

    found: Found
    change: Change
    seconds: float

    @property
    def is_lost(self) -> bool:
        """Whether the server that answered may be one that never had the change."""
        return self.change.lost_at <= self.found.ended

    @property
    def is_violation(self) -> bool:
        """Whether the answer breaks the promise of its reader."""
        return self.seconds > self.found.bound and not self.is_lost


@dataclass(slots=True)
class History:
    """Everything that happened; any thread may add to it."""

    changes: list[Change] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    questions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, reader: str, found: Found | None) -> None:
        """Note a question, and its answer if that was the key."""
        with self._lock:
            self.questions[reader] += 1
            if found is not None:
                self.found.append(found)

    def note(self, change: Change) -> None:
        """Note a change, before it is made."""
        with self._lock:
            self.changes.append(change)

    def inactive(self) -> dict[UUID, list[Change]]:
        """For each key that must be inactive by what was acknowledged, the changes that say so."""
        with self._lock:
            by_key = _by_key(self.changes)
        return {
            key: ends
            for key, changes in by_key.items()
            if (ends := [one for one in changes if _ends(one) and not _revived(one, changes)])
        }

    def stale(self) -> Iterator[Stale]:
        """Each answer that missed a change, with the oldest change that it missed."""
        with self._lock:
            by_key, answers = _by_key(self.changes), list(self.found)
        for found in answers:
            changes = by_key.get(found.key, [])
            missed = [
                Stale(found, one, found.began - one.ended)
                for one in changes
                if _ends(one) and one.ended < found.began and not _revived(one, changes, found)
            ]
            kept = [one for one in missed if not one.is_lost] or missed
            if kept:
                yield max(kept, key=lambda one: one.seconds)

    def violations(self) -> list[Stale]:
        """The answers that break a promise."""
        return [one for one in self.stale() if one.is_violation]


def _by_key(changes: list[Change]) -> dict[UUID, list[Change]]:
    by_key: dict[UUID, list[Change]] = defaultdict(list)
    for change in changes:
        by_key[change.key].append(change)
    return by_key


def _ends(change: Change) -> bool:
    return change.kind in ENDS and change.ended < math.inf


def _revived(end: Change, changes: list[Change], before: Found | None = None) -> bool:
    """Whether a suspension may have been over: before that answer came, or at all."""
    return end.kind == "suspend" and any(
        one.kind == "unsuspend"
        and one.ended > end.began
        and (before is None or one.began < before.ended)
        for one in changes
    )
