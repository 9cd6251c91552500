"""Opens a database by its URL, and keeps the password out of errors."""

from __future__ import annotations

import atexit
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from keylatch.errors import KeylatchError, PermissionDenied, Unavailable

from .output import missing_extra
from .settings import source_of

if TYPE_CHECKING:
    import psycopg

_SECONDS_TO_CONNECT = 10
_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
# Escapes characters that have a meaning in a URL. The password stays out of the shell's history.
_ESCAPE = (
    "Escape the password with this command: python3 -c 'import getpass, urllib.parse as u; "
    'print(u.quote(getpass.getpass(), ""))\''
)
# No row for the owner, a member of the owner, a reader of all rows, or without keylatch.
_OTHER_LOGIN = """
select session_user, pg_catalog.pg_get_userbyid(n.nspowner)
from pg_catalog.pg_namespace as n
inner join pg_catalog.pg_roles as r on r.rolname = current_user
where n.nspname = 'keylatch_internal'
  and not pg_catalog.pg_has_role(n.nspowner, 'member')
  and not (r.rolbypassrls and pg_catalog.pg_has_role('pg_read_all_data', 'usage'))
"""
# Messages of libpq and the server before there is a connection, without an SQLSTATE: a pattern,
# the class of the error, what is wrong, and what to do.
_REFUSALS: tuple[tuple[str, type[KeylatchError], str, str], ...] = (
    (
        'database "(.+)" does not exist',
        Unavailable,
        "the database {0} does not exist on this server",
        "List the databases with psql --list, and correct the end of the database URL.",
    ),
    (
        'role "(.+)" does not exist',
        PermissionDenied,
        "the role {0} does not exist on this server",
        "Correct the user in the database URL, or run in SQL: create role {0} login;",
    ),
    (
        "server does not support SSL",
        Unavailable,
        "the server has no SSL, and the database URL requires it",
        "On this machine or a private network, add ?sslmode=disable to the URL. Otherwise turn on "
        "SSL in the server: alter system set ssl = on;",
    ),
    (
        "no pg_hba.conf entry .*no encryption|SSL connection is required|SSL required",
        PermissionDenied,
        "the server accepts only SSL connections from this address",
        "Add ?sslmode=require to the database URL.",
    ),
    (
        "no pg_hba.conf entry",
        PermissionDenied,
        "the server does not allow this user from this address, or not to this database",
        "Add a line for the user to pg_hba.conf, and run in SQL: select pg_reload_conf();",
    ),
    (
        'password authentication failed for user "(.+)"|no password supplied',
        PermissionDenied,
        "{said}",
        f"Check user and password in the database URL. {_ESCAPE}",
    ),
    (
        'authentication failed for user "(.+)"',
        PermissionDenied,
        "{said}",
        "Connect as a user that pg_hba.conf allows: put host, user and password into the URL.",
    ),
)


def open_url(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a database. The connection is closed when the process ends.

    Args:
        url: A URL or DSN of PostgreSQL.

    Returns:
        A connection in autocommit mode, which also works behind a pooler in transaction mode.

    Raises:
        KeylatchError: `usage` if the URL is not valid; `missing_extra` if psycopg is not
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
    parameters.setdefault("client_encoding", "utf8")
    # psycopg reads times only in the style ISO. libpq sends this setting also through a pooler.
    os.environ["PGDATESTYLE"] = "ISO"
    try:
        # No prepared statements, because there may be a pooler in between.
        connection = psycopg.connect(autocommit=True, prepare_threshold=None, **parameters)
    except psycopg.Error as problem:
        failure = _refused(str(problem))
    else:
        atexit.register(connection.close)
        return connection
    # Outside the except block: the message of libpq may contain the password.
    raise failure


def other_login(connection: psycopg.Connection[Any], name: str) -> PermissionDenied | None:
    """Build the error for a command that needs the owner, if another login is connected.

    Args:
        connection: The connection, outside a failed transaction.
        name: The variable or option with the URL of the database.

    Returns:
        The error for the caller to raise; `None` for a login with the rights of the owner.
    """
    import psycopg

    try:
        row = connection.execute(_OTHER_LOGIN).fetchone()
    except psycopg.Error:
        return None  # The command itself reports why the database does not answer.
    if row is None:
        return None
    return PermissionDenied(
        detail=f"{name} logs in as {row[0]}; this command needs the owner's login.",
        hint=f"Set {name} to the login of {row[1]}, who owns keylatch.",
    )


def _read_database_url(url: str) -> dict[str, Any]:
    """Split a URL or DSN into parameters. No error repeats the URL, which has a password."""
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict

    parameters: dict[str, Any] = {}
    # Text that is not valid UTF-8 is not a URL either.
    with suppress(Error, UnicodeError):
        parameters = conninfo_to_dict(url)
    # An unescaped @ or / in the password moves a part of the password into one of these.
    if not parameters or any(
        "@" in parameters.get(name, "") for name in ("host", "port", "dbname")
    ):
        raise _unreadable(url)
    return parameters


def _unreadable(url: str) -> KeylatchError:
    name = source_of(url, "--db-url")
    problem, hint = "is not a valid URL", f"Write {_FORM}, with parameters that libpq knows."
    if found := re.match(r"postgres(?:ql)?\+(\w{1,20})://", url):
        problem = f"begins with postgresql+{found[1]}://, which only SQLAlchemy reads"
        hint = "Begin the URL with postgresql://."
    elif url.startswith(("'", '"')):
        problem, hint = "begins with a quotation mark", "Remove the quotation marks."
    elif re.match("https?://", url):
        problem = "is the address of a web server, not of a database"
        hint = f"Write {_FORM}. The address of a project belongs into SUPABASE_URL."
    elif re.match(r"postgres(?:ql)?://[^:@/]*:.+@", url):
        problem = "is not a valid URL: its password has a character that must be escaped: @ / %"
        hint = _ESCAPE
    return KeylatchError("usage", detail=f"{name} {problem}", hint=hint)


def _refused(said: str) -> KeylatchError:
    said = re.sub(r"\s+", " ", said.partition("\n")[0]).removeprefix("connection failed: ")
    for pattern, kind, detail, hint in _REFUSALS:
        if match := re.search(pattern, said):
            return kind(
                detail=detail.format(*match.groups(), said=said),
                hint=hint.format(*match.groups()),
            )
    return Unavailable(
        detail=said, hint="Check that the server runs and that the address is right."
    )
