"""How tests wait: for an event, never for a time. The clock only ends what hangs."""

import time
from collections.abc import Callable
from typing import Any

import psycopg

HANG_SECONDS = 100.0
"""When a test that waits gives up: far more than the busiest machine needs."""


def until(true: Callable[[], object], what: str = "it did not come to that") -> None:
    """Wait until something is so.

    Args:
        true: Asked again and again.
        what: What went wrong, if it never is so.
    """
    ends = time.monotonic() + HANG_SECONDS
    while not true():
        assert time.monotonic() < ends, what
        time.sleep(0.01)


def notifications(listener: psycopg.Connection[Any], sender: psycopg.Connection[Any]) -> list[str]:
    """What a session that listens was told before this moment; what is told later is not read.

    The server tells in the order of the commits, so a notification of our own marks the end.

    Args:
        listener: It listens, in autocommit.
        sender: Another session of the same database, in autocommit.
    """
    listener.execute("listen keylatch_end_of_test")
    sender.execute("notify keylatch_end_of_test")
    heard: list[str] = []
    for said in listener.notifies(timeout=HANG_SECONDS):
        if said.channel == "keylatch_end_of_test":
            return heard
        heard.append(said.payload)
    raise AssertionError("it hears nothing")
