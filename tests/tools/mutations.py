"""`make mutations`: remove each guard of the database, and check that a test fails.

The guards are triggers, policies, row level security, constraints, unique indexes and grants. They
are read from the catalog, so a new guard is tried as well. Each guard is removed from a clone of a
migrated database. Then up to three checks run, until one fails: `keylatch audit`, which tries
everything as every role; the pgTAP files; and the test suite on a template without the guard. Tests
that only compare the database with a list do not run, because they notice every change.

mutations.json records which check failed for which guard. A test of the suite compares this file
with the catalog. The test fails if a guard was never removed, or if no check noticed its removal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import NamedTuple

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from keylatch.errors import KeylatchError
from keylatch_cli.audit.matrix import audit
from stack import Database, Janitor, Server
from stack.checks import libpq, specification
from stack.database import make_template
from stack.tools import TESTS, pg_prove

RESULTS = Path(__file__).parent / "mutations.json"
# These tests compare with a list and fail after any change, so they prove nothing.
LISTS = "grants.test.sql"
SUITE = ["core", "modules", "client", "web", "security"]
SUITE_LISTS = [
    "core/test_audit.py",
    "security/test_functions.py",
    "security/test_mutations.py",
    "security/test_owners_rights.py",
]
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
-- Open to all; one that is so already hides all.
select 'policy', t.name || ' ' || p.polname,
  format('drop policy %I on %s; create policy %I on %s for %s to %s', p.polname, t.name, p.polname,
    t.name,
    case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
      when 'd' then 'delete' else 'all' end,
    (select string_agg(case r.oid when 0 then 'public' else r.oid::regrole::text end, ', ')
      from unnest(p.polroles) as r (oid)))
  || case
    when p.polqual is null then ''
    when pg_get_expr(p.polqual, p.polrelid) = 'true' then ' using (false)'
    else ' using (true)'
  end
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


class Guard(NamedTuple):
    """A guard of the database.

    Attributes:
        kind: trigger, policy, row security, check, unique, foreign key or grant.
        name: The name of the guard, with its table.
        removal: The statement that removes the guard.
    """

    kind: str
    name: str
    removal: str


def guards(connection: psycopg.Connection[tuple[str, str, str]]) -> list[Guard]:
    """Read the guards of a migrated database."""
    return [Guard(*row) for row in connection.execute(GUARDS.encode()).fetchall()]


def seen_by_audit(database: Database) -> list[str]:
    """Run `keylatch audit`; return its name if it failed."""
    with psycopg.connect(database.url, autocommit=True) as owner:
        try:
            is_clean = audit(owner).is_clean
        except KeylatchError:
            is_clean = False
    return [] if is_clean else ["keylatch audit"]


def seen_by_pgtap(database: Database) -> list[str]:
    """Run the pgTAP files; return the names of those that failed."""
    done = subprocess.run(
        [pg_prove(), "--quiet", *(path for path in specification() if path.name != LISTS)],
        env=libpq(database),
        capture_output=True,
        text=True,
        check=False,
    )
    failed = sorted(set(re.findall(r"(\w+\.test\.sql)\s+\(Wstat", done.stdout)))
    assert bool(failed) is (done.returncode != 0), done.stdout
    return failed


def seen_by_suite(guard: Guard, paths: list[str]) -> list[str]:
    """Run the Python tests below these paths; return the names of the first that failed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", "-m", "not one_server", *paths]
        + [f"--ignore={path}" for path in SUITE_LISTS],
        env={**os.environ, "KEYLATCH_MUTATION": guard.removal},
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = sorted(set(re.findall(r"^(?:FAILED|ERROR) (\S+?)(?:\[| |$)", done.stdout, re.M)))
    assert bool(failed) is (done.returncode != 0), done.stdout
    return failed


def main() -> int:
    """Try each guard; print and save the failed checks. Return 1 if no check failed for a guard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="guards of this kind, or whose name has this")
    parser.add_argument("--new", action="store_true", help="those that nothing is known to miss")
    parser.add_argument(
        "--suite", nargs="*", default=SUITE, help="tests to ask where nothing else sees it"
    )
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    janitor = Janitor()
    numbers = count(1)
    with Server(janitor=janitor) as server:
        template = make_template(server)
        with Database(server, "whole", template) as whole:
            assert not seen_by_audit(whole) and not seen_by_pgtap(whole), "red with every guard"
            with psycopg.connect(whole.url) as owner:
                found = guards(owner)

        def quickly(guard: Guard) -> list[str]:
            with Database(server, f"mutated_{next(numbers)}", template) as database:
                with psycopg.connect(database.url, autocommit=True) as owner:
                    owner.execute(guard.removal.encode())
                return seen_by_audit(database) or seen_by_pgtap(database)

        chosen = [
            one
            for one in found
            if (options.only == one.kind or options.only in one.name)
            and not (options.new and known.get(f"{one.kind}: {one.name}"))
        ]
        if not chosen:
            parser.error(f"no guard has the kind or the name {options.only!r}")
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
        with (
            ThreadPoolExecutor(2) as pool,
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ):
            results = progress.track(pool.map(quickly, chosen), total=len(chosen))
            red = dict(zip(chosen, results, strict=True))
    janitor.close()
    for one in [one for one, tests in red.items() if not tests and options.suite]:
        red[one] = seen_by_suite(one, options.suite)
    now = {f"{one.kind}: {one.name}": tests for one, tests in red.items()}
    names = {f"{one.kind}: {one.name}" for one in found}
    kept = {name: tests for name, tests in {**known, **now}.items() if name in names}
    RESULTS.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")

    table = Table(title="Each guard taken away, and what went red")
    for column in ("", "guards", "audit", "pgTAP", "suite", "survived"):
        table.add_column(column, justify="left" if not column else "right")
    for kind in dict.fromkeys(one.kind for one in red):
        seen = [tests for one, tests in red.items() if one.kind == kind]
        audited = sum(tests == ["keylatch audit"] for tests in seen)
        specified = sum(bool(tests) and tests[0].endswith(".sql") for tests in seen)
        survived = sum(not tests for tests in seen)
        suite = len(seen) - audited - specified - survived
        table.add_row(kind, *map(str, (len(seen), audited, specified, suite, survived)))
    console = Console(width=80, highlight=False)
    console.print(table)
    survivors = [one for one, tests in red.items() if not tests]
    for one in survivors:
        console.print(f"survived: {one.kind}: {one.name}", markup=False, soft_wrap=True)
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
