"""Functions that wait for an event, never for a fixed time; a time limit ends a test that hangs."""

import time
from collections.abc import Callable
from typing import Any

import psycopg

HANG_SECONDS = 100.0
"""The longest wait of a test, in seconds: far more than the busiest machine needs."""


def until(true: Callable[[], object], what: str = "it did not come to that") -> None:
    """Wait until a condition is true.

    Args:
        true: The condition, called repeatedly.
        what: The message of the failure if the condition never becomes true.
    """
    ends = time.monotonic() + HANG_SECONDS
    while not true():
        assert time.monotonic() < ends, what
        time.sleep(0.01)


def notifications(listener: psycopg.Connection[Any], sender: psycopg.Connection[Any]) -> list[str]:
    """The payloads that a session was notified of before this call; later ones are not read.

    The server sends notifications in the order of commits. So a notification of our own marks the
    end.

    Args:
        listener: The session that listens, in autocommit.
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
