"""The changes, questions and answers of clients, with times, and the rules for the answers.

A change that makes a key inactive is acknowledged at some time. A question that begins more than a
bound later must not find the key. A change without an answer proves nothing. If the promoted
standby never had a change, the change is lost: no bound holds for it after the failover.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

ENDS = ("revoke", "suspend")
"""The changes that make a key inactive. `unsuspend` makes a suspended key active again."""


@dataclass(slots=True, eq=False)
class Change:
    """A change of a key.

    Attributes:
        kind: `revoke`, `suspend` or `unsuspend`.
        key: The id of the key.
        began: When the call was made.
        ended: When the answer came; infinite without an answer.
        lost_at: When the failover began that lost the change; infinite if no failover did.
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
        reader: The name of the client that asked.
        key: The id of the key.
        began: When the question was asked.
        ended: When the answer came.
        bound: How old a missed change may be at most, in seconds; infinite without a promise.
    """

    reader: str
    key: UUID
    began: float
    ended: float
    bound: float


@dataclass(frozen=True, slots=True)
class Stale:
    """An answer that missed a change. The question began `seconds` after the acknowledgement."""

    found: Found
    change: Change
    seconds: float

    @property
    def is_lost(self) -> bool:
        """Whether the failover that lost the change began before the answer came."""
        return self.change.lost_at <= self.found.ended

    @property
    def is_violation(self) -> bool:
        """Whether the answer breaks the promise of its reader."""
        return self.seconds > self.found.bound and not self.is_lost


@dataclass(slots=True)
class History:
    """All changes, questions and answers. Any thread may add to it."""

    changes: list[Change] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    questions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, reader: str, found: Found | None) -> None:
        """Note a question, and its answer if the key was found."""
        with self._lock:
            self.questions[reader] += 1
            if found is not None:
                self.found.append(found)

    def note(self, change: Change) -> None:
        """Note a change, before it is made."""
        with self._lock:
            self.changes.append(change)

    def inactive(self) -> dict[UUID, list[Change]]:
        """Return each key that must be inactive, with the acknowledged changes that prove it."""
        with self._lock:
            by_key = _by_key(self.changes)
        return {
            key: ends
            for key, changes in by_key.items()
            if (ends := [one for one in changes if _ends(one) and not _revived(one, changes)])
        }

    def stale(self) -> Iterator[Stale]:
        """Yield each answer that missed changes, with the oldest one; lost changes come last."""
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
        """Return the answers that break a promise."""
        return [one for one in self.stale() if one.is_violation]


def _by_key(changes: list[Change]) -> dict[UUID, list[Change]]:
    by_key: dict[UUID, list[Change]] = defaultdict(list)
    for change in changes:
        by_key[change.key].append(change)
    return by_key


def _ends(change: Change) -> bool:
    return change.kind in ENDS and change.ended < math.inf


def _revived(end: Change, changes: list[Change], before: Found | None = None) -> bool:
    """Whether an unsuspension may have ended the suspension: before an answer came, or at all."""
    return end.kind == "suspend" and any(
        one.kind == "unsuspend"
        and one.ended > end.began
        and (before is None or one.began < before.ended)
        for one in changes
    )
