"""A clock for how old an answer is."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

# `time.monotonic` stops on Linux while a machine sleeps: a laptop that wakes up would take an old
# heartbeat for a fresh one.
_BOOT = getattr(time, "CLOCK_BOOTTIME", None)
steady_clock: Callable[[], float] = (
    time.monotonic if _BOOT is None else partial(time.clock_gettime, _BOOT)
)
"""Seconds by a clock that nobody sets and that never stops."""
