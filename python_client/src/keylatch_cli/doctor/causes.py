"""Combines differences that have one cause, such as a lost schema, a migration or a restore."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString

import psycopg
from psycopg.rows import scalar_row, tuple_row

from ..install.migrations import CORE
from .catalog import Entry, Expected, Manifest, Name, count_rows
from .drift import Difference
from .report import Finding, Level

AFTER_RESTORE = (
    'keylatch script after_restore | psql --no-psqlrc -v ON_ERROR_STOP=1 -1 "$DATABASE_URL"\n'
    "# DATABASE_URL must log in as the owner of keylatch"
)
"""The command that repairs what a restore has lost."""

_CORE = "core of keylatch"
_EVERYBODY = "public: execute"
_INSTALLATION = "keylatch_internal.installation"
_RESOLVER = "keylatch_resolver"
# From this number on, similar differences are combined.
_MANY = 4
_NAMED = 3
_ROLES = """
select r.rolname from pg_catalog.pg_roles as r
where r.rolname in ('anon', 'authenticated', 'service_role', 'keylatch_resolver')
"""
_HAVE_KEYS: dict[str, LiteralString] = {
    "keylatch_internal.keys": "select exists (select 1 from keylatch_internal.keys)",
    "keylatch_internal.legacy_keys": "select exists (select 1 from keylatch_internal.legacy_keys)",
}
_PLURALS = {"policy": "policies", "index": "indexes"}
_WHY_OPEN = "Anyone with a connection or the anon key can call these functions."
_WHY_RESTORE = (
    "Until the fix has run, calls fail, and in replication mode a revoked key can be reactivated."
)


@dataclass(frozen=True, slots=True)
class State:
    """Facts about the database, besides its objects, that can explain differences.

    Attributes:
        missing_roles: Roles of the API that the server does not have.
        missing_rows: Tables that lack rows which the migrations write.
        unregistered: Modules that exist, but are not listed in the table `installation`.
        has_keys: Whether there is a key; `None` if the keys cannot be read.
    """

    missing_roles: frozenset[str]
    missing_rows: tuple[str, ...]
    unregistered: tuple[str, ...]
    has_keys: bool | None


def read_state(
    connection: psycopg.Connection[Any],
    manifest: Manifest,
    parts: Collection[str],
    live: Mapping[Name, Entry],
    modules: Collection[str] | None,
) -> State:
    """Read the state that can explain differences.

    Args:
        connection: Inside a transaction.
        manifest: What this version installs.
        parts: The installed parts.
        live: The objects of the database.
        modules: The modules that the table `installation` lists; `None` if it could not be read.

    Returns:
        The missing roles, rows and modules.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        roles = {name for (name,) in cursor.execute(_ROLES)}
    expected = {
        table: count
        for table, count in manifest.expected_rows(parts).items()
        if ("table", table) in live
    }
    counts = count_rows(connection, expected)
    queries = [query for table, query in _HAVE_KEYS.items() if ("table", table) in live]
    has_keys: bool | None = None
    if not queries or _INSTALLATION in counts:
        with connection.cursor(row_factory=scalar_row) as cursor:
            has_keys = any(bool(cursor.execute(query).fetchone()) for query in queries)
    lacking = tuple(sorted(one for one, count in counts.items() if count < expected[one]))
    known = modules if modules is not None and _INSTALLATION not in lacking else None
    return State(
        frozenset({"anon", "authenticated", "service_role", _RESOLVER} - roles),
        lacking,
        tuple(one for one in parts if known is not None and one in manifest.modules - set(known)),
        has_keys,
    )


def explain(
    differences: Iterable[Difference], expected: Expected, live: Mapping[Name, Entry], state: State
) -> Iterator[Finding]:
    """Yield one finding for each cause.

    Args:
        differences: The differences.
        expected: What the database should contain.
        live: The objects of the database.
        state: The state that can explain differences.

    Yields:
        The findings, without the consequences of other findings.
    """
    left = list(differences)
    half, left = _take_incomplete(left, expected, live, state)
    yield from half
    if is_core_incomplete(half):
        # All other differences depend on the core.
        yield from _open_in_half_a_core([one for one in left if _is_open(one)])
        return
    left = _without_consequences(left)
    restored, left = _take_restore(left, state)
    yield from restored
    yield from _fold(left)


def is_core_incomplete(findings: Iterable[Finding]) -> bool:
    """Check whether so much of the core is missing that no other check is useful.

    Args:
        findings: The findings so far.

    Returns:
        Whether the core is incomplete.
    """
    return any((one.slug, one.subject) == ("incomplete", _CORE) for one in findings)


def _take_incomplete(
    differences: Sequence[Difference],
    expected: Expected,
    live: Mapping[Name, Entry],
    state: State,
) -> tuple[list[Finding], list[Difference]]:
    """Find the parts with missing tables, views or functions."""
    missing: dict[str, list[Difference]] = defaultdict(list)
    for one in differences:
        if one.finding.slug == "object_missing" and one.entries[0].relation is None:
            missing[expected.parts[one.entries[0].key]].append(one)
    # What depended on a lost schema, or on the table of keys, is lost too, and is not named.
    lost = {name for kind, name in expected.entries if kind == "schema"} - {
        name for kind, name in live if kind == "schema"
    }
    if lost or ("table", "keylatch_internal.keys") not in live:
        missing = {CORE: [one for many in missing.values() for one in many]}
    findings: list[Finding] = []
    explained: set[int] = set()
    for part, them in missing.items():
        if len(them) < _MANY and not lost:
            continue
        of_part = [key for key, owner in expected.parts.items() if owner == part]
        wholes = [key for key in of_part if expected.entries[key].relation is None]
        gone = sum(key not in live for key in wholes)
        explained |= {id(one) for one in them}
        explained |= {
            id(one)
            for one in differences
            if expected.parts.get(one.entries[0].key) == part and not _is_open(one)
        }
        findings.append(_incomplete(part, them, gone, len(wholes), sorted(lost), state))
    return findings, [one for one in differences if id(one) not in explained]


def _incomplete(
    part: str,
    missing: Sequence[Difference],
    gone: int,
    of: int,
    lost_schemas: Sequence[str],
    state: State,
) -> Finding:
    names = [f"{one.entries[0].kind} {one.entries[0].name}" for one in missing]
    what = f"is incomplete: {gone} of {of} objects are missing, {_some(names)}"
    if lost_schemas:
        what = f"is incomplete: schema {' and schema '.join(lost_schemas)} is missing"
    if part != CORE:
        fix = (
            "keylatch sql --all > keylatch.sql\n"
            "# in one transaction, run the statements that create the missing objects"
        )
    elif state.has_keys is False:
        fix = (
            "-- The schemas hold no keys. This also drops your policies and views that use\n"
            "-- them. Afterwards run keylatch apply with your --tenancy. With the Supabase CLI,\n"
            "-- run supabase migration repair --status reverted for each migration of keylatch,\n"
            "-- and push.\n"
            "drop schema if exists keylatch, keylatch_internal cascade;"
        )
    else:
        fix = (
            "-- restore both schemas from a backup, then run the output of\n"
            "-- keylatch script after_restore;\n"
            "-- or run the missing statements from the output of keylatch sql --all"
        )
    return Finding(
        Level.ERROR,
        "incomplete",
        _CORE if part == CORE else f"part {part} of keylatch",
        what,
        "Calls fail. A migration stopped half-way, or objects were dropped.",
        fix,
    )


def _without_consequences(differences: Sequence[Difference]) -> list[Difference]:
    """Leave out objects that `drop … cascade` removed with a missing table or function."""
    gone = [
        one.entries[0].name.partition("(")[0]
        for one in differences
        if one.finding.slug == "object_missing" and one.entries[0].kind in ("table", "function")
    ]

    def follows(one: Difference) -> bool:
        entry = one.entries[0]
        if one.finding.slug != "object_missing" or entry.relation is None:
            return False
        text = " ".join(str(value) for value in entry.definition.values())
        return any(name in text for name in gone)

    return [one for one in differences if not follows(one)]


def _is_open(one: Difference) -> bool:
    """Check whether everyone may execute a function that should be restricted."""
    return one.entries[0].kind in ("function", "procedure") and _EVERYBODY in one.grants


def _open_in_half_a_core(opened: Sequence[Difference]) -> Iterator[Finding]:
    """Name the functions that stayed open because a migration stopped half-way."""
    if not opened:
        return
    functions = [one.entries[0] for one in opened]
    yield Finding(
        Level.ERROR,
        "open_to_everybody",
        _CORE,
        _says_open([one.name for one in functions]),
        _WHY_OPEN,
        "revoke execute on all functions in schema "
        f"{', '.join(sorted({one.schema for one in functions}))} from public;",
    )


def _says_open(functions: Iterable[str]) -> str:
    names = _most_telling(name.partition("(")[0] for name in functions)
    count = f"{len(names)} functions" if len(names) > 1 else "a function"
    return f"everyone may execute {count}: {_some(names)}"


def _take_restore(
    differences: Sequence[Difference], state: State
) -> tuple[list[Finding], list[Difference]]:
    """Combine what a restore loses into one finding: grants, trigger modes, a role, rows."""
    opened = [one for one in differences if _is_open(one) and one.finding.slug == "grant_extra"]
    ordinary = [one for one in differences if _fires_less(one)]
    roles = sorted(state.missing_roles)
    lost = [one for one in differences if _is_lost_grant(one, state.missing_roles)]
    says = []
    if roles:
        says.append(f"{_noun(roles, 'role')} {' and '.join(roles)} {_verb(roles)} missing")
    if len(lost) >= _MANY and not roles:
        says.append(f"grants of {len(lost)} objects are missing")
    if len(ordinary) > 1:
        says.append(f"{len(ordinary)} triggers do not fire in replication mode")
    if state.missing_rows:
        says.append(f"rows of {' and '.join(state.missing_rows)} are missing")
    if state.unregistered and _INSTALLATION not in state.missing_rows:
        says.append(f"{_INSTALLATION} does not name the modules {', '.join(state.unregistered)}")
    many_open = len(opened) >= _MANY
    if not says and not many_open:
        return [], list(differences)
    # A few grants or one trigger are named separately, each with the statement that repairs it.
    explained = {id(one) for one in (*lost, *ordinary)} if says else set()
    if opened:
        explained |= {id(one) for one in opened}
        says.insert(0, _says_open(one.entries[0].name for one in opened))
    only_roles = len(says) == 1 and bool(roles)
    # The script makes the role of keylatch. The other roles belong to a Supabase project.
    made = [f"create role {role} nologin noinherit;\n" for role in roles if role != _RESOLVER]
    finding = Finding(
        Level.ERROR,
        "open_to_everybody" if opened else "role_missing" if only_roles else "restore_incomplete",
        f"{_noun(roles, 'role')} {' and '.join(roles)}" if only_roles else "restored database",
        f"{_verb(roles)} missing" if only_roles else "; ".join(says),
        f"{_WHY_OPEN} {_WHY_RESTORE}" if opened else _WHY_RESTORE,
        "".join(made) + AFTER_RESTORE,
    )
    return [finding], [one for one in differences if id(one) not in explained]


def _fires_less(one: Difference) -> bool:
    """Check whether a trigger has lost its mode "always" or "replica"."""
    entry = one.entries[0]
    return (
        entry.kind == "trigger"
        and one.changed == ("fires",)
        and entry.definition["fires"] == "origin"
    )


def _is_lost_grant(one: Difference, missing_roles: Collection[str]) -> bool:
    """Check whether a restore lost a grant: of a missing role, or of any role if all exist."""
    roles = {line.partition(": ")[0] for line in one.grants}
    is_lost = one.finding.slug == "grant_missing" and "the owner" not in roles
    return is_lost and (not missing_roles or bool(roles & set(missing_roles)))


def _fold(differences: Sequence[Difference]) -> Iterator[Finding]:
    """Combine many similar findings into one, with the fixes of all."""
    alike: dict[tuple[Any, ...], list[Difference]] = defaultdict(list)
    for one in differences:
        finding = one.finding
        if finding.slug == "object_extra" and _is_open(one):
            what = f"{finding.what}, and everyone may execute the function"
            finding = replace(
                finding, level=Level.ERROR, slug="open_to_everybody", what=what, why=_WHY_OPEN
            )
        elif finding.slug == "grant_extra" and _is_open(one):
            finding = replace(finding, slug="open_to_everybody", why=_WHY_OPEN)
        kind = one.entries[0].kind
        what = finding.what if finding.slug in ("object_missing", "owner_differs") else ""
        alike[finding.level, finding.slug, kind, what].append(replace(one, finding=finding))
    for (level, slug, kind, _), them in alike.items():
        if len(them) < _MANY:
            yield from (one.finding for one in them)
            continue
        first = them[0].finding
        plural = _PLURALS.get(kind, f"{kind}s")
        names = [one.finding.subject.partition(" ")[2] for one in them]
        what = first.what.replace("is ", "are ", 1).replace("has ", "have ", 1)
        yield Finding(
            level,
            slug,
            f"{len(them)} {plural}",
            f"{what if len({one.finding.what for one in them}) == 1 else 'differ'}: {_some(names)}",
            first.why,
            "\n".join(one.finding.fix for one in them),
        )


def _most_telling(names: Iterable[str]) -> list[str]:
    """Sort the functions of the API before internal functions, and dangerous functions first."""
    order = ("resolve", "claim", "start", "open", "import")
    return sorted(
        names,
        key=lambda name: (
            not name.startswith("keylatch."),
            not name.rpartition(".")[2].startswith(order),
            name,
        ),
    )


def _noun(them: Sequence[str], one: str) -> str:
    return one if len(them) == 1 else f"{one}s"


def _verb(them: Sequence[str]) -> str:
    return "is" if len(them) == 1 else "are"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
