"""Where a command connects and as whom: options, the environment, a `.env`, in that order."""

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
from .database import open_url
from .output import missing_extra
from .settings import dotenv, setting, source_of

if TYPE_CHECKING:
    import psycopg
    from postgrest import SyncPostgrestClient

P = ParamSpec("P")

# The names that Supabase gives them, and what is common beside; the first that is set counts. A
# public key opens nothing without the token of a user.
_KEYS = (
    "SUPABASE_KEY",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_SERVICE_KEY",
)
_PUBLIC_KEYS = ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY")
# Keys that are no JWTs: sb_secret_…, sb_publishable_….
_NO_JWT = "sb_"
_TOKENS = ("KEYLATCH_TOKEN",)
_SECONDS_TO_ANSWER = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was given on the command line; `None` where nothing was.

    Attributes:
        db_url: A URL or DSN of PostgreSQL.
        url: A Supabase project, or where there is no key, a PostgREST.
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
        url: A URL or DSN of PostgreSQL; it may hold a password, so it is never printed.
        as_user: The user to act as, a UUID; `None` for the connection's own.
    """

    url: str = field(repr=False)
    as_user: str | None = None


@dataclass(frozen=True, slots=True)
class Rest:
    """A connection over HTTP.

    Attributes:
        url: A Supabase project, or where there is no key, a PostgREST.
        key: The project's API key.
        token: The JWT to act with; the key where there is none.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def _option(metavar: str, what: str) -> typer.models.OptionInfo:
    made: typer.models.OptionInfo = typer.Option(metavar=metavar, help=what, show_default=False)
    return made


DbUrl = Annotated[
    str | None, _option("URL", "A database; better $DATABASE_URL, since `ps` shows options.")
]
Url = Annotated[
    str | None,
    _option("URL", "A Supabase project, else $SUPABASE_URL; without a key, a PostgREST."),
]
ApiKey = Annotated[
    str | None,
    _option("KEY", "The project's API key; better $SUPABASE_KEY, since `ps` shows options."),
]
Token = Annotated[
    str | None,
    _option("JWT", "Act as the user of this token; better $KEYLATCH_TOKEN."),
]
AsUser = Annotated[
    str | None,
    _option("UUID", "Over a database URL, act as this user, as PostgREST would."),
]
_ANY = {"db_url": DbUrl, "url": Url, "key": ApiKey, "token": Token, "as_user": AsUser}


def any_connection(command: Callable[Concatenate[Options, P], None]) -> Callable[..., None]:
    """Give a command all the options for a connection; it gets them as its first argument."""
    return _with_options(command, _ANY)


def database_only(command: Callable[Concatenate[Options, P], None]) -> Callable[..., None]:
    """Give a command the option `--db-url` alone; it gets `Options` as its first argument."""
    return _with_options(command, {"db_url": DbUrl})


def connect(options: Options) -> Keylatch:
    """Connect as the options, the environment and `.env` say.

    Args:
        options: What the command line says; it wins over the environment, and that over `.env`.

    Returns:
        A client; what it needs stays open until the process ends.

    Raises:
        KeylatchError: `usage` where no connection is named or two are; `missing_extra` where a
            library is not installed.
        InvalidArgument: `as_user` is not a UUID.
        PermissionDenied: The database refuses the user.
        Unavailable: The database does not answer. Over HTTP that shows at the first call.
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
    connection = open_url(target.url)
    from keylatch.transports.psycopg import PsycopgTransport

    transport = PsycopgTransport(connection, claims)
    return Keylatch(NamingTransport(transport, login=connection.info.user))


def open_database(options: Options) -> psycopg.Connection[tuple[Any, ...]]:
    """Open the database itself, for what PostgREST does not serve.

    Args:
        options: Only `db_url` counts; else `DATABASE_URL`, of the environment or of `.env`.

    Returns:
        A connection of the URL's own user, in autocommit; closed when the process ends.

    Raises:
        KeylatchError: `usage` where no database URL is given or it cannot be read;
            `missing_extra` where psycopg is not installed.
        PermissionDenied: The database refuses the user.
        Unavailable: The database does not answer.
    """
    url = options.db_url or setting("DATABASE_URL")
    if not url:
        raise KeylatchError(
            "usage",
            detail="no database is given",
            hint="Set DATABASE_URL in the environment or in .env, or give --db-url.",
        )
    return open_url(url)


def locate(options: Options) -> Rest | Database:
    """Decide where to connect, and open nothing.

    The first of command line, environment and `.env` that names an address decides; where one
    names both, the project wins over the database, because there the row policies decide.

    Args:
        options: What the command line says.

    Returns:
        Where, and as whom.

    Raises:
        KeylatchError: `usage` where no connection is named or two are, or where a secret would go
            to an address of which the user may not know.
        InvalidArgument: `as_user` is not a UUID.
    """
    wants_rest = any((options.url, options.key, options.token))
    wants_database = any((options.db_url, options.as_user))
    if wants_rest and wants_database:
        raise KeylatchError(
            "usage",
            detail="--db-url and --as-user exclude --url, --key and --token",
            hint="Give the options of one connection.",
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
            detail="--key is the API key of the project, but a key of keylatch was given",
            hint="Pass a key to resolve or explain on stdin. Revoke it if somebody could see it.",
        )
    file = dotenv()
    sources = (given, os.environ, file)
    for place in sources:
        if not wants_database and place.get("SUPABASE_URL"):
            if place is file and _first(sources[:-1], (*_TOKENS, *_KEYS)):
                # Somebody else may have put the file into this directory.
                raise KeylatchError(
                    "usage",
                    detail="SUPABASE_URL is from .env, but a key or token is not",
                    hint="Set SUPABASE_URL in the environment too, or unset the key and the token.",
                )
            if place is not given:
                _require_private(place["SUPABASE_URL"])
            token = _first(sources, _TOKENS)
            key = _first(sources, (*_KEYS, *_PUBLIC_KEYS) if token else _KEYS)
            if key or token:
                return Rest(place["SUPABASE_URL"], key, token)
        if not wants_rest and place.get("DATABASE_URL"):
            return Database(place["DATABASE_URL"], _user(options.as_user))
    raise _nowhere(given.get("SUPABASE_URL") or setting("SUPABASE_URL"), wants_database)


def _require_private(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    # What is no URL is refused where it is opened.
    if host and parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        raise KeylatchError(
            "usage",
            detail="SUPABASE_URL is http, which shows the key or token to the network",
            hint="Use https. If the network is private, give the address with --url.",
        )


def _with_options(
    command: Callable[Concatenate[Options, P], None], added: Mapping[str, Any]
) -> Callable[..., None]:
    @wraps(command)
    def run(**values: Any) -> None:
        options = Options(**{name: values.pop(name) for name in added})
        # Typer gives all by name, in the order of the signature.
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
    """Make the client of a project, or of a PostgREST; nothing is sent before the first call.

    Args:
        target: Where, and as whom.

    Returns:
        A client; its session stays open until the process ends.

    Raises:
        KeylatchError: `usage` where the address, the key or the token cannot be right;
            `missing_extra` where postgrest is not installed.
    """
    try:
        import httpx
        from postgrest import SyncPostgrestClient
    except ImportError as problem:
        raise missing_extra("postgrest") from problem
    headers = {}
    if target.key:
        headers["apikey"] = target.key
    # A key of the legacy form is a JWT, which a gateway that knows no keys needs as the token.
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
            detail="the address of the project is not a URL that begins with http",
            hint="Write https://PROJECT.supabase.co. For a database use DATABASE_URL or --db-url.",
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
        "Give the id of a user of Supabase, its auth.uid(). For a user of Clerk, Auth0 or Firebase "
        "set KEYLATCH_TOKEN to a token of theirs.",
    )


def _nowhere(url: str | None, wants_database: bool) -> KeylatchError:
    if url and not wants_database:
        return KeylatchError(
            "usage",
            detail="a project is given, but no key or token for it",
            hint="Set SUPABASE_KEY or KEYLATCH_TOKEN in the environment or in .env.",
        )
    return KeylatchError(
        "usage",
        detail="no database is given" if wants_database else "no project and no database is given",
        hint="Set DATABASE_URL, or SUPABASE_URL and SUPABASE_KEY, in the environment or in .env; "
        "or give --db-url or --url.",
    )


def _first(sources: Iterable[Mapping[str, str]], names: Iterable[str]) -> str | None:
    """Give the first that is set: a source wins over the order of the names."""
    names = tuple(names)
    return next((source[name] for source in sources for name in names if source.get(name)), None)


def _present(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
