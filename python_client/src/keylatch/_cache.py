"""What a cached resolver remembers, and for how long it may; it knows nothing of networks."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from .models import ResolvedKey

# The hash of a presented text, and the origin that it came from.
Question = tuple[bytes, str | None]

# A clock of the server that is set by hand moves further than a slow reply can explain.
_JUMP_SECONDS = 0.5


# Which clock also counts while a machine sleeps: on Linux not that of `time.monotonic`, by which a
# laptop or a paused virtual machine would wake up with a heartbeat that it takes for a fresh one.
_BOOT = getattr(time, "CLOCK_BOOTTIME", None)
steady_clock: Callable[[], float] = (
    time.monotonic if _BOOT is None else functools.partial(time.clock_gettime, _BOOT)
)
"""Seconds by a clock that nobody sets and that never stands still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What a cached resolver has counted since it was opened. Source: `CachedResolver.stats`.

    Counts of several threads at once may miss a few.

    Attributes:
        hits: Answers from memory that a key is good.
        negative_hits: Answers from memory that there is no such key.
        misses: Questions that went to the database because memory had no answer.
        stale_avoided: Questions that went to the database although memory had an answer: the
            listener was not known to be current.
        reconnects: How often the listening connection was lost.
        entries: Keys in memory.
        is_listening: Whether memory may answer now.
    """

    hits: int
    negative_hits: int
    misses: int
    stale_avoided: int
    reconnects: int
    entries: int
    is_listening: bool


@dataclass(slots=True)
class _Entry:
    found: ResolvedKey
    mark: str
    ends: float


@dataclass(slots=True, eq=False)
class Flight:
    """A question that is on its way to the database.

    Attributes:
        question: What is asked.
        started: When, by `steady_clock`.
        epoch: Which listening connection was there when it was asked.
        heard: The marks of the keys that changed meanwhile.
    """

    question: Question
    started: float
    epoch: int
    heard: set[str] = field(default_factory=set)


def mark_of(key_id: UUID) -> str:
    """What the database says of a key that changed: as SQL `keylatch_internal.cache_mark`."""
    return hashlib.sha256(str(key_id).encode()).hexdigest()[:16]


class Cache:
    """Answers of `resolve`, for as long as nothing can have changed them unheard.

    Memory answers only while a heartbeat that was sent less than `bound` ago has been answered on
    the listening connection. The server delivers what it has to tell before it answers, so every
    change that was acknowledged before that heartbeat has been heard; a stall that TCP does not
    report stops the heartbeats, and with them the answers from memory.
    """

    def __init__(
        self,
        *,
        bound: float,
        ttl: float,
        size: int,
        clock: Callable[[], float] = steady_clock,
    ) -> None:
        self.bound = bound
        self._ttl = ttl
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Question, _Entry] = OrderedDict()
        self._negative: OrderedDict[Question, float] = OrderedDict()
        self._by_mark: dict[str, set[Question]] = {}
        self._flights: set[Flight] = set()
        self._epoch = 0
        # Until when memory may answer, and what the server's clock is ahead of ours at the most.
        self._current_until = 0.0
        self._ahead: float | None = None
        self._hits = self._negative_hits = self._misses = self._stale_avoided = 0
        self._lost = 0

    def answer(self, question: Question) -> tuple[ResolvedKey | None] | None:
        """Give what memory knows, in a tuple; `None` where the database has to be asked."""
        now = self._clock()
        entry = self._entries.get(question)
        if entry is not None and now < entry.ends:
            if now < self._current_until:
                try:
                    self._entries.move_to_end(question)
                except KeyError:
                    # Dropped by another thread in this moment: it is not known any more.
                    self._misses += 1
                    return None
                self._hits += 1
                return (entry.found,)
            self._stale_avoided += 1
            return None
        ends = self._negative.get(question)
        if ends is not None and now < ends and now < self._current_until:
            self._negative_hits += 1
            return (None,)
        self._misses += 1
        return None

    def begin(self, question: Question) -> Flight:
        """Note that the database is being asked; call it before the question is sent."""
        with self._lock:
            flight = Flight(question, self._clock(), self._epoch)
            self._flights.add(flight)
            return flight

    def end(self, flight: Flight, found: ResolvedKey | None) -> None:
        """Keep an answer, unless something that was heard meanwhile may have changed it."""
        with self._lock:
            self._flights.discard(flight)
            now = self._clock()
            if flight.epoch != self._epoch or now >= self._current_until:
                return
            if found is None:
                # Why there is none is not told, so that any change may make one of it.
                if not flight.heard:
                    self._negative[flight.question] = now + self.bound
                    self._negative.move_to_end(flight.question)
                    if len(self._negative) > self._size:
                        self._negative.popitem(last=False)
                return
            mark = mark_of(found.key_id)
            if mark in flight.heard:
                return
            ends = now + self._ttl
            if found.expires_at is not None:
                if self._ahead is None:
                    return
                ends = min(ends, _seconds(found.expires_at) - self._ahead)
            self._drop(flight.question)
            self._entries[flight.question] = _Entry(found, mark, ends)
            self._by_mark.setdefault(mark, set()).add(flight.question)
            if len(self._entries) > self._size:
                self._drop(next(iter(self._entries)))

    def abandon(self, flight: Flight) -> None:
        """Note that a question got no answer."""
        with self._lock:
            self._flights.discard(flight)

    def heard(self, mark: str) -> None:
        """Forget a key that has changed, and everything of which it is not known what it is."""
        with self._lock:
            for flight in self._flights:
                flight.heard.add(mark)
            self._negative.clear()
            for question in self._by_mark.get(mark, set()).copy():
                self._drop(question)

    def listening(self) -> None:
        """A new connection listens: whatever happened before it was not heard."""
        with self._lock:
            self._forget()

    def beat(self, sent: float, server_time: datetime | None) -> None:
        """A heartbeat was answered.

        Args:
            sent: When it was sent, by `steady_clock`.
            server_time: The server's clock when it answered.
        """
        if server_time is None:
            return
        with self._lock:
            # Its clock was read after the sending, so that it is ahead by this at the most.
            ahead = _seconds(server_time) - sent
            if self._ahead is not None and abs(ahead - self._ahead) > _JUMP_SECONDS + self.bound:
                self._forget()
            self._ahead = ahead
            self._current_until = sent + self.bound

    def lost(self) -> None:
        """The listening connection is gone: memory may have missed something."""
        with self._lock:
            self._lost += 1
            self._forget()

    def stats(self) -> CacheStats:
        """Give the counts."""
        return CacheStats(
            hits=self._hits,
            negative_hits=self._negative_hits,
            misses=self._misses,
            stale_avoided=self._stale_avoided,
            reconnects=self._lost,
            entries=len(self._entries),
            is_listening=self._clock() < self._current_until,
        )

    def _forget(self) -> None:
        self._epoch += 1
        self._current_until = 0.0
        self._ahead = None
        self._entries.clear()
        self._negative.clear()
        self._by_mark.clear()

    def _drop(self, question: Question) -> None:
        entry = self._entries.pop(question, None)
        if entry is not None:
            questions = self._by_mark[entry.mark]
            questions.discard(question)
            if not questions:
                del self._by_mark[entry.mark]


def _seconds(time_: datetime) -> float:
    return (time_ - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)
