"""Checks which installation answers, its version and lag, and whether two databases share it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from keylatch.client import Keylatch
from keylatch.errors import KeylatchError
from keylatch.models import Installation

from .catalog import Manifest
from .platform import Kind
from .report import Finding, Level, Site

# A key that is still accepted this long after its revocation is worth a finding.
_SECONDS_BEHIND = 10


_TIMELINE = "select c.timeline_id::text from pg_catalog.pg_control_checkpoint() as c"
_REVOKE_AGAIN = "keylatch revocations apply FILE  # first: revokes keys again\n"

_INSTALL = {
    Kind.SUPABASE: "keylatch install . --tenancy keylatch && supabase db push\n"
    "# then, and not before: add keylatch to the exposed schemas",
    Kind.PLAIN: "keylatch apply --platform --tenancy keylatch  # as a superuser",
    Kind.PREPARED: "keylatch apply --tenancy keylatch",
}


def read_site(connection: psycopg.Connection[Any]) -> tuple[Site, KeylatchError | None]:
    """Find out which database this is.

    Args:
        connection: Inside a transaction.

    Returns:
        The database, and the error if its installation could not be read.

    Raises:
        psycopg.Error: A query failed.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        ((name, oid, version, started_at),) = cursor.execute(
            "select d.datname, d.oid, "
            "pg_catalog.split_part(pg_catalog.current_setting('server_version'), ' ', 1), "
            "pg_catalog.pg_postmaster_start_time() "
            "from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()"
        ).fetchall()
    try:
        installation = Keylatch.from_psycopg(connection).installation()
    except KeylatchError as problem:
        return Site(name, oid, version, None, started_at), problem
    return Site(name, oid, version, installation, started_at), None


def check_version(site: Site, manifest: Manifest) -> Iterator[Finding]:
    """Compare the schema's version with the one that this client ships.

    Args:
        site: The database.
        manifest: What this version installs.

    Yields:
        A finding if the versions differ.
    """
    found = site.installation
    if found is None or found.schema_version == manifest.schema_version:
        return
    is_older = _number(found.schema_version) < _number(manifest.schema_version)
    yield Finding(
        Level.WARNING,
        "schema_older" if is_older else "client_older",
        f"schema keylatch {found.schema_version}",
        f"is {'older' if is_older else 'newer'} than this client, which knows "
        f"{manifest.schema_version}",
        "The objects were not compared, because this client has those of another version.",
        "keylatch install . && supabase db push  # on plain PostgreSQL: keylatch apply"
        if is_older
        else "pip install --upgrade keylatch",
    )


def not_installed(site: Site, kind: Kind) -> Finding:
    """Describe a database without keylatch.

    Args:
        site: The database.
        kind: What kind of database it is.

    Returns:
        The finding.
    """
    return Finding(
        Level.ERROR,
        "not_installed",
        f"database {site.database}",
        "has no keylatch",
        "Every call fails. Check that this is the right database.",
        _INSTALL[kind],
    )


def check_lag(where: str, installation: Installation | None) -> Iterator[Finding]:
    """Check whether a replica is too far behind.

    Args:
        where: How the database was reached.
        installation: The answer of `keylatch.installation()`.

    Yields:
        A finding if the database is a replica that is far behind, or whose lag is not known.
    """
    if installation is None or not installation.is_replica:
        return
    seconds = installation.replica_lag_seconds
    if seconds is not None and seconds <= _SECONDS_BEHIND:
        return
    yield Finding(
        Level.WARNING,
        "replica_lag",
        where,
        "is a replica whose lag is not known"
        if seconds is None
        else f"is a replica, and {seconds:.0f} s behind",
        "Recently revoked keys still resolve here, and new keys do not resolve yet.",
        "select * from pg_catalog.pg_stat_replication;  -- on the primary",
    )


def check_place(connection: psycopg.Connection[Any], site: Site) -> Iterator[Finding]:
    """Check whether the database is a copy, was restored, or is on another timeline.

    Args:
        connection: Inside a transaction.
        site: The database.

    Yields:
        A finding if the installation was made elsewhere, or before a failover or a recovery.

    Raises:
        psycopg.Error: The timeline cannot be read.
    """
    found = site.installation
    if found is None:
        return
    system, oid, timeline = (*found.made_in.split("/"), "", "", "")[:3]
    if (system, oid) != (found.system_identifier, str(found.database_oid)):
        where = (
            f"database oid {oid} of this server, and this is oid {found.database_oid}"
            if system == found.system_identifier
            else f"the server {system}, and this is the server {found.system_identifier}"
        )
        yield Finding(
            Level.WARNING,
            "installed_elsewhere",
            f"installation {found.id}",
            f"was made in {where}: the database is a copy, or was restored or moved",
            "Keys that were revoked after the backup may be active again. If the original is still "
            "in use, neither database knows what the other issues and revokes.",
            f"{_REVOKE_AGAIN}keylatch installation renew  # --keep-id if no original is left",
        )
        return
    with connection.cursor(row_factory=tuple_row) as cursor:
        ((now,),) = cursor.execute(_TIMELINE).fetchall()
    if timeline != now:
        yield Finding(
            Level.NOTE,
            "timeline_changed",
            f"installation {found.id}",
            f"was made on timeline {timeline}, and the server is on timeline {now}",
            "A failover or a point-in-time recovery changes the timeline. After a recovery, keys "
            "that were revoked later are active again.",
            f"{_REVOKE_AGAIN}keylatch installation renew --keep-id  # then this note disappears",
        )


def check_against(site: Site, other: Site) -> Iterator[Finding]:
    """Check whether two connections reach the same database.

    Args:
        site: The database that is examined.
        other: The database of `--against`.

    Yields:
        A finding if the databases differ, with what they have in common.
    """
    yield from check_lag("--against", other.installation)
    one, two = site.installation, other.installation
    if one is None or two is None:
        return
    if one.id != two.id:
        yield other_installation("--against", f"has another installation, {two.id}")
        return
    if one.system_identifier != two.system_identifier:
        what = "is a restored copy of the same installation, on another server"
    elif site.database_oid != other.database_oid:
        what = f"is a copy of the same installation, database {other.database} of the same server"
    elif site.started_at != other.started_at and not (one.is_replica or two.is_replica):
        what = "is another server of the same installation, and both servers accept changes"
    else:
        return
    yield replace(
        other_installation("--against", what),
        why="Neither database knows the keys that the other database issues or revokes.",
        fix=f"# at the copy:\n{_REVOKE_AGAIN}keylatch installation renew  # then: a new id",
    )


def other_installation(where: str, what: str) -> Finding:
    """Describe a second address that reaches another database.

    Args:
        where: The name of the address, such as `--against`.
        what: What the address reaches instead.

    Returns:
        The finding.
    """
    return Finding(
        Level.ERROR,
        "other_installation",
        where,
        what,
        "A key that one service issues is unknown to the other, which refuses it.",
        "-- give both services the same database URL",
    )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
