"""Finds keys that can never resolve, that expire soon, or that are old; and keys without guards."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, scalar_row, tuple_row

from .report import Finding, Level, Unchecked

_SHOWN = 5

# If row policies hide keys, the visible keys would look like all keys.
_HIDDEN = "select pg_catalog.row_security_active('keylatch_internal.keys')"
_CHILDREN = """
select h.inhrelid::pg_catalog.regclass::text, h.inhparent::pg_catalog.regclass::text
from pg_catalog.pg_inherits as h
inner join pg_catalog.pg_class as c on h.inhparent = c.oid
where c.relnamespace::pg_catalog.regnamespace::text in ('keylatch', 'keylatch_internal')
  and c.relkind in ('r', 'p')
order by 1, 2
"""
_FIND = sql.SQL("""
select k.id, k.masked_key, k.label, pg_catalog.count(*) over () as number
from keylatch.keys as k
where {}
order by k.expires_at, k.created_at, k.id
limit %s
""")


@dataclass(frozen=True, slots=True)
class _Rule:
    """A condition on `keylatch.keys as k`, and the finding for the keys that match.

    `module` is the module whose tables the condition reads.
    """

    level: Level
    slug: str
    condition: LiteralString
    what: str
    why: str
    fix: str
    module: str | None = None


_RULES = (
    _Rule(
        Level.WARNING,
        "key_without_origin",
        "k.kind = 'publishable' and k.allowed_origins = '{}' "
        "and k.status in ('active', 'superseded', 'suspended')",
        "publishable, without an allowed origin",
        "A publishable key without an allowed origin is refused on every page.",
        "update keylatch.keys set allowed_origins = '{{https://client.example}}'\n"
        "where id = '{id}';",
    ),
    _Rule(
        Level.WARNING,
        "key_expires_soon",
        # A superseded key has a successor, and a key issued for a few days is meant to expire.
        "k.status in ('active', 'suspended') and k.superseded_at is null "
        "and k.expires_at < pg_catalog.now() + interval '14 days' "
        "and k.expires_at > k.created_at + interval '14 days'",
        "expiring within 14 days",
        "An expired key is refused for good. Rotate the key with a later expiry, or set a later "
        "expires_at.",
        "keylatch rotate {id} --grace 7d --expires 90d",
    ),
    # Only if services have reported usage for more than 90 days.
    _Rule(
        Level.NOTE,
        "secret_unused",
        "k.kind = 'secret' and k.status = 'active' "
        "and k.created_at < pg_catalog.now() - interval '90 days' "
        "and exists (select 1 from keylatch.key_usage_days as d "
        "where d.used_on < pg_catalog.now() - interval '90 days') "
        "and not exists (select 1 from keylatch.key_usage as u where u.key_id = k.id "
        "and u.last_used_at > pg_catalog.now() - interval '90 days')",
        "secret, without a reported use for 90 days",
        "Nobody would notice if an attacker used an unused key.",
        "keylatch revoke {id} --reason unused",
        module="usage",
    ),
    # The age is known even if no service reports uses.
    _Rule(
        Level.NOTE,
        "secret_old",
        "k.kind = 'secret' and k.status = 'active' "
        "and k.created_at < pg_catalog.now() - interval '90 days'",
        "secret, more than 90 days old",
        "The older a secret is, the more backups, logs and people may have it.",
        "keylatch rotate {id} --grace 7d",
    ),
)


def check_children(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Find tables that inherit from a table of keylatch.

    Args:
        connection: Inside a transaction, as any user.

    Yields:
        A finding for each table.

    Raises:
        psycopg.Error: The query failed.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        children = cursor.execute(_CHILDREN).fetchall()
    for child, parent in children:
        yield Finding(
            Level.ERROR,
            "table_inherits",
            f"table {child}",
            f"inherits from {parent}",
            f"Queries of {parent} read the rows of {child}, which bypass all triggers and "
            "constraints of keylatch.",
            f"alter table {child} no inherit {parent};",
        )


def check(
    connection: psycopg.Connection[Any], parts: Collection[str]
) -> Iterator[Finding | Unchecked]:
    """Find keys that need attention.

    Args:
        connection: Inside a transaction.
        parts: The installed parts.

    Yields:
        A finding for each rule.

    Raises:
        psycopg.Error: The keys cannot be read.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        if cursor.execute(_HIDDEN).fetchone():
            yield Unchecked(
                "keys",
                "row policies hide the keys from this user; connect as the owner of keylatch",
            )
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
            rule.fix.format(id=found[0]["id"]),
        )
