"""What an audit gives: the tries, and the differences in an auditor's words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

ACTORS: dict[str, str] = {
    "anon": "nobody signed in (anon)",
    "stranger": "a signed-in user without a workspace",
    "member": "a member of the workspace who is no admin",
    "other": "the admin of another workspace",
    "admin": "the admin of the workspace",
    "service": "the application's backend (service_role)",
    "resolver": "a service that resolves keys (keylatch_resolver)",
    "owner": "the owner of keylatch's tables",
}
"""Who tries, in words."""

NO, NONE, YES, STAMP, RULE, LATCH = "no", "none", "yes", "stamp", "rule", "latch"
OUTCOMES: dict[str, str] = {
    NO: "refused: no grant, no row policy, or nothing that can be written",
    NONE: "permitted, and reaches nothing of the workspace",
    YES: "done: read, changed or called",
    STAMP: "accepted, and the database writes its own value instead",
    RULE: "refused by a rule for values",
    LATCH: "refused by the latch, for every role",
}
"""What a try comes to."""

HASHES = frozenset({"key_hash", "token_hash", "verifier"})
"""The columns that nobody but the owner reads."""
WHY_HASHES = "Hashes are for the owner alone: with them guesses can be checked offline."
_MORE, _GUARD, _LESS = 0, 1, 2
# How much each outcome lets somebody do.
_REACH = {LATCH: 0, RULE: 0, NO: 0, NONE: 1, STAMP: 2, YES: 3}
_VERBS = {
    "select": "reads {columns} of {object}",
    "insert": "inserts into {object}",
    "update": "changes {columns} of {object}",
    "delete": "deletes from {object}",
    "truncate": "truncates {object}",
    "call": "calls {object}",
    "execute": "executes the helper {object}",
}
# What is done, where it is.
_DONE = {
    "select": "rows of the workspace are read",
    "insert": "a row is inserted",
    "update": "the change is made",
    "delete": "rows of the workspace are deleted",
    "truncate": "the right is there, and no trigger refuses it",
    "call": "the call is served",
    "execute": "the right to execute it is there",
}
_FEW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as expected.

    Attributes:
        who: Who can do more or less, or whose object it is.
        what: The deed, or the object.
        expected: What this version of keylatch says.
        found: What the database says.
        why: Why it matters.
        rank: 0 for too much access, 1 for a guard that is missing or another, 2 for too little
            access.
        is_cause: Whether it was read from the catalog; else it was tried.
    """

    who: str
    what: str
    expected: str
    found: str
    why: str
    rank: int
    is_cause: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """An operation, and what came of it for each kind of user.

    Attributes:
        object: A table, view or function, with its schema.
        operation: select, insert, update, delete, call; truncate, and execute of what is
            not for callers, which are asked of the catalog.
        column: Which column is selected or updated; empty for the rest.
        found: What came of it by actor: a key of `OUTCOMES`.
        expected: What should have; empty where nothing is known of such an object.
    """

    object: str
    operation: str
    column: str
    found: dict[str, str]
    expected: dict[str, str]

    @property
    def name(self) -> str:
        """One text for all three."""
        return name_of(self.object, self.operation, self.column)

    @property
    def differs(self) -> tuple[str, ...]:
        """The actors for whom it came out otherwise than expected."""
        return tuple(actor for actor in ACTORS if self.found.get(actor) != self.expected.get(actor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found.

    Attributes:
        differences: What is not as expected, the most important first.
        tries: All tries, in the order of their objects.
        has_own_tenancy: Whether the application says itself who administers what. Then its function
            was asked as a stranger, and replaced, within the transaction, by one for the throwaway
            workspace.
    """

    differences: tuple[Difference, ...]
    tries: tuple[Try, ...]
    has_own_tenancy: bool

    @property
    def count(self) -> int:
        """How many tries there were."""
        return len(self.tries) * len(ACTORS)

    @property
    def is_clean(self) -> bool:
        """Whether all is as expected."""
        return not self.differences


def name_of(of: str, operation: str, column: str) -> str:
    """Name an operation on an object or on a column of one."""
    return f"{operation} {column} {of}" if column else f"{operation} {of}"


def ranked(found: Iterable[Difference]) -> tuple[Difference, ...]:
    """Put the most important first: what causes too much access, then what somebody can do by it.

    Too little access comes last.
    """
    return tuple(sorted(found, key=lambda one: (one.rank == _LESS, not one.is_cause, one.rank)))


def differences_of(tries: Iterable[Try], missing: Iterable[str]) -> Iterator[Difference]:
    """Say in words which tries came out otherwise, alike ones together.

    Args:
        tries: All tries.
        missing: The names of tries that were expected and could not be made.
    """
    alike: dict[tuple[str, str, str, str], dict[tuple[str, ...], list[str]]] = {}
    for one in tries:
        by_outcome: dict[tuple[str, str], list[str]] = {}
        for actor in one.differs:
            pair = (one.expected.get(actor, ""), one.found[actor])
            by_outcome.setdefault(pair, []).append(actor)
        for (expected, found), differing in by_outcome.items():
            by_actors = alike.setdefault((one.object, one.operation, expected, found), {})
            by_actors.setdefault(tuple(differing), []).append(one.column)
    for (of, operation, expected, found), by_actors in alike.items():
        for actors, columns in by_actors.items():
            yield Difference(
                who="; ".join(ACTORS[actor] for actor in actors),
                what=_VERBS[operation].format(object=of, columns=_list(columns)),
                expected=_DONE[operation]
                if expected == YES
                else OUTCOMES.get(expected, "nothing: keylatch has no such object"),
                found=_DONE[operation] if found == YES else OUTCOMES[found],
                why=_why(operation, columns, expected, found),
                rank=_rank(expected, found),
                is_cause=False,
            )
    for of, names in groupby(missing, key=lambda name: name.rpartition(" ")[2]):
        operations = sorted({name.partition(" ")[0] for name in names})
        yield Difference(
            who="everybody",
            what=f"{of} ({', '.join(operations)})",
            expected="to be there",
            found="missing",
            why="Calls and reads that need it fail.",
            rank=_LESS,
            is_cause=False,
        )


def _list(columns: list[str]) -> str:
    shown = ", ".join(columns[:_FEW])
    return shown if len(columns) <= _FEW else f"{shown} and {len(columns) - _FEW} more columns"


def _rank(expected: str, found: str) -> int:
    if not expected:
        return _MORE if found != NO else _GUARD
    if _REACH[found] > _REACH[expected]:
        return _MORE
    return _LESS if _REACH[found] < _REACH[expected] else _GUARD


def _why(operation: str, columns: list[str], expected: str, found: str) -> str:
    if not expected:
        return "keylatch does not ship it, so nobody has judged who may use it."
    if _rank(expected, found) == _LESS:
        return "What they are meant to do fails for them."
    if expected == LATCH:
        return "The latch does not hold: what a key is, or its end, can be changed afterwards."
    if operation == "select" and HASHES & set(columns):
        return WHY_HASHES
    if operation in ("select", "call") and expected == NONE:
        return "The keys of a workspace reach somebody who does not administer it."
    if expected == NONE:
        return "Somebody changes the keys of a workspace that they do not administer."
    if found == NONE:
        return "The grant is there already: one row policy more, and it reaches rows."
    return "They can do what keylatch keeps from them."


def by_heading(tries: Iterable[Try]) -> Iterator[tuple[str, list[Try]]]:
    """Give the tries by the object, or for functions by their schema."""
    for name, group in groupby(tries, key=_heading):
        yield name, list(group)


def _heading(one: Try) -> str:
    if one.operation in ("call", "execute"):
        return f"functions of {one.object.split('.')[0]}"
    return one.object


def lines(
    tries: Iterable[Try],
) -> Iterator[tuple[str, list[str], tuple[str, ...], tuple[str, ...]]]:
    """Put together what came out alike, and leave out what is refused to all but the owner.

    Args:
        tries: Those of one heading.

    Yields:
        The operation or function, the columns, and the outcomes that were found and those that
        were expected, in the order of the actors.
    """
    alike: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for one in tries:
        found = tuple(one.found[actor] for actor in ACTORS)
        wanted = tuple(one.expected.get(actor, "") for actor in ACTORS)
        if set(found[:-1]) == {NO} and found == wanted:
            continue
        of_function = one.operation in ("call", "execute")
        name = one.object.split(".")[1] if of_function else one.operation
        columns = alike.setdefault((name, found, wanted), [])
        if one.column:
            columns.append(one.column)
    for (name, found, wanted), columns in alike.items():
        yield name, columns, found, wanted
