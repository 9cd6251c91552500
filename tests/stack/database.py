"""One database of a server, with connections as any role, made as PostgREST makes them."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from stack.cluster import SUPERUSER, Cluster
from stack.modules import MIGRATIONS
from stack.supabase import push_migrations

# `made_in` shows that a database is a copy of another. A clone of the template must not show it.
_SETTLE = """
do $$ begin
  if to_regclass('keylatch_internal.installation') is not null then
    update keylatch_internal.installation set made_in = default;
  end if;
end $$
"""


def make_template(
    server: Cluster, name: str = "keylatch_template", files: Sequence[Path] | None = None
) -> str:
    """Make a template database with the platform, migrations and pgTAP, and return its name.

    Args:
        server: The server to make the template on.
        name: The template's name.
        files: Only these migrations, see `stack.modules.migrations`; by default all.
    """
    template = Database(server, name)
    if files is None:
        template.push()
    else:
        template.migrate(files)
    template.create_extension("pgtap")
    return name


class Database:
    """A database; a context manager that closes its connections and drops the database.

    Attributes:
        server: The server that the database is on.
        name: The database's name.
    """

    def __init__(
        self, server: Cluster, name: str, template: str | None = None, *, is_copy: bool = False
    ) -> None:
        """Create the database, as a clone of `template` if given.

        With `is_copy`, the clone shows that it is a copy of another database; see `_SETTLE`.
        """
        self.server = server
        self.name = name
        self._connections = contextlib.ExitStack()
        server.create_database(name, template)
        if template is not None and not is_copy:
            with psycopg.connect(self.superuser_url) as connection:
                connection.execute(_SETTLE)

    def __enter__(self) -> Self:
        """Returns the database."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections and drop the database."""
        self._connections.close()
        self.server.drop_database(self.name)

    @property
    def url(self) -> str:
        """The database's URL for `postgres`, its owner."""
        return self.server.url(self.name)

    @property
    def superuser_url(self) -> str:
        """The database's URL for the superuser."""
        return self.server.superuser_url(self.name)

    @property
    def inner_url(self) -> str:
        """The database's URL for the superuser, for a subscription on the same server."""
        return self.server.inner_url(self.name)

    @property
    def authenticator_url(self) -> str:
        """The database's URL for `authenticator`, the login role of PostgREST."""
        return self.server.url(self.name, "authenticator")

    def push(self) -> str:
        """Install the platform, push the migrations as users do, and return the CLI's output.

        The CLI takes a second more than `migrate`.
        """
        self.server.install_platform(self.name)
        return push_migrations(self.url)

    def migrate(self, files: Sequence[Path] | None = None) -> None:
        """Install the platform, then apply `files` (by default all migrations) without the CLI."""
        self.server.install_platform(self.name)
        self.apply(sorted(MIGRATIONS.glob("*.sql")) if files is None else files)

    def apply(self, files: Sequence[Path]) -> None:
        """Apply migrations as `postgres`, all in one transaction, like a single file."""
        with psycopg.connect(self.url) as owner:
            for file in files:
                owner.execute(file.read_bytes())

    def create_extension(self, name: str) -> None:
        """Install an extension in schema `extensions`, as the superuser."""
        with psycopg.connect(self.superuser_url) as connection:
            connection.execute(
                sql.SQL("create extension {} with schema extensions").format(sql.Identifier(name))
            )

    def connect(
        self,
        role: str | None = None,
        claims: Mapping[str, object] | None = None,
        *,
        superuser: bool = False,
        autocommit: bool = True,
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as one role for the whole session. The database closes the connection at its end.

        Args:
            role: The role to act as. By default the role in `claims`, else `postgres`. A role
                that cannot log in is set after a login as `authenticator`, as PostgREST does.
            claims: The value of `request.jwt.claims`; unset by default.
            superuser: Log in as the superuser, then set `role` if given.
            autocommit: Whether each statement is a transaction of its own.
        """
        if role is None and claims is not None and not superuser:
            role = str(claims["role"])
        login = "postgres" if role in (None, "postgres") else "authenticator"
        if superuser:
            login = SUPERUSER
        connection = psycopg.connect(self.server.url(self.name, login), autocommit=True)
        self._connections.callback(connection.close)
        if role not in (None, login):
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(str(role))))
        if claims is not None:
            connection.execute(
                "select set_config('request.jwt.claims', %s, false)", [json.dumps(claims)]
            )
        connection.autocommit = autocommit
        return connection
