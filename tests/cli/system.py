"""The database and API that these tests share, and the program with the rights of its users."""

from cli.program import Program
from stack import Database, People, Rest

_ROLES = {"service": "service_role", "resolver": "keylatch_resolver"}


class System:
    """One database with its API, for tests that leave each other's rows alone.

    Attributes:
        database: The database.
        rest: Its REST API.
        people: The users and their workspaces.
    """

    def __init__(self, database: Database, rest: Rest, people: People) -> None:
        """Keep the database, the API and the people."""
        self.database, self.rest, self.people = database, rest, people

    def acting_as(self, program: Program, connection: str, who: str) -> Program:
        """Return the program as one of `People`, as a resolver, or as the service role.

        Args:
            program: The program, in its directory.
            connection: `rest` or `database`.
            who: The name of one of `People`, `service` or `resolver`.
        """
        role = _ROLES.get(who)
        if connection == "rest":
            return program.having(
                SUPABASE_URL=self.rest.url,
                SUPABASE_ANON_KEY=self.rest.anon_key,
                KEYLATCH_TOKEN=self.rest.token(role=role) if role else self.people.token(who),
            )
        if role:
            return program.having(DATABASE_URL=self.database.url)
        user = ("--as-user", str(getattr(self.people, who)))
        return program.having(*user, DATABASE_URL=self.database.authenticator_url)
