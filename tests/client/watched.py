"""A server that logs every statement, and what it shows of the statements of others."""

from collections.abc import Iterator
from contextlib import contextmanager

from stack import Database, Janitor, People, Tokens, chosen_cluster

# As on Supabase and as the README asks for: parameters are left out, statements never are.
_SETTINGS = {"log_statement": "all", "log_parameter_max_length": "0", "track_activities": "on"}
_ACTIVITY = "select string_agg(query, chr(10)) from pg_stat_activity where datname = %s"


class Watched:
    """A migrated and seeded database on such a server.

    Attributes:
        database: The database.
        people: Who administers what.
    """

    def __init__(self, database: Database, people: People) -> None:
        """Stores the database."""
        self.database = database
        self.people = people

    def shown(self) -> str:
        """The server's log, and what `pg_stat_activity` says of each connection."""
        with self.database.connect(superuser=True) as watcher:
            (activity,) = watcher.execute(_ACTIVITY, [self.database.name]).fetchone() or ("",)
        return f"{self.database.server.log()}\n{activity}"


@contextmanager
def watched_database(tokens: Tokens, janitor: Janitor) -> Iterator[Watched]:
    """Start the server, and end it."""
    with (
        chosen_cluster(settings=_SETTINGS, janitor=janitor) as server,
        Database(server, "watched") as database,
    ):
        database.migrate()
        people = People(tokens)
        people.seed(database.url)
        yield Watched(database, people)
