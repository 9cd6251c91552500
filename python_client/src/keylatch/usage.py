"""`UsageRecorder` and `AsyncUsageRecorder`: count uses in memory, and report sums in batches."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self
from uuid import UUID

from .client import AsyncKeylatch, Keylatch
from .errors import InvalidArgument, KeylatchError
from .models import Explanation, KeyUsage, ResolvedKey

__all__ = ["AsyncUsageRecorder", "KeyUsage", "UsageRecorder"]

_log = logging.getLogger(__name__)
# The limit of SQL `keylatch.record_usage`.
_LARGEST_REPORT = 10_000
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Count:
    uses: int = 0
    last_used_at: datetime = _NEVER
    refusals: Counter[str] = field(default_factory=Counter)

    def add(self, other: _Count) -> None:
        self.uses += other.uses
        self.last_used_at = max(self.last_used_at, other.last_used_at)
        self.refusals.update(other.refusals)


class _Counts:
    """The counts of each key that are not reported yet."""

    def __init__(self, every: timedelta, size: int) -> None:
        if not timedelta(milliseconds=10) <= every <= timedelta(days=1):
            raise InvalidArgument.of("every", "is not between 10 milliseconds and a day")
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST_REPORT:
            raise InvalidArgument.of("size", f"is not a number from 1 to {_LARGEST_REPORT}")
        self.every = every.total_seconds()
        self.size = size
        self._lock = threading.Lock()
        self._counts: dict[UUID, _Count] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def use(self, key: ResolvedKey | UUID) -> bool:
        """Count a use. Return whether a report is due."""
        key_id = key.key_id if isinstance(key, ResolvedKey) else key
        if not isinstance(key_id, UUID):
            found = type(key).__name__
            raise InvalidArgument.of("key", f"is {found}, not a ResolvedKey or a UUID")
        return self._add({key_id: _Count(uses=1, last_used_at=datetime.now(UTC))})

    def refuse(self, explanation: Explanation) -> bool:
        """Count a refusal. Return whether a report is due."""
        if not isinstance(explanation, Explanation):
            found = type(explanation).__name__
            raise InvalidArgument.of("explanation", f"is {found}, not an Explanation")
        if explanation.key_id is None or explanation.verdict == "valid":
            return False
        return self._add({explanation.key_id: _Count(refusals=Counter([explanation.verdict]))})

    def take(self) -> list[dict[UUID, _Count]]:
        """Return all counts, split into reports of the allowed size, and start again from zero."""
        with self._lock:
            taken, self._counts = list(self._counts.items()), {}
        return [
            dict(taken[start : start + _LARGEST_REPORT])
            for start in range(0, len(taken), _LARGEST_REPORT)
        ]

    def give_back(self, counts: Mapping[UUID, _Count], again: frozenset[UUID]) -> None:
        """Keep unreported counts for the next report."""
        self._add({key_id: count for key_id, count in counts.items() if key_id in again})

    def _add(self, counts: Mapping[UUID, _Count]) -> bool:
        with self._lock:
            for key_id, count in counts.items():
                self._counts.setdefault(key_id, _Count()).add(count)
            return len(self._counts) >= self.size


def _report(counts: Mapping[UUID, _Count]) -> tuple[list[KeyUsage], dict[UUID, dict[str, int]]]:
    uses = [
        KeyUsage(key_id=key_id, uses=count.uses, last_used_at=count.last_used_at)
        for key_id, count in counts.items()
        if count.uses
    ]
    return uses, {key_id: dict(c.refusals) for key_id, c in counts.items() if c.refusals}


class UsageRecorder:
    """Counts uses and refusals in memory, and reports the counts to the database in batches.

    If the process dies, the counts since the last report are lost. If a report fails, or another
    service is counting the same key, the counts are kept for the next report. `record` never
    waits.

    This is a context manager. Keep it open while the service runs:

        with UsageRecorder(kl) as recorder:
            if found := kl.resolve(presented):
                recorder.record(found)
            else:
                recorder.record_refusal(kl.explain(presented))
    """

    def __init__(
        self, keylatch: Keylatch, *, every: timedelta = timedelta(seconds=10), size: int = 1000
    ) -> None:
        """Configure the recorder; `with` starts it.

        Args:
            keylatch: A client with role `keylatch_resolver` or the service key.
            every: The time between reports, at least 10 ms.
            size: The number of different keys at which a report is sent early, up to 10,000.

        Raises:
            InvalidArgument: A value breaks a rule; `detail` names it.
        """
        self._keylatch = keylatch
        self._counts = _Counts(every, size)
        self._wake = threading.Event()
        self._done = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start reporting, in a separate thread."""
        self._done = False
        self._thread = threading.Thread(target=self._run, name="keylatch-usage", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Report the remaining counts once, and stop."""
        self._done = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    def record(self, key: ResolvedKey | UUID) -> None:
        """Count one use of a key.

        Args:
            key: The result of `resolve`, or its `key_id`.

        Raises:
            InvalidArgument: `key` has another type.
        """
        if self._counts.use(key):
            self._wake.set()

    def record_refusal(self, explanation: Explanation) -> None:
        """Count one refusal of a key.

        Args:
            explanation: The result of `explain`. A text that is not a known key is not counted.
        """
        if self._counts.refuse(explanation):
            self._wake.set()

    def flush(self) -> int:
        """Report now.

        Returns:
            How many keys are left for the next report.

        Raises:
            KeylatchError: The report failed; its counts are kept.
        """
        parts = self._counts.take()
        while parts:
            uses, refusals = _report(parts[0])
            try:
                again = self._keylatch.record_usage(uses, refusals=refusals)
            except BaseException:
                for part in parts:
                    self._counts.give_back(part, frozenset(part))
                raise
            self._counts.give_back(parts.pop(0), again)
        return len(self._counts)

    def _run(self) -> None:
        done = False
        while not done:
            self._wake.wait(self._counts.every)
            self._wake.clear()
            # Read `_done` before the report: then the last report has every count made before exit.
            done = self._done
            try:
                self.flush()
            except KeylatchError as error:
                _log.warning("keylatch: uses are kept for the next report: %s", error)


class AsyncUsageRecorder:
    """`UsageRecorder` for asyncio: an async context manager over an `AsyncKeylatch`."""

    def __init__(
        self, keylatch: AsyncKeylatch, *, every: timedelta = timedelta(seconds=10), size: int = 1000
    ) -> None:
        """Configure the recorder; `async with` starts it. See `UsageRecorder` for the arguments."""
        self._keylatch = keylatch
        self._counts = _Counts(every, size)
        self._wake = asyncio.Event()
        self._done = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start reporting, in a separate task."""
        self._done = False
        self._task = asyncio.create_task(self._run(), name="keylatch-usage")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Report the remaining counts once, and stop."""
        self._done = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._task = None

    def record(self, key: ResolvedKey | UUID) -> None:
        """Count one use of a key: as `UsageRecorder.record`."""
        if self._counts.use(key):
            self._wake.set()

    def record_refusal(self, explanation: Explanation) -> None:
        """Count one refusal of a key: as `UsageRecorder.record_refusal`."""
        if self._counts.refuse(explanation):
            self._wake.set()

    async def flush(self) -> int:
        """Report now: as `UsageRecorder.flush`."""
        parts = self._counts.take()
        while parts:
            uses, refusals = _report(parts[0])
            try:
                again = await self._keylatch.record_usage(uses, refusals=refusals)
            except BaseException:
                for part in parts:
                    self._counts.give_back(part, frozenset(part))
                raise
            self._counts.give_back(parts.pop(0), again)
        return len(self._counts)

    async def _run(self) -> None:
        done = False
        while not done:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._counts.every)
            self._wake.clear()
            done = self._done
            try:
                await self.flush()
            except KeylatchError as error:
                _log.warning("keylatch: uses are kept for the next report: %s", error)
