"""The command that removes keylatch from a project or a database: uninstall."""

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
            help="The directory that contains supabase/. Without it, the SQL goes to stdout.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only show what would be done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the migration that removes keylatch.

    The migration deletes every key. The command first reads a database, ideally the production
    database. If objects of the application use keylatch, or the API exposes keylatch, the command
    names the uses and writes nothing. The migration checks again when it runs. Unexpose the schema
    before you run the migration: PostgREST fails every request while an exposed schema is missing.

    \b
    keylatch uninstall | psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -1
    """  # noqa: D301
    plan = files.prepare_removal(project, migration) if project else None
    found = None
    if options.db_url or setting("DATABASE_URL"):
        found = look(open_database(options, as_owner=True))
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
                f"\nRemove keylatch from your declarative schemas: {where}"
                if plan.tree.exported
                else f"\n{where} of the declarative schemas is removed too. If schema_paths in "
                "config.toml lists it, remove the entry."
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
        hint="First remove keylatch from the settings: in config.toml, hosted in Integrations > "
        "Data API, and in SQL: alter role authenticator reset pgrst.db_pre_request; "
        "notify pgrst, 'reload config';"
        if settings
        else "Remove these uses in your own migration, push it, and run keylatch uninstall again.",
    )


def _print_order(found: Found | None, *, is_written: bool) -> None:
    if found is None:
        output.note(
            "\nNo database was checked for objects that use keylatch. The migration checks, and "
            "stops if there are any. To check now, set DATABASE_URL."
        )
    output.note(
        "\nThis deletes every key and event for good."
        if found is None or found.keys is None
        else f"\nThis deletes {found.keys:,} keys{' and their events' * found.has_events} for good."
    )
    output.note("First save what you need:")
    kept = ["keys", *(["key_events"] if found is None or found.has_events else [])]
    for name in kept:
        copy = f"\\copy (table keylatch.{name}) to {name}.csv csv header"
        output.err().print(f"  psql \"$DATABASE_URL\" -c '{copy}'", soft_wrap=True)
    output.note(
        "\nThen, in this order:\n"
        "  1. Unexpose: hosted, remove keylatch from Integrations > Data API > Exposed\n"
        "     schemas; elsewhere from db-schemas and db-pre-request of PostgREST.\n"
        + (
            "  2. Drop: supabase db push"
            if is_written
            else '  2. Drop: keylatch uninstall | psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -1'
        )
    )
