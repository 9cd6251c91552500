"""One database of a server, and connections to it as any role, the way PostgREST would act."""

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

# A copy tells that it was installed elsewhere; one of a template is an installation of its own.
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
    """Make a database to be copied, with platform, migrations and pgTAP, and return its name.

    Args:
        server: Where to make it.
        name: Its name.
        files: Only these migrations; see `stack.modules.migrations`.
    """
    template = Database(server, name)
    if files is None:
        template.push()
    else:
        template.migrate(files)
    template.create_extension("pgtap")
    return name


class Database:
    """A database; a context manager that closes its connections and drops it.

    Attributes:
        server: The server that it is in.
        name: Its name.
    """

    def __init__(
        self, server: Cluster, name: str, template: str | None = None, *, is_copy: bool = False
    ) -> None:
        """Create it, from `template` if that is given: as new, or as a copy that shows."""
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
        """Close the connections and drop it."""
        self._connections.close()
        self.server.drop_database(self.name)

    @property
    def url(self) -> str:
        """Its URL as `postgres`, who owns it."""
        return self.server.url(self.name)

    @property
    def superuser_url(self) -> str:
        """Its URL as the superuser."""
        return self.server.superuser_url(self.name)

    @property
    def inner_url(self) -> str:
        """Its URL as the superuser, for a subscription of the same server."""
        return self.server.inner_url(self.name)

    @property
    def authenticator_url(self) -> str:
        """Its URL as PostgREST logs in."""
        return self.server.url(self.name, "authenticator")

    def push(self) -> str:
        """Install the platform, then push the migrations as users do; return what the CLI says.

        The CLI takes a second more than `migrate`.
        """
        self.server.install_platform(self.name)
        return push_migrations(self.url)

    def migrate(self, files: Sequence[Path] | None = None) -> None:
        """Install the platform, then apply all migrations, or only these, without the CLI."""
        self.server.install_platform(self.name)
        self.apply(sorted(MIGRATIONS.glob("*.sql")) if files is None else files)

    def apply(self, files: Sequence[Path]) -> None:
        """Apply migrations as `postgres`, all in one transaction, as one file would be."""
        with psycopg.connect(self.url) as owner:
            for file in files:
                owner.execute(file.read_bytes())

    def create_extension(self, name: str) -> None:
        """Install an extension in schema `extensions`, trusted or not."""
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
        """Connect, for the whole session as one role; closed at the latest with the database.

        Args:
            role: The role to act as; the one that `claims` name, else `postgres`. Roles that cannot
                log in are reached through `authenticator`, as PostgREST reaches them.
            claims: What `request.jwt.claims` holds; nothing unless given.
            superuser: Log in as the superuser, and then take `role` if that is given.
            autocommit: Each statement is a transaction of its own.
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
