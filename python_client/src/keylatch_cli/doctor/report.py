"""What an examination gives: findings, what could not be checked, and which database it was."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from keylatch.models import Installation


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """A guard is missing, a call fails, or two services do not share their keys."""
    WARNING = "warning"
    """It works, and sooner or later will not, or shows more than it should."""
    NOTE = "note"
    """Nothing is wrong; somebody should know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        level: How bad it is.
        slug: The word that programs match on, such as `object_changed`.
        subject: What it is about, such as `policy keys_select_admin on keylatch_internal.keys`.
        what: What is the matter with it.
        why: Why that matters.
        mend: The command that mends it: SQL, or a line for a shell.
    """

    level: Level
    slug: str
    subject: str
    what: str
    why: str
    mend: str


@dataclass(frozen=True, slots=True)
class Unchecked:
    """Something that could not be looked at.

    Attributes:
        subject: What.
        reason: Why not, and what it needs.
    """

    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class Site:
    """Which database answered.

    Attributes:
        database: Its name.
        database_oid: Its number in the cluster, which a replica shares and a copy does not.
        server_version: Of PostgreSQL, as the server writes it.
        installation: What `keylatch.installation()` says; `None` where it could not be asked.
    """

    database: str
    database_oid: int
    server_version: str
    installation: Installation | None


@dataclass(frozen=True, slots=True)
class Report:
    """All that came of an examination.

    Attributes:
        client_version: Of this package.
        schema_version: Of the schema that this package ships and compares with.
        site: The database that was examined.
        against: The other database, where one was given.
        findings: The worst first.
        unchecked: What could not be looked at.
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
            How many there are.
        """
        return sum(one.level is level for one in self.findings)
