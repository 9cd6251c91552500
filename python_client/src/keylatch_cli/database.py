"""Opens a database by its URL, and lets no password of it into an error."""

from __future__ import annotations

import atexit
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from keylatch.errors import KeylatchError, PermissionDenied, Unavailable

from .output import missing_extra

if TYPE_CHECKING:
    import psycopg

_SECONDS_TO_CONNECT = 10
_DB_URL_HINT = (
    "Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for an @ in the password, %2F "
    "for a /, %3F for a ?, and without parameters that libpq does not know."
)


def open_url(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a database; the connection is closed when the process ends.

    Args:
        url: A URL or DSN of PostgreSQL.

    Returns:
        A connection in autocommit, which also works behind a pooler in transaction mode.

    Raises:
        KeylatchError: `usage` where the URL cannot be read; `missing_extra` where psycopg is not
            installed.
        PermissionDenied: The database refuses the user.
        Unavailable: The database does not answer.
    """
    try:
        import psycopg
    except ImportError as problem:
        raise missing_extra("psycopg") from problem
    parameters = _read_database_url(url)
    parameters.setdefault("connect_timeout", _SECONDS_TO_CONNECT)
    parameters.setdefault("fallback_application_name", "keylatch")
    try:
        # No prepared statements: there may be a pooler in between.
        connection = psycopg.connect(autocommit=True, prepare_threshold=None, **parameters)
    except psycopg.Error as problem:
        failure = _refused(str(problem))
    else:
        atexit.register(connection.close)
        return connection
    # Out of the except block: what libpq says may hold the password.
    raise failure


def _read_database_url(url: str) -> dict[str, Any]:
    """Take a URL or DSN apart; no error repeats it, for it holds a password."""
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict

    parameters: dict[str, Any] = {}
    # Bytes that are no text are no URL, either.
    with suppress(Error, UnicodeError):
        parameters = conninfo_to_dict(url)
    # An @ or a / in a password that is not escaped moves a part of it to one of these.
    if not parameters or any(
        "@" in parameters.get(name, "") for name in ("host", "port", "dbname")
    ):
        raise KeylatchError("usage", detail="the database URL cannot be read", hint=_DB_URL_HINT)
    return parameters


def _refused(said: str) -> KeylatchError:
    detail = re.sub(r"\s+", " ", said.partition("\n")[0]).removeprefix("connection failed: ")
    # Before there is a connection, libpq passes on what the server said, and no SQLSTATE.
    if re.search(r"authentication failed|no password supplied|no pg_hba\.conf entry", detail):
        return PermissionDenied(detail=detail, hint="Check user and password of the database URL.")
    return Unavailable(
        detail=detail, hint="Check that the server runs and that the address is right."
    )
