"""Compares owners, grants, policies, triggers and functions with this version of keylatch.

A test shows what a user can do. The catalog shows why, and what no test can reach: a policy for a
single user, a grant to a role that keylatch does not know, or a guard that was switched off.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from ..doctor import tenancy
from ..doctor.catalog import Entry, Name, read_catalog, read_manifest
from ..install.migrations import CORE
from .report import HASHES, WHY_HASHES, Difference

# The properties that matter for access. `keylatch doctor` checks the others.
_PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "policy": ("permissive", "command", "roles", "using", "with check"),
    "trigger": ("fires", "definition"),
    "function": ("security", "body", "settings", "language"),
    "view": ("options", "query"),
    "table": ("row level security",),
    "rule": ("definition",),
}
_COUNTED = (*_PROPERTIES, "schema", "column", "sequence")
_WORDS = {
    "body": "the body as shipped",
    "query": "the query as shipped",
    "definition": "the definition as shipped",
}
_WHY = {
    "policy": "Row policies are the authorization: they decide who can read, issue and change "
    "keys.",
    "trigger": "Triggers make the keys, keep revoked keys revoked, and record the events.",
    "function": "This function is not the released version, so nobody has tested its checks.",
    "view": "A view without security_invoker reads with its owner's rights and skips the policies.",
    "table": "Without row level security, a role with a grant reaches the keys of all workspaces.",
    "rule": "A rule replaces a statement by another statement.",
}
_WHY_DEFINER = "The function runs with its owner's rights, and skips row policies for every caller."
_WHY_OWNER = "The owner of an object can switch off its guards and read its hashes."
_WHY_MORE = "This role has more access than keylatch grants."
_WHY_LESS = "Calls of this role fail with 'permission denied'."
_WHY_PASSED_ON = "This role can grant the privilege to other roles."
_PUBLIC = "everyone (public)"
_WHO = {
    "trigger": "everyone who writes to the table",
    "function": "every caller",
    "view": "every reader",
    "table": "everyone with a grant on the table",
    "rule": "everyone who writes to the table",
    "column": "everyone with a grant on the column",
    "sequence": "everyone with a grant on the sequence",
    "schema": "everyone with a grant on the schema",
}
# Only keylatch writes to this table, so a recipe may attach its trigger there.
_RECIPE = ("trigger", "keylatch_internal.workspace_latches")


@dataclass(frozen=True, slots=True, kw_only=True)
class Causes:
    """The result of the comparison.

    Attributes:
        differences: The objects that differ from this version of keylatch, unordered.
        parts: The installed parts: core, tenancy and modules.
        has_own_tenancy: Whether the application replaced `keylatch.admin_workspace_ids()`.
    """

    differences: tuple[Difference, ...]
    parts: tuple[str, ...]
    has_own_tenancy: bool


def read(connection: psycopg.Connection[Any]) -> Causes | None:
    """Compare the catalog with this version of keylatch.

    Args:
        connection: Inside a transaction, as any user.

    Returns:
        The differences; `None` if keylatch is not installed.
    """
    live = read_catalog(connection)
    if ("schema", "keylatch") not in live or ("schema", "keylatch_internal") not in live:
        return None
    manifest = read_manifest()
    parts = manifest.installed(live, _modules(connection))
    shipped = manifest.expected(parts).entries
    own = tenancy.is_replaced(live, manifest)
    owner = live["schema", "keylatch_internal"].owner or ""
    found = [
        *_missing(shipped, live),
        *_changed(shipped, live, own_tenancy=own),
        *_extra(shipped, live),
        *_grants(shipped, live),
        *_owners(live, owner),
    ]
    return Causes(differences=tuple(found), parts=parts, has_own_tenancy=own)


def _modules(connection: psycopg.Connection[Any]) -> list[str] | None:
    try:
        with connection.transaction():
            row = connection.execute(
                "select modules from keylatch_internal.installation"
            ).fetchone()
    except psycopg.Error:
        return None
    return list(row[0]) if row else [CORE]


def _missing(shipped: Mapping[Name, Entry], live: Mapping[Name, Entry]) -> Iterator[Difference]:
    wholes = {one.name for one in live.values() if one.relation is None}
    for key, entry in shipped.items():
        if key not in live and entry.kind in _PROPERTIES and entry.relation in (None, *wholes):
            yield _difference(entry, "as shipped", "missing", _WHY[entry.kind], rank=1)


def _changed(
    shipped: Mapping[Name, Entry], live: Mapping[Name, Entry], *, own_tenancy: bool
) -> Iterator[Difference]:
    for key, entry in shipped.items():
        there = live.get(key)
        if there is None or (key == tenancy.FUNCTION and own_tenancy):
            continue
        for name in _PROPERTIES.get(entry.kind, ()):
            wanted, found = entry.definition.get(name), there.definition.get(name)
            if _plain(wanted) == _plain(found):
                continue
            is_definer = "security definer" in (
                entry.definition.get("security"),
                there.definition.get("security"),
            )
            yield _difference(
                there,
                _WORDS.get(name, f"{name}: {_word(wanted)}"),
                f"another {name}" if name in _WORDS else f"{name}: {_word(found)}",
                _WHY_DEFINER if is_definer else _WHY[entry.kind],
                rank=0 if entry.kind in ("policy", "view", "table") or is_definer else 1,
            )


def _extra(shipped: Mapping[Name, Entry], live: Mapping[Name, Entry]) -> Iterator[Difference]:
    wholes = {one.name for one in shipped.values() if one.relation is None}
    for key, entry in live.items():
        if key in shipped or entry.relation not in (None, *wholes):
            continue
        if entry.kind not in _COUNTED or (entry.kind, entry.relation) == _RECIPE:
            continue
        detail, rank, why = "", 0, "Nobody has reviewed who may use this object."
        if entry.kind == "policy":
            using = entry.definition["using"] or entry.definition["with check"]
            detail = f": for {entry.definition['command']} where {using}"
            why = "Policies add up: a row is visible if any policy allows it."
            rank = 0 if entry.definition["permissive"] else 2
            if not entry.definition["permissive"]:
                why = "A restrictive policy hides rows from users who should see them."
        elif entry.kind == "trigger":
            why = "The trigger receives each row with its hash, and can change or refuse the row."
        elif entry.definition.get("security") == "security definer":
            why = _WHY_DEFINER
            detail = f": {entry.definition['security']}"
        yield _difference(entry, "no such object", f"an object{detail}", why, rank=rank)


def _grants(shipped: Mapping[Name, Entry], live: Mapping[Name, Entry]) -> Iterator[Difference]:
    """Name the differences in grants. Columns with the same grant are named together."""
    more: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    less: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for key, there in live.items():
        wanted = shipped[key].grants if key in shipped else frozenset[str]()
        if key not in shipped and there.kind not in _COUNTED:
            continue
        for kept, lines in ((more, there.grants - wanted), (less, wanted - there.grants)):
            for line in lines:
                role, _, privilege = line.partition(": ")
                if role == "the owner":
                    continue
                place = there.relation if there.kind == "column" else _subject(there)
                column = there.name.rpartition(".")[2] if there.kind == "column" else ""
                kept[role, privilege, str(place)].append(column)
    for kept, is_more in ((more, True), (less, False)):
        for (role, privilege, place), columns in sorted(kept.items()):
            of = f" ({', '.join(columns)})" if any(columns) else ""
            passed_on = privilege.endswith("with grant option")
            yield Difference(
                who=_PUBLIC if role == "public" else role,
                what=f"{privilege}{of} on {place}",
                expected="not granted" if is_more else "granted",
                found="granted" if is_more else "not granted",
                why=_why_granted(columns, is_more=is_more, is_passed_on=passed_on),
                rank=0 if is_more else 2,
                is_cause=True,
            )


def _why_granted(columns: Collection[str], *, is_more: bool, is_passed_on: bool) -> str:
    if is_more and HASHES & set(columns):
        return WHY_HASHES
    if is_passed_on:
        return _WHY_PASSED_ON
    return _WHY_MORE if is_more else _WHY_LESS


def _owners(live: Mapping[Name, Entry], owner: str) -> Iterator[Difference]:
    for entry in live.values():
        if entry.kind != "column" and entry.owner not in (None, owner):
            yield Difference(
                who=str(entry.owner),
                what=f"owns {_subject(entry)}",
                expected=f"owned by {owner}",
                found=f"owned by {entry.owner}",
                why=_WHY_OWNER,
                rank=0,
                is_cause=True,
            )


def _difference(entry: Entry, expected: str, found: str, why: str, *, rank: int) -> Difference:
    return Difference(
        who=_who(entry),
        what=_subject(entry),
        expected=expected,
        found=found,
        why=why,
        rank=rank,
        is_cause=True,
    )


def _who(entry: Entry) -> str:
    """Name the users whom a difference affects."""
    if entry.kind == "policy":
        return ", ".join(_PUBLIC if one == "public" else one for one in entry.definition["roles"])
    return _WHO[entry.kind]


def _subject(entry: Entry) -> str:
    return f"{entry.kind} {entry.name}"


def _plain(value: object) -> object:
    """Remove what a dump and restore may change in an expression: spaces and brackets."""
    return re.sub(r"[\s()]+", "", value).lower() if isinstance(value, str) else value


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Collection) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "nothing"
    return "nothing" if value is None else str(value)
