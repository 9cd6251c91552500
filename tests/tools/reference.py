"""Writes sql/REFERENCE.md from a fresh install: what `comment on`, the grants and policies say.

It writes sql/docs/errors.md, too; see tools/errors.py.

The core comes first, then the tenancy, then a chapter for each module: an object belongs to the
part whose migrations made it.

`make generate` writes it; with --check it only says whether the file in the tree is what it should
be, and exits with 1 if not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from stack.database import Database
from stack.modules import parts
from stack.server import Server
from stack.tools import ROOT
from tools import errors

FILE = ROOT / "sql" / "REFERENCE.md"

HEAD = """# Reference

Made from the database by `make generate`: what a fresh install says of itself. Do not edit; edit
the comments in `supabase/migrations`.

Through PostgREST a call is `POST /rest/v1/rpc/<call>` with the headers `Content-Profile: keylatch`
and `Accept-Profile: keylatch`; the arguments are the JSON body.
"""

# Types as people write them, grants as role names; the owner's own rights go without saying.
CALLS = """
select
  p.proname as name,
  pg_get_function_arguments(p.oid) as arguments,
  pg_get_function_result(p.oid) as result,
  obj_description(p.oid, 'pg_proc') as comment,
  (
    select string_agg(a.grantee::regrole::text, ', ' order by a.grantee::regrole::text)
    from aclexplode(p.proacl) as a
    where a.privilege_type = 'EXECUTE' and a.grantee <> p.proowner and a.grantee <> 0
  ) as roles
from pg_proc as p
where p.pronamespace = 'keylatch'::regnamespace and p.oid > %(after)s
order by p.proname
"""

RELATIONS = """
select
  c.oid::regclass::text as name,
  coalesce(obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type')) as comment,
  c.relkind = 'c' as is_type,
  (
    select string_agg(g.line, '; ' order by g.line)
    from (
      select a.grantee::regrole::text || ': '
        || string_agg(lower(a.privilege_type), ', ' order by a.privilege_type) as line
      from aclexplode(c.relacl) as a
      where a.grantee <> c.relowner
      group by a.grantee
    ) as g
  ) as roles,
  (
    select json_agg(json_build_object(
      'name', t.attname,
      'type', format_type(t.atttypid, t.atttypmod),
      'comment', col_description(c.oid, t.attnum)
    ) order by t.attnum)
    from pg_attribute as t
    where t.attrelid = c.oid and t.attnum > 0 and not t.attisdropped
  ) as columns
from pg_class as c
where c.relnamespace = 'keylatch'::regnamespace and c.relkind in ('r', 'v', 'c')
  and c.oid > %(after)s
order by c.relname
"""

POLICIES = """
select
  p.polname as name,
  p.polrelid::regclass::text as relation,
  case p.polcmd
    when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
    else 'all'
  end as command,
  (select string_agg(r.rolname, ', ' order by r.rolname) from pg_roles as r
   where r.oid = any (p.polroles)) as roles,
  obj_description(p.oid, 'pg_policy') as comment
from pg_policy as p
where p.polrelid in (
  select c.oid from pg_class as c
  where c.relnamespace in ('keylatch'::regnamespace, 'keylatch_internal'::regnamespace)
)
and p.oid > %(after)s
order by relation, command
"""

POLICY_FIELDS = ("relation", "command", "roles")

# Object ids only grow here, so what a part makes has higher ones than all before it.
NEWEST = """
select max(o.oid)::bigint as newest
from (
  select p.oid from pg_proc as p
  union all
  select c.oid from pg_class as c
  union all
  select p.oid from pg_policy as p
) as o
"""


def sentence(text: str | None) -> str:
    """A comment as one cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def chapter(connection: psycopg.Connection[dict[str, Any]], after: int) -> list[str]:
    """Everything that came into the database after the object of this id."""
    bounds = {"after": after}
    parts: list[str] = []
    for call in connection.execute(CALLS, bounds):
        parts.append(f"### {call['name']}\n")
        # Defaults without the casts that PostgreSQL writes behind them.
        plain = re.sub(r"::[a-z ]+(\[\])?", "", call["arguments"])
        arguments = "".join(f"\n  {argument}," for argument in plain.split(", "))
        listed = f"({arguments[:-1]}\n)" if call["arguments"] else "()"
        parts.append(f"```sql\nkeylatch.{call['name']}{listed} returns {call['result']}\n```\n")
        parts.append(f"{call['comment']}\n")
        parts.append(f"*Who may call it:* {call['roles'] or 'the owner alone'}.\n")
    relations = connection.execute(RELATIONS, bounds).fetchall()
    for is_type in (False, True):
        for relation in relations:
            if relation["is_type"] != is_type:
                continue
            kind = "result" if is_type else "table or view"
            parts.append(f"### {relation['name'].removeprefix('keylatch.')} ({kind})\n")
            parts.append(f"{relation['comment']}\n")
            if relation["roles"]:
                parts.append(f"*Who may do what:* {relation['roles']}.\n")
            rows = [
                (f"`{c['name']}`", c["type"], sentence(c["comment"])) for c in relation["columns"]
            ]
            if is_type:
                parts.append(table(("field", "type"), [row[:2] for row in rows]))
            else:
                parts.append(table(("column", "type", "meaning"), rows))
    policies = connection.execute(POLICIES, bounds).fetchall()
    if policies:
        parts.append("### Row policies\n")
        parts.append(
            table(
                ("policy", "on", "command", "to", "meaning"),
                [
                    (
                        f"`{p['name']}`",
                        p["relation"],
                        p["command"],
                        p["roles"],
                        sentence(p["comment"]),
                    )
                    for p in policies
                ],
            )
        )
    return parts


def reference(database: Database) -> str:
    """The whole page, of a database that has the platform and nothing of keylatch."""
    page = [HEAD]
    with psycopg.connect(database.url, row_factory=dict_row, autocommit=True) as connection:
        # Names of types and tables as a reader has to write them.
        connection.execute("set search_path = ''")
        for title, about, files in parts():
            newest = connection.execute(NEWEST).fetchone()
            database.apply(files)
            page += [f"## {title}\n", f"{about[0].upper()}{about[1:]}.\n"]
            page += chapter(connection, newest["newest"] if newest else 0)
    return "\n".join(page)


def main(arguments: list[str]) -> int:
    """Make a fresh install, read it, and write or compare the pages."""
    with Server() as server:
        database = Database(server, "reference")
        server.install_platform(database.name)
        pages = {FILE: reference(database)}
        with psycopg.connect(database.url, row_factory=dict_row) as connection:
            pages[errors.FILE] = errors.page(connection)
    if arguments != ["--check"]:
        for file, page in pages.items():
            file.write_text(page)
    wrong = [
        f"{file.relative_to(ROOT)} is not what the migrations say; run: make generate"
        for file, page in pages.items()
        if file.read_text() != page
    ]
    if f"| {errors.MISSING} |" in pages[errors.FILE]:
        wrong.append("sql/docs/errors.md lacks the cause of an error; write it where the ? is")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
