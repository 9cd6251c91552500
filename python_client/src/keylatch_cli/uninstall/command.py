"""The command that takes keylatch out of a project or a database: uninstall."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keylatch.errors import KeylatchError

from .. import output
from ..connection import Options, database_only, open_database
from ..install import project as files
from ..output import Json
from ..settings import setting
from .removal import Found, Use, look, migration


@database_only
def uninstall(
    options: Options,
    project: Annotated[
        Path | None,
        typer.Argument(
            metavar="PROJECT",
            help="The directory that holds supabase/. Without it the SQL goes to stdout: "
            "keylatch uninstall | psql -1 -f -",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only say what would be done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the migration that removes keylatch.

    The migration deletes every key. The command refuses, and names them, while policies, views,
    triggers, defaults, functions or foreign keys of the application use keylatch, and while the
    API exposes it: for that it looks into a database, best the one in production. The migration
    asks the same again where it runs. First unexpose, then drop: PostgREST fails every request
    when an exposed schema is missing.
    """
    plan = files.prepare_removal(project, migration) if project else None
    found = None
    if options.db_url or setting("DATABASE_URL"):
        found = look(open_database(options))
    uses = [*(found.uses if found else ())]
    if project and files.SCHEMA in files.exposed_schemas(project):
        uses.append(Use("setting", "[api] schemas in supabase/config.toml"))
    if uses:
        _refuse(uses, as_json)
    if project is None or plan is None:
        sys.stdout.write(migration(None).text)
        sys.stdout.flush()
    else:
        if not dry_run:
            files.write(project, plan)
            if plan.tree and not plan.tree.exported:
                plan.tree.file.unlink(missing_ok=True)
        if as_json:
            output.print_json({"dry_run": dry_run, "used_by": [], "written": list(plan.new)})
            return
        output.note("To be written:" if dry_run else "Written:")
        sys.stdout.writelines(f"{name}\n" for name in plan.new)
        sys.stdout.flush()
        if plan.tree:
            where = (plan.tree.exported or plan.tree.file).relative_to(project)
            output.note(
                f"\nTake keylatch out of your declarative schemas: {where}"
                if plan.tree.exported
                else f"\n{where} of the declarative schemas goes with it; take it out of "
                "schema_paths in config.toml, where it is listed."
            )
    _print_order(found, is_written=project is not None)


def _refuse(uses: list[Use], as_json: bool) -> None:
    if as_json:
        output.print_json({"used_by": uses, "written": []})
    else:
        output.table(("kind", "still uses keylatch"), [(one.kind, one.thing) for one in uses])
        sys.stdout.flush()
    settings = [one for one in uses if one.kind == "setting"]
    raise KeylatchError(
        "still_used",
        detail=f"{len(uses)} {'thing uses' if len(uses) == 1 else 'things use'} keylatch, and "
        "nothing was written.",
        hint="First take keylatch out of the settings: in config.toml, hosted under Integrations > "
        "Data API, and in SQL: alter role authenticator reset pgrst.db_pre_request; "
        "notify pgrst, 'reload config';"
        if settings
        else "Remove what the table names in a migration of your own, push it, and run this again.",
    )


def _print_order(found: Found | None, *, is_written: bool) -> None:
    if found is None:
        output.note(
            "\nNo database was asked what still uses keylatch: the migration asks, and stops if "
            "something does. To ask now, set DATABASE_URL."
        )
    output.note(
        "\nThis deletes every key and event for good."
        if found is None or found.keys is None
        else f"\nThis deletes {found.keys:,} keys{' and their events' * found.has_events} for good."
    )
    output.note("Keep what you need first:")
    kept = ["keys", *(["key_events"] if found is None or found.has_events else [])]
    for name in kept:
        copy = f"\\copy (table keylatch.{name}) to {name}.csv csv header"
        output.err().print(f"  psql \"$DATABASE_URL\" -c '{copy}'", soft_wrap=True)
    output.note(
        "\nThen in this order:\n"
        "  1. Unexpose: hosted, take keylatch out of Integrations > Data API > Exposed\n"
        "     schemas; elsewhere out of db-schemas and db-pre-request of PostgREST.\n"
        + ("  2. Drop: supabase db push" if is_written else "  2. Drop: run this SQL: psql -1 -f -")
    )
