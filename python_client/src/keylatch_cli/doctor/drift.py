"""Compares a database with this version of keylatch, object by object."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import repair, tenancy
from .catalog import Entry, Expected, Name
from .report import Finding, Level

# Why a difference matters, by the kind of object.
_WHY = {
    "policy": "Row policies are the authorization: they decide who reads, issues and changes keys.",
    "trigger": "The triggers make the keys. Without the triggers, a revoked key can become "
    "active again.",
    "constraint": "The constraint keeps invalid rows out of the table.",
    "index": "Without this index, a call reads whole tables.",
    "function": "A call or a guard that differs from the release was never tested.",
}
_WHY_ELSE = "Only the released version was tested."
_WHY_OFF = "Without row level security, a role with a grant can read and change all keys."
# Why an added object matters.
_WHY_EXTRA = {
    "policy": "Policies add up: a row is visible if any policy allows it.",
    "trigger": "The trigger receives each row with its hashes, and can change or refuse the row.",
    "rule": "A rule replaces a statement by another statement.",
    "constraint": "The constraint may refuse rows that keylatch writes.",
    "index": "The index makes every write slower.",
    "column": "keylatch does not use this column.",
}
_WHY_EXTRA_ELSE = "Clients can call objects in keylatch. keylatch_internal is for keylatch only."
_WHY_LATCH_TRIGGER = (
    "The trigger runs when a workspace gets its first key, and when a workspace is deleted: "
    "see sql/recipes/first_key.sql."
)
_WHY_MORE = "This role has more access than keylatch grants."
_WHY_LESS = "Calls of this role fail with 'permission denied'."
_WHY_OWNER = "Definer functions and the latch need one owner, with all rights, for all objects."
_WHY_COMMENT = "PostgREST shows comments as the documentation of the API."

_LEVEL_OF_EXTRA = {"trigger": Level.ERROR, "rule": Level.ERROR, "index": Level.NOTE}
_DIGESTS = ("body", "query")
# The verb for properties whose value speaks for itself.
_VERBS = {"fires": "fires ", **dict.fromkeys(repair.ALTERABLE, "is ")}


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of one object, or of similar columns of one relation.

    Attributes:
        finding: The finding if no other cause explains the difference.
        entries: The objects as they should be, or the objects that should not exist.
        changed: The properties that differ.
        grants: The extra or missing grants.
    """

    finding: Finding
    entries: tuple[Entry, ...]
    changed: tuple[str, ...] = ()
    grants: frozenset[str] = frozenset()


def compare(
    expected: Expected, live: Mapping[Name, Entry], *, replaces_tenancy: bool
) -> Iterator[Difference]:
    """Compare a database with what this version installs.

    Args:
        expected: What the database should contain.
        live: The objects of the database.
        replaces_tenancy: Whether the application has replaced `keylatch.admin_workspace_ids()`.

    Yields:
        Each difference, without objects that an application may replace.
    """
    owner = _owner_of_most(live.values())
    wholes_there = _wholes(live.values())
    for key, shipped in expected.entries.items():
        part = expected.parts[key]
        if key in live:
            is_replaced = key == tenancy.FUNCTION and replaces_tenancy
            yield from _compare_one(shipped, live[key], part, owner, is_replaced=is_replaced)
        # Parts of a missing object are not named.
        elif shipped.relation in (None, *wholes_there) and (
            shipped.kind == "schema" or shipped.schema in wholes_there
        ):
            missing = Finding(
                _level(shipped),
                "object_missing",
                _subject(shipped),
                "is missing",
                _why(shipped),
                repair.restore(shipped, part),
            )
            yield Difference(missing, (shipped,))
    yield from _compare_grants(expected.entries, live, owner)
    ours = _wholes(expected.entries.values())
    for key, entry in live.items():
        if key not in expected.entries and entry.relation in (None, *ours):
            extra = Finding(
                _level_of_extra(entry),
                "object_extra",
                _subject(entry),
                f"is not part of keylatch {expected.schema_version}",
                _WHY_LATCH_TRIGGER
                if _is_recipe(entry)
                else _WHY_EXTRA.get(entry.kind, _WHY_EXTRA_ELSE),
                repair.drop(entry),
            )
            yield Difference(extra, (entry,), grants=entry.grants)


def _compare_one(
    shipped: Entry, found: Entry, part: str, owner: str | None, *, is_replaced: bool
) -> Iterator[Difference]:
    subject, definition = _subject(shipped), shipped.definition
    properties: Iterable[str] = definition
    if is_replaced:
        properties = tenancy.KEPT
    elif shipped.comment != found.comment:
        comment = Finding(
            Level.NOTE,
            "comment_changed",
            subject,
            "has another comment",
            _WHY_COMMENT,
            repair.comment(shipped),
        )
        yield Difference(comment, (shipped,))
    changed = [one for one in properties if found.definition.get(one) != definition[one]]
    if changed:
        change = Finding(
            _level(shipped),
            "object_changed",
            subject,
            "; ".join(
                _difference(one, found.definition.get(one), definition[one]) for one in changed
            ),
            _WHY_OFF if "row level security" in changed else _why(shipped),
            repair.restore(shipped, part, changed),
        )
        yield Difference(change, (found,), tuple(changed))
    if shipped.kind != "column" and owner and found.owner not in (owner, None):
        other_owner = Finding(
            Level.ERROR,
            "owner_differs",
            subject,
            f"belongs to {found.owner}, but everything else belongs to {owner}",
            _WHY_OWNER,
            repair.own(shipped, owner),
        )
        yield Difference(other_owner, (shipped,))


def _compare_grants(
    expected: Mapping[Name, Entry], live: Mapping[Name, Entry], owner: str | None
) -> Iterator[Difference]:
    """Name extra and missing grants. Columns with the same difference are named together."""
    differing: dict[tuple[str, bool, frozenset[str]], list[Entry]] = defaultdict(list)
    for key, shipped in expected.items():
        if key not in live:
            continue
        place = str(shipped.relation) if shipped.kind == "column" else _subject(shipped)
        for take, lines in (
            (True, live[key].grants - shipped.grants),
            (False, shipped.grants - live[key].grants),
        ):
            if lines:
                differing[place, take, lines].append(shipped)
    for (_, take, lines), entries in differing.items():
        grants = Finding(
            Level.ERROR,
            "grant_extra" if take else "grant_missing",
            _subject(*entries),
            ("also granted: " if take else "no longer granted: ") + _grants(lines),
            _WHY_MORE if take else _WHY_LESS,
            repair.regrant(entries, lines, owner or "the owner", take=take),
        )
        yield Difference(grants, tuple(entries), grants=lines)


def _owner_of_most(entries: Iterable[Entry]) -> str | None:
    owners = Counter(one.owner for one in entries if one.owner)
    return owners.most_common(1)[0][0] if owners else None


def _wholes(entries: Iterable[Entry]) -> set[str]:
    return {one.name for one in entries if one.relation is None}


def _subject(entry: Entry, *others: Entry) -> str:
    if not others:
        return f"{entry.kind} {entry.name}"
    names = (one.name.rpartition(".")[2] for one in (entry, *others))
    return f"columns of {entry.relation}: {', '.join(names)}"


def _level(shipped: Entry) -> Level:
    return Level.WARNING if shipped.kind == "index" else Level.ERROR


def _why(shipped: Entry) -> str:
    return _WHY.get(shipped.kind, _WHY_ELSE)


def _is_recipe(entry: Entry) -> bool:
    """Check whether this is a trigger that an application may add."""
    return (entry.kind, entry.relation) == ("trigger", "keylatch_internal.workspace_latches")


def _level_of_extra(entry: Entry) -> Level:
    if entry.kind == "policy":
        # Permissive policies add up. A restrictive policy only hides rows.
        return Level.ERROR if entry.definition["permissive"] else Level.WARNING
    if _is_recipe(entry):
        return Level.NOTE
    return _LEVEL_OF_EXTRA.get(entry.kind, Level.WARNING)


def _difference(name: str, found: Any, shipped: Any) -> str:
    if name in _DIGESTS:
        return f"has another {name} than the release"
    verb = _VERBS.get(name, f"has {name} ")
    return f"{verb}{_word(found)}, but the release has {_word(shipped)}"


def _grants(lines: Iterable[str]) -> str:
    """Write `authenticated: select` as `select to authenticated`."""
    said = (line.partition(": ") for line in sorted(lines))
    return ", ".join(f"{privilege} to {role}" for role, _, privilege in said)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nothing"
    return "nothing" if value is None else str(value)
