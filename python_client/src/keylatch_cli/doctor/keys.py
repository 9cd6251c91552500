"""The keys that are there: those that can never resolve, that end soon, that are old."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, scalar_row

from .report import Finding, Level, Unchecked

_SHOWN = 5

# Row policies would hide keys, and what is left would look like all.
_HIDDEN = "select pg_catalog.row_security_active('keylatch_internal.keys')"
_FIND = sql.SQL("""
select k.id, k.masked_key, k.label, pg_catalog.count(*) over () as number
from keylatch.keys as k
where {}
order by k.expires_at, k.created_at, k.id
limit %s
""")


@dataclass(frozen=True, slots=True)
class _Rule:
    """A kind of keys to find: the condition on `keylatch.keys as k`, and what to say of them.

    `module` is the module whose tables the condition reads.
    """

    level: Level
    slug: str
    condition: LiteralString
    what: str
    why: str
    mend: str
    module: str | None = None


_RULES = (
    _Rule(
        Level.WARNING,
        "key_without_origin",
        "k.kind = 'publishable' and k.allowed_origins = '{}' "
        "and k.status in ('active', 'superseded', 'suspended')",
        "publishable and without an allowed origin",
        "No page can use such a key: it is refused from every origin.",
        "update keylatch.keys set allowed_origins = '{{https://client.example}}'\n"
        "where id = '{id}';",
    ),
    _Rule(
        Level.WARNING,
        "key_expires_soon",
        # A superseded key has its successor, and one that was issued for days is meant to end.
        "k.status in ('active', 'suspended') and k.superseded_at is null "
        "and k.expires_at < pg_catalog.now() + interval '14 days' "
        "and k.expires_at > k.created_at + interval '14 days'",
        "about to expire within 14 days",
        "An expired key is refused for good. Its expiry can be moved only before.",
        "keylatch rotate {id} --grace 7d",
    ),
    # Nothing is said where nobody reports, nor before somebody has for as long.
    _Rule(
        Level.NOTE,
        "secret_unused",
        "k.kind = 'secret' and k.status = 'active' "
        "and k.created_at < pg_catalog.now() - interval '90 days' "
        "and exists (select 1 from keylatch.key_usage_days as d "
        "where d.used_on < pg_catalog.now() - interval '90 days') "
        "and not exists (select 1 from keylatch.key_usage as u where u.key_id = k.id "
        "and u.last_used_at > pg_catalog.now() - interval '90 days')",
        "secret and unused for 90 days, as far as services have reported",
        "Nobody notices if somebody else uses such a key.",
        "keylatch revoke {id} --reason unused",
        module="usage",
    ),
    # How old a secret is, is known also where nobody reports its use.
    _Rule(
        Level.NOTE,
        "secret_old",
        "k.kind = 'secret' and k.status = 'active' "
        "and k.created_at < pg_catalog.now() - interval '90 days'",
        "secret and more than 90 days old",
        "The older a secret is, the more backups, logs and people may have it.",
        "keylatch rotate {id} --grace 7d",
    ),
)


def check(
    connection: psycopg.Connection[Any], parts: Collection[str]
) -> Iterator[Finding | Unchecked]:
    """Look for keys that somebody should do something about.

    Args:
        connection: Inside a transaction.
        parts: What is installed.

    Yields:
        A finding for each kind of them.

    Raises:
        psycopg.Error: The keys cannot be read.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        if cursor.execute(_HIDDEN).fetchone():
            yield Unchecked("keys", "row policies hide them from this user; ask as the owner")
            return
    for rule in _RULES:
        if rule.module not in (None, *parts):
            continue
        with connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(_FIND.format(sql.SQL(rule.condition)), [_SHOWN]).fetchall()
        if not found:
            continue
        number = found[0]["number"]
        names = "\n".join(
            f"{one['id']}  {one['masked_key']}  {one['label']}".rstrip() for one in found
        )
        more = f"\nand {number - len(found)} more" if number > len(found) else ""
        yield Finding(
            rule.level,
            rule.slug,
            f"{number} {'key' if number == 1 else 'keys'}",
            f"{rule.what}:\n{names}{more}",
            rule.why,
            rule.mend.format(id=found[0]["id"]),
        )
