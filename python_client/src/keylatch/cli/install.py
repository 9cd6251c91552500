"""The commands that bring keylatch into a project or a database: install and migrate."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import install as files
from ..errors import KeylatchError
from ..migrations import TENANCY_NAME, Migration, Plan, Tenancy, own_tenancy
from . import output
from .connection import Options, database_only, open_database
from .output import Json

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

TenancyOption = Annotated[
    Tenancy | None,
    typer.Option(
        metavar="WORD",
        help="Whose tables tell who administers a workspace: keylatch (brings its own) or own "
        "(leaves them out). Decided once; later runs find it out.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would be done.")]


def install(
    project: Annotated[
        Path, typer.Argument(metavar="PROJECT", help="The directory that holds supabase/.")
    ],
    tenancy: TenancyOption = None,
    expose: Annotated[
        bool | None,
        typer.Option(
            "--expose/--no-expose",
            metavar="",
            help="Add the schema to [api] schemas in supabase/config.toml, or do not. Unless "
            "given, a terminal is asked.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Copy the migrations into a Supabase project, for its next push.

    They get new timestamps after the project's own. Run it again after an update of keylatch: what
    is there is left alone, and what is new is copied. If a file was edited, its differences are
    shown and nothing is written.
    """
    try:
        plan = files.prepare(project, tenancy=tenancy)
    except files.MigrationsDiffer as problem:
        _print_diff(problem.diff)
        raise
    schemas = files.exposed_schemas(project)
    is_exposed = files.SCHEMA in schemas
    if not dry_run:
        # The question and what may be missing come before the first change.
        to_expose = not is_exposed and (expose or (expose is None and _may_expose(as_json)))
        if to_expose and find_spec("tomlkit") is None:
            raise output.missing_extra("tomlkit")
        files.copy(project, plan.new)
        if to_expose:
            files.expose(project)
            is_exposed = True
    if as_json:
        report = _as_dict(plan, dry_run, new="copied")
        output.print_json(report | {"exposed": is_exposed})
        return
    _print_new(plan.new, "To be copied:" if dry_run else "Copied:")
    _say_what_is_there(plan, "nothing to copy")
    if plan.new and not dry_run:
        output.note("\nNext: supabase db push, or locally supabase migration up.")
    _print_tenancy(plan, tenancy)
    if not is_exposed or not plan.present:
        _print_exposure(project, schemas, is_exposed)


@database_only
def migrate(
    options: Options,
    tenancy: TenancyOption = None,
    platform: Annotated[
        bool,
        typer.Option(
            "--platform",
            metavar="",
            help="First make what a Supabase project has: roles, and schemas auth and extensions. "
            "This once as a superuser; nothing happens where they are.",
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Apply the migrations to a plain PostgreSQL, each of them once.

    The history is where the Supabase CLI keeps it, so both may be used on one database; the CLI
    gets the files of what was applied here from supabase migration fetch. A superuser applies as
    the owner of the database.
    """
    connection = open_database(options)
    # Only now: psycopg is loaded.
    from .. import migrate as database

    connection.add_notice_handler(_pass_on)
    if platform and not dry_run and database.install_platform(connection) and not as_json:
        output.note("The platform is made. Its roles have no passwords: see alter role … password.")
    plan = database.prepare(connection, tenancy=tenancy)
    if dry_run:
        missing = database.missing_platform(connection, plan.new) if plan.new else []
    else:
        applied: list[Migration] = []
        try:
            for migration in _with_progress(
                database.apply(connection, tenancy=tenancy), len(plan.new)
            ):
                applied.append(migration)
        except KeylatchError:
            # They stay, whatever became of the next one.
            if not as_json:
                _print_new(applied, "Applied:")
            raise
        plan, missing = replace(plan, new=tuple(applied)), []
    if as_json:
        output.print_json(_as_dict(plan, dry_run, new="applied"))
        return
    _print_new(plan.new, "To be applied:" if dry_run else "Applied:")
    _say_what_is_there(plan, "nothing to apply")
    if missing:
        output.note(f"To be made before, by --platform: {', '.join(missing)}.")
    if not plan.present:
        output.note("\nFor calls over HTTP, add keylatch to db-schemas of PostgREST.")
    _print_tenancy(plan, tenancy)


def _may_expose(as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        return False
    try:
        output.confirm("Expose the schema keylatch in supabase/config.toml?")
    except typer.Abort:
        return False
    return True


def _with_progress(applied: Iterable[Migration], total: int) -> Iterable[Migration]:
    """Show at a terminal how far it is; others may be applying the same at this moment."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = output.err()
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("migrating", total=total)
        for migration in applied:
            progress.update(task, advance=1, description=migration.name)
            yield migration


def _pass_on(said: Diagnostic) -> None:
    """Show what a migration has to say, such as that it could not grant something."""
    # PostgreSQL's own word that something was there already.
    if (said.sqlstate or "").startswith("42"):
        return
    hint = f" ({said.message_hint})" if said.message_hint else ""
    output.note(f"{said.severity}: {said.message_primary}{hint}")


def _as_dict(plan: Plan, dry_run: bool, *, new: str) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "present": [one.name for one in plan.present],
        new: [one.file_name for one in plan.new],
        "left_out": [one.name for one in plan.left_out],
    }


def _print_new(new: Sequence[Migration], heading: str) -> None:
    if new:
        output.note(heading)
        sys.stdout.writelines(f"{one.file_name}\n" for one in new)
        # What follows goes to stderr.
        sys.stdout.flush()


def _say_what_is_there(plan: Plan, nothing: str) -> None:
    if plan.present:
        count = len(plan.present)
        there = f"{count} {'migrations are' if count > 1 else 'migration is'} there already"
        output.note(f"{there}." if plan.new else f"{there}: {nothing}.")


def _print_tenancy(plan: Plan, tenancy: Tenancy | None) -> None:
    if not plan.left_out:
        return
    output.note(f"\n{TENANCY_NAME} is left out, since the application has its own tenancy.")
    if tenancy == "own":
        output.note("Say in a migration of your own, with the names of your tables:\n")
        _print_as_it_is(own_tenancy())
    else:
        output.note("With --tenancy keylatch it would come, too.")


def _print_exposure(project: Path, schemas: Iterable[str], is_exposed: bool) -> None:
    output.note(
        "\nLocally, supabase/config.toml exposes the schema keylatch."
        if is_exposed
        else '\nTo expose it locally, add "keylatch" to [api] schemas in supabase/config.toml:'
        f"\n  keylatch install {project} --expose"
    )
    output.note(
        "Hosted, it is a setting: Project Settings > Data API > Exposed schemas. Or in SQL, which "
        "wins over the setting from then on:\n"
    )
    _print_as_it_is(files.expose_statements(schemas))


def _print_as_it_is(sql: str) -> None:
    """Print what somebody will copy: the terminal may break its lines, this does not."""
    for line in sql.splitlines():
        output.err().print(output.text(f"  {line}" if line else ""), soft_wrap=True)


def _print_diff(diff: str) -> None:
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in diff.splitlines():
        shown = output.text((output.printable(line), styles.get(line[:1], "")))
        output.err().print(shown, soft_wrap=True)
