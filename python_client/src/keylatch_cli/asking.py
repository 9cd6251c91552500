"""What the tools do alike where they speak SQL themselves: errors of the server as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from keylatch.errors import KeylatchError, Unavailable, error_for
from keylatch.secret import mask_keys


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise what a server says as an error of keylatch.

    Raises:
        KeylatchError: What the server says.
        Unavailable: It says nothing any more.
    """
    try:
        yield
    except psycopg.Error as problem:
        failure = own_error(problem)
    else:
        return
    raise failure


def own_error(problem: psycopg.Error) -> KeylatchError:
    """Make an error of keylatch of what a server said.

    Args:
        problem: What psycopg raised.

    Returns:
        The error, to be raised.
    """
    said = problem.diag
    if problem.sqlstate is None:
        return Unavailable(
            detail=mask_keys(str(problem)).partition("\n")[0],
            hint="Run the command again; nothing happens where it was done.",
        )
    return error_for(
        message=said.message_primary,
        code=problem.sqlstate,
        detail=said.message_detail,
        hint=said.message_hint,
    )
