"""A database under attack: workspaces A and B with keys in every state, and the attackers."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import psycopg
from psycopg.rows import namedtuple_row

from stack import Database, People, Rest

ORIGIN = "https://shop.example"
OUTSIDERS = ("anon", "stranger", "mia", "bob", "keylatch_resolver")
EVERYBODY = (*OUTSIDERS, "alice", "service_role")
# The SQLSTATEs of a refusal: not allowed, or no such key.
REFUSALS = {"42501", "PT404"}


@dataclass
class Made:
    """A key of workspace A, as alice got it."""

    id: UUID
    key: str


@dataclass
class System:
    """The database, its API, and the keys of workspace A by their label."""

    database: Database
    rest: Rest
    people: People
    keys: dict[str, Made] = field(default_factory=dict)

    def rows(self) -> list[Any]:
        """Return all rows that an attack could change, as the superuser sees them."""
        with psycopg.connect(self.database.superuser_url) as connection:
            tables = connection.execute(
                "select oid::regclass::text from pg_class where relkind = 'r'"
                " and relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal')"
                " order by 1"
            ).fetchall()
            return [
                connection.execute(f"select t::text from {table} as t order by 1").fetchall()
                for (table,) in tables
            ]

    @contextlib.contextmanager
    def nothing_changes(self) -> Iterator[None]:
        """Fail if a row changes in the block."""
        before = self.rows()
        yield
        assert self.rows() == before

    def connect(self, who: str) -> psycopg.Connection[Any]:
        """Return a connection that acts for a user or a role, as PostgREST would."""
        if who in ("alice", "bob", "mia", "stranger"):
            connection = self.database.connect("authenticated", self.people.claims(who))
        else:
            connection = self.database.connect(who, {"role": who})
        connection.row_factory = namedtuple_row
        return connection

    def token(self, who: str) -> str | None:
        """Return the token of a user or a role, or None for anon."""
        if who == "anon":
            return None
        if who in ("service_role", "keylatch_resolver"):
            return self.rest.token(role=who)
        return self.people.token(who)

    def request(self, who: str, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request as a user or a role. The answer must not be a server error."""
        response = self.rest.request(method, path, token=self.token(who), **more)
        assert response.status_code < 500, response.text
        return response

    def call(self, who: str, function: str, **arguments: Any) -> httpx.Response:
        """Call a function over HTTP."""
        return self.request(who, "POST", f"rpc/{function}", json=arguments)

    def resolves(self, key: str, origin: str | None = None) -> bool:
        """Whether the key resolves, in SQL and over HTTP."""
        body = {"key": key} | ({} if origin is None else {"origin": origin})
        over_http: bool = self.call("keylatch_resolver", "resolve_key", **body).json() != []
        with self.connect("service_role") as runtime:
            found = runtime.execute("select * from keylatch.resolve_key(%s, %s)", [key, origin])
            assert (found.fetchone() is not None) == over_http
        return over_http


def sqlstate(connection: psycopg.Connection[Any], statement: str, *values: object) -> str | None:
    """Run a statement of an attacker. Return the SQLSTATE of its refusal, or None."""
    try:
        connection.execute(statement, values or None)
    except psycopg.Error as error:
        connection.rollback()
        assert error.sqlstate is not None
        assert error.sqlstate[:2] not in ("XX", "08", "57", "58"), error
        return error.sqlstate
    return None


def issue_briefly(
    admin: psycopg.Connection[Any], workspace: UUID, then: Callable[[Any], bool]
) -> Any:
    """Issue a key that expires soon, and return it if `then` ends before the key expires.

    On a busy machine, the next key gets more time. issue_key refuses an expiry that has passed.
    """
    for seconds in (0.3, 1, 4, 16, 64):
        try:
            row = admin.execute(
                "select id, key, expires_at from keylatch.issue_key(%s, 'secret',"
                " expires_at => clock_timestamp() + %s * interval '1 second')",
                [workspace, seconds],
            ).fetchone()
        except psycopg.Error as refused:
            assert refused.diag.message_primary == "invalid_argument"
            continue
        assert row is not None
        if then(row):
            return row
    raise AssertionError("no key lived long enough")


def slug(response: httpx.Response) -> str | None:
    """Return the slug of a refusal over HTTP."""
    answer = response.json()
    return answer.get("message") if isinstance(answer, dict) else None


def make_system(database: Database, rest: Rest, people: People) -> System:
    """Fill the database: keys in every state in A, one in B."""
    system = System(database, rest, people)
    with system.connect("alice") as alice:

        def issue(label: str, **arguments: Any) -> None:
            arguments = {"workspace_id": people.a, "label": label} | arguments
            named = ", ".join(f"{name} => %({name})s" for name in arguments)
            row = alice.execute(f"select id, key from keylatch.issue_key({named})", arguments)
            system.keys[label] = Made(*row.fetchone())  # type: ignore[misc]

        issue("widget", allowed_origins=[ORIGIN])
        for label in ("active", "revoked", "superseded", "suspended"):
            issue(label, kind="secret", scopes=["orders:read"])
        issue("expired", kind="secret")
        alice.execute(
            "update keylatch.keys set expires_at = '2090-01-01' where id = %s",
            [system.keys["revoked"].id],
        )
        alice.execute("select keylatch.revoke_key(%s, 'leaked')", [system.keys["revoked"].id])
        alice.execute("select keylatch.suspend_key(%s)", [system.keys["suspended"].id])
        row = alice.execute(
            "select id, key from keylatch.rotate_key(%s, '1 hour')", [system.keys["superseded"].id]
        )
        system.keys["successor"] = Made(*row.fetchone())  # type: ignore[misc]
        for seconds in (0.02, 0.2, 2, 20):
            # On a busy machine, the expiry may have passed before the server checks it.
            with contextlib.suppress(psycopg.Error):
                alice.execute(
                    "update keylatch.keys set expires_at = clock_timestamp() + %s * interval '1 s'"
                    " where id = %s",
                    [seconds, system.keys["expired"].id],
                )
                alice.execute("select pg_sleep(%s)", [seconds + 0.01])
                break
    with system.connect("bob") as bob:
        bob.execute("select keylatch.issue_key(%s, 'secret', 'of bob')", [people.b])
    return system
