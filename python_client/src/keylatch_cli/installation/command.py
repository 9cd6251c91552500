"""The command that shows the id of an installation, and gives a copy its own id."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keylatch.errors import KeylatchError, NotInstalled, PermissionDenied

from .. import output
from ..connection import Options, any_connection, connect, database_only, open_database
from ..keys.command import Yes
from ..output import Json

if TYPE_CHECKING:
    import psycopg

installation = typer.Typer(name="installation", rich_markup_mode=None)

# Only the owner updates the row: nobody else has a right on its table.
_ASK = """
select
  i.id,
  d.datname,
  pg_catalog.pg_has_role(c.relowner, 'usage'),
  pg_catalog.pg_is_in_recovery()
from keylatch.installation() as i
cross join pg_catalog.pg_class as c
cross join pg_catalog.pg_database as d
where
  c.oid = pg_catalog.to_regclass('keylatch_internal.installation')
  and d.datname = pg_catalog.current_database()
"""
_THERE = "select pg_catalog.to_regclass('keylatch_internal.installation') is not null"
_RENEW = """
update keylatch_internal.installation as i
set id = case when %s then i.id else pg_catalog.gen_random_uuid() end, made_in = default
returning i.id
"""

KeepId = Annotated[
    bool,
    typer.Option(
        "--keep-id",
        metavar="",
        help="Keep the id, because the original database is gone: after a move, a server upgrade "
        "or a failover.",
    ),
]


@installation.callback(invoke_without_command=True)
@any_connection
def show(options: Options, context: typer.Context, as_json: Json = False) -> None:
    """Show the id of the installation in a database.

    To compare two services, run this with the settings of each: if id, database oid and system
    identifier are equal, both use the same database. A copy has the id of its original until
    `keylatch installation renew`.
    """
    if context.invoked_subcommand:
        return
    found = connect(options).installation()
    if as_json:
        output.print_json(found)
        return
    lag = found.replica_lag_seconds
    behind = "" if lag is None else f", {lag:.1f} s behind"
    output.details(
        {
            "installation": str(found.id),
            "keylatch": f"{found.schema_version} with {', '.join(('the core', *found.modules))}",
            "installed": output.when(found.installed_at),
            "database": f"{found.database_name}, oid {found.database_oid}",
            "server": f"replica{behind}" if found.is_replica else "primary",
            "system": found.system_identifier,
            "made in": "this database"
            if found.made_in.startswith(f"{found.system_identifier}/{found.database_oid}/")
            else f"{found.made_in} (system/oid/timeline), so this is a copy or was restored",
        }
    )


@installation.command("renew")
@database_only
def renew(
    options: Options, yes: Yes = False, keep_id: KeepId = False, as_json: Json = False
) -> None:
    """Give a copy its own id, and store its server and database.

    Run this in the copy, never in the original, as the owner of keylatch. After a restore, first
    run `keylatch revocations apply`, because it refuses a list with another id.
    """
    connection = open_database(options, as_owner=True)
    # Only now: psycopg is loaded.
    from ..asking import own_errors

    with own_errors():
        if not _first(connection, _THERE)[0]:
            raise NotInstalled(
                detail="The database has no keylatch.", hint="Check the database URL."
            )
        old, name, is_owner, is_replica = _first(connection, _ASK)
        if not is_owner:
            raise PermissionDenied(
                detail="Only the owner of keylatch gives an installation a new id.",
                hint="Name the owner in the database URL: postgres in a Supabase project.",
            )
        if is_replica:
            raise KeylatchError(
                "replica",
                detail=f"The database {name} is a read replica: nothing can be changed here.",
                hint="Promote the server first. A replica has the id of its primary.",
            )
        if not yes and sys.stdin.isatty():
            output.confirm(
                f"Is the database {name} the only one with the installation {old}?"
                if keep_id
                else f"Give the installation {old} in the database {name} a new id? Do this in a "
                "copy only."
            )
        (new,) = _first(connection, _RENEW, keep_id)
    if as_json:
        output.print_json({"old": old, "id": new})
        return
    sys.stdout.write(f"{new}\n")
    sys.stdout.flush()
    if not keep_id:
        output.note(
            f"The id was {old} before. To apply a list of revocations with the old id, add --force."
        )


def _first(connection: psycopg.Connection[Any], query: str, *values: object) -> Any:
    return connection.execute(query.encode(), values).fetchone()
