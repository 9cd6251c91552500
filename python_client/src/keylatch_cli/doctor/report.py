"""The report of `keylatch doctor`: the findings, and the checks that were not possible."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from keylatch.models import Installation


class Level(StrEnum):
    """How serious a finding is."""

    ERROR = "error"
    """A guard is missing, a call fails, or two services do not share their keys."""
    WARNING = "warning"
    """keylatch works now, but may fail later, or reveals too much."""
    NOTE = "note"
    """Nothing is wrong: the finding is only for information."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem.

    Attributes:
        level: How serious the problem is.
        slug: The word that programs match on, such as `object_changed`.
        subject: The object, such as `policy keys_select_admin on keylatch_internal.keys`.
        what: What is wrong with the object.
        why: Why the problem matters.
        fix: The fix: SQL, or a shell command.
    """

    level: Level
    slug: str
    subject: str
    what: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A check that was not possible.

    Attributes:
        subject: What could not be checked.
        reason: Why, and what the check needs.
    """

    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class Site:
    """The database that answered.

    Attributes:
        database: The name of the database.
        database_oid: The oid of the database. A replica has the same oid, a copy has another oid.
        server_version: The PostgreSQL version, as the server writes it.
        installation: The answer of `keylatch.installation()`; `None` if the call failed.
        started_at: When the server was started; differs between two servers of one installation.
    """

    database: str
    database_oid: int
    server_version: str
    installation: Installation | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an examination.

    Attributes:
        client_version: The version of this package.
        schema_version: The version of the schema in this package.
        site: The examined database.
        against: The second database, if there is one.
        findings: The findings, the worst first.
        unchecked: The checks that were not possible.
    """

    client_version: str
    schema_version: str
    site: Site
    against: Site | None
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...]

    def count(self, level: Level) -> int:
        """Count the findings of a level.

        Args:
            level: The level.

        Returns:
            The number of findings.
        """
        return sum(one.level is level for one in self.findings)
