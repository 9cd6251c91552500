"""`make bench`: the cost of resolving a key, compared with a bare select and with alternatives.

Absolute figures mean little on a shared machine, so all results are ratios within one run. The ways
take turns in short rounds; the result is the median of the rounds' ratios. With one connection,
client and server share one core, or the result would be the time in which a sleeping core wakes up.

The figures go to tests/.bench/bench.json and bench.png, and to the terminal as a table.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stack import Database, Janitor, Rest, Server, Tokens
from stack.tools import ROOT

RESULTS = ROOT / "tests" / ".bench"
LIMIT = "bare_select"
# The files in sql/bench that pgbench runs, in the order of the table, with their titles.
WAYS = {
    LIMIT: "bare prepared select (the limit)",
    "resolve_secret": "resolve_key, secret key",
    "resolve_publishable": "resolve_key, publishable, origin",
    "resolve_unknown": "resolve_key, no such key",
    "by_hand": "hand-written SQL function",
    "empty_call": "a round trip without a look-up",
}
# The memory holds all keys, as on a server that resolves them all day.
SETTINGS = {"shared_buffers": "6GB", "maintenance_work_mem": "1GB", "max_wal_size": "8GB"}
# name -> way -> size -> one value a round
Rounds = dict[str, dict[str, dict[int, list[float]]]]
# name -> way -> size -> figure -> value
Figures = dict[str, dict[str, dict[int, dict[str, float]]]]


@contextmanager
def one_core(process: int) -> Iterator[None]:
    """Pin this program, its children and new server processes to one core."""
    before = os.sched_getaffinity(0), os.sched_getaffinity(process)
    core = {min(before[0])}
    os.sched_setaffinity(0, core)
    os.sched_setaffinity(process, core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before[0])
        os.sched_setaffinity(process, before[1])


def pgbench(database: Database, way: str, keys: int, *, connections: int, seconds: int) -> float:
    """The microseconds a call of all connections together, by pgbench with prepared statements."""
    url = urlsplit(database.url)
    ran = subprocess.run(
        [
            *("pgbench", "--no-vacuum", "--protocol=prepared", f"--time={seconds}"),
            *(f"--client={connections}", f"--jobs={connections}", f"--define=keys={keys}"),
            *("--file", ROOT / "sql" / "bench" / f"{way}.sql"),
            *(
                "--host",
                str(url.hostname),
                "--port",
                str(url.port),
                "--username",
                str(url.username),
            ),
            database.name,
        ],
        env={**os.environ, "PGPASSWORD": str(url.password)},
        capture_output=True,
        text=True,
        check=True,
    )
    rate = next(line for line in ran.stdout.splitlines() if line.startswith("tps"))
    return 1e6 / float(rate.split()[2])


def fill(database: Database, keys: int, also: str) -> None:
    """Fill a database with keys, and with the alternatives and their data."""
    database.migrate()
    setup = (ROOT / "sql" / "bench" / "setup.sql").read_text().replace(":keys", str(keys))
    with psycopg.connect(database.superuser_url, autocommit=True) as owner:
        owner.execute("set synchronous_commit = off")
        with owner.transaction():
            owner.execute(setup.encode())
            owner.execute(also.encode())
        owner.execute("vacuum (analyze, freeze) keylatch_internal.keys")
        owner.execute("vacuum (analyze) keylatch.bench_plaintext")


def measure_sql(
    server: Server,
    databases: dict[int, Database],
    rounds: int,
    seconds: int,
    tick: Callable[[], None],
) -> Rounds:
    """Measure every way at every size, with one connection and with two connections a core."""
    found: Rounds = {}
    cores = len(os.sched_getaffinity(0))
    for name, connections in (
        ("one connection, one core", 1),
        (f"{2 * cores} connections", 2 * cores),
    ):
        with ExitStack() as pinned:
            if connections == 1:
                pinned.enter_context(one_core(server.pid))
            for _ in range(rounds):
                for way in WAYS:
                    for size, database in databases.items():
                        took = pgbench(
                            database, way, size, connections=connections, seconds=seconds
                        )
                        found.setdefault(name, {}).setdefault(way, {}).setdefault(size, []).append(
                            took
                        )
                        tick()
    return found


def measure_http(tokens: Tokens, rest: Rest, calls: int) -> dict[str, float]:
    """The median microseconds of a request to resolve_key and to a table of plaintext keys."""
    url = urlsplit(rest.rest_url)
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=10)
    headers = {
        "Authorization": f"Bearer {tokens.service_key}",
        "Accept-Profile": "keylatch",
        "Content-Profile": "keylatch",
        "Content-Type": "application/json",
    }
    columns = "key_id,workspace_id,kind,environment,scopes,metadata,expires_at"
    took: dict[str, list[float]] = {"table": [], "resolve": []}

    def ask(name: str, method: str, path: str, body: str | None) -> None:
        begins = time.perf_counter_ns()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        rows = json.loads(answer.read())
        took[name].append((time.perf_counter_ns() - begins) / 1000)
        assert answer.status == 200 and len(rows) == 1, (answer.status, rows)

    for number in range(calls):
        key = f"wk_bench_{10 * (1 + number % 500)}"
        ask("table", "GET", f"/bench_plaintext?public_key=eq.{key}&select={columns}", None)
        body = json.dumps({"key": key, "origin": "https://shop.example"})
        ask("resolve", "POST", "/rpc/resolve_key", body)
    connection.close()
    # The first calls fill caches on both sides.
    return {name: statistics.median(values[calls // 10 :]) for name, values in took.items()}


def measure_batches(database: Database, rounds: int) -> dict[str, float]:
    """The time of resolve_keys for 100 keys beside a bare `= any`, and the speed of issue_keys."""
    columns = "k.workspace_id, k.kind, k.environment, k.scopes, k.metadata, k.expires_at"
    bare = (
        f"select k.id, {columns} from keylatch_internal.keys as k where k.key_hash = any("  # noqa: S608
        "array(select sha256(convert_to(p, 'UTF8')) from unnest(%s::text[]) as p))"
    )
    columns = columns.replace("k.", "")
    called = f"select key_id, {columns} from keylatch.resolve_keys(%s)"  # noqa: S608
    took: dict[str, list[float]] = {bare: [], called: []}
    with (
        psycopg.connect(database.url, autocommit=True) as owner,
        one_core(owner.info.backend_pid),
        owner.cursor(binary=True) as cursor,
    ):
        for number in range(rounds):
            keys = [f"wk_bench_{10 * (number * 97 + n) % 9990 + 1}" for n in range(100)]
            for statement, times in took.items():
                begins = time.perf_counter_ns()
                rows = cursor.execute(statement, [keys]).fetchall()
                times.append((time.perf_counter_ns() - begins) / 1000)
                assert len(rows) == 100 and all(row[0] for row in rows)
        begins = time.perf_counter_ns()
        issued = cursor.execute(
            "select cardinality(keys) from keylatch.issue_keys(%s,"
            " array(select 'device ' || n from generate_series(1, 100000) as n))",
            ["00000000-0000-4000-8000-000000000007"],
        ).fetchall()
        fleet = (time.perf_counter_ns() - begins) / 1e9
        assert issued == [(100_000,)]
    return {
        "microseconds": statistics.median(took[called]),
        "of_the_limit": ratio(took[bare], took[called]),
        "issued_a_second": 100_000 / fleet,
    }


def measure_slow_hashes(database: Database) -> dict[str, float]:
    """The microseconds to verify one key with the slow hashes of other systems."""
    salt = os.urandom(16)
    found = {}
    begins = time.perf_counter_ns()
    hashlib.pbkdf2_hmac("sha256", b"wk_bench_1", salt, 200_000)
    found["PBKDF2, 200,000 rounds"] = (time.perf_counter_ns() - begins) / 1000
    with psycopg.connect(database.url) as owner:
        hashed = owner.execute(
            "select extensions.crypt('k', extensions.gen_salt('bf', 10))"
        ).fetchone()
        begins = time.perf_counter_ns()
        owner.execute("select extensions.crypt('k', %s)", hashed)
        found["bcrypt, cost 10"] = (time.perf_counter_ns() - begins) / 1000
    return found


def ratio(over: list[float], under: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def summarise(rounds: Rounds) -> Figures:
    """For each way and size: the median, the rate beside the bare select, the growth with size."""
    return {
        name: {
            way: {
                size: {
                    "microseconds": statistics.median(values),
                    "of_the_limit": ratio(ways[LIMIT][size], values),
                    "growth": ratio(values, sizes[min(sizes)]),
                }
                for size, values in sizes.items()
            }
            for way, sizes in ways.items()
        }
        for name, ways in rounds.items()
    }


def short(keys: int) -> str:
    """A number of keys in a short form, such as "10 k" or "1 M"."""
    return f"{keys // 1_000_000} M" if keys >= 1_000_000 else f"{keys // 1000} k"


def show(console: Console, found: Figures) -> None:
    """Print a table for each number of connections."""
    for name, ways in found.items():
        sizes = list(ways[LIMIT])
        console.print(f"\n{name}: the rate beside the bare select, by the number of keys")
        table = Table()
        table.add_column("", no_wrap=True)
        table.add_column("µs", justify="right")
        for size in sizes:
            table.add_column(short(size), justify="right")
        table.add_column("growth", justify="right")
        for way, values in ways.items():
            table.add_row(
                WAYS[way],
                f"{values[sizes[0]]['microseconds']:.1f}",
                *(f"{values[size]['of_the_limit']:.2f}" for size in sizes),
                f"{values[sizes[-1]]['growth']:.2f}",
            )
        console.print(table)


def plot(found: Figures, path: Path) -> None:
    """Draw the rates beside the bare select, and the growth of the cost with the number of keys."""
    figure = Figure(figsize=(11, 4 * len(found)))
    axes = figure.subplots(len(found), 2, squeeze=False)
    for row, (name, ways) in zip(axes, found.items(), strict=True):
        sizes = list(ways[LIMIT])
        shown = [way for way in WAYS if way != "empty_call"]
        row[0].barh(
            [WAYS[way] for way in reversed(shown)],
            [ways[way][sizes[0]]["of_the_limit"] for way in reversed(shown)],
        )
        row[0].set_title(f"{name}:\nrate beside the bare select, {short(sizes[0])} keys")
        row[0].axvline(1, color="grey", linewidth=0.8)
        for way in (LIMIT, "resolve_secret", "resolve_publishable"):
            row[1].plot(sizes, [ways[way][size]["growth"] for size in sizes], "o-", label=WAYS[way])
        row[1].set_xscale("log")
        row[1].set_ylim(bottom=0)
        row[1].set_xlabel("keys in the table")
        row[1].set_title(f"cost beside {short(sizes[0])} keys")
        row[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=1, help="of one way in one round")
    parser.add_argument("--also", type=Path, help="SQL to run first: see the figures move with it")
    options = parser.parse_args()
    console = Console()
    also = options.also.read_text() if options.also else ""
    tokens = Tokens()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with ExitStack() as parts, Progress(*columns, console=console, transient=True) as progress:
        janitor = Janitor()
        parts.callback(janitor.close)
        server = parts.enter_context(Server(settings=SETTINGS, janitor=janitor))
        databases: dict[int, Database] = {}
        for size in sorted(options.keys):
            task = progress.add_task(f"making {short(size)} keys", total=None)
            databases[size] = parts.enter_context(Database(server, f"bench_{size}"))
            fill(databases[size], size, also)
            progress.remove_task(task)
        total = 2 * options.rounds * len(WAYS) * len(databases)
        task = progress.add_task("measuring in SQL", total=total)
        rounds = measure_sql(
            server, databases, options.rounds, options.seconds, lambda: progress.advance(task)
        )
        progress.update(task, description="measuring through PostgREST")
        smallest = databases[min(databases)]
        with Rest(smallest, tokens, janitor=janitor) as rest:
            over_http = measure_http(tokens, rest, calls=2000)
        batches = measure_batches(smallest, rounds=40 * options.rounds)
        slow = measure_slow_hashes(smallest)
        version = server.version
    found = summarise(rounds)
    RESULTS.mkdir(exist_ok=True)
    results = {
        "postgres": version,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "sql": found,
        "http_p50_microseconds": over_http,
        "batches_of_100": batches,
        "slow_hashes_microseconds": slow,
    }
    (RESULTS / "bench.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(found, RESULTS / "bench.png")
    show(console, found)
    beside = over_http["resolve"] / over_http["table"]
    console.print(
        f"PostgREST, p50: resolve_key {beside:.2f} of the time of a plaintext table's read"
    )
    console.print(
        f"resolve_keys, 100 keys: {batches['microseconds']:.0f} µs,"
        f" {batches['of_the_limit']:.2f} of the rate of a bare = any"
    )
    console.print(f"issue_keys, 100,000 secrets: {batches['issued_a_second']:,.0f} a second")
    for name, took in slow.items():
        times = (
            took / next(iter(found.values()))["resolve_secret"][min(options.keys)]["microseconds"]
        )
        console.print(f"{name}: {took / 1000:.0f} ms a key, {times:,.0f} times resolve_key")
    console.print(f"Saved: {RESULTS.relative_to(ROOT)}/bench.json and bench.png", highlight=False)


if __name__ == "__main__":
    main()
