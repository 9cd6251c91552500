"""`CachedResolver` and `AsyncCachedResolver`: resolve from memory, and are notified of changes."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ..client import AsyncKeylatch, Keylatch
from ..errors import InvalidArgument, KeylatchError, Unavailable
from ..models import Explanation, ResolvedKey
from ..secret import Secret
from .listener import listen
from .memory import Cache, CacheStats, Question

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

__all__ = ["AsyncCachedResolver", "CacheStats", "CachedResolver"]

# A longer origin matches no key, so it is not cached. See SQL `is_canonical_origin`.
_LONGEST_ORIGIN = 300


class CachedResolver:
    """Answers `resolve` from memory. An answer is never out of date by more than `bound`.

    The resolver listens on a connection of its own, and is notified at the commit of a revocation,
    suspension, rotation, earlier expiry, or change of origins, scopes or metadata. The resolver
    answers from memory only while this connection works, and reaches the same server, timeline and
    database as the client. Otherwise the resolver asks the database. An answer can miss a change
    that was acknowledged less than `bound` earlier, but no older change.

    Two kinds of change send no notification: a change in a transaction that also extends a key, and
    a change while PostgreSQL's notification queue is nearly full. The next heartbeat reports the
    change, and the resolver clears its memory. A change that only extends a key becomes visible at
    the old expiry.

    Memory holds the hash of a key and the result of `resolve`, never the key.

    This is a context manager. Keep it open while the service runs:

        with CachedResolver(kl, listen=database_url) as resolver:
            found = resolver.resolve(presented, origin=request.headers.get("origin"))
    """

    def __init__(
        self,
        keylatch: Keylatch,
        *,
        listen: str,
        bound: timedelta = timedelta(seconds=1),
        ttl: timedelta = timedelta(minutes=5),
        size: int = 10_000,
    ) -> None:
        """Configure the resolver; `with` starts it.

        Args:
            keylatch: The client that asks the database. The resolver always asks the primary,
                because a replica may be behind the notifications. The resolver also reads the
                primary's WAL position, at most twice per `bound`.
            listen: URL or DSN for psycopg, to listen on the primary. Connect directly: a pooler in
                transaction mode delivers no notifications. The login needs the rights of
                `keylatch_resolver`, or membership in it. If notifications do not arrive, or come
                from another database, the resolver does not use its memory, and logs a warning.
            bound: How long an answer may miss a change, at least 20 ms.
            ttl: How long an answer stays in memory at most.
            size: How many keys stay in memory at most. As many texts that are not keys stay too.

        Raises:
            InvalidArgument: A value breaks a rule; `detail` names it.
        """
        # Cached answers must not be older than the notifications.
        self._keylatch = keylatch._on_primary()
        self._conninfo = listen
        self._cache = _cache(listen, bound, ttl, size)
        self._flying: dict[Question, tuple[float, Future[ResolvedKey | None]]] = {}
        self._lock = threading.Lock()
        self._listening: (
            tuple[asyncio.AbstractEventLoop, asyncio.Task[None], threading.Thread] | None
        ) = None

    def __enter__(self) -> Self:
        """Start listening in a separate thread. Until the thread listens, the database answers."""
        loop = asyncio.new_event_loop()
        task = loop.create_task(listen(self._conninfo, self._cache))
        thread = threading.Thread(
            target=_listen_in, args=(loop, task, self._cache), name="keylatch", daemon=True
        )
        thread.start()
        self._listening = (loop, task, thread)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening, and clear the memory."""
        if self._listening is not None:
            loop, task, thread = self._listening
            # Cancel repeatedly: up to Python 3.11, `asyncio.wait_for` loses a cancellation if its
            # task finishes at the same moment.
            while thread.is_alive():
                with suppress(RuntimeError):  # It has ended by itself.
                    loop.call_soon_threadsafe(task.cancel)
                thread.join(0.1)
        self._listening = None

    def resolve(self, key: str | Secret, *, origin: str | None = None) -> ResolvedKey | None:
        """Resolve a key as `Keylatch.resolve` does, from memory if possible.

        Args:
            key: The text that the request presented. Any text is allowed.
            origin: The request's `Origin` header, unchanged; `None` if there was no header.

        Returns:
            The key, or `None`. Source: memory, or SQL `keylatch.resolve_key`.

        Raises:
            InvalidArgument: `key` or `origin` is not a string.
            KeylatchError: As for `Keylatch.resolve`, if the database is asked.
        """
        question = _question(key, origin)
        if question is None:
            return self._keylatch.resolve(key, origin=origin)
        self._prove()
        known = self._cache.answer(question)
        return known[0] if known is not None else self._ask(question, key, origin)

    def stats(self) -> CacheStats:
        """Return the counts so far."""
        return self._cache.stats()

    def instrument(self, meter: Meter) -> None:
        """Report the counts to OpenTelemetry (`pip install "keylatch[otel]"`).

        Args:
            meter: The meter for the instruments `keylatch.cache.*`.
        """
        _instrument(meter, self._cache)

    def explain(self, key: str | Secret, *, origin: str | None = None) -> Explanation:
        """Ask the database: as `Keylatch.explain`. Answers of `explain` are not cached."""
        return self._keylatch.explain(key, origin=origin)

    def _prove(self) -> None:
        """Check which server the client reaches, unless this was checked a moment ago."""
        sent = self._cache.begin_proof()
        if sent is None:
            return
        try:
            database = self._keylatch.installation().database_oid
            self._cache.proven(sent, self._keylatch.replay_position(), database)
        except KeylatchError as error:
            self._cache.unproven(error)

    def _ask(self, question: Question, key: str | Secret, origin: str | None) -> ResolvedKey | None:
        flight = self._cache.begin(question)
        with self._lock:
            before = self._flying.get(question)
            # An older question may have been answered before a change that this caller must see.
            if before is not None and flight.started - before[0] < self._cache.bound:
                shared = before[1]
            else:
                shared = Future()
                self._flying[question] = (flight.started, shared)
                before = None
        if before is not None:
            self._cache.abandon(flight)
            return shared.result()
        try:
            found = self._keylatch.resolve(key, origin=origin)
        except BaseException as error:
            self._cache.abandon(flight)
            interrupted = not isinstance(error, Exception)
            shared.set_exception(Unavailable(detail="interrupted") if interrupted else error)
            raise
        else:
            self._cache.end(flight, found)
            shared.set_result(found)
            return found
        finally:
            with self._lock:
                if self._flying.get(question, (0, None))[1] is shared:
                    del self._flying[question]


class AsyncCachedResolver:
    """`CachedResolver` for asyncio: an async context manager over an `AsyncKeylatch`.

    async with AsyncCachedResolver(kl, listen=database_url) as resolver:
        found = await resolver.resolve(presented, origin=request.headers.get("origin"))
    """

    def __init__(
        self,
        keylatch: AsyncKeylatch,
        *,
        listen: str,
        bound: timedelta = timedelta(seconds=1),
        ttl: timedelta = timedelta(minutes=5),
        size: int = 10_000,
    ) -> None:
        """Configure the resolver; `async with` starts it. For arguments see `CachedResolver`."""
        # Cached answers must not be older than the notifications.
        self._keylatch = keylatch._on_primary()
        self._conninfo = listen
        self._cache = _cache(listen, bound, ttl, size)
        self._flying: dict[Question, tuple[float, asyncio.Future[ResolvedKey | None]]] = {}
        self._proof: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start listening in a separate task. Until the task listens, the database answers."""
        self._task = asyncio.create_task(listen(self._conninfo, self._cache), name="keylatch")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening, and clear the memory."""
        if self._task is not None:
            # Cancel repeatedly, as in `CachedResolver`.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task], timeout=0.1)
            self._cache.lost()
        self._task = None

    async def resolve(self, key: str | Secret, *, origin: str | None = None) -> ResolvedKey | None:
        """Resolve a key as `CachedResolver.resolve` does."""
        question = _question(key, origin)
        if question is None:
            return await self._keylatch.resolve(key, origin=origin)
        await self._prove()
        known = self._cache.answer(question)
        if known is not None:
            return known[0]
        flight = self._cache.begin(question)
        before = self._flying.get(question)
        if before is not None and flight.started - before[0] < self._cache.bound:
            self._cache.abandon(flight)
            # A cancelled caller must not cancel the question of the other callers.
            return await asyncio.shield(before[1])
        shared = asyncio.ensure_future(self._keylatch.resolve(key, origin=origin))
        self._flying[question] = (flight.started, shared)

        def landed(asked: asyncio.Future[ResolvedKey | None]) -> None:
            if self._flying.get(question, (0, None))[1] is asked:
                del self._flying[question]
            if asked.cancelled() or asked.exception() is not None:
                self._cache.abandon(flight)
            else:
                self._cache.end(flight, asked.result())

        shared.add_done_callback(landed)
        return await asyncio.shield(shared)

    async def explain(self, key: str | Secret, *, origin: str | None = None) -> Explanation:
        """Ask the database: as `AsyncKeylatch.explain`. Answers of `explain` are not cached."""
        return await self._keylatch.explain(key, origin=origin)

    async def _prove(self) -> None:
        sent = self._cache.begin_proof()
        if sent is not None:
            self._proof = asyncio.create_task(self._ask_place(sent))
            # A cancelled caller must not cancel the proof, which serves all callers.
            await asyncio.shield(self._proof)

    async def _ask_place(self, sent: float) -> None:
        try:
            database = (await self._keylatch.installation()).database_oid
            self._cache.proven(sent, await self._keylatch.replay_position(), database)
        except KeylatchError as error:
            self._cache.unproven(error)

    def stats(self) -> CacheStats:
        """Return the counts so far."""
        return self._cache.stats()

    def instrument(self, meter: Meter) -> None:
        """Report the counts to OpenTelemetry: as `CachedResolver.instrument`."""
        _instrument(meter, self._cache)


def _cache(conninfo: str, bound: timedelta, ttl: timedelta, size: int) -> Cache:
    if not isinstance(conninfo, str):
        raise InvalidArgument.of("listen", "is not a string: pass a URL or DSN of the primary")
    readable = False
    # The error of psycopg may contain the password.
    with suppress(psycopg.Error, UnicodeError):
        readable = bool(conninfo_to_dict(conninfo))
    if not readable:
        raise InvalidArgument.of(
            "listen",
            "is not a valid URL or DSN",
            "Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, without +psycopg, and with %40 "
            "for an @ in the password.",
        )
    if not timedelta(milliseconds=20) <= bound <= timedelta(minutes=1):
        raise InvalidArgument.of("bound", "is not between 20 milliseconds and a minute")
    if not timedelta(0) < ttl <= timedelta(days=1):
        raise InvalidArgument.of("ttl", "is not above 0 and at most a day")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidArgument.of("size", "is not a whole number of at least 1")
    return Cache(bound=bound.total_seconds(), ttl=ttl.total_seconds(), size=size)


def _question(key: str | Secret, origin: str | None) -> Question | None:
    """Return the cache key of a question, or `None` for a question that is not cached."""
    text = key.reveal() if isinstance(key, Secret) else key
    if origin is not None and not isinstance(origin, str):
        raise InvalidArgument.of("origin", f"is {type(origin).__name__}, not a string")
    try:
        # Any str is a valid question. A text that cannot be sent matches no key.
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    except AttributeError:
        raise InvalidArgument.of("key", f"is {type(key).__name__}, not a string") from None
    # The sender chooses the origin, and must not choose how much memory the cache uses.
    if origin is not None and len(origin) > _LONGEST_ORIGIN:
        return None
    return digest, origin


def _listen_in(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], cache: Cache) -> None:
    asyncio.set_event_loop(loop)
    try:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        cache.lost()
        loop.close()


def _instrument(meter: Meter, cache: Cache) -> None:
    from opentelemetry.metrics import CallbackOptions, Observation

    def observed(name: str) -> Callable[[CallbackOptions], list[Observation]]:
        return lambda _: [Observation(int(getattr(cache.stats(), name)))]

    for name in ("hits", "negative_hits", "misses", "stale_avoided", "reconnects"):
        meter.create_observable_counter(f"keylatch.cache.{name}", [observed(name)])
    for name in ("entries", "is_listening"):
        meter.create_observable_gauge(f"keylatch.cache.{name}", [observed(name)])
