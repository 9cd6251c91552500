"""Visitors of a page open sessions, over REST and in SQL, quickly and slowly."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg

from security.system import ORIGIN, System
from stack import HANG_SECONDS, until

OPEN = "select (keylatch.open_session(%s)).token"
# The groups try every way to split the token, which exceeds every role's statement_timeout.
SLOW = "rpc/open_session?select=token&token=match.^" + "(.%2B)" * 10 + r"\10\9\8\7\6\5\4\3\2\1$"


def open_(system: System, key: str, origin: str | None = ORIGIN, **headers: str) -> httpx.Response:
    """Open a session as a page does, and return the answer."""
    sent = {**headers, **({} if origin is None else {"Origin": origin})}
    return system.request("anon", "POST", "rpc/open_session", json={"key": key}, headers=sent)


def token(system: System, key: str) -> str:
    """Open a session, and return its token."""
    answer = open_(system, key)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["token"]
    return text


def set_limits(system: System, **limits: object) -> None:
    """Change the limits of sessions, as the owner."""
    with system.database.connect() as owner:
        for name, value in limits.items():
            statement = f"update keylatch_internal.session_limits set {name} = %s"
            owner.execute(statement.encode(), [value])


def visitor(system: System) -> psycopg.Connection[Any]:
    """A page's visitor in SQL; the request lasts until the session commits."""
    connection = system.database.connect("anon", autocommit=False)
    headers = json.dumps({"origin": ORIGIN})
    connection.execute("select set_config('request.headers', %s, false)", [headers])
    connection.commit()
    return connection


@contextmanager
def slow_visitors(
    system: System, key: str, count: int, who: str = "anon"
) -> Iterator[Callable[[], set[int]]]:
    """Start `count` requests that open a session; a filter on the answer then keeps them busy.

    Yields a function that returns the pids of the PostgreSQL processes that are busy now. At the
    end, the time limit of the role must have stopped every request.
    """
    busy = (
        "select pid from pg_stat_activity where datname = %s and state = 'active'"
        " and query like '%%open_session%%' and backend_xid is not null"
    )

    def ask() -> httpx.Response:
        bearer = system.token(who) or system.rest.anon_key
        return httpx.post(
            f"{system.rest.url}/rest/v1/{SLOW}",
            json={"key": key},
            headers={
                "apikey": system.rest.anon_key,
                "Authorization": f"Bearer {bearer}",
                "Content-Profile": "keylatch",
                "Origin": ORIGIN,
            },
            timeout=HANG_SECONDS,
        )

    with (
        psycopg.connect(system.database.superuser_url, autocommit=True) as watcher,
        ThreadPoolExecutor(count) as pool,
    ):

        def pids() -> set[int]:
            return {row[0] for row in watcher.execute(busy, [system.database.name])}

        asked: list[Future[httpx.Response]] = [pool.submit(ask) for _ in range(count)]
        # Now each request has written its session, and its filter is running.
        until(lambda: len(pids()) == count)
        yield pids
        for one in asked:
            assert one.result().json()["code"] == "57014"
