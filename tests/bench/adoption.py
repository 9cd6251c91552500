"""`make bench WHAT=adoption`: hashing the rows of a busy table, beside one bare update.

Both ways start with an equal table and take turns. Meanwhile another session changes forty rows a
second. The benchmark records the longest wait of this session, which waits for the end of the bare
update.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keylatch_cli.adopt.adoption import Adoption
from stack import Database, Janitor, Server

BOUND, LONGEST_WAIT = 0.7, 0.1
# As in the report of a team: a plaintext key identifies the owner of a session.
MAKE = """
drop table if exists public.sessions;
create table public.sessions (
    id integer primary key, created_at timestamptz not null default now(),
    status text not null default 'active', model text not null, owner_api_key varchar(255)
);
insert into public.sessions (id, model, owner_api_key)
select n, 'sonnet', 'wid_' || md5(n::text) from generate_series(1, {rows}) as n;
"""
BARE = (
    "update public.sessions"
    " set owner_api_key_hash = encode(sha256(convert_to(owner_api_key, 'UTF8')), 'hex')"
)
RIGHT = (
    "select count(*) from public.sessions where owner_api_key_hash"
    " = encode(sha256(convert_to(owner_api_key, 'UTF8')), 'hex')"
)


@contextmanager
def writing(url: str, rows: int) -> Iterator[list[float]]:
    """Change rows in another session during the block, and record how long each change took."""
    waits: list[float] = []
    ended = threading.Event()

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as writer:
            while not ended.wait(0.025):
                began = time.perf_counter()
                number = random.randint(1, rows)  # noqa: S311 -- the row's number is no secret
                writer.execute("update public.sessions set status = 'seen' where id = %s", [number])
                waits.append(time.perf_counter() - began)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield waits
    finally:
        ended.set()
        thread.join()


def run(
    owner: psycopg.Connection[tuple[object, ...]], url: str, rows: int, work: Callable[[], object]
) -> tuple[float, float]:
    """Hash the table; return the seconds and the longest wait of the other session."""
    with writing(url, rows) as waits:
        began = time.perf_counter()
        work()
        taken = time.perf_counter() - began
    right = owner.execute(RIGHT).fetchall()
    assert right == [(rows,)], right
    return taken, max(waits)


def main() -> int:
    """Measure and print. Return 1 if hashing was too slow or the other session waited too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows: int = options.rows
    janitor = Janitor()
    settings = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
    taken: dict[str, list[tuple[float, float]]] = {"one bare update": [], "hash_rows": []}
    with Server(settings=settings, janitor=janitor) as server, Database(server, "a") as database:
        server.install_platform(database.name)
        with psycopg.connect(database.url, autocommit=True) as owner:
            adoption = Adoption(owner, "public.sessions", "owner_api_key")

            def fill() -> None:
                owner.execute(MAKE.format(rows=rows).encode())
                owner.execute("vacuum analyze public.sessions")

            for _ in track(range(options.rounds), "hashing"):
                fill()
                owner.execute("alter table public.sessions add owner_api_key_hash varchar(64)")
                taken["one bare update"].append(
                    run(owner, database.url, rows, lambda: owner.execute(BARE))
                )
                fill()
                adoption.start()
                taken["hash_rows"].append(run(owner, database.url, rows, adoption.hash_rows))
                adoption.revert()
    janitor.close()
    table = Table(title=f"{rows:,} rows, while another session writes")
    for column in ("", "rows/s", "ratio", "longest wait of the other, ms"):
        table.add_column(column, justify="left" if not column else "right")
    bare = taken["one bare update"]
    ratio = statistics.median(b[0] / h[0] for b, h in zip(bare, taken["hash_rows"], strict=True))
    longest = max(wait for _, wait in taken["hash_rows"])
    for name, rounds in taken.items():
        table.add_row(
            name,
            f"{rows / statistics.median(seconds for seconds, _ in rounds):,.0f}",
            "1" if rounds is bare else f"{ratio:.2f}",
            f"{1000 * max(wait for _, wait in rounds):,.0f}",
        )
    Console(width=80).print(table)
    return int(ratio < BOUND or longest > LONGEST_WAIT)


if __name__ == "__main__":
    sys.exit(main())
