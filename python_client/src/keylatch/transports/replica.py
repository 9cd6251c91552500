"""Sends reads to a replica and writes to the primary, over any two transports."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

from ..clock import steady_clock
from ..errors import InvalidArgument, KeylatchError, Unavailable
from ..models import ReplayPosition
from ..rows import read_one
from . import READS, AnyTransport, Rows


class ReplicaTransport(AnyTransport):
    """Sends a call to the replica if the replica may answer, otherwise to the `primary`.

    A replica that has replayed a position of the primary has every change that was acknowledged
    before the primary was asked for it. So the newest such position, with the time of asking, tells
    how old the replica's answers can be.

    Positions of two timelines are never compared: after a failover, a replica of the old timeline
    may be further than the new primary. A replica without a stream has no known timeline.
    """

    def __init__(
        self, primary: Any, replica: Any, max_lag: timedelta | None, *, is_async: bool = False
    ) -> None:
        super().__init__(is_async=is_async)
        if max_lag is not None and not timedelta(milliseconds=10) <= max_lag <= timedelta(days=1):
            raise InvalidArgument.of("max_lag", "is not between 10 milliseconds and a day")
        self.primary = primary
        self._replica = replica
        self._max_lag = None if max_lag is None else max_lag.total_seconds()
        self._marks: deque[tuple[float, tuple[str, int | None], int]] = deque(maxlen=64)
        self._fresh_until = self._compare_at = 0.0
        self._comparing = threading.Lock()

    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        if function in READS and await self._may_read():
            # The replica may be down, or cancel a read that conflicts with its replay.
            with suppress(Unavailable):
                return cast(Rows, await self._wait(self._replica.call(function, arguments)))
        return cast(Rows, await self._wait(self.primary.call(function, arguments)))

    async def _may_read(self) -> bool:
        if self._max_lag is None:
            return True
        asked = steady_clock()
        # One caller compares; the others use what was seen before.
        if asked >= self._compare_at and self._comparing.acquire(blocking=False):
            self._compare_at = asked + self._max_lag / 8
            try:
                # After an error, the replica counts as no fresher than before.
                with suppress(KeylatchError):
                    primary = await self._wait(self.primary.call("replay_position", {}))
                    replica = await self._wait(self._replica.call("replay_position", {}))
                    since = self._up_to_date_since(asked, primary, replica)
                    self._fresh_until = 0.0 if since is None else since + self._max_lag
            finally:
                self._comparing.release()
        return steady_clock() < self._fresh_until

    def _up_to_date_since(self, asked: float, primary: Rows, replica: Rows) -> float | None:
        """Return the time up to which the replica has every change; `None` if that is not known."""
        there, here = read_one(ReplayPosition, primary), read_one(ReplayPosition, replica)
        if not there.is_replica and there.position is not None:
            of_primary = (there.system_identifier, there.timeline)
            self._marks.append((asked, of_primary, there.position))
        # A promoted replica follows no primary: it does not know what the primary knows.
        if not here.is_replica or here.timeline is None or here.position is None:
            return None
        timeline = (here.system_identifier, here.timeline)
        if not self._marks or self._marks[-1][1] != timeline:
            return None
        for marked, of, position in reversed(self._marks):
            if of == timeline and position <= here.position:
                return marked
        return None
