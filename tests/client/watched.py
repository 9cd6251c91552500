"""A server that logs every statement, and the statements that it shows."""

from collections.abc import Iterator
from contextlib import contextmanager

from stack import Database, Janitor, People, Tokens, chosen_cluster

# As on Supabase, and as the README recommends: log every statement, but no parameters.
_SETTINGS = {"log_statement": "all", "log_parameter_max_length": "0", "track_activities": "on"}
_ACTIVITY = "select string_agg(query, chr(10)) from pg_stat_activity where datname = %s"


class Watched:
    """A migrated and seeded database on a server that logs every statement.

    Attributes:
        database: The database.
        people: The users and their workspaces.
    """

    def __init__(self, database: Database, people: People) -> None:
        """Store the database."""
        self.database = database
        self.people = people

    def shown(self) -> str:
        """Return the server's log, and each connection's statement in `pg_stat_activity`."""
        with self.database.connect(superuser=True) as watcher:
            (activity,) = watcher.execute(_ACTIVITY, [self.database.name]).fetchone() or ("",)
        return f"{self.database.server.log()}\n{activity}"


@contextmanager
def watched_database(tokens: Tokens, janitor: Janitor) -> Iterator[Watched]:
    """Start the server, and stop it at the end."""
    with (
        chosen_cluster(settings=_SETTINGS, janitor=janitor) as server,
        Database(server, "watched") as database,
    ):
        database.migrate()
        people = People(tokens)
        people.seed(database.url)
        yield Watched(database, people)
