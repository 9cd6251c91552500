"""`make bench WHAT=identity`: a row policy that asks for the key, beside one with a literal id.

Three roles read the same table; only their policies differ. The statements take turns, and the
result is the median of the rounds' ratios. The reads of many rows must stay below the bound. The
short reads show the cost of asking for the key, in microseconds.

If one workspace has most rows, PostgreSQL knows the frequency of a literal id and chooses another
plan than for any `(select …)`. In this case the key is compared with a literal in a select.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import psycopg
from psycopg import sql
from rich.console import Console
from rich.progress import track
from rich.table import Table

from stack import Database, Janitor, People, Server

BOUND = 1.1
# These roles have the same grants, but different policies.
LITERAL, SELECTED, KEY = "authenticated", "keylatch_resolver", "anon"
SETUP = """
create table public.{table} (id integer primary key, workspace_id uuid not null, amount integer);
alter table public.{table} enable row level security;
insert into public.{table}
select n, case when n % 100 < {share} then {a}::uuid else md5((n % 9)::text)::uuid end, n
from generate_series(1, {rows}) as n;
create index on public.{table} (workspace_id);
create policy by_key on public.{table} for select to anon
using (workspace_id = (select keylatch.current_workspace_id()));
create policy by_literal on public.{table} for select to authenticated
using (workspace_id = {a}::uuid);
create policy by_selected on public.{table} for select to keylatch_resolver
using (workspace_id = (select {a}::uuid));
grant usage on schema public to keylatch_resolver;
grant select on public.{table} to keylatch_resolver;
"""
# The reads, and whether the bound applies to each.
READS = {
    "count(*)": ("select count(*) from public.{table}", True),
    "sum 5%": ("select sum(amount) from public.{table} where amount % 20 = 1", True),
    "top 1000": ("select amount from public.{table} order by id limit 1000", False),
    "one row": ("select amount from public.{table} where id = 100", False),
}
# The percentage of the table's rows that the workspace has.
SHARES = {"tenth": 10, "most": 90, "whole": 100}


def fill(database: Database, rows: int) -> str:
    """Make the tables and a key of workspace A, and return the key."""
    People.seed(database.url)
    with psycopg.connect(database.url, autocommit=True) as owner:
        for name, share in SHARES.items():
            names = {"table": sql.Identifier(name), "share": sql.Literal(share)}
            owner.execute(
                sql.SQL(SETUP).format(a=sql.Literal(str(People.a)), rows=sql.Literal(rows), **names)
            )
            owner.execute(sql.SQL("vacuum analyze public.{}").format(sql.Identifier(name)))
        claims = json.dumps({"sub": str(People.alice), "role": "authenticated"})
        owner.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        row = owner.execute(
            "select key from keylatch.issue_key(%s, 'secret')", [People.a]
        ).fetchone()
    assert row is not None
    return str(row[0])


def connect(database: Database, role: str, key: str, workers: int) -> psycopg.Connection[object]:
    """A session like PostgREST's, with the key in the request's headers."""
    connection: psycopg.Connection[object] = database.connect(role)
    headers = json.dumps({"x-api-key": key})
    connection.execute("select set_config('request.headers', %s, false)", [headers])
    connection.execute(
        "select set_config('max_parallel_workers_per_gather', %s, false)", [str(workers)]
    )
    connection.execute("set statement_timeout = '60s'")
    return connection


def milliseconds(connection: psycopg.Connection[object], statement: str) -> float:
    """The time of one statement in milliseconds."""
    began = time.perf_counter()
    connection.execute(statement.encode()).fetchall()
    return 1000 * (time.perf_counter() - began)


def main() -> int:
    """Measure and print. Return 1 if a ratio is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    janitor = Janitor()
    table = Table(title=f"{options.rows:,} rows: literal uuid, (select literal), the key's, ms")
    for column in ("has", "read", "workers"):
        table.add_column(column)
    for column in ("literal", "select", "key", "literal=1", "select=1"):
        table.add_column(column, justify="right")
    worst = 0.0
    settings = {"shared_buffers": "512MB"}
    with Server(settings=settings, janitor=janitor) as server, Database(server, "rls") as database:
        database.migrate()
        with Console().status("making the tables"):
            key = fill(database, options.rows)
        cases = [(share, read, n) for share in SHARES for read in READS for n in (0, 2)]
        for share, read, workers in track(cases, "reading"):
            statement, is_bound = READS[read]
            statement = statement.format(table=share)
            sessions = [connect(database, role, key, workers) for role in (LITERAL, SELECTED, KEY)]
            answers = {str(session.execute(statement.encode()).fetchall()) for session in sessions}
            assert len(answers) == 1, "the policies show different rows"
            rounds = [
                [milliseconds(session, statement) for session in sessions]
                for _ in range(options.rounds)
            ]
            for session in sessions:
                session.close()
            ratios = [statistics.median(r[2] / r[n] for r in rounds) for n in (0, 1)]
            bounded = (ratios[1 if share == "most" else 0],) if is_bound else ()
            worst = max(worst, *bounded, 0)
            table.add_row(
                f"{SHARES[share]}%",
                read,
                str(workers),
                *(f"{statistics.median(times):.3f}" for times in zip(*rounds, strict=True)),
                *(f"{r:.3f}" if r in bounded else f"({r:.3f})" for r in ratios),
            )
    janitor.close()
    Console(width=80).print(table)
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
