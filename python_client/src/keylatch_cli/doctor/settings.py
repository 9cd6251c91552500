"""Finds settings of the database, or of a role, that stop keylatch from working as described."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from .report import Finding, Level

_NEEDS_READ_COMMITTED = (
    "These are refused: deleting a workspace, sealing events, opening a session, and importing or "
    "upgrading keys."
)
# The setting with its value: the level, and why the value matters.
_HARMFUL = {
    "session_replication_role=replica": (
        Level.ERROR,
        "New keys fail, and imported keys get no event: triggers that keylatch needs do not fire.",
    ),
    "default_transaction_isolation=repeatable read": (
        Level.WARNING,
        _NEEDS_READ_COMMITTED,
    ),
    "default_transaction_isolation=serializable": (
        Level.WARNING,
        _NEEDS_READ_COMMITTED,
    ),
    "row_security=off": (
        Level.WARNING,
        "Signed-in users get errors in place of their rows.",
    ),
    "default_transaction_read_only=on": (
        Level.WARNING,
        "No key can be issued, rotated or revoked.",
    ),
}
_FOUND = """
select c.setting, pg_catalog.concat_ws(' ',
  'role ' || pg_catalog.quote_ident(r.rolname) || case when d.oid is not null then ' in' end,
  'database ' || pg_catalog.quote_ident(d.datname)
)
from pg_catalog.pg_db_role_setting as s
cross join pg_catalog.unnest(s.setconfig) as c (setting)
left join pg_catalog.pg_database as d on s.setdatabase = d.oid
left join pg_catalog.pg_roles as r on s.setrole = r.oid
where (s.setdatabase = 0 or d.datname = pg_catalog.current_database())
  and c.setting = any(%s)
  and (r.oid is null or r.rolname = 'authenticator' or r.oid = (
    select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'keylatch'
  ))
order by 2, 1
"""


def check(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Check the settings of the database, of keylatch's owner and of the roles that log in.

    Args:
        connection: Inside a transaction, as any user.

    Yields:
        A finding for each harmful setting.

    Raises:
        psycopg.Error: A query failed.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(_FOUND, [list(_HARMFUL)]).fetchall()
    for setting, place in found:
        level, why = _HARMFUL[setting]
        name, _, value = setting.partition("=")
        yield Finding(
            level,
            "harmful_setting",
            place,
            f"has {name} = {value}",
            why,
            f"alter {place} reset {name};",
        )
