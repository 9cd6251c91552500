"""What differs between a database and what this version installs, object by object."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import repair, tenancy
from .catalog import Entry, Expected, Name
from .report import Finding, Level

# What an object of each kind is for, for whoever wonders whether a difference matters.
_WHY = {
    "policy": "Row policies are the authorization: who sees, makes and changes which keys.",
    "trigger": "The triggers make the keys and hold the latch. Without them a revoked key can "
    "become active again.",
    "constraint": "It keeps wrong rows out of the table, by whatever path they come.",
    "index": "Without it a call reads whole tables.",
    "function": "The calls and the guards are functions, and were tested as shipped.",
}
_WHY_ELSE = "The calls and the guards were tested as shipped."
_WHY_OFF = "Without row level security, a role with a grant sees and changes all keys."
# The same for what was added.
_WHY_EXTRA = {
    "policy": "Policies add up: a row that one of them shows is shown.",
    "trigger": "It sees each row with its hashes, and may change the row or refuse it.",
    "rule": "Something else is done than the statement says.",
    "constraint": "It may refuse what keylatch writes.",
    "index": "Every write pays for it.",
    "column": "No call of keylatch knows it.",
}
_WHY_EXTRA_ELSE = "Clients may call what is in keylatch. In keylatch_internal nobody expects it."
_WHY_LATCH_TRIGGER = (
    "It runs when a workspace gets its first key or is deleted: see sql/recipes/first_key.sql."
)
_WHY_MORE = "Somebody may read or do more than keylatch allows."
_WHY_LESS = "Calls of that role fail with 'permission denied'."
_WHY_OWNER = (
    "Definer functions and the latch rely on one owner who has all the rights and no other."
)
_WHY_COMMENT = "PostgREST shows comments as the documentation of the API."

_LEVEL_OF_EXTRA = {"trigger": Level.ERROR, "rule": Level.ERROR, "index": Level.NOTE}
_DIGESTS = ("body", "query")
# Before the value of a property where that says by itself what it is.
_VERBS = {"fires": "fires ", **dict.fromkeys(repair.ALTERABLE, "is ")}


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs at one object, or at columns of one relation that differ alike.

    Attributes:
        finding: What to say if nothing else explains the difference.
        entries: The objects: as they should be, or what is there and should not be.
        changed: The properties that differ.
        grants: The grants that are too many or too few.
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
        expected: What has to be there.
        live: What is there.
        replaces_tenancy: Whether the application has replaced the function of the tenancy.

    Yields:
        Each difference. What an application may replace is left to `tenancy`.
    """
    owner = _owner_of_most(live.values())
    wholes_there = _wholes(live.values())
    for key, shipped in expected.entries.items():
        part = expected.parts[key]
        if key in live:
            is_replaced = key == tenancy.FUNCTION and replaces_tenancy
            yield from _compare_one(shipped, live[key], part, owner, is_replaced=is_replaced)
        # What is a part of something that is missing goes without saying.
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
                f"is no part of keylatch {expected.schema_version}",
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
            f"belongs to {found.owner}, and all else to {owner}",
            _WHY_OWNER,
            repair.own(shipped, owner),
        )
        yield Difference(other_owner, (shipped,))


def _compare_grants(
    expected: Mapping[Name, Entry], live: Mapping[Name, Entry], owner: str | None
) -> Iterator[Difference]:
    """Name the grants that are too many or too few, once for columns that differ alike."""
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
    """Tell a trigger where an application may have one."""
    return (entry.kind, entry.relation) == ("trigger", "keylatch_internal.workspace_latches")


def _level_of_extra(entry: Entry) -> Level:
    if entry.kind == "policy":
        # Permissive policies add up; a restrictive one only takes away.
        return Level.ERROR if entry.definition["permissive"] else Level.WARNING
    if _is_recipe(entry):
        return Level.NOTE
    return _LEVEL_OF_EXTRA.get(entry.kind, Level.WARNING)


def _difference(name: str, found: Any, shipped: Any) -> str:
    if name in _DIGESTS:
        return f"has another {name} than was shipped"
    verb = _VERBS.get(name, f"has {name} ")
    return f"{verb}{_word(found)}, shipped as {_word(shipped)}"


def _grants(lines: Iterable[str]) -> str:
    """Write `authenticated: select` as people say it."""
    said = (line.partition(": ") for line in sorted(lines))
    return ", ".join(f"{privilege} to {role}" for role, _, privilege in said)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nothing"
    return "nothing" if value is None else str(value)
