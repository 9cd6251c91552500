"""The connection on which a cached resolver is notified of changes."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from ..clock import steady_clock
from .memory import Cache, Heartbeat

T = TypeVar("T")

_CHANNEL = "keylatch"
# How long a connection attempt may take, and the longest pause before the next attempt.
_CONNECT_SECONDS = 10
_LONGEST_PAUSE = 5.0
# How long the test notification on a new connection may take.
_PROBE_SECONDS = 3.0
_HEARTBEAT = (
    "select server_time, left_out, place, writers from keylatch_internal.read_heartbeat(%s)"
)
# For a login that has the role but not its rights, such as PostgREST's.
_BECOME = "set role keylatch_resolver"
_NO_MODULE = (
    "the module notify is not installed, run: keylatch install . --with notify && supabase db push;"
    " on plain PostgreSQL: keylatch apply --with notify"
)
_NO_RIGHTS = (
    "connect to the database of the keys, with a login that has the rights of keylatch_resolver"
)

_logger = logging.getLogger("keylatch")


async def listen(conninfo: str, cache: Cache) -> None:
    """Listen until cancelled. After any error, clear the cache, then connect again.

    Args:
        conninfo: A direct connection: a pooler in transaction mode delivers no notifications.
        cache: The cache to notify.
    """
    pause = 0.05
    while True:
        began = time.monotonic()
        with suppress(psycopg.Error, OSError, TimeoutError):
            await _listen_once(conninfo, cache)
        cache.lost()
        if time.monotonic() - began > _LONGEST_PAUSE:
            pause = 0.05
        # A random pause, so that the services of a fleet do not reconnect at the same moment.
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _listen_once(conninfo: str, cache: Cache) -> None:
    connection = await _connect(conninfo)
    try:
        await _prove_that_it_hears(connection, conninfo)
        with suppress(psycopg.Error):  # The login may have the rights without the role.
            await _in_time(connection, connection.execute(_BECOME), _CONNECT_SECONDS)
        connection.add_notify_handler(lambda notify: cache.heard(notify.payload))
        await _in_time(connection, connection.execute(f"listen {_CHANNEL}"), _CONNECT_SECONDS)
        cache.listening()
        while not cache.is_misplaced:
            sent = steady_clock()
            cache.beat(sent, await _heartbeat(connection, cache))
            # A notification wakes this at once. Otherwise a heartbeat follows soon enough that one
            # may be late.
            await _readable(connection, cache.bound / 4)
    finally:
        connection.pgconn.finish()


async def _heartbeat(connection: psycopg.AsyncConnection[Any], cache: Cache) -> Heartbeat:
    try:
        cursor = await _in_time(
            connection, connection.execute(_HEARTBEAT, [not cache.is_settled]), cache.bound
        )
        row = await cursor.fetchone()
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] in ("42", "3F"):
            _logger.warning(
                "the listening connection cannot use keylatch, so the database answers every"
                " question: %s: %s",
                _NO_MODULE if error.sqlstate == "42883" else _NO_RIGHTS,
                error.diag.message_primary,
            )
        raise
    if row is None:
        raise TimeoutError
    server_time, left_out, place, writers = row
    return Heartbeat(server_time, left_out, place, None if writers is None else frozenset(writers))


async def _connect(conninfo: str) -> psycopg.AsyncConnection[Any]:
    return await asyncio.wait_for(
        psycopg.AsyncConnection.connect(conninfo, autocommit=True), _CONNECT_SECONDS
    )


async def _prove_that_it_hears(connection: psycopg.AsyncConnection[Any], conninfo: str) -> None:
    """Send a notification from another session to this idle session.

    A pooler in transaction mode accepts `listen` and answers heartbeats, but drops notifications to
    an idle session. Queries on the idle session cannot detect the lost notifications.
    """
    channel = f"{_CHANNEL}_{secrets.token_hex(8)}"
    await _in_time(connection, connection.execute(f"listen {channel}"), _CONNECT_SECONDS)
    other = await _connect(conninfo)
    try:
        await _in_time(other, other.execute(f"notify {channel}"), _CONNECT_SECONDS)
    finally:
        other.pgconn.finish()
    if not [said async for said in connection.notifies(timeout=_PROBE_SECONDS, stop_after=1)]:
        _logger.warning(
            "the listening connection gets no notifications, so the database answers every"
            " question: connect directly, not through a pooler in transaction mode"
        )
        raise TimeoutError
    await _in_time(connection, connection.execute(f"unlisten {channel}"), _CONNECT_SECONDS)


async def _in_time(
    connection: psycopg.AsyncConnection[Any], work: Coroutine[Any, Any, T], seconds: float
) -> T:
    """Await work on the connection, and close the connection if the work takes too long.

    The work is not cancelled: psycopg would first ask the server to cancel the query, and would
    wait for an answer that a broken network never delivers.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            with socket.socket(fileno=os.dup(connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
            await asyncio.wait([task])
            task.exception()


async def _readable(connection: psycopg.AsyncConnection[Any], seconds: float) -> None:
    """Wait up to `seconds` until the server has sent something."""
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    descriptor = connection.fileno()
    loop.add_reader(descriptor, readable.set)
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(readable.wait(), seconds)
    finally:
        loop.remove_reader(descriptor)
