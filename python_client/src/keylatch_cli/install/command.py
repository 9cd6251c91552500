"""The commands that install keylatch into a project or a database: install, sql and apply."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from keylatch.errors import KeylatchError

from .. import output
from ..connection import DbUrl, Options, database_only, open_database
from ..output import Json
from . import project as files
from .migrations import (
    Choice,
    Installed,
    Migration,
    Tenancy,
    TenancyUndecided,
    own_tenancy,
    shipped,
)

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

T = TypeVar("T")

With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="MODULE,…",
        help="Install these modules in addition to the default or installed ones.",
        show_default=False,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="MODULE,…",
        help="Install only these modules. Write core to install no module.",
        show_default=False,
    ),
]
All = Annotated[bool, typer.Option("--all", metavar="", help="Install every module.")]
TenancyOption = Annotated[
    Tenancy | None,
    typer.Option(
        metavar="WORD",
        help="Which tables decide who administers a workspace: keylatch (keylatch creates tables)"
        " or own (your application has tables). Needed only the first time.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", metavar="", help="Only show what would be done.")
]


def install(
    project: Annotated[
        Path, typer.Argument(metavar="PROJECT", help="The directory that contains supabase/.")
    ],
    with_: With = None,
    only: Only = None,
    all_: All = False,
    tenancy: TenancyOption = None,
    expose: Annotated[
        bool | None,
        typer.Option(
            "--expose/--no-expose",
            metavar="",
            help="Whether to add the schema keylatch to [api] schemas in supabase/config.toml, "
            "for the local API. Default: ask on a terminal.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write keylatch into a Supabase project, as one migration.

    By default, the migration has the core and the module events. Run the command again to add
    modules with --with, or after an update of keylatch: the command then writes one more migration.
    """
    choice = _choice(with_, only, all_)
    plan = _decided(
        lambda tenancy: files.prepare(project, choice, tenancy), tenancy, may_ask=not as_json
    )
    schemas = files.exposed_schemas(project)
    is_exposed = files.SCHEMA in schemas
    to_expose = False
    if not dry_run:
        # Ask, and check for a missing library, before the first change.
        to_expose = not is_exposed and (expose or (expose is None and _may_expose(as_json)))
        to_list = plan.tree and plan.description and plan.tree.entry
        if (to_expose or to_list) and find_spec("tomlkit") is None:
            raise output.missing_extra("tomlkit")
        files.write(project, plan)
        if to_expose:
            files.expose(project)
            is_exposed = True
    if as_json:
        report = _as_dict(plan.installed, plan.new.values(), plan.tenancy, dry_run)
        output.print_json(
            report
            | {
                "present": plan.present,
                "written": list(plan.new),
                "described": _described(project, plan),
                "exposed": is_exposed,
            }
        )
        return
    described = _described(project, plan)
    names = [*plan.new, *([described] if described else [])]
    _print_new(names, "To be written:" if dry_run else "Written:")
    _print_declarative(project, plan)
    if to_expose:
        output.note("Added keylatch to [api] schemas in supabase/config.toml.")
    elif not names:
        output.note(f"{_there(plan.installed)}: nothing to do.")
    if plan.new and not dry_run:
        output.note(
            "\nNext, in this order:\n"
            "  1. Push: supabase db push, or locally supabase migration up.\n"
            "  2. Expose the schema keylatch, if it is not exposed yet. Not before the push:\n"
            "     PostgREST fails every request while an exposed schema is missing."
        )
        if plan.installed is not None:
            output.note(
                "If the push fails with a lock timeout, push again: a failed push changes "
                "nothing. The short timeout keeps other sessions from waiting."
            )
    if plan.installed is None:
        _print_tenancy(plan.tenancy)
    if not is_exposed or plan.installed is None:
        _print_exposure(project, schemas, is_exposed)


def sql(
    with_: With = None,
    only: Only = None,
    all_: All = False,
    tenancy: TenancyOption = None,
    db_url: DbUrl = None,
) -> None:
    """Print the SQL that install would write.

    \b
    keylatch sql | psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -1

    With --db-url, print only what is missing in that database.
    """  # noqa: D301
    choice = _choice(with_, only, all_)
    installed = None
    if db_url:
        connection = open_database(Options(db_url=db_url))
        # Only now: psycopg is loaded.
        from .apply import read_database

        installed = read_database(connection)
    release = shipped()
    plan = _decided(lambda tenancy: release.plan(installed, choice, tenancy), tenancy, may_ask=True)
    sys.stdout.write("\n".join(one.text for one in plan))
    sys.stdout.flush()
    if not plan:
        output.note(f"{_there(installed)}: nothing to do.")
    if plan and installed is None:
        _print_tenancy(plan[0].tenancy)


@database_only
def apply(
    options: Options,
    with_: With = None,
    only: Only = None,
    all_: All = False,
    tenancy: TenancyOption = None,
    platform: Annotated[
        bool,
        typer.Option(
            "--platform",
            metavar="",
            help="First create the roles of a Supabase project and the schemas auth and "
            "extensions, if they do not exist. Use this once, as a superuser.",
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Install keylatch into a database without the Supabase CLI.

    Use this for a plain PostgreSQL database, or a database that the Supabase CLI does not manage.
    Run the command again to add modules with --with, or after an update of keylatch. If a superuser
    runs it, the owner of the database becomes the owner of keylatch, or the role postgres if the
    owner of the database may not create roles.
    """
    choice, release = _choice(with_, only, all_), shipped()
    connection = open_database(options, as_owner=True)
    # Only now: psycopg is loaded.
    from . import apply as database

    connection.add_notice_handler(_pass_on)
    installed = database.read_database(connection)
    plan = _decided(
        lambda tenancy: release.plan(installed, choice, tenancy), tenancy, may_ask=not as_json
    )
    decided: Tenancy = installed.tenancy if installed else plan[0].tenancy
    missing: list[str] = []
    if dry_run:
        missing = database.missing_platform(connection, plan)
    else:
        if platform and database.install_platform(connection) and not as_json:
            output.note(
                "Created the roles of a Supabase project, without passwords. Before you use "
                "PostgREST, run: alter role authenticator password '…';"
            )
        if plan:
            database.refuse_pushed(connection)
        plan = database.apply(connection, choice, decided)
    if as_json:
        report = _as_dict(installed, plan, decided, dry_run)
        output.print_json(report | {"applied": [one.name for one in plan]})
        return
    _print_new([one.name for one in plan], "To be applied:" if dry_run else "Applied:")
    if missing:
        names = ", ".join(missing)
        output.note(
            f"--platform would create: {names}."
            if platform
            else f"Missing: {names}. The option --platform creates what is missing."
        )
    if not plan:
        output.note(f"{_there(installed)}: nothing to do.")
    elif installed is None:
        output.note("\nFor calls over HTTP, add keylatch to db-schemas of PostgREST.")
        _print_tenancy(decided)


def _choice(with_: list[str] | None, only: list[str] | None, all_: bool) -> Choice:
    if sum((bool(with_), bool(only), all_)) > 1:
        raise KeylatchError(
            "usage",
            detail="--with, --only and --all cannot be combined.",
            hint="Use one of them.",
        )
    return Choice(_words(with_ or []), _words(only) if only else None, all_)


def _words(texts: list[str]) -> tuple[str, ...]:
    """Split the values of an option that may be repeated."""
    parts = (part.strip() for text in texts for part in text.split(","))
    return tuple(word for word in parts if word)


def _decided(plan: Callable[[Tenancy | None], T], tenancy: Tenancy | None, *, may_ask: bool) -> T:
    """Make a plan. If the plan needs the option --tenancy, ask on a terminal."""
    try:
        return plan(tenancy)
    except TenancyUndecided:
        if not may_ask or not sys.stdin.isatty():
            raise
    return plan(_ask_tenancy())


def _ask_tenancy() -> Tenancy:
    sys.stderr.write(
        "Which tables decide who administers a workspace?\n"
        "  keylatch: keylatch creates tables for workspaces and their members\n"
        "  own: your application has such tables; you write one function and a trigger\n"
        "keylatch or own: "
    )
    sys.stderr.flush()
    word = sys.stdin.readline().strip().lower()
    if word == "keylatch":
        return "keylatch"
    if word == "own":
        return "own"
    raise typer.Abort


def _may_expose(as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        return False
    try:
        output.confirm("Expose the schema keylatch in supabase/config.toml?")
    except typer.Abort:
        return False
    return True


def _pass_on(said: Diagnostic) -> None:
    """Show a notice of a migration, such as a grant that was not possible."""
    # PostgreSQL's own notices that an object exists already.
    if (said.sqlstate or "").startswith("42"):
        return
    hint = f" ({said.message_hint})" if said.message_hint else ""
    output.note(f"{said.severity}: {said.message_primary}{hint}")


def _as_dict(
    installed: Installed | None, plan: Iterable[Migration], tenancy: Tenancy, dry_run: bool
) -> dict[str, object]:
    there = sorted(installed.modules) if installed else []
    return {
        "dry_run": dry_run,
        "tenancy": tenancy,
        "version": installed.version if installed else None,
        "modules": there,
        "adds": [part for one in plan for part in one.parts if "to" not in one.versions.split()],
    }


def _there(installed: Installed | None) -> str:
    if installed is None:
        return "keylatch is not installed"
    parts = ", ".join(["the core", *sorted(installed.modules)])
    return f"keylatch {installed.version} is already installed, with {parts}"


def _print_new(names: Iterable[str], heading: str) -> None:
    if names := list(names):
        output.note(heading)
        sys.stdout.writelines(f"{name}\n" for name in names)
        # The following output goes to stderr.
        sys.stdout.flush()


def _described(project: Path, plan: files.Plan) -> str | None:
    """Return the path of the declarative schema file to write, relative to the project."""
    if plan.tree is None or plan.description is None:
        return None
    return str(plan.tree.file.relative_to(project))


def _print_declarative(project: Path, plan: files.Plan) -> None:
    """Print what matters for a project with declarative schemas."""
    tree = plan.tree
    if tree is None:
        return
    if tree.exported:
        where = tree.exported.relative_to(project)
        output.note(
            f"\nYour declarative schemas are an export that has keylatch in {where}. Export again "
            "after the push, or the next sync removes what is new: "
            "supabase db schema declarative generate"
        )
    elif plan.description:
        output.note(
            f"\nYour project has declarative schemas. {tree.file.relative_to(project)} describes "
            "keylatch there, so that a sync does not drop it. Commit it with the migration."
        )


def _print_tenancy(tenancy: Tenancy) -> None:
    if tenancy == "own":
        output.note(
            "\nDefine who administers a workspace in your own migration, with the names of your "
            "tables:\n"
        )
        _print_as_it_is(own_tenancy())


def _print_exposure(project: Path, schemas: Iterable[str], is_exposed: bool) -> None:
    output.note(
        "\nLocally, supabase/config.toml exposes the schema keylatch."
        if is_exposed
        else '\nTo expose it locally, add "keylatch" to [api] schemas in supabase/config.toml:'
        f"\n  keylatch install {project} --expose"
    )
    output.note(
        "Hosted, after the push: Integrations > Data API > Exposed schemas. Or in SQL, which "
        "overrides that setting from then on:\n"
    )
    _print_as_it_is(files.expose_statements(schemas))


def _print_as_it_is(text: str) -> None:
    """Print text to copy, without line breaks of our own."""
    for line in text.splitlines():
        output.err().print(output.text(f"  {line}" if line else ""), soft_wrap=True)
