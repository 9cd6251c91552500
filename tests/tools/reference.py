"""Writes sql/REFERENCE.md from the comments, grants and policies of a fresh install.

It also writes sql/docs/errors.md; see tools/errors.py.

The core comes first, then the tenancy, then a chapter for each module. An object belongs to the
part whose migrations create it.

`make generate` runs this program. With --check it writes nothing, and exits with 1 if a file in the
tree is out of date.
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

# The grants of the owner are left out.
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

# Object ids only grow in a new database, so the objects of a part have higher ids than all before.
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
    """A comment as the text of one table cell."""
    return " ".join((text or "").split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def chapter(connection: psycopg.Connection[dict[str, Any]], after: int) -> list[str]:
    """The lines about all objects that were created after the object with the id `after`."""
    bounds = {"after": after}
    parts: list[str] = []
    for call in connection.execute(CALLS, bounds):
        parts.append(f"### {call['name']}\n")
        # Remove the casts that PostgreSQL adds to the defaults.
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
    """Install keylatch part by part in a database with the platform, and return the page."""
    page = [HEAD]
    with psycopg.connect(database.url, row_factory=dict_row, autocommit=True) as connection:
        # An empty search_path makes PostgreSQL print names with their schema.
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
