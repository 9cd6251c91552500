"""Writes sql/REFERENCE.md from a fresh install: what `comment on`, the grants and policies say.

`make reference` writes it; with --check it only says whether the file in the tree is what it should
be, and exits with 1 if not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from stack.database import Database
from stack.server import Server

FILE = Path(__file__).parent.parent / "sql" / "REFERENCE.md"

HEAD = """# Reference

Made from the database by `make reference`: what a fresh install says of itself. Do not edit; edit
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
where p.pronamespace = 'keylatch'::regnamespace
order by p.proname
"""

RELATIONS = """
select
  c.oid::regclass::text as name,
  obj_description(c.oid, 'pg_class') as comment,
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
order by relation, command
"""


def sentence(text: str | None) -> str:
    """A comment as one cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def reference(connection: psycopg.Connection[dict[str, Any]]) -> str:
    """The whole page."""
    parts = [HEAD, "## Calls\n"]
    for call in connection.execute(CALLS):
        parts.append(f"### {call['name']}\n")
        # Defaults without the casts that PostgreSQL writes behind them.
        plain = re.sub(r"::[a-z ]+(\[\])?", "", call["arguments"])
        arguments = "".join(f"\n  {argument}," for argument in plain.split(", "))
        listed = f"({arguments[:-1]}\n)" if call["arguments"] else "()"
        parts.append(f"```sql\nkeylatch.{call['name']}{listed} returns {call['result']}\n```\n")
        parts.append(f"{call['comment']}\n")
        parts.append(f"*Who:* {call['roles']}.\n")
    relations = connection.execute(RELATIONS).fetchall()
    for title, is_type in (("Tables and views", False), ("Results", True)):
        parts.append(f"## {title}\n")
        for relation in relations:
            if relation["is_type"] != is_type:
                continue
            parts.append(f"### {relation['name'].removeprefix('keylatch.')}\n")
            parts.append(f"{relation['comment']}\n")
            if relation["roles"]:
                parts.append(f"*Who:* {relation['roles']}.\n")
            rows = [
                (f"`{c['name']}`", c["type"], sentence(c["comment"])) for c in relation["columns"]
            ]
            if is_type:
                parts.append(table(("field", "type"), [row[:2] for row in rows]))
            else:
                parts.append(table(("column", "type", "meaning"), rows))
    parts.append("## Row policies\n")
    parts.append(
        table(
            ("policy", "on", "command", "to", "meaning"),
            [
                (f"`{p['name']}`", p["relation"], p["command"], p["roles"], sentence(p["comment"]))
                for p in connection.execute(POLICIES)
            ],
        )
    )
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Make a fresh install, read it, and write or compare the page."""
    with Server() as server:
        database = Database(server, "reference")
        database.migrate()
        with psycopg.connect(database.url, row_factory=dict_row) as connection:
            # Names of types and tables as a reader has to write them.
            connection.execute("set search_path = ''")
            page = reference(connection)
    if arguments == ["--check"]:
        if FILE.read_text() == page:
            return 0
        print("sql/REFERENCE.md is not what the migrations say; run: make reference")
        return 1
    FILE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
