"""The command doctor: checks that the installation is complete, and that all services share it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
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

    from .report import Finding, Report, Site

_MOST_LINES = 10
# A terminal has 24 lines, the last of which is the prompt.
_SCREEN = 23
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}

Against = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Another database URL that should reach the same installation, such as a replica. "
        "Prefer $KEYLATCH_AGAINST.",
        show_default=False,
    ),
]
AnchorFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Check that the database is not older than the anchors in this file, which "
        "`keylatch script anchor_events` writes.",
        show_default=False,
    ),
]
All = Annotated[
    bool,
    typer.Option(
        "--all", metavar="", help="Print all findings, not only as many as fit on a screen."
    ),
]


@database_only
def doctor(
    options: Options,
    url: Url = None,
    key: ApiKey = None,
    token: Token = None,
    against: Against = None,
    anchors: AnchorFile = None,
    show_all: All = False,
    as_json: Json = False,
) -> None:
    """Check an installation, and name the repairs.

    doctor compares the database with this version of keylatch. Connect as the owner of keylatch.
    For other users, doctor lists the checks that were not
    possible. If $SUPABASE_URL and $SUPABASE_KEY are set too, doctor also checks the Data API. The
    exit code is 1 if there is an error, and 0 if there are only warnings and notes.
    """
    connection = open_database(options)
    rest = _project(options, Options(url=url, key=key, token=token))
    other = against or setting("KEYLATCH_AGAINST")
    from .anchors import read_anchors
    from .examination import examine
    from .report import Level

    report = examine(
        connection,
        rest=rest,
        against=open_url(other) if other else None,
        anchors=read_anchors(anchors) if anchors else (),
    )
    if as_json:
        output.print_json(report)
    else:
        _print(report, show_all)
    if report.count(Level.ERROR):
        raise typer.Exit(output.REFUSED)


def _project(options: Options, given: Options) -> SyncPostgrestClient | None:
    """Choose the API to check: from the options, else from where the database URL was found."""
    # A database given by --db-url may not belong to the project in the environment.
    if given == Options() and options.db_url:
        return None
    target = locate(given)
    return open_project(target) if isinstance(target, Rest) else None


def _print(report: Report, show_all: bool) -> None:
    """Print the totals, then the worst findings that fit on a screen, or all of them."""
    counts = Counter(one.level for one in report.findings)
    told = [f"{number} {level}{'s' * (number > 1)}" for level, number in counts.items()]
    # A part that could not be checked may need a repair.
    nothing = "Nothing to fix"
    nothing += " in the parts that were checked." if report.unchecked else "."
    output.console().print(", ".join(told) or nothing)
    output.details(
        {
            "database ": _named(report.site),
            "against": _named(report.against) if report.against else "",
            "client": f"keylatch {report.client_version}",
        }
        if show_all
        else {
            "database ": _named(report.site, is_short=True),
            "against": _named(report.against, is_short=True) if report.against else "",
        }
    )
    blocks = [_block(one) for one in report.findings]
    unchecked = _unchecked(report, show_all)
    left = _SCREEN - 4 - len(unchecked.splitlines()) - (2 if report.against else 0)
    shown = 0
    for block in blocks:
        left -= len(block.splitlines())
        # One line is reserved for "more findings". The first finding is always shown.
        if not show_all and shown and left < (0 if shown + 1 == len(blocks) else 2):
            break
        sys.stdout.write(block)
        shown += 1
    sys.stdout.write(unchecked)
    if more := len(blocks) - shown:
        findings = "finding" if more == 1 else "findings"
        output.console().print(f"\n{more} more {findings}: keylatch doctor --all")


def _block(finding: Finding) -> str:
    console = output.console()
    with console.capture() as captured:
        console.print()
        output.details(
            {
                f"{finding.level:<9}": output.text(
                    (output.printable(finding.subject), _STYLES[finding.level])
                ),
                "what": finding.what,
                "why": finding.why,
                "fix": _cut(finding.fix),
            }
        )
    return captured.get()


def _unchecked(report: Report, show_all: bool) -> str:
    if not report.unchecked:
        return ""
    lines = [f"{one.subject}: {one.reason}" for one in report.unchecked]
    if not show_all and len(lines) > 1:
        lines = [f"{', '.join(one.subject for one in report.unchecked)}; --all says why"]
    console = output.console()
    with console.capture() as captured:
        console.print()
        output.details({"unchecked": "\n".join(lines)})
    return captured.get()


def _cut(fix: str) -> str:
    """Shorten a long fix, such as a whole function. --json prints the complete fix."""
    lines = fix.splitlines()
    if len(lines) <= _MOST_LINES:
        return fix
    return f"{lines[0]}\n-- and {len(lines) - 1} more lines: see --json"


def _named(site: Site, *, is_short: bool = False) -> str:
    name = f"{site.database} on PostgreSQL {site.server_version}"
    found = site.installation
    if found is None:
        return name
    lag = found.replica_lag_seconds
    modules = ", ".join(("the core", *found.modules))
    behind = "" if lag is None else f" {lag:.1f} s behind"
    if is_short:
        role = f"replica{behind}" if found.is_replica else "primary"
        return f"{name}, {role}\nkeylatch {found.schema_version}, installation {found.id}"
    return (
        f"{name}, {f'replica{behind}' if found.is_replica else 'primary'}\n"
        f"installation {found.id}\nkeylatch {found.schema_version} with {modules}\n"
        f"system {found.system_identifier}"
    )
