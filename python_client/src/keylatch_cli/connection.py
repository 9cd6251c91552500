"""Decides where a command connects, and as which user."""

from __future__ import annotations

import atexit
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec
from urllib.parse import urlsplit
from uuid import UUID

import typer

from keylatch.client import Keylatch
from keylatch.errors import InvalidArgument, KeylatchError
from keylatch.secret import mask_keys

from .credentials import NamingTransport, check_credential
from .database import open_url, other_login
from .output import missing_extra, note
from .settings import dotenv, setting, source_of

if TYPE_CHECKING:
    import psycopg
    from postgrest import SyncPostgrestClient

P = ParamSpec("P")

# Supabase's names for its keys, and other common names. The first that is set counts. A public key
# gives no access without the token of a user.
_KEYS = (
    "SUPABASE_KEY",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_SERVICE_KEY",
)
_PUBLIC_KEYS = ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY")
# Keys that are not JWTs: sb_secret_…, sb_publishable_….
_NO_JWT = "sb_"
_TOKENS = ("KEYLATCH_TOKEN",)
_SECONDS_TO_ANSWER = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line; `None` for options that were not given.

    Attributes:
        db_url: A URL or DSN of PostgreSQL.
        url: The URL of a Supabase project or, without a key, of a PostgREST server.
        key: The project's API key.
        token: The JWT of a user or a role.
        as_user: The user to act as over a database URL, a UUID.
    """

    db_url: str | None = field(default=None, repr=False)
    url: str | None = None
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    as_user: str | None = None


@dataclass(frozen=True, slots=True)
class Database:
    """A connection in SQL.

    Attributes:
        url: A URL or DSN of PostgreSQL. No command prints the URL, which may contain a password.
        as_user: The user to act as, a UUID; `None` for the connection's own user.
        is_fallback: Whether a project is set, too, but no key or token for it.
    """

    url: str = field(repr=False)
    as_user: str | None = None
    is_fallback: bool = False


@dataclass(frozen=True, slots=True)
class Rest:
    """A connection over HTTP.

    Attributes:
        url: The URL of a Supabase project or, without a key, of a PostgREST server.
        key: The project's API key.
        token: The JWT to act with; without a token, the key is used.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def _option(metavar: str, what: str) -> typer.models.OptionInfo:
    made: typer.models.OptionInfo = typer.Option(metavar=metavar, help=what, show_default=False)
    return made


DbUrl = Annotated[
    str | None, _option("URL", "URL of the database. Prefer $DATABASE_URL: `ps` shows options.")
]
Url = Annotated[
    str | None,
    _option(
        "URL",
        "URL of the Supabase project (default $SUPABASE_URL); without a key, URL of a PostgREST "
        "server.",
    ),
]
ApiKey = Annotated[
    str | None,
    _option("KEY", "The project's API key. Prefer $SUPABASE_KEY: `ps` shows options."),
]
Token = Annotated[
    str | None,
    _option("JWT", "Act as the user of this token. Prefer $KEYLATCH_TOKEN."),
]
AsUser = Annotated[
    str | None,
    _option("UUID", "With a database URL: act as this user, so that row policies apply."),
]
_ANY = {"db_url": DbUrl, "url": Url, "key": ApiKey, "token": Token, "as_user": AsUser}


def any_connection(command: Callable[Concatenate[Options, P], None]) -> Callable[..., None]:
    """Add all connection options to a command, whose first argument is then an `Options`."""
    return _with_options(command, _ANY)


def database_only(command: Callable[Concatenate[Options, P], None]) -> Callable[..., None]:
    """Add only the option `--db-url` to a command, whose first argument is then an `Options`."""
    return _with_options(command, {"db_url": DbUrl})


def connect(options: Options) -> Keylatch:
    """Connect to the project or database that the options, the environment and `.env` name.

    Args:
        options: The options. They win over the environment, and the environment wins over `.env`.

    Returns:
        A client, whose connection stays open until the process ends.

    Raises:
        KeylatchError: `usage` if no connection or two connections are named; `missing_extra` if a
            library is not installed.
        InvalidArgument: `as_user` is not a UUID.
        PermissionDenied: The database refuses the user.
        Unavailable: The database does not answer. Over HTTP, the first call raises this.
    """
    target = locate(options)
    if isinstance(target, Rest):
        client = open_project(target)
        from keylatch.transports.postgrest import PostgrestTransport

        sent, option = (target.token, "--token") if target.token else (target.key, "--key")
        credential = source_of(sent or "", option)
        return Keylatch(NamingTransport(PostgrestTransport(client), credential=credential))
    claims = None
    if target.as_user is not None:
        claims = {"sub": target.as_user, "role": "authenticated", "aud": "authenticated"}
    if target.is_fallback:
        note("This command uses DATABASE_URL, because SUPABASE_URL has no key or token.")
    connection = open_url(target.url)
    from keylatch.transports.psycopg import PsycopgTransport

    transport = PsycopgTransport(connection, claims)
    name = source_of(target.url, "--db-url")
    return Keylatch(
        NamingTransport(
            transport,
            login=connection.info.user,
            needs_owner=None if claims else lambda: other_login(connection, name),
        )
    )


def open_database(
    options: Options, *, as_owner: bool = False
) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a direct database connection, for commands that PostgREST cannot serve.

    Args:
        options: Only `db_url` is used. Without it, `DATABASE_URL` of the environment or `.env`.
        as_owner: Whether the command needs the owner of keylatch, if keylatch is installed.

    Returns:
        A connection as the URL's own user, in autocommit mode, which is closed at exit.

    Raises:
        KeylatchError: `usage` if there is no database URL or it is not valid;
            `missing_extra` if psycopg is not installed.
        PermissionDenied: The database refuses the user, or the user is not the owner.
        Unavailable: The database does not answer.
    """
    url = options.db_url or setting("DATABASE_URL")
    if not url:
        raise KeylatchError(
            "usage",
            detail="no database is set",
            hint="Set DATABASE_URL in the environment or in .env, or give --db-url.",
        )
    connection = open_url(url)
    if as_owner and (error := other_login(connection, source_of(url, "--db-url"))):
        raise error
    return connection


def locate(options: Options) -> Rest | Database:
    """Decide where to connect, without opening a connection.

    The address comes from the command line, else from the environment, else from `.env`. If a
    project and a database are both set there, the project is used, because row policies apply to
    it.

    Args:
        options: The command line.

    Returns:
        The address, and the identity to use.

    Raises:
        KeylatchError: `usage` if no connection or two connections are named, or if a key or token
            would go to an address that the user may not know about.
        InvalidArgument: `as_user` is not a UUID.
    """
    wants_rest = any((options.url, options.key, options.token))
    wants_database = any((options.db_url, options.as_user))
    if wants_rest and wants_database:
        raise KeylatchError(
            "usage",
            detail="--db-url and --as-user cannot be combined with --url, --key and --token",
            hint="Use the options of one connection only.",
        )
    given = _present(
        SUPABASE_URL=options.url,
        SUPABASE_KEY=options.key,
        KEYLATCH_TOKEN=options.token,
        DATABASE_URL=options.db_url,
    )
    if options.key and mask_keys(options.key) != options.key:
        raise KeylatchError(
            "usage",
            detail="--key needs the API key of the project, but got a key made by keylatch",
            hint="Pass keys to resolve or explain on stdin. Revoke this key if others saw it.",
        )
    file = dotenv()
    sources = (given, os.environ, file)
    has_no_key = False
    for place in sources:
        if not wants_database and place.get("SUPABASE_URL"):
            if place is file and _first(sources[:-1], (*_TOKENS, *_KEYS)):
                # Another person may have put the file into this directory.
                raise KeylatchError(
                    "usage",
                    detail="SUPABASE_URL comes from .env, but the key or token does not",
                    hint="Set SUPABASE_URL in the environment too, or unset the key and token.",
                )
            if place is not given:
                _require_private(place["SUPABASE_URL"])
            token = _first(sources, _TOKENS)
            key = _first(sources, (*_KEYS, *_PUBLIC_KEYS) if token else _KEYS)
            if key or token:
                return Rest(place["SUPABASE_URL"], key, token)
            has_no_key = True
        if not wants_rest and place.get("DATABASE_URL"):
            return Database(place["DATABASE_URL"], _user(options.as_user), has_no_key)
    raise _nowhere(given.get("SUPABASE_URL") or setting("SUPABASE_URL"), wants_database)


def _require_private(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    # An invalid URL is refused when it is opened.
    if host and parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        raise KeylatchError(
            "usage",
            detail="SUPABASE_URL uses http, so the network can read the key or token",
            hint="Use https. On a private network, pass the address with --url.",
        )


def _with_options(
    command: Callable[Concatenate[Options, P], None], added: Mapping[str, Any]
) -> Callable[..., None]:
    @wraps(command)
    def run(**values: Any) -> None:
        options = Options(**{name: values.pop(name) for name in added})
        # Typer passes all arguments by name, in the order of the signature.
        command(options, **values)  # type: ignore[call-arg]

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    new = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in added.items()
    ]
    as_named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    run.__signature__ = inspect.Signature([*as_named, *new])  # type: ignore[attr-defined]
    return run


def open_project(target: Rest) -> SyncPostgrestClient:
    """Make the client of a project or a PostgREST server, without sending a request.

    Args:
        target: The address and identity.

    Returns:
        A client, whose session stays open until the process ends.

    Raises:
        KeylatchError: `usage` if the address, the key or the token cannot be right;
            `missing_extra` if postgrest is not installed.
    """
    try:
        import httpx
        from postgrest import SyncPostgrestClient
    except ImportError as problem:
        raise missing_extra("postgrest") from problem
    headers = {}
    if target.key:
        headers["apikey"] = target.key
    # A legacy project key is a JWT. A gateway without key support needs it as the token.
    bearer = target.token or (None if (target.key or "").startswith(_NO_JWT) else target.key)
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    for value, option in ((target.key, "--key"), (target.token, "--token")):
        if value:
            check_credential(value, option, target.url)
    base = target.url.rstrip("/")
    if target.key and not base.endswith("/rest/v1"):
        base += "/rest/v1"
    try:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
        session = httpx.Client(timeout=_SECONDS_TO_ANSWER)
        client = SyncPostgrestClient(base, headers=headers, http_client=session)
    except (ValueError, httpx.InvalidURL):
        raise KeylatchError(
            "usage",
            detail="the address of the project is not an http or https URL",
            hint="Write https://PROJECT.supabase.co. For a database, use DATABASE_URL or --db-url.",
        ) from None
    atexit.register(session.close)
    return client


def _user(given: str | None) -> str | None:
    try:
        return None if given is None else str(UUID(given))
    except ValueError:
        pass
    raise InvalidArgument.of(
        "as-user",
        "is not a UUID",
        "Give the id of a Supabase user, as auth.uid() returns it. For a user of Clerk, Auth0 or "
        "Firebase, set KEYLATCH_TOKEN to the user's token.",
    )


def _nowhere(url: str | None, wants_database: bool) -> KeylatchError:
    if url and not wants_database:
        return KeylatchError(
            "usage",
            detail="a project is set, but no key or token for it",
            hint="Set SUPABASE_KEY or KEYLATCH_TOKEN in the environment or in .env.",
        )
    return KeylatchError(
        "usage",
        detail="no database is set" if wants_database else "no project and no database is set",
        hint="Set DATABASE_URL, or SUPABASE_URL and SUPABASE_KEY, in the environment or in .env; "
        "or give --db-url or --url.",
    )


def _first(sources: Iterable[Mapping[str, str]], names: Iterable[str]) -> str | None:
    """Return the first set value: try every name in the first source, then in the next."""
    names = tuple(names)
    return next((source[name] for source in sources for name in names if source.get(name)), None)


def _present(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
