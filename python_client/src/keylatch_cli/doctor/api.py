"""Compares the API that PostgREST serves with the objects in the database."""

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
from keylatch.transports.postgrest import no_answer

from . import identity
from .catalog import Entry, Name
from .platform import HIDDEN_SCHEMAS
from .report import Finding, Level, Site, Unchecked

if TYPE_CHECKING:
    from postgrest import SyncPostgrestClient

# PostgREST knows no such function or relation.
_NOT_SERVED = ("PGRST202", "PGRST205", "42P01")
# PostgreSQL answered, or PostgREST looked into the schema, so the schema is exposed.
_EXPOSED = re.compile(r"[0-9A-Z]{5}|PGRST2[0-9]{2}")
_ARGUMENTS = """
select p.proname, p.proargnames[1:p.pronargs]
from pg_catalog.pg_proc as p
where p.pronamespace = pg_catalog.to_regnamespace('keylatch')
order by 1
"""

_EXPOSE = (
    "-- The schema is installed, so it can be exposed now. (PostgREST 13 and later refuse every\n"
    "-- request while an exposed schema is missing.)\n"
    "-- hosted: add keylatch to the exposed schemas of the Data API, in the dashboard\n"
    "-- local: add keylatch to [api] schemas in supabase/config.toml\n"
    "-- otherwise: alter role authenticator set pgrst.db_schemas = 'public, keylatch';\n"
    "--            notify pgrst, 'reload config';"
)


class _Request(Protocol):
    def execute(self) -> object:
        """Send the request."""


def check(
    client: SyncPostgrestClient,
    connection: psycopg.Connection[Any],
    site: Site,
    live: Mapping[Name, Entry],
) -> Iterator[Finding | Unchecked]:
    """Check what PostgREST serves, with requests that only read.

    Args:
        client: A client with the key of the project, or the token of a user.
        connection: The database that PostgREST should serve, inside a transaction.
        site: The name and version of the database.
        live: The objects in the database.

    Yields:
        The findings.
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
        # PostgREST serves an older state. Every missing function is named.
        yield from _check_cache(client, connection, where, live)
    except errors.PermissionDenied as problem:
        yield Unchecked(
            "whether the API reaches this database",
            f"{problem.detail}; give the key of service_role, or a user's token",
        )
        yield from _check_cache(client, connection, where, live)
    except errors.KeylatchError as problem:
        yield Finding(
            Level.ERROR,
            "api_fails",
            where,
            f"does not answer like PostgREST: {problem.detail or problem.slug}",
            "Every call over HTTP fails.",
            f"curl -i {client.base_url}  # is this the project's address, and does it answer?",
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
                "Clients can call internal functions and read internal tables.",
                f"-- remove {schema} from the exposed schemas, in the setting that has keylatch",
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
            # With all arguments, so that an older signature does not match. With GET, because
            # PostgREST then runs every function read-only. Most functions refuse the value anyway.
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
            "does not serve objects of the database: " + ", ".join(sorted(missing)),
            "PostgREST uses an outdated schema cache.",
            "notify pgrst, 'reload schema';",
        )


def _code(request: _Request) -> str | None:
    """Send a request. Return the code of the error, or `None` if there is no error."""
    try:
        request.execute()
    except APIError as refused:
        return str(refused.code)
    except httpx.HTTPError as problem:
        failure = no_answer(problem)
    else:
        return None
    raise failure
