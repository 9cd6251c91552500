"""The command doctor: is what is installed whole, and do all its users reach the same."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from .. import output
from ..connection import (
    ApiKey,
    Options,
    Rest,
    Token,
    Url,
    database_only,
    locate,
    open_database,
    open_project,
)
from ..database import open_url
from ..output import Json
from ..settings import setting

if TYPE_CHECKING:
    from postgrest import SyncPostgrestClient

    from .report import Report, Site

_MOST_LINES = 10
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}

Against = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Another database URL that should reach the same installation, a replica for "
        "example; better $KEYLATCH_AGAINST.",
        show_default=False,
    ),
]


@database_only
def doctor(
    options: Options,
    url: Url = None,
    key: ApiKey = None,
    token: Token = None,
    against: Against = None,
    as_json: Json = False,
) -> None:
    """Compare an installation with what was shipped.

    It reads a database, best as its owner: what another user may not see is named as not checked.
    With a project it also compares what the API serves. The exit code is 1 if there is an error;
    warnings and notes do not count.
    """
    connection = open_database(options)
    rest = _project(options, Options(url=url, key=key, token=token))
    other = against or setting("KEYLATCH_AGAINST")
    from .examination import examine
    from .report import Level

    report = examine(connection, rest=rest, against=open_url(other) if other else None)
    if as_json:
        output.print_json(report)
    else:
        _print(report)
    if report.count(Level.ERROR):
        raise typer.Exit(output.REFUSED)


def _project(options: Options, given: Options) -> SyncPostgrestClient | None:
    """Give the API to look at: the one of the options, else of where the database is from."""
    # A database that was named by hand need not be that of the project around it.
    if given == Options() and options.db_url:
        return None
    target = locate(given)
    return open_project(target) if isinstance(target, Rest) else None


def _print(report: Report) -> None:
    output.details(
        {
            "database ": _named(report.site),
            "against": _named(report.against) if report.against else "",
            "client": f"keylatch {report.client_version}",
        }
    )
    for one in report.findings:
        output.console().print()
        output.details(
            {
                f"{one.level:<9}": output.text((output.printable(one.subject), _STYLES[one.level])),
                "what": one.what,
                "why": one.why,
                "mend": _cut(one.mend),
            }
        )
    if report.unchecked:
        output.console().print()
        lines = (f"{one.subject}: {one.reason}" for one in report.unchecked)
        output.details({"unchecked": "\n".join(lines)})
    counts = Counter(one.level for one in report.findings)
    told = [f"{number} {level}{'s' * (number > 1)}" for level, number in counts.items()]
    output.console().print(f"\n{', '.join(told) or 'nothing to mend'}")


def _cut(mend: str) -> str:
    """Show of a whole function only how it begins; what is to be run is in --json."""
    lines = mend.splitlines()
    if len(lines) <= _MOST_LINES:
        return mend
    return f"{lines[0]}\n-- and {len(lines) - 1} more lines, all of them in --json"


def _named(site: Site) -> str:
    name = f"{site.database} on PostgreSQL {site.server_version}"
    found = site.installation
    if found is None:
        return name
    lag = found.replica_lag_seconds
    modules = ", ".join(("the core", *found.modules))
    behind = "" if lag is None else f" {lag:.1f} s behind"
    return (
        f"{name}, {f'replica{behind}' if found.is_replica else 'primary'}\n"
        f"installation {found.id}\nkeylatch {found.schema_version} with {modules}\n"
        f"system {found.system_identifier}"
    )
