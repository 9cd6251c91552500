"""`make bench WHAT=sessions`: what sessions cost, and what a flood of them does to the others.

Sessions are opened, resolved and pruned in turns with a bare insert, select and delete of the same
rows in a table alike; the ratio is what counts. While expired ones are pruned, and while eight
connections flood one key with no pause, other keys open sessions and their waits are noted; beside
them stand their waits while as many connections only resolve keys: what busy cores alone do.

An admin revokes keys while eight visitors open sessions of these keys with a filter that takes
seconds, and while as many connections compute the same filter without a session.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event

import psycopg
from psycopg import errors
from rich.console import Console
from rich.progress import track
from rich.table import Table

from stack import Database, Janitor, People, Server

ORIGIN = "https://shop.example"
FLOODERS = 8
LIMIT = 600
REVOKED = 200
OPEN = "select token from keylatch.open_session(%s)"
RESOLVE_SESSION = "select session_id from keylatch.resolve_session(%s)"
PRUNE = "select pruned from keylatch.prune_sessions()"
RESOLVE = "select key_id from keylatch.resolve_key(%s, 'https://shop.example')"
# Every way to cut a token, one after another: the statement ends by its time limit.
PATTERN = "^" + "(.+)" * 10 + r"\10\9\8\7\6\5\4\3\2\1$"
SLOW_OPEN = f"select token from keylatch.open_session(%s) where token ~ '{PATTERN}'"  # noqa: S608
SLOW_ALONE = f"select where left(%s, 42) ~ '{PATTERN}'"
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
    """How long the work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def timings(database: Database, key: str, count: int) -> Table:
    """Open, resolve and prune so many, each in turns with the bare statement.

    A round stays below the limit of a minute, and pays for counting what it has opened.
    """
    size = 500
    rounds = count // size
    anon = session(database.url, "anon")
    service = session(database.url, "service_role")
    owner = session(database.url, "postgres")
    owner.execute(BARE)
    taken: dict[str, list[tuple[float, float]]] = {"open": [], "resolve": [], "prune": []}
    tokens: list[str] = []
    for part in track(range(rounds), "opening and resolving"):
        owner.execute("truncate keylatch_internal.rate_limits")
        new: list[str] = []
        names = [f"{part} {n}" for n in range(size)]

        def opening(new: list[str] = new) -> None:
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
        expire = "update {} set expires_at = created_at + interval '1 ms'"
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
    """Open sessions with each of the keys in turn until told, and give how long each took."""
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
    """Whether so many seconds have passed from now on."""
    end = time.perf_counter() + duration
    return lambda: time.perf_counter() > end


def flood(
    url: str, key: str, statement: str, end: Event, granted: multiprocessing.Queue[int]
) -> None:
    """Call without a pause, and count what was not refused."""
    done = 0
    with session(url, "service_role" if statement == RESOLVE else "anon") as connection:
        while not end.is_set():
            try:
                done += len(connection.execute(statement.encode(), [key]).fetchall())
            except errors.QueryCanceled:
                continue
            except errors.Error as error:
                if "too_many_requests" not in str(error) and "session_refused" not in str(error):
                    raise
    granted.put(done)


def flooded(
    url: str, keys: list[str], statement: str, waiting: Callable[[], list[float]]
) -> tuple[list[float], int]:
    """What others wait for while these keys are flooded, and how often the flood got through."""
    end = multiprocessing.Event()
    granted: multiprocessing.Queue[int] = multiprocessing.Queue()
    crowd = [
        multiprocessing.Process(target=flood, args=(url, key, statement, end, granted))
        for key in itertools.islice(itertools.cycle(keys), FLOODERS)
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


def revocations(owner: psycopg.Connection[tuple[object, ...]], ids: list[str]) -> list[float]:
    """Revoke these keys as their admin, one after another, and give how long each took."""
    taken = []
    for key_id in ids:
        taken.append(seconds(lambda key_id=key_id: owner.execute(REVOKE, [key_id])))  # type: ignore[misc]
        time.sleep(0.02)
    return taken


def pruned_beside(database: Database, keys: list[str]) -> list[float]:
    """The waits of keys that open sessions while 100,000 expired ones are pruned."""
    owner = session(database.url, "postgres")
    owner.execute(
        "insert into keylatch_internal.sessions"
        " (token_hash, workspace_id, key_id, origin, created_at, expires_at)"
        " select sha256(convert_to(n::text, 'UTF8')), md5('w')::uuid, md5('k')::uuid, 'x',"
        " now() - interval '2 days', now() - interval '1 day' from generate_series(1, 100000) as n"
    )
    ended = threading.Event()

    def prune() -> None:
        with session(database.url, "service_role") as service:
            while service.execute(PRUNE).fetchall() != [(0,)]:
                pass
        ended.set()

    pruner = threading.Thread(target=prune)
    pruner.start()
    taken = waits(database.url, keys, ended.is_set)
    pruner.join()
    return taken


def main() -> int:
    """Measure and print; 1 where more got through than the limit and the requests in flight."""
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
            loud, *quiet = (
                str(row[0])
                for row in owner.execute(
                    "select (keylatch.issue_key(%s, 'publishable', allowed_origins => %s)).key"
                    " from generate_series(1, 31)",
                    [People.a, [ORIGIN]],
                )
            )
            limit = "update keylatch_internal.session_limits set sessions_per_minute = %s"
            shown = timings(database, loud, options.sessions)
            owner.execute(limit, [10_000_000])
            cases = {"alone": waits(database.url, quiet, for_seconds(options.seconds / 2))}
            cases["while 100,000 are pruned"] = pruned_beside(database, quiet)
            crowd = f"{FLOODERS} connections"

            def others() -> list[float]:
                return waits(database.url, quiet, for_seconds(options.seconds / 2))

            cases[f"{crowd} resolve a key"], _ = flooded(database.url, [loud], RESOLVE, others)
            # The quiet ones are so many that they stay below the limit that the loud one runs into.
            owner.execute("truncate keylatch_internal.rate_limits")
            owner.execute(limit, [LIMIT])
            cases[f"{crowd} flood a key"], granted = flooded(database.url, [loud], OPEN, others)
            owner.execute("truncate keylatch_internal.rate_limits")
            doomed = [
                (str(row[0]), str(row[1]))
                for row in owner.execute(
                    "select i.id, i.key from generate_series(1, %s) as n cross join lateral"
                    " keylatch.issue_key(%s, 'publishable', label => n::text,"
                    " allowed_origins => %s) as i",
                    [3 * REVOKED, People.a, [ORIGIN]],
                )
            ]
            parts = [doomed[n * REVOKED : (n + 1) * REVOKED] for n in range(3)]
            revoked = {"alone": revocations(owner, [key_id for key_id, _ in parts[0]])}
            for name, statement, part in (
                (f"{crowd} compute", SLOW_ALONE, parts[1]),
                # Their keys are the last ones that are revoked.
                (f"{crowd} open slowly", SLOW_OPEN, parts[2]),
            ):
                ids = [key_id for key_id, _ in part]
                keys = [key for _, key in part[-FLOODERS:]]
                revoked[name], _ = flooded(
                    database.url,
                    keys,
                    statement,
                    lambda ids=ids: revocations(owner, ids),  # type: ignore[misc]
                )
    janitor.close()
    console = Console(width=80)
    console.print(shown)
    for title, waited in (
        ("Other keys open sessions: their waits, ms", cases),
        ("An admin revokes keys: their waits, ms", revoked),
    ):
        table = Table(title=title)
        for column in ("", "calls", "p50", "p99", "worst"):
            table.add_column(column, justify="left" if not column else "right")
        for name, taken in waited.items():
            cuts = statistics.quantiles(taken, n=100, method="inclusive")
            figures = (cuts[49], cuts[98], max(taken))
            table.add_row(name, f"{len(taken):,}", *(f"{1000 * t:.2f}" for t in figures))
        console.print(table)
    console.print(f"The flood opened {granted} sessions; the limit is {LIMIT} a minute.")
    return int(not LIMIT <= granted < LIMIT + FLOODERS)


if __name__ == "__main__":
    sys.exit(main())
