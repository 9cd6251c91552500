"""`make bench WHAT=sessions`: the cost of sessions, and how a flood on one key delays other keys.

Opening, resolving and pruning alternate with a bare insert, select and delete of the same rows in
an equal table; the result is the ratio. The benchmark then measures how long other keys wait for a
session while expired sessions are pruned, and while eight connections flood one key. To compare, it
measures these waits while eight connections only resolve keys: that is the effect of busy cores.

Last, an admin revokes keys while eight visitors open sessions of these keys through PostgREST, with
a filter that takes seconds. To compare, eight visitors call a function outside keylatch with the
same filter.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event

import httpx
import psycopg
from psycopg import errors
from rich.console import Console
from rich.progress import track
from rich.table import Table

from stack import Database, Janitor, People, Rest, Server, Tokens

ORIGIN = "https://shop.example"
FLOODERS = 8
LIMIT = 600
REVOKED = 200
OPEN = "select token from keylatch.open_session(%s)"
RESOLVE_SESSION = "select session_id from keylatch.resolve_session(%s)"
PRUNE = "select pruned from keylatch.prune_sessions()"
RESOLVE = "select key_id from keylatch.resolve_key(%s, 'https://shop.example')"
# The groups try every way to split a token, so the request runs into its time limit.
SLOW = r"select=token&token=match.^(.%2B)(.%2B)(.%2B)(.%2B)(.%2B)(.%2B)(.%2B)\7\6\1\2\3\4\5$"
PLAIN = """
create function public.plain_token() returns table (token text) language sql volatile as
$$ select 'wk_st_' || left(md5(random()::text) || md5(random()::text), 36) $$
"""
REVOKE = "select id from keylatch.revoke_key(%s)"
BARE = "create table public.bare (like keylatch_internal.sessions including all)"
INSERT = (
    "insert into public.bare (token_hash, workspace_id, key_id, origin, created_at, expires_at)"
    " values (sha256(convert_to(%s, 'UTF8')), md5('w')::uuid, md5('k')::uuid,"
    " 'https://shop.example', now(), now() + interval '1 day')"
)
SELECT = "select id from public.bare where token_hash = sha256(convert_to(%s, 'UTF8'))"
DELETE = (
    "delete from public.bare where id in (select id from public.bare"
    " where expires_at <= now() order by expires_at limit 10000)"
)


def session(url: str, role: str) -> psycopg.Connection[tuple[object, ...]]:
    """Connect as PostgREST would for a page on `ORIGIN`, with every statement prepared at once."""
    connection = psycopg.connect(url, autocommit=True, prepare_threshold=0)
    connection.execute(f"set role {role}".encode())
    if role == "anon":
        connection.execute("set statement_timeout = '3s'")
    connection.execute(
        "select set_config('request.headers', %s, false)", [json.dumps({"origin": ORIGIN})]
    )
    return connection


def seconds(work: Callable[[], object]) -> float:
    """The seconds that the work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def timings(database: Database, keys: list[str], count: int) -> Table:
    """Open, resolve and prune `count` sessions, each in turns with the bare statement.

    Each round has its own key. So a round stays below the rate limit, but its sessions are counted.
    """
    size = count // len(keys)
    anon = session(database.url, "anon")
    service = session(database.url, "service_role")
    owner = session(database.url, "postgres")
    owner.execute(BARE)
    taken: dict[str, list[tuple[float, float]]] = {"open": [], "resolve": [], "prune": []}
    tokens: list[str] = []
    for part, key in enumerate(track(keys, "opening and resolving")):
        new: list[str] = []
        names = [f"{part} {n}" for n in range(size)]

        def opening(key: str = key, new: list[str] = new) -> None:
            new.extend(str(anon.execute(OPEN, [key]).fetchall()[0][0]) for _ in range(size))

        def inserting(names: list[str] = names) -> None:
            for name in names:
                owner.execute(INSERT, [name])

        def resolving(new: list[str] = new) -> None:
            assert all(service.execute(RESOLVE_SESSION, [token]).fetchall() for token in new)

        def selecting(names: list[str] = names) -> None:
            assert all(owner.execute(SELECT, [name]).fetchall() for name in names)

        taken["open"].append((seconds(opening), seconds(inserting)))
        taken["resolve"].append((seconds(resolving), seconds(selecting)))
        tokens += new
    for table in ("keylatch_internal.sessions", "public.bare"):
        expire = (
            "update {} set created_at = created_at - interval '2 days', expires_at = created_at"
        )
        owner.execute(expire.format(table).encode())
        owner.execute(f"vacuum analyze {table}".encode())
    for _ in track(range(count // 10_000), "pruning"):
        began = time.perf_counter()
        pruned = service.execute(PRUNE).fetchall()
        mine = time.perf_counter() - began
        assert pruned == [(10_000,)]
        taken["prune"].append((mine, seconds(lambda: owner.execute(DELETE))))
    shown = Table(title=f"{count:,} sessions against bare statements, microseconds a row")
    for column in ("", "keylatch", "bare", "bare / keylatch"):
        shown.add_column(column, justify="left" if not column else "right")
    for name, pairs in taken.items():
        per_row = 1e6 / (10_000 if name == "prune" else size)
        shown.add_row(
            name,
            *(f"{per_row * statistics.median(side):.1f}" for side in zip(*pairs, strict=True)),
            f"{statistics.median(bare / mine for mine, bare in pairs):.2f}",
        )
    return shown


def waits(url: str, keys: list[str], until: Callable[[], bool]) -> list[float]:
    """Open sessions with each key in turn until `until` is true; return the seconds of each."""
    taken: list[float] = []
    with session(url, "anon") as anon:
        anon.execute(OPEN, [keys[0]])
        for key in itertools.cycle(keys):
            if until():
                return taken
            began = time.perf_counter()
            anon.execute(OPEN, [key])
            taken.append(time.perf_counter() - began)
            time.sleep(0.002)
    return taken


def for_seconds(duration: float) -> Callable[[], bool]:
    """Return a function that tells whether `duration` seconds have passed since now."""
    end = time.perf_counter() + duration
    return lambda: time.perf_counter() > end


def flood(
    url: str, key: str, statement: str, end: Event, granted: multiprocessing.Queue[int]
) -> None:
    """Call without a pause, and count the calls that succeed."""
    done = 0
    with session(url, "service_role" if statement == RESOLVE else "anon") as connection:
        while not end.is_set():
            try:
                done += len(connection.execute(statement.encode(), [key]).fetchall())
            except errors.Error as error:
                if "too_many_requests" not in str(error):
                    raise
    granted.put(done)


def flooded(
    url: str, key: str, statement: str, waiting: Callable[[], list[float]]
) -> tuple[list[float], int]:
    """Measure the waits of other keys during a flood of this key; count the flood's successes."""
    end = multiprocessing.Event()
    granted: multiprocessing.Queue[int] = multiprocessing.Queue()
    crowd = [
        multiprocessing.Process(target=flood, args=(url, key, statement, end, granted))
        for _ in range(FLOODERS)
    ]
    for process in crowd:
        process.start()
    try:
        taken = waiting()
    finally:
        end.set()
    total = sum(granted.get(timeout=30) for _ in crowd)
    for process in crowd:
        process.join()
    return taken, total


@contextlib.contextmanager
def slow_requests(rest: Rest, schema: str, function: str, keys: list[str]) -> Iterator[None]:
    """Send slow requests in loops: a filter on the answer keeps each busy until its time limit."""
    ended = threading.Event()

    def loop(key: str) -> float:
        took = []
        headers = {"apikey": rest.anon_key, "Content-Profile": schema, "Origin": ORIGIN}
        body = {"key": key} if function == "open_session" else {}
        while not ended.is_set():
            url = f"{rest.rest_url}/rpc/{function}?{SLOW}"
            began = time.perf_counter()
            answer = httpx.post(url, json=body, headers=headers, timeout=60)
            took.append(time.perf_counter() - began)
            # On a fast machine, some requests finish before their time limit.
            assert answer.is_success or answer.json()["code"] in ("57014", "PT401"), answer.text
        return statistics.mean(took)

    with ThreadPoolExecutor(len(keys)) as pool:
        loops = [pool.submit(loop, key) for key in keys]
        time.sleep(0.5)
        try:
            yield
        finally:
            ended.set()
        for one in loops:
            assert one.result() > 0.2, "the requests were refused at once, or were not slow"


def revocations(owner: psycopg.Connection[tuple[object, ...]], ids: list[str]) -> list[float]:
    """Revoke these keys as their admin, one after another; return the seconds of each."""
    taken = []
    for key_id in ids:
        taken.append(seconds(lambda key_id=key_id: owner.execute(REVOKE, [key_id])))  # type: ignore[misc]
        time.sleep(0.02)
    return taken


def pruned_beside(database: Database, keys: list[str]) -> list[float]:
    """The waits of keys that open sessions while 100,000 expired sessions are pruned."""
    owner = session(database.url, "postgres")
    owner.execute(
        "insert into keylatch_internal.sessions"
        " (token_hash, workspace_id, key_id, origin, created_at, expires_at)"
        " select sha256(convert_to(n::text, 'UTF8')), md5('w')::uuid, md5('k')::uuid, 'x',"
        " now() - interval '2 days', now() - interval '1 day' from generate_series(1, 100000) as n"
    )
    ended = threading.Event()

    def prune() -> None:
        try:
            with session(database.url, "service_role") as service:
                while service.execute(PRUNE).fetchall() != [(0,)]:
                    pass
        finally:
            ended.set()

    with ThreadPoolExecutor() as pool:
        pruner = pool.submit(prune)
        taken = waits(database.url, keys, ended.is_set)
        pruner.result()
    return taken


def issue(owner: psycopg.Connection[tuple[object, ...]], count: int) -> list[tuple[str, str]]:
    """Issue `count` publishable keys, and return their ids and texts."""
    return [
        (str(row[0]), str(row[1]))
        for row in owner.execute(
            "select i.id, i.key from generate_series(1, %s) as n cross join lateral"
            " keylatch.issue_key(%s, 'publishable', label => n::text, allowed_origins => %s) as i",
            [count, People.a, [ORIGIN]],
        )
    ]


def crowded(
    database: Database, owner: psycopg.Connection[tuple[object, ...]], duration: float
) -> tuple[dict[str, list[float]], int]:
    """The waits of other keys in each case, and the number of sessions that the flood opened.

    Each case has enough keys of its own to stay below the rate limit.
    """
    (_, loud), *_ = issue(owner, 1)

    def quiet() -> list[str]:
        return [key for _, key in issue(owner, 100)]

    def others() -> list[float]:
        return waits(database.url, quiet(), for_seconds(duration))

    cases = {"alone": others(), "while 100,000 are pruned": pruned_beside(database, quiet())}
    cases[f"{FLOODERS} connections resolve a key"], _ = flooded(database.url, loud, RESOLVE, others)
    name = f"{FLOODERS} connections flood a key"
    cases[name], granted = flooded(database.url, loud, OPEN, others)
    return cases, granted


def revoked_beside(
    database: Database, owner: psycopg.Connection[tuple[object, ...]], janitor: Janitor
) -> dict[str, list[float]]:
    """The seconds of revocations, alone and during slow requests of both kinds."""
    owner.execute(PLAIN)
    tokens = Tokens()
    settings = {"DB_POOL": str(FLOODERS)}
    with Rest(database, tokens, janitor=janitor, settings=settings) as rest:
        taken = {"alone": revocations(owner, [key_id for key_id, _ in issue(owner, REVOKED)])}
        for name, schema, function in (
            (f"{FLOODERS} slow requests elsewhere", "public", "plain_token"),
            (f"{FLOODERS} slow open_session", "keylatch", "open_session"),
        ):
            doomed = issue(owner, REVOKED)
            # The slow requests use the keys that are revoked last.
            with slow_requests(rest, schema, function, [key for _, key in doomed[-FLOODERS:]]):
                taken[name] = revocations(owner, [key_id for key_id, _ in doomed])
    return taken


def show(console: Console, title: str, waited: dict[str, list[float]]) -> None:
    """Print the waits of each case, and the ratio of the last p99 to the p99 before it."""
    table = Table(title=title)
    for column in ("", "calls", "p50", "p99", "worst"):
        table.add_column(column, justify="left" if not column else "right")
    p99 = []
    for name, taken in waited.items():
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        p99.append(cuts[98])
        figures = (cuts[49], cuts[98], max(taken))
        table.add_row(name, f"{len(taken):,}", *(f"{1000 * t:.2f}" for t in figures))
    console.print(table)
    console.print(f"The last p99 against the one before it: {p99[-1] / p99[-2]:.2f}")


def main() -> int:
    """Measure and print. Return 1 unless the flood opened as many sessions as the limit allows.

    The requests in flight may exceed the limit.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    janitor = Janitor()
    settings = {"max_connections": "40", "shared_buffers": "256MB", "autovacuum": "on"}
    with Server(settings=settings, janitor=janitor) as server, Database(server, "s") as database:
        database.migrate()
        People.seed(database.url)
        with psycopg.connect(database.url, autocommit=True) as owner:
            claims = json.dumps({"sub": str(People.alice), "role": "authenticated"})
            owner.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            keys = [key for _, key in issue(owner, options.sessions // 500)]
            shown = timings(database, keys, options.sessions)
            cases, granted = crowded(database, owner, options.seconds / 2)
            revoked = revoked_beside(database, owner, janitor)
    janitor.close()
    console = Console(width=80)
    console.print(shown)
    show(console, "Other keys open sessions: their waits, ms", cases)
    show(console, "An admin revokes keys: their waits, ms", revoked)
    console.print(f"The flood opened {granted} sessions; the limit is {LIMIT} a minute.")
    return int(not LIMIT <= granted < LIMIT + FLOODERS)


if __name__ == "__main__":
    sys.exit(main())
