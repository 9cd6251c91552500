"""The page of all errors, sql/docs/errors.md, made from the table in a fresh install.

The table holds the slug, the SQLSTATE and the next step. The client holds the class. People write
the cause in the page, and `make generate` keeps it.
"""

from __future__ import annotations

import re

import psycopg
from psycopg.rows import DictRow

from keylatch.errors import CLASS_BY_SLUG
from stack.tools import ROOT

FILE = ROOT / "sql" / "docs" / "errors.md"
MISSING = "?"
HEAD = """<!-- begins with: nothing -->
# All errors

`make generate` makes this page from the table `keylatch_internal.errors`. Only the causes are
written by hand. A program recognizes an error of keylatch by its slug, such as `key_revoked`. The
slug is the message of the error in SQL, and the field `message` over REST. The error's detail names
the wrong value. The error's hint is the next step, as in this table or more exact.
"""
FOOT = """
Errors of PostgreSQL, PostgREST or a gateway have no slug. See
[Troubleshooting](troubleshooting.md).
"""
_ROW = re.compile(r'^\| <a id="(\w+)">.*\| ([^|]+) \| [^|]+ \|$', re.MULTILINE)


def page(connection: psycopg.Connection[DictRow]) -> str:
    """Make the page, with the causes of the current page."""
    causes = dict(_ROW.findall(FILE.read_text("utf-8"))) if FILE.exists() else {}
    rows = connection.execute(
        "select slug, code, hint from keylatch_internal.errors order by slug"
    ).fetchall()
    lines = [
        HEAD,
        "| slug | HTTP, SQLSTATE, Python | cause | next step |",
        "|---|---|---|---|",
    ]
    for row in rows:
        slug, code = row["slug"], row["code"]
        # PostgREST maps PTxyz to HTTP status xyz, and the other codes to these statuses.
        status = code[2:] if code.startswith("PT") else "401 or 403" if code == "42501" else "400"
        cause, kind = causes.get(slug, MISSING), CLASS_BY_SLUG[slug].__name__
        name = f'<a id="{slug}"></a>`{slug}`'
        lines.append(f"| {name} | {status}, `{code}`, `{kind}` | {cause} | {row['hint']} |")
    return "\n".join(lines) + "\n" + FOOT
