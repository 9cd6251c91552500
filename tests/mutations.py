"""`make mutations`: take each guard of the database away, and see a test go red.

The guards are read from the catalog, so that a new one is tried as well: triggers, policies, row
level security, constraints and unique indexes, and what is granted. For each a copy of a migrated
database loses it; then the pgTAP files run, without the one that lists grants and would notice
anything, and `keylatch audit`, which tries everything as everybody. What no test misses survives,
and is named at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from keylatch.audit import audit
from keylatch.errors import KeylatchError
from stack import Database, Janitor, Server
from stack.database import make_template
from stack.tools import ROOT, pg_prove

# It compares with a list, and goes red whatever is changed: no proof of anything.
LISTS = "grants.test.sql"
RESULTS = ROOT / "tests" / ".bench" / "mutations.json"
GUARDS = """
with tables as (
  select c.oid, c.oid::regclass::text as name, c.relkind, c.relrowsecurity, c.relacl, c.relowner
  from pg_class as c
  where c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
    and c.relkind in ('r', 'v')
)
select 'trigger', t.name || ' ' || g.tgname, format('drop trigger %I on %s', g.tgname, t.name)
from tables as t inner join pg_trigger as g on t.oid = g.tgrelid
where not g.tgisinternal
union all
select 'policy', t.name || ' ' || p.polname,
  format('drop policy %I on %s; create policy %I on %s for %s to %s', p.polname, t.name, p.polname,
    t.name,
    case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
      when 'd' then 'delete' else 'all' end,
    (select string_agg(case r.oid when 0 then 'public' else r.oid::regrole::text end, ', ')
      from unnest(p.polroles) as r (oid)))
  || case when p.polqual is null then '' else ' using (true)' end
  || case when p.polwithcheck is null and p.polcmd <> 'a' then '' else ' with check (true)' end
from tables as t inner join pg_policy as p on t.oid = p.polrelid
union all
select 'row security', t.name, format('alter table %s disable row level security', t.name)
from tables as t where t.relrowsecurity
union all
select case c.contype when 'c' then 'check' when 'f' then 'foreign key' else 'unique' end,
  t.name || ' ' || c.conname, format('alter table %s drop constraint %I cascade', t.name, c.conname)
from tables as t inner join pg_constraint as c on t.oid = c.conrelid
where c.contype in ('c', 'f', 'p', 'u', 'x')
union all
select 'unique', i.indexrelid::regclass::text, format('drop index %s', i.indexrelid::regclass)
from tables as t inner join pg_index as i on t.oid = i.indrelid
where i.indisunique and not exists (select from pg_constraint where conindid = i.indexrelid)
union all
select 'grant', lower(a.privilege_type) || ' ' || t.name || ' to ' || a.grantee::regrole,
  format('revoke %s on %s from %s', a.privilege_type, t.name, a.grantee::regrole)
from tables as t cross join aclexplode(t.relacl) as a where a.grantee not in (0, t.relowner)
union all
select 'grant', 'execute ' || p.oid::regprocedure || ' to ' || a.grantee::regrole,
  format('revoke execute on function %s from %s', p.oid::regprocedure, a.grantee::regrole)
from pg_proc as p cross join aclexplode(p.proacl) as a
where p.pronamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
  and a.grantee not in (0, p.proowner)
order by 1, 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A guard that is taken away.

    Attributes:
        kind: trigger, policy, row security, check, unique, foreign key or grant.
        guard: Which.
        statement: What takes it away.
        red: The tests that went red.
    """

    kind: str
    guard: str
    statement: str
    red: tuple[str, ...] = ()


def guards(database: Database) -> Iterator[Mutation]:
    """Read the guards of a migrated database."""
    with psycopg.connect(database.url) as owner:
        for kind, guard, statement in owner.execute(GUARDS.encode()).fetchall():
            yield Mutation(kind=kind, guard=guard, statement=statement)


def red(database: Database) -> tuple[str, ...]:
    """The tests that go red on this database."""
    files = sorted((ROOT / "supabase" / "tests" / "database").glob("*.test.sql"))
    server = database.server
    done = subprocess.run(
        [pg_prove(), "--quiet", *(path for path in files if path.name != LISTS)],
        env={
            **os.environ,
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": "postgres",
            "PGDATABASE": database.name,
            "PGPASSWORD": server.passwords["postgres"],
        },
        capture_output=True,
        text=True,
        check=False,
    )
    failed = set(re.findall(r"(\w+\.test\.sql)\s+\(Wstat", done.stdout))
    assert bool(failed) is (done.returncode != 0), done.stdout
    with psycopg.connect(database.url, autocommit=True) as owner:
        try:
            if not audit(owner).is_clean:
                failed.add("keylatch audit")
        except KeylatchError:
            failed.add("keylatch audit")
    return tuple(sorted(failed))


def main() -> int:
    """Try each guard, print and save what went red; 1 where one survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="guards of this kind")
    options = parser.parse_args()
    janitor = Janitor()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    tried: list[Mutation] = []
    with Server(janitor=janitor) as server:
        template = make_template(server)
        with Database(server, "whole", template) as whole:
            assert red(whole) == (), "a test is red with every guard in its place"
            found = [one for one in guards(whole) if options.only in one.kind]
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            for one in progress.track(found):
                with Database(server, "mutated", template) as mutated:
                    with psycopg.connect(mutated.url, autocommit=True) as owner:
                        owner.execute(one.statement.encode())
                    seen = Mutation(
                        kind=one.kind, guard=one.guard, statement=one.statement, red=red(mutated)
                    )
                    tried.append(seen)
    janitor.close()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(one) for one in tried], indent=2) + "\n")
    table = Table(title="Each guard taken away, and what went red")
    for column in ("", "guards", "seen", "survived"):
        table.add_column(column, justify="left" if not column else "right")
    for kind in dict.fromkeys(one.kind for one in tried):
        of_kind = [one for one in tried if one.kind == kind]
        seen_ones = sum(bool(one.red) for one in of_kind)
        table.add_row(kind, str(len(of_kind)), str(seen_ones), str(len(of_kind) - seen_ones))
    console = Console(width=80, highlight=False)
    console.print(table)
    survivors = [one for one in tried if not one.red]
    for one in survivors:
        console.print(f"survived: {one.kind}: {one.guard}", markup=False, soft_wrap=True)
    console.print(f"Saved: {RESULTS.relative_to(ROOT)}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
