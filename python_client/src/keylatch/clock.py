"""The clock that measures how old an answer is."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

# On Linux `time.monotonic` stops while a machine sleeps: after waking up, a laptop would take an
# old heartbeat for a fresh one.
_BOOT = getattr(time, "CLOCK_BOOTTIME", None)
steady_clock: Callable[[], float] = (
    time.monotonic if _BOOT is None else partial(time.clock_gettime, _BOOT)
)
"""The seconds of a clock that nobody can set and that never stops."""
