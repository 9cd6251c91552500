"""The migration that removes keylatch, and the check for what still uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..install.migrations import CORE, NOTHING, TENANCY, Installed, Migration
from ..sql_files import sql_text

if TYPE_CHECKING:
    import psycopg

# A static statement cannot name a table that may be missing.
_HAS_JOBS = "select pg_catalog.to_regclass('cron.job') is not null"
_JOBS = (
    "select 'cron job' as kind, j.jobname || ': ' || j.command as thing from cron.job as j "
    "where j.command ~ E'\\\\mkeylatch(_internal)?\\\\M'"
)
_KEPT = """
select
  (select pg_catalog.count(*) from keylatch_internal.keys),
  pg_catalog.to_regclass('keylatch_internal.key_events') is not null
"""
_THERE = "select pg_catalog.to_regclass('keylatch_internal.keys') is not null"
_GUARD = """\
-- Removes keylatch with all its keys and events. Only a backup brings them back.
--
-- Before, the application must stop using keylatch, and the API must not expose it. Otherwise this
-- file stops and changes nothing.
do $$
declare
  v_found text[];
begin
  select pg_catalog.array_agg(d.kind || ' ' || d.thing) into v_found
  from (
{dependents}
  ) as d;
  if pg_catalog.to_regclass('cron.job') is not null then
    execute $jobs$
      select $1 || pg_catalog.array_agg(d.kind || ' ' || d.thing) from (
        {jobs}
      ) as d
    $jobs$ into v_found using v_found;
  end if;
  if pg_catalog.cardinality(v_found) > 0 then
    raise exception 'keylatch is still in use: %', pg_catalog.array_to_string(v_found, '; ')
      using errcode = 'dependent_objects_still_exist',
      hint = 'Remove keylatch from the exposed schemas and db-pre-request, and remove what uses it '
      'in an earlier migration.';
  end if;
  -- Without this, the server would list each dropped object.
  perform pg_catalog.set_config('client_min_messages', 'warning', true);
  -- Here, and not in statements of their own: psql would go on after the error above.
  drop schema if exists keylatch cascade;
  drop schema if exists keylatch_internal cascade;
  perform pg_catalog.set_config('client_min_messages', 'notice', true);
end $$;

"""


@dataclass(frozen=True, slots=True)
class Use:
    """An object or a setting that uses keylatch.

    Attributes:
        kind: The kind of object or setting, such as `policy`, `trigger` or `setting`.
        thing: The name of the policy, trigger or setting.
    """

    kind: str
    thing: str


@dataclass(frozen=True, slots=True)
class Found:
    """The state of a database before the removal.

    Attributes:
        uses: What still uses keylatch.
        keys: How many keys would be deleted; `None` if keylatch is not installed.
        has_events: Whether events would be deleted.
    """

    uses: tuple[Use, ...]
    keys: int | None
    has_events: bool


def look(connection: psycopg.Connection[Any]) -> Found:
    """Find what uses keylatch, and what would be deleted.

    Args:
        connection: In autocommit mode, as the owner of keylatch.

    Returns:
        The state of the database.

    Raises:
        KeylatchError: The server reported an error.
    """
    from ..asking import own_errors

    with own_errors():
        if not _first(connection, _THERE)[0]:
            return Found((), None, False)
        rows = connection.execute(_dependents().encode()).fetchall()
        if _first(connection, _HAS_JOBS)[0]:
            rows += connection.execute(_JOBS.encode()).fetchall()
        keys, has_events = _first(connection, _KEPT)
    return Found(tuple(Use(*row) for row in rows), keys, has_events)


def migration(installed: Installed | None) -> Migration:
    """Write the migration.

    Args:
        installed: The installed version and modules; `None` if unknown.

    Returns:
        The migration. When it runs, it stops if something uses keylatch.
    """
    version = installed.version if installed else "0"
    tenancy = installed.tenancy if installed else "keylatch"
    parts = [CORE]
    if installed:
        parts += [TENANCY] if tenancy == "keylatch" else []
        parts += sorted(installed.modules)
    guard = _GUARD.format(dependents=_indented(_dependents()), jobs=_JOBS)
    body = guard + sql_text("uninstall", "remove.sql")
    return Migration(
        "keylatch_removal",
        f"{version} to {NOTHING}",
        tuple(parts),
        tenancy,
        "keylatch uninstall .",
        body,
    )


def _dependents() -> str:
    """Return the query without its leading comment and its last semicolon."""
    text = sql_text("uninstall", "dependents.sql")
    return text[text.index("with homes as") :].rstrip().removesuffix(";")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


def _first(connection: psycopg.Connection[Any], query: str) -> Any:
    return connection.execute(query.encode()).fetchone()
