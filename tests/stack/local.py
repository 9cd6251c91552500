"""A whole stack: a server, a migrated and seeded database, PostgREST and the gateway."""

import contextlib
from collections.abc import Mapping
from typing import Self

from stack.database import Database
from stack.janitor import Janitor
from stack.people import People
from stack.rest import Rest
from stack.server import Server
from stack.tokens import Tokens


class Stack:
    """A local Supabase project with keylatch and the people of `People`; a context manager.

    Attributes:
        server: The PostgreSQL server.
        database: The database, with the platform and all migrations.
        rest: The REST API of the database.
        people: The users that the database was seeded with.
        tokens: Signs tokens for the API.
        url: The URL for `supabase.create_client`.
        rest_url: The URL of PostgREST itself.
        anon_key: The project's key for browsers.
        service_key: The project's key for its own backend.
        database_url: The URL of the database for `postgres`.
        token: Signs a token for a user id and a role; see `Tokens.token`.
    """

    def __init__(
        self, version: int | None = None, *, settings: Mapping[str, str] | None = None
    ) -> None:
        """Start everything and wait until it is ready.

        Args:
            version: The major version of PostgreSQL; see `tools.postgres_bin` for the default.
            settings: Settings of PostgreSQL that override or extend ours.
        """
        # If a part fails to start, the parts that already run are ended.
        with contextlib.ExitStack() as parts:
            janitor = Janitor()
            parts.callback(janitor.close)
            self.tokens = Tokens()
            self.server = Server(version, settings=settings, janitor=janitor)
            self.database = Database(self.server, "keylatch")
            self.database.push()
            self.people = People(self.tokens)
            self.people.seed(self.database.url)
            self.rest = parts.enter_context(Rest(self.database, self.tokens, janitor=janitor))
            self._parts = parts.pop_all()
        self.url, self.rest_url = self.rest.url, self.rest.rest_url
        self.anon_key, self.service_key = self.tokens.anon_key, self.tokens.service_key
        self.database_url = self.database.url
        self.token = self.tokens.token

    def __enter__(self) -> Self:
        """Returns the running stack."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the stack."""
        self.close()

    def close(self) -> None:
        """Stop the stack; the database is removed with its server."""
        self._parts.close()
