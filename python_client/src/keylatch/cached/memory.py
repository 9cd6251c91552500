"""The cache of a resolver, which decides how long its entries are valid. Makes no connections."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from ..clock import steady_clock
from ..errors import KeylatchError
from ..models import ReplayPosition, ResolvedKey

# The hash of a presented text, and the origin that it came from.
Question = tuple[bytes, str | None]

_logger = logging.getLogger("keylatch")

# A larger jump than this means that the server's clock was set, and not that a reply was slow.
_JUMP_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """The counts of a cached resolver since it was opened. Source: `CachedResolver.stats`.

    If several threads resolve at once, a few counts may be missing.

    Attributes:
        hits: Answers from memory that a key is active.
        negative_hits: Answers from memory that a text is not an active key.
        misses: Questions that went to the database because memory had no answer.
        stale_avoided: Questions that went to the database although memory had an answer, because
            the listener was not known to be current.
        reconnects: How often the listening connection was lost.
        entries: Keys in memory.
        is_listening: Whether the resolver is notified of every change now.
    """

    hits: int
    negative_hits: int
    misses: int
    stale_avoided: int
    reconnects: int
    entries: int
    is_listening: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The server's answer on the listening connection. Source: SQL `read_heartbeat`.

    Attributes:
        server_time: The server's clock.
        left_out: How many changes since the installation sent no notification.
        place: The server, its timeline and the database.
        writers: The transactions that are changing keys now; `None` if not asked for.
    """

    server_time: datetime
    left_out: int
    place: str
    writers: frozenset[str] | None


@dataclass(slots=True)
class _Entry:
    found: ResolvedKey
    mark: str
    ends: float


@dataclass(slots=True, eq=False)
class Flight:
    """A question that the database has not answered yet.

    Attributes:
        question: The question.
        started: When the question was asked, by `steady_clock`.
        epoch: The number of the listening connection when the question was asked.
        heard: The marks of the keys that have changed since the question was asked.
    """

    question: Question
    started: float
    epoch: int
    heard: set[str] = field(default_factory=set)


ANY_KEY = "*"
"""The mark in a notification without a key: any key may have changed."""


def mark_of(key_id: UUID) -> str:
    """Return the mark of a key in notifications. In SQL: `keylatch_internal.notify_caches`."""
    return hashlib.sha256(str(key_id).encode()).hexdigest()[:16]


class Cache:
    """Keeps answers of `resolve`, and uses them only while no change can have been missed.

    The cache answers only if the server has answered a heartbeat that was sent on the listening
    connection less than `bound` ago. The server delivers notifications before the answer to a
    heartbeat, so the cache knows every change that was acknowledged before the heartbeat. If the
    network stalls, heartbeats get no answer, and the cache stops answering. A heartbeat also
    reports whether a change sent no notification, because the server's queue was nearly full or the
    change could not wait. The cache is then cleared.

    In addition, the client must have reached the same server, timeline and database as the
    listening connection less than `bound` ago.
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
        # Memory may answer until the earlier of these: by heartbeats, and by proofs of the place.
        self._heard_until = self._proven_until = 0.0
        # The server's clock is ahead of ours by at most this.
        self._ahead: float | None = None
        # The place of the listening connection: server, timeline and database.
        self._place: str | None = None
        self.is_misplaced = False
        self._prove_at = 0.0
        self._is_told = False
        # How many changes sent no notification, and which transactions may still commit one.
        self._left_out: int | None = None
        self._unsettled: frozenset[str] | None = None
        self.is_settled = False
        self._hits = self._negative_hits = self._misses = self._stale_avoided = 0
        self._lost = 0

    def answer(self, question: Question) -> tuple[ResolvedKey | None] | None:
        """Return the answer in a tuple, or `None` if the database has to be asked."""
        now = self._clock()
        entry = self._entries.get(question)
        if entry is not None and now < entry.ends:
            if self._is_open(now):
                try:
                    self._entries.move_to_end(question)
                except KeyError:
                    # Another thread has dropped the entry at this moment.
                    self._misses += 1
                    return None
                self._hits += 1
                return (entry.found,)
            self._stale_avoided += 1
            return None
        ends = self._negative.get(question)
        if ends is not None and now < ends and self._is_open(now):
            self._negative_hits += 1
            return (None,)
        self._misses += 1
        return None

    def begin(self, question: Question) -> Flight:
        """Record that the database is being asked. Call this before sending the question."""
        with self._lock:
            flight = Flight(question, self._clock(), self._epoch)
            self._flights.add(flight)
            return flight

    def end(self, flight: Flight, found: ResolvedKey | None) -> None:
        """Keep an answer, unless a notification since the question may be about the same key."""
        with self._lock:
            self._flights.discard(flight)
            now = self._clock()
            if flight.epoch != self._epoch or not self._is_open(now):
                return
            if found is None:
                # The reason for "no key" is not known, so any change may make it wrong.
                if not flight.heard:
                    self._negative[flight.question] = now + self.bound
                    self._negative.move_to_end(flight.question)
                    if len(self._negative) > self._size:
                        self._negative.popitem(last=False)
                return
            mark = mark_of(found.key_id)
            if mark in flight.heard or ANY_KEY in flight.heard:
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
        """Record that the database did not answer a question."""
        with self._lock:
            self._flights.discard(flight)

    def heard(self, mark: str) -> None:
        """Remove a changed key, and all texts that were not keys."""
        with self._lock:
            for flight in self._flights:
                flight.heard.add(mark)
            self._negative.clear()
            if mark == ANY_KEY:
                self._entries.clear()
                self._by_mark.clear()
            for question in self._by_mark.get(mark, set()).copy():
                self._drop(question)

    def listening(self) -> None:
        """Clear everything: a new connection listens, and earlier changes are not known."""
        with self._lock:
            self._left_out = None
            self.is_settled = self.is_misplaced = False
            self._forget()

    def beat(self, sent: float, heartbeat: Heartbeat) -> None:
        """Handle the answer to a heartbeat.

        Args:
            sent: When the heartbeat was sent, by `steady_clock`.
            heartbeat: The answer.
        """
        with self._lock:
            self._drop_old_refusals()
            if heartbeat.left_out != self._left_out:
                self._left_out = heartbeat.left_out
                self._unsettled = None
                self.is_settled = False
                self._forget()
            if not self.is_settled and not self._settle(heartbeat.writers):
                return
            # The server's clock was read after the sending, so it is ahead by at most this.
            ahead = _seconds(heartbeat.server_time) - sent
            if self._ahead is not None and abs(ahead - self._ahead) > _JUMP_SECONDS + self.bound:
                self._forget()
            self._ahead = ahead
            self._place = heartbeat.place
            self._heard_until = sent + self.bound

    def begin_proof(self) -> float | None:
        """Return the time if this caller must check the client's server, else `None`."""
        now = self._clock()
        if now < self._prove_at or now >= self._heard_until:
            return None
        with self._lock:
            if now < self._prove_at:
                return None
            self._prove_at = now + self.bound / 2
            return now

    def proven(self, asked: float, at: ReplayPosition, database: int) -> None:
        """Handle the position that the client has read from its server.

        Args:
            asked: When the client asked for the position, by `steady_clock`.
            at: The position of the client's server.
            database: The oid of the client's database.
        """
        with self._lock:
            if self._place is None:
                return
            place = f"{at.system_identifier} {at.timeline} {database}"
            if place == self._place and not at.is_replica:
                self._proven_until = asked + self.bound
                return
            self.is_misplaced = True
            self._forget()
        _logger.warning(
            "the client and the listening connection are not at the same primary, timeline and"
            " database, so the database answers every question until they are"
        )

    def unproven(self, error: KeylatchError) -> None:
        """Use memory no longer, because the server did not report its position in the WAL."""
        if not self._is_told:
            _logger.warning("the server cannot report its position, so memory is unused: %s", error)
        self._is_told = True

    def lost(self) -> None:
        """The listening connection is lost, so changes may have been missed."""
        with self._lock:
            self._lost += 1
            self._forget()

    def stats(self) -> CacheStats:
        """Return the counts."""
        return CacheStats(
            hits=self._hits,
            negative_hits=self._negative_hits,
            misses=self._misses,
            stale_avoided=self._stale_avoided,
            reconnects=self._lost,
            entries=len(self._entries),
            is_listening=self._clock() < self._heard_until,
        )

    def _is_open(self, now: float) -> bool:
        return now < self._heard_until and now < self._proven_until

    def _settle(self, writers: frozenset[str] | None) -> bool:
        """Check whether all transactions that may have sent no notification have ended."""
        if writers is None:
            return False
        self._unsettled = writers if self._unsettled is None else self._unsettled & writers
        if self._unsettled:
            return False
        # Answers given in the meantime may lack the changes of these transactions.
        self._forget()
        self.is_settled = True
        return True

    def _drop_old_refusals(self) -> None:
        now = self._clock()
        while self._negative and next(iter(self._negative.values())) <= now:
            self._negative.popitem(last=False)

    def _forget(self) -> None:
        self._epoch += 1
        self._heard_until = self._proven_until = self._prove_at = 0.0
        self._ahead = self._place = None
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
