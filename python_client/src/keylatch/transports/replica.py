"""Sends reads to a replica and writes to the primary, over any two transports."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from ..clock import steady_clock
from ..errors import InvalidArgument, KeylatchError, Unavailable
from ..models import ReplayPosition
from ..rows import read_one
from . import READS, Calls, Rows


class _Freshness:
    """Decides whether a replica may answer, from its position and the primary's.

    A replica that has replayed a position of the primary has every change that was acknowledged
    before the primary was asked for it. So the newest such position, with the time of asking, tells
    how old the replica's answers can be.

    Positions of two timelines are never compared: after a failover, a replica of the old timeline
    may be further than the new primary. A replica without a stream has no known timeline.
    """

    def __init__(self, max_lag: timedelta) -> None:
        if not timedelta(milliseconds=10) <= max_lag <= timedelta(days=1):
            raise InvalidArgument.of("max_lag", "is not between 10 milliseconds and a day")
        self._max_lag = max_lag.total_seconds()
        self._marks: deque[tuple[float, tuple[str, int | None], int]] = deque(maxlen=64)
        self._fresh_until = 0.0
        self._look_at = 0.0

    def is_fresh(self) -> bool:
        """Check whether the replica may answer now."""
        return steady_clock() < self._fresh_until

    def is_due(self) -> bool:
        """Check whether it is time to compare the positions again."""
        return steady_clock() >= self._look_at

    def look(self) -> float:
        """Note that a caller compares the positions now, and return the time."""
        now = steady_clock()
        self._look_at = now + self._max_lag / 8
        return now

    def seen(self, asked: float, primary: Rows, replica: Rows) -> None:
        """Compare the two positions. `asked` is when the primary was asked."""
        there, here = read_one(ReplayPosition, primary), read_one(ReplayPosition, replica)
        if not there.is_replica and there.position is not None:
            marked = (there.system_identifier, there.timeline)
            self._marks.append((asked, marked, there.position))
        timeline = (here.system_identifier, here.timeline)
        # A promoted replica follows no primary: it does not know what the primary knows.
        reached = here.position if here.is_replica and here.timeline is not None else None
        if reached is None or (self._marks and self._marks[-1][1] != timeline):
            self._fresh_until = 0.0
            return
        for asked_then, of_timeline, position in reversed(self._marks):
            if of_timeline == timeline and position <= reached:
                self._fresh_until = asked_then + self._max_lag
                return


class ReplicaTransport(Calls):
    """Sends a call to the replica if the replica may answer, otherwise to the primary.

    Attributes:
        primary: The transport to the primary.
    """

    def __init__(
        self, primary: Any, replica: Any, max_lag: timedelta | None, *, is_async: bool = False
    ) -> None:
        super().__init__(is_async=is_async)
        self.primary = primary
        self._replica = replica
        self._freshness = None if max_lag is None else _Freshness(max_lag)
        self._looking = threading.Lock()

    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        if function in READS and await self._may_read():
            # The replica may be down, or cancel a read that conflicts with its replay.
            with suppress(Unavailable):
                return await self._ask(self._replica, function, arguments)
        return await self._ask(self.primary, function, arguments)

    async def _may_read(self) -> bool:
        freshness = self._freshness
        if freshness is None:
            return True
        # One caller looks; the others use what was seen before.
        if freshness.is_due() and self._looking.acquire(blocking=False):
            try:
                # After an error, the replica counts as no fresher than before.
                with suppress(KeylatchError):
                    asked = freshness.look()
                    primary = await self._ask(self.primary, "replay_position", {})
                    replica = await self._ask(self._replica, "replay_position", {})
                    freshness.seen(asked, primary, replica)
            finally:
                self._looking.release()
        return freshness.is_fresh()

    async def _ask(self, of: Any, function: str, arguments: Mapping[str, object]) -> Rows:
        rows: Rows = await self._wait(of.call(function, arguments))
        return rows
