"""What PostgREST serves, against what is in the database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import httpx
import psycopg
from postgrest.exceptions import APIError
from psycopg.rows import tuple_row

from keylatch import errors
from keylatch.client import Keylatch
from keylatch.transports.postgrest import _no_answer

from . import identity
from .catalog import Entry, Name
from .platform import HIDDEN_SCHEMAS
from .report import Finding, Level, Site, Unchecked

if TYPE_CHECKING:
    from postgrest import SyncPostgrestClient

# No such function in its cache, no such relation.
_NOT_SERVED = ("PGRST202", "PGRST205", "42P01")
# PostgreSQL answered, or PostgREST looked for something in the schema: so it is exposed.
_EXPOSED = re.compile(r"[0-9A-Z]{5}|PGRST2[0-9]{2}")
_ARGUMENTS = """
select p.proname, p.proargnames[1:p.pronargs]
from pg_catalog.pg_proc as p
where p.pronamespace = pg_catalog.to_regnamespace('keylatch')
order by 1
"""

_EXPOSE = (
    "-- The schema is installed, so expose it now: PostgREST 13 and later refuse every request\n"
    "-- while an exposed schema is missing.\n"
    "-- hosted: add keylatch to the exposed schemas of the Data API, in the dashboard\n"
    "-- local: add it to [api] schemas in supabase/config.toml\n"
    "-- else: alter role authenticator set pgrst.db_schemas = 'public, keylatch';\n"
    "--       notify pgrst, 'reload config';"
)


class _Request(Protocol):
    def execute(self) -> object:
        """Send it."""


def check(
    client: SyncPostgrestClient,
    connection: psycopg.Connection[Any],
    site: Site,
    live: Mapping[Name, Entry],
) -> Iterator[Finding | Unchecked]:
    """Ask PostgREST what it serves. It is asked for what only reads.

    Args:
        client: Whoever may ask: with the key of a project, or the token of a user.
        connection: The database that it should serve, inside a transaction.
        site: That database.
        live: What is in it.

    Yields:
        What is the matter.
    """
    where = f"API at {urlsplit(str(client.base_url)).netloc.rpartition('@')[2]}"
    try:
        served = Keylatch.from_postgrest(client).installation()
    except errors.SchemaNotExposed:
        yield Finding(
            Level.ERROR,
            "schema_not_exposed",
            "schema keylatch",
            f"is not exposed by the {where}",
            "Every call over HTTP fails.",
            _EXPOSE,
        )
    except errors.NotInstalled:
        # It serves an older state, of which every function that is missing is named.
        yield from _check_cache(client, connection, where, live)
    except errors.PermissionDenied as problem:
        yield Unchecked(
            "whether the API reaches this database",
            f"{problem.detail}; it takes the key of service_role, or a user's token",
        )
        yield from _check_cache(client, connection, where, live)
    except errors.KeylatchError as problem:
        yield Finding(
            Level.ERROR,
            "api_fails",
            where,
            f"does not answer as PostgREST does: {problem.detail or problem.slug}",
            "Every call over HTTP fails.",
            f"curl -i {client.base_url}  # is it the project's address, and is it up?",
        )
        return
    else:
        yield from identity.check_lag(where, served)
        here = site.installation
        if here and (here.id, here.system_identifier) != (served.id, served.system_identifier):
            yield identity.other_installation(
                where,
                f"has another installation, {served.id}"
                if here.id != served.id
                else "has a restored copy of the same installation, on another server",
            )
        else:
            yield from _check_cache(client, connection, where, live)
    for schema in HIDDEN_SCHEMAS:
        code = _code(client.schema(schema).from_("keys").select("id").limit(0))
        if code is None or _EXPOSED.fullmatch(code):
            yield Finding(
                Level.ERROR,
                "internal_exposed",
                f"schema {schema}",
                f"is exposed by the {where}",
                "What clients are not meant to call is an API to them.",
                f"-- take {schema} out of the exposed schemas, where keylatch stands",
            )


def _check_cache(
    client: SyncPostgrestClient,
    connection: psycopg.Connection[Any],
    where: str,
    live: Mapping[Name, Entry],
) -> Iterator[Finding]:
    rest = client.schema("keylatch")
    missing = []
    with connection.cursor(row_factory=tuple_row) as cursor:
        for name, arguments in cursor.execute(_ARGUMENTS).fetchall():
            # By all its arguments, so that an older signature does not do. By GET, which PostgREST
            # runs read-only whatever the function; most of them refuse the value anyhow.
            values = dict.fromkeys(arguments or [], "x")
            if _code(rest.rpc(name, values, get=True)) in _NOT_SERVED:
                missing.append(f"{name}({', '.join(values)})")
    for entry in live.values():
        if entry.schema == "keylatch" and entry.kind in ("table", "view"):
            name = entry.name.removeprefix("keylatch.")
            if _code(rest.from_(name).select("*").limit(0)) in _NOT_SERVED:
                missing.append(name)
    if missing:
        yield Finding(
            Level.ERROR,
            "api_stale",
            where,
            "does not serve what the database has: " + ", ".join(sorted(missing)),
            "PostgREST goes by what it read from the database at an earlier time.",
            "notify pgrst, 'reload schema';",
        )


def _code(request: _Request) -> str | None:
    """Send a request, and give the code of the error that it meets."""
    try:
        request.execute()
    except APIError as refused:
        return str(refused.code)
    except httpx.HTTPError as problem:
        failure = _no_answer(problem)
    else:
        return None
    raise failure
