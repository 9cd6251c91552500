"""Runs all checks in one read-only transaction. A failed check does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import IsolationLevel

from keylatch import __version__
from keylatch.advice import LOGIN
from keylatch.errors import KeylatchError, NotInstalled
from keylatch.secret import mask_keys
from keylatch.transports.sql import failure_of

from . import anchors as kept_anchors
from . import causes, drift, identity, keys, logs, platform, replication, settings, tenancy
from .catalog import Entry, Manifest, Name, read_catalog, read_manifest
from .report import Finding, Level, Report, Site, Unchecked

if TYPE_CHECKING:
    from postgrest import SyncPostgrestClient

_ORDER = list(Level)
# The order within a level: what is open to everyone, then what explains other findings.
_FIRST = (
    "open_to_everybody",
    "not_installed",
    "exposed_too_early",
    "incomplete",
    "restore_incomplete",
    "role_missing",
    "rolled_back",
    "anchor_differs",
    "installed_elsewhere",
)
# Limits for counting many keys, and for waiting while another session alters a table.
_PATIENCE = (
    "select pg_catalog.set_config('statement_timeout', '30s', true), "
    "pg_catalog.set_config('lock_timeout', '5s', true)"
)


def examine(
    connection: psycopg.Connection[Any],
    *,
    rest: SyncPostgrestClient | None = None,
    against: psycopg.Connection[Any] | None = None,
    anchors: tuple[kept_anchors.Anchor, ...] = (),
) -> Report:
    """Check an installation without changing it.

    Args:
        connection: The database, outside a transaction. The owner of keylatch can check
            everything; for other users, the report names what could not be checked.
        rest: The PostgREST server that should serve this database; not checked if `None`.
        against: A second connection that should reach the same installation.
        anchors: Anchors of the events that were stored elsewhere.

    Returns:
        The report, the worst findings first.

    Raises:
        KeylatchError: The database stopped answering.
    """
    try:
        with _read_only(connection):
            return _examine(connection, rest, against, anchors)
    except psycopg.Error as problem:
        failure = failure_of(problem)
    # Outside the except block: the driver's error may contain secrets.
    raise failure


def _examine(
    connection: psycopg.Connection[Any],
    rest: SyncPostgrestClient | None,
    against: psycopg.Connection[Any] | None,
    anchors: tuple[kept_anchors.Anchor, ...],
) -> Report:
    manifest = read_manifest()
    live = read_catalog(connection)
    site, silence = identity.read_site(connection)
    seen = _Seen(connection)
    other = None
    if against is not None:
        with _read_only(against):
            other, other_silence = identity.read_site(against)
            other_kind = platform.kind_of(against)
        if isinstance(other_silence, NotInstalled):
            seen.add(identity.not_installed(other, other_kind))
        elif other_silence is not None:
            seen.add(Unchecked("--against", _reason(other_silence)))

    if not {("schema", "keylatch"), ("schema", "keylatch_internal")} & live.keys():
        seen.add(identity.not_installed(site, platform.kind_of(connection)))
        seen.run("exposed schemas", lambda: platform.check_early_exposure(connection))
    else:
        if silence is not None:
            reason = _reason(silence).replace(LOGIN, connection.info.user)
            seen.add(Unchecked("version and replica lag", reason))
        modules = site.installation.modules if site.installation else None
        parts = manifest.installed(live, modules)
        seen.run("objects", lambda: _compare(connection, manifest, parts, live, site))
        seen.run("tables that inherit", lambda: keys.check_children(connection))
        seen.run("replica", lambda: identity.check_lag("database", site.installation))
        seen.run("origin", lambda: identity.check_place(connection, site))
        seen.run("subscriptions", lambda: replication.check(connection))
        if causes.is_core_incomplete(seen.findings):
            seen.add(Unchecked("keys, tenancy, API", "the core of keylatch is incomplete"))
            rest = None
        else:
            seen.run("tenancy", lambda: tenancy.check(connection, manifest, live))
            seen.run("keys", lambda: keys.check(connection, parts))
            if anchors:
                seen.run("anchors", lambda: kept_anchors.check(connection, anchors, parts))
        if other is not None:
            seen.run("--against", lambda: identity.check_against(site, other))
        seen.run("pgcrypto", lambda: platform.check_pgcrypto(connection))
        seen.run("roles", lambda: platform.check_roles(connection))
        seen.run("exposed schemas", lambda: platform.check_exposure(connection))
        seen.run("settings", lambda: settings.check(connection))
        seen.run("server log", lambda: logs.check(connection))
        if rest is None and not causes.is_core_incomplete(seen.findings):
            seen.add(Unchecked("API", "no project is set; set SUPABASE_URL and SUPABASE_KEY"))
        elif rest is not None:
            from . import api

            client = rest
            seen.run("API", lambda: api.check(client, connection, site, live))
    return Report(
        client_version=__version__,
        schema_version=manifest.schema_version,
        site=site,
        against=other,
        findings=tuple(sorted(seen.findings, key=_importance)),
        unchecked=tuple(seen.unchecked),
    )


def _importance(finding: Finding) -> tuple[int, int]:
    rank = _FIRST.index(finding.slug) if finding.slug in _FIRST else len(_FIRST)
    return _ORDER.index(finding.level), rank


def _compare(
    connection: psycopg.Connection[Any],
    manifest: Manifest,
    parts: Collection[str],
    live: Mapping[Name, Entry],
    site: Site,
) -> Iterator[Finding | Unchecked]:
    if other_version := list(identity.check_version(site, manifest)):
        yield from other_version
        yield Unchecked("objects", "this client describes the objects of another version")
        return
    expected = manifest.expected(parts)
    modules = site.installation.modules if site.installation else None
    state = causes.read_state(connection, manifest, parts, live, modules)
    differences = drift.compare(
        expected, live, replaces_tenancy=tenancy.is_replaced(live, manifest)
    )
    yield from causes.explain(differences, expected, live, state)


def _reason(problem: KeylatchError) -> str:
    return problem.detail or problem.slug


class _Seen:
    """The results of the checks so far."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.findings: list[Finding] = []
        self.unchecked: list[Unchecked] = []

    def add(self, *found: Finding | Unchecked) -> None:
        """Add the results of a check."""
        for one in found:
            if isinstance(one, Finding):
                self.findings.append(one)
            else:
                self.unchecked.append(one)

    def run(self, subject: str, check: Callable[[], Iterable[Finding | Unchecked]]) -> None:
        """Run a check. If it fails, note that as unchecked, and continue."""
        try:
            with self._connection.transaction():
                for one in check():
                    self.add(one)
        except psycopg.Error as problem:
            if self._connection.closed:
                raise
            reason = problem.diag.message_primary or type(problem).__name__
            self.add(Unchecked(subject, mask_keys(reason)))
        except KeylatchError as problem:
            self.add(Unchecked(subject, _reason(problem)))


@contextmanager
def _read_only(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Open a read-only transaction, and restore the connection's settings afterwards."""
    before = connection.read_only, connection.isolation_level
    connection.read_only, connection.isolation_level = True, IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(_PATIENCE)
            yield
    finally:
        if not connection.closed:
            connection.read_only, connection.isolation_level = before
