"""Turns server errors into errors of keylatch, for the tools that run their own SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from keylatch.errors import KeylatchError, Unavailable, error_for
from keylatch.secret import mask_keys


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise errors of the server as errors of keylatch.

    Raises:
        KeylatchError: The server reported an error.
        Unavailable: The server stopped answering.
    """
    try:
        yield
    except psycopg.Error as problem:
        failure = own_error(problem)
    else:
        return
    raise failure


def own_error(problem: psycopg.Error) -> KeylatchError:
    """Turn an error of psycopg into an error of keylatch.

    Args:
        problem: The error of psycopg.

    Returns:
        The error for the caller to raise.
    """
    said = problem.diag
    if problem.sqlstate is None:
        return Unavailable(
            detail=mask_keys(str(problem)).partition("\n")[0],
            hint="Run the command again. Steps that are already done are skipped.",
        )
    return error_for(
        message=said.message_primary,
        code=problem.sqlstate,
        detail=said.message_detail,
        hint=said.message_hint,
    )
