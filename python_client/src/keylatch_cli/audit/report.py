"""The result of an audit: the tests, and the differences in words for an auditor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

ACTORS: dict[str, str] = {
    "anon": "a visitor who is not signed in (anon)",
    "stranger": "a signed-in user without a workspace",
    "member": "a member of the workspace who is not an admin",
    "other": "an admin of another workspace",
    "admin": "an admin of the workspace",
    "service": "the application's backend (service_role)",
    "resolver": "a service that resolves keys (keylatch_resolver)",
    "owner": "the owner of keylatch's tables",
}
"""The kinds of user that the audit acts as."""

NO, NONE, YES, STAMP, RULE, LATCH = "no", "none", "yes", "stamp", "rule", "latch"
OUTCOMES: dict[str, str] = {
    NO: "denied: no grant, no row policy, or not writable",
    NONE: "permitted, but reaches no data of the workspace",
    YES: "done: read, changed or called",
    STAMP: "accepted, but the database writes its own value",
    RULE: "denied: the value breaks a rule",
    LATCH: "denied by the latch, for every role",
}
"""The outcomes of a test."""

HASHES = frozenset({"key_hash", "token_hash", "verifier"})
"""The columns that only the owner may read."""
WHY_HASHES = "Only the owner may read hashes: they allow offline tests of guessed keys."
_MORE, _GUARD, _LESS = 0, 1, 2
# How much access each outcome means.
_REACH = {LATCH: 0, RULE: 0, NO: 0, NONE: 1, STAMP: 2, YES: 3}
_VERBS = {
    "select": "read {columns} of {object}",
    "insert": "insert into {object}",
    "update": "change {columns} of {object}",
    "delete": "delete from {object}",
    "truncate": "truncate {object}",
    "call": "call {object}",
    "execute": "execute the internal function {object}",
}
# The outcome YES of each operation, in words.
_DONE = {
    "select": "rows of the workspace are read",
    "insert": "a row is inserted",
    "update": "the change is made",
    "delete": "rows of the workspace are deleted",
    "truncate": "the privilege is granted, and no trigger refuses it",
    "call": "the call succeeds",
    "execute": "the privilege is granted",
}
_FEW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference between the expected and the actual access.

    Attributes:
        who: The user with more or less access, or the owner of the object.
        what: The operation, or the object.
        expected: The rule of this version of keylatch.
        found: What the database does or has.
        why: Why this matters.
        rank: 0 for too much access, 1 for a missing or changed guard, 2 for too little access.
        is_cause: Whether the catalog shows the difference; otherwise a test showed it.
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
    """An operation, and its outcome for each kind of user.

    Attributes:
        object: A table, view or function, with its schema.
        operation: select, insert, update, delete or call, which are tested; truncate, or
            execute of an internal function, which are looked up in the catalog.
        column: The column that is selected or updated; empty for the other operations.
        found: The outcome for each actor: a key of `OUTCOMES`.
        expected: The expected outcomes; empty for an object that keylatch does not have.
    """

    object: str
    operation: str
    column: str
    found: dict[str, str]
    expected: dict[str, str]

    @property
    def name(self) -> str:
        """The operation, column and object as one text."""
        return name_of(self.object, self.operation, self.column)

    @property
    def differs(self) -> tuple[str, ...]:
        """The actors with an unexpected outcome."""
        return tuple(actor for actor in ACTORS if self.found.get(actor) != self.expected.get(actor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of an audit.

    Attributes:
        differences: What is not as expected, the most important first.
        tries: All tests, in the order of their objects.
        has_own_tenancy: Whether the application's own function decides who administers a workspace.
            The audit then called this function as an unknown user only.
    """

    differences: tuple[Difference, ...]
    tries: tuple[Try, ...]
    has_own_tenancy: bool

    @property
    def count(self) -> int:
        """The number of tests."""
        return len(self.tries) * len(ACTORS)

    @property
    def is_clean(self) -> bool:
        """Whether everything is as expected."""
        return not self.differences


def name_of(of: str, operation: str, column: str) -> str:
    """Name an operation on an object or on one of its columns."""
    return f"{operation} {column} {of}" if column else f"{operation} {of}"


def ranked(found: Iterable[Difference]) -> tuple[Difference, ...]:
    """Sort by importance: first the causes of too much access, then the effects.

    Too little access comes last.
    """
    return tuple(sorted(found, key=lambda one: (one.rank == _LESS, not one.is_cause, one.rank)))


def differences_of(tries: Iterable[Try], missing: Iterable[str]) -> Iterator[Difference]:
    """Describe the tests with an unexpected outcome, and combine similar ones.

    Args:
        tries: All tests.
        missing: The names of expected tests whose object does not exist.
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
                else OUTCOMES.get(expected, "no such object in keylatch"),
                found=_DONE[operation] if found == YES else OUTCOMES[found],
                why=_why(operation, columns, expected, found),
                rank=_rank(expected, found),
                is_cause=False,
            )
    for of, names in groupby(missing, key=lambda name: name.rpartition(" ")[2]):
        operations = sorted({name.partition(" ")[0] for name in names})
        yield Difference(
            who="everyone",
            what=f"{of} ({', '.join(operations)})",
            expected="an object of keylatch",
            found="missing",
            why="Calls and queries that use this object fail.",
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
        return "This object is not part of keylatch, so nobody has reviewed who may use it."
    if _rank(expected, found) == _LESS:
        return "An operation that this user needs fails."
    if expected == LATCH:
        return "The latch is broken: a key's identity or its revocation can be changed afterwards."
    if operation == "select" and HASHES & set(columns):
        return WHY_HASHES
    if operation in ("select", "call") and expected == NONE:
        return "A user who does not administer the workspace can read its keys."
    if expected == NONE:
        return "A user who does not administer the workspace can change its keys."
    if found == NONE:
        return "The privilege is already granted: one more row policy would open the rows."
    return "This user can do something that keylatch forbids."


def by_heading(tries: Iterable[Try]) -> Iterator[tuple[str, list[Try]]]:
    """Group the tests by object, and the tests of functions by schema."""
    for name, group in groupby(tries, key=_heading):
        yield name, list(group)


def _heading(one: Try) -> str:
    if one.operation in ("call", "execute"):
        return f"functions of {one.object.split('.')[0]}"
    return one.object


def lines(
    tries: Iterable[Try],
) -> Iterator[tuple[str, list[str], tuple[str, ...], tuple[str, ...]]]:
    """Combine tests with the same outcome, and leave out operations that only the owner may do.

    Args:
        tries: The tests of one heading.

    Yields:
        The operation or function, the columns, the outcomes and the expected outcomes, in the
        order of the actors.
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
