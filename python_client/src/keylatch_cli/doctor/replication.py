"""Checks that logical subscriptions to keylatch's tables are running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from .report import Finding, Level

# `pid` is null if no worker applies changes. A table whose state is not "r" is still being copied.
_SUBSCRIPTIONS = """
select
  pg_catalog.quote_ident(s.subname),
  s.subenabled,
  exists (
    select 1 from pg_catalog.pg_stat_subscription as w where w.subid = s.oid and w.pid is not null
  ),
  pg_catalog.array_agg(r.srrelid::pg_catalog.regclass::text order by 1)
    filter (where r.srsubstate <> 'r')
from pg_catalog.pg_subscription as s
inner join pg_catalog.pg_subscription_rel as r on s.oid = r.srsubid
inner join pg_catalog.pg_class as c on r.srrelid = c.oid
where s.subdbid = (
    select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()
  )
  and c.relnamespace::pg_catalog.regnamespace::text in ('keylatch', 'keylatch_internal')
group by s.oid, s.subname, s.subenabled
order by s.subname
"""
_WHY = "A key that is revoked on the publisher stays active here."


def check(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Check the subscriptions of this database to keylatch's tables.

    Args:
        connection: Inside a transaction, as any user.

    Yields:
        A finding for each subscription that is stopped or not complete.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(_SUBSCRIPTIONS.encode()).fetchall()
    for quoted, is_enabled, is_running, copying in rows:
        drop = (
            f"-- after a switchover, if this database is now the primary:\n"
            f"alter subscription {quoted} disable;\n"
            f"alter subscription {quoted} set (slot_name = none);\n"
            f"drop subscription {quoted};"
        )
        if not is_enabled or not is_running:
            yield Finding(
                Level.WARNING,
                "subscription_stopped",
                f"subscription {quoted}",
                "is disabled" if not is_enabled else "is not running: no worker applies changes",
                _WHY,
                f"alter subscription {quoted} enable;  -- to follow the publisher again\n{drop}"
                if not is_enabled
                else f"-- the server log says why\n{drop}",
            )
        elif copying:
            yield Finding(
                Level.WARNING,
                "subscription_copying",
                f"subscription {quoted}",
                f"has not copied all of {', '.join(copying)}",
                "Keys are missing here until the copy is complete.",
                "-- wait for the copy before you switch over, or check the server log",
            )
