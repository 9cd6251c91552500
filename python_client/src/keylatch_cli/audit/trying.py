"""Tests one operation as one kind of user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from .report import ACTORS, LATCH, NO, NONE, RULE, STAMP, YES
from .stage import Stage

# No privilege; a view, or a column of one, that cannot be written; a generated column.
_REFUSED = ("42501", "55000", "0A000", "428C9")
_LATCHED, _UNKNOWN = "PT409", ("PT401", "PT404")
# Another session's lock, or a timeout: the test has no result.
UNTRIED = ("55P03", "57014", "40P01")
_ASKED = ("execute", "truncate")
_UNDO = b"rollback to savepoint keylatch_try"
# All statements of a test in one round trip: there are thousands of tests.
_TRY = _UNDO + b"; %b; %b; set constraints all immediate"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation to test: statements, each of which needs more access than the statement before.

    After an update, `was_taken` checks whether the rows have the new value.
    """

    object: str
    operation: str
    column: str
    statements: tuple[sql.Composed, ...]
    was_taken: sql.Composed | None = None


@contextmanager
def undone(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Undo what each test in this block changed. An error leaves that to the caller."""
    connection.execute("savepoint keylatch_try")
    yield
    connection.execute(_UNDO)


def outcomes(connection: psycopg.Connection[Any], stage: Stage, one: Operation) -> dict[str, str]:
    """Test an operation as each actor, with the deferred checks. Needs an `undone` block."""
    # Written out once, and not again for each actor: there are thousands of tests.
    statements = [statement.as_bytes(connection) for statement in one.statements]
    question = None
    if one.was_taken is not None:
        question = b"%b; %b" % (stage.acting["owner"], one.was_taken.as_bytes(connection))
    return {
        actor: _outcome(connection, stage.acting[actor], one.operation, statements, question)
        for actor in ACTORS
    }


def _outcome(
    connection: psycopg.Connection[Any],
    acting: bytes,
    operation: str,
    statements: list[bytes],
    question: bytes | None,
) -> str:
    came = NO
    for statement in statements:
        try:
            rows = _ask(connection, _TRY % (acting, statement), 3).rowcount
            is_taken = rows > 0 and _is_taken(connection, question)
        except psycopg.Error as problem:
            if problem.sqlstate is None or problem.sqlstate in UNTRIED:
                raise
            return _refusal(problem.sqlstate, operation, came)
        if operation in _ASKED:
            if not rows:
                return came
            # The second statement checks whether a guard refuses what the first one grants.
            came = LATCH if came == YES else YES
        elif rows > 0:
            came = YES if is_taken else STAMP
        else:
            came = NONE
    return came


def _is_taken(connection: psycopg.Connection[Any], question: bytes | None) -> bool:
    """Check whether an update has written the new value, or moved the row away."""
    if question is None:
        return True
    return bool(_ask(connection, question, 2).fetchall()[0][0] is not False)


def _ask(connection: psycopg.Connection[Any], query: bytes, place: int) -> psycopg.Cursor[Any]:
    """Send statements in one round trip, and return the result of the one at `place` (from 1)."""
    cursor = connection.execute(query, prepare=False)
    for _ in range(place - 1):
        cursor.nextset()
    return cursor


def _refusal(sqlstate: str, operation: str, came: str) -> str:
    if sqlstate in _REFUSED:
        return came
    if operation == "call":
        # Only the value was refused. With another value, the role may make the call.
        return NONE if sqlstate in _UNKNOWN else YES
    return LATCH if sqlstate == _LATCHED else RULE
