"""Helpers that damage a database, examine it, and read the findings."""

from collections.abc import Iterable
from typing import Any

import psycopg

from keylatch_cli.doctor.examination import examine
from keylatch_cli.doctor.report import Finding, Report
from stack import Database

ISSUE = "select id from keylatch.issue_key(%s, %s, allowed_origins => %s)"
SITE = "https://client.example"


def run(database: Database, *statements: str) -> None:
    """Run each statement as the superuser, in a transaction of its own."""
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        for statement in statements:
            superuser.execute(statement.encode())


def examined(database: Database, url: str | None = None, **options: Any) -> Report:
    """Examine a database, as its owner unless another URL is given."""
    with psycopg.connect(url or database.url, autocommit=True) as connection:
        return examine(connection, **options)


def summaries(findings: Iterable[Finding]) -> list[tuple[str, str, str]]:
    """Return the level, slug and subject of each finding."""
    return [(one.level.value, one.slug, one.subject) for one in findings]


def only(report: Report) -> Finding:
    """Return the finding of a report that has exactly one."""
    (finding,) = report.findings
    return finding
