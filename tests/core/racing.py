"""Two sessions at once: start calls together, and check that one waits for the other."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from stack import HANG_SECONDS, Database, People, until

Connection = psycopg.Connection[tuple[Any, ...]]
ISSUE = "select id, key from keylatch.issue_key(%s, 'secret')"
ROTATE = "select id, key from keylatch.rotate_key(%s, %s)"
REVOKE = "select id, already_revoked from keylatch.revoke_key(%s, 'leaked', %s)"
RESOLVE = "select key_id from keylatch.resolve_key(%s)"


class Outcome(NamedTuple):
    """The outcome of a call: `done`, or its error's slug or SQLSTATE; and the first row."""

    word: str
    row: tuple[Any, ...] = ()


def attempt(connection: Connection, statement: str, parameters: Sequence[object] = ()) -> Outcome:
    """Run a statement and return its outcome; an open transaction stays open."""
    try:
        cursor = connection.execute(statement, parameters)
        row = cursor.fetchone() if cursor.description else None
    except psycopg.Error as error:
        state = error.sqlstate or type(error).__name__
        is_ours = state.startswith("PT")
        return Outcome(str(error.diag.message_primary) if is_ours else state)
    return Outcome("done", row or ())


def together(calls: Sequence[Callable[[], Outcome]]) -> list[Outcome]:
    """Run all calls at the same moment, each in a thread, and return the outcomes."""
    start = threading.Barrier(len(calls), timeout=HANG_SECONDS)

    def run(call: Callable[[], Outcome]) -> Outcome:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(run, call) for call in calls]
        return [future.result(timeout=2 * HANG_SECONDS) for future in futures]


class Waiting:
    """A call in a thread that waits for a lock of another session."""

    def __init__(
        self,
        database: Database,
        connection: Connection,
        statement: str,
        parameters: Sequence[object],
        *,
        waits_for: Connection | None = None,
    ) -> None:
        """Start the call; return when the server shows that it waits, for `waits_for` if given."""
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(attempt, connection, statement, parameters)
        self._pool.shutdown(wait=False)
        blocker = None if waits_for is None else waits_for.info.backend_pid
        look = (
            "select wait_event_type, wait_event, pg_blocking_pids(pid)"
            " from pg_stat_activity where pid = %s"
        )
        with psycopg.connect(database.superuser_url, autocommit=True) as watcher:

            def waits() -> bool:
                seen = watcher.execute(look, [connection.info.backend_pid]).fetchone()
                assert seen is not None
                self.event = str(seen[1])
                if seen[0] == "Lock" and (blocker is None or blocker in seen[2]):
                    return True
                assert not self._future.done(), f"it did not wait: {self._future.result()}"
                return False

            until(waits, "it waits for something else")

    def outcome(self) -> Outcome:
        """The outcome, after the lock is released."""
        return self._future.result(timeout=HANG_SECONDS)


class System:
    """Alice's sessions on one database, and the states of its keys."""

    def __init__(self, database: Database, people: People) -> None:
        self.database = database
        self.workspace = people.a
        self._claims = people.claims("alice")
        self._runtime = database.connect("keylatch_resolver")
        self._alice = self.session()
        self.owner = database.connect()

    def session(self, *, autocommit: bool = True) -> Connection:
        return self.database.connect("authenticated", self._claims, autocommit=autocommit)

    def issue(self) -> tuple[UUID, str]:
        row = self._alice.execute(ISSUE, [self.workspace]).fetchone()
        assert row is not None
        return row[0], row[1]

    def waiting(
        self,
        statement: str,
        parameters: Sequence[object],
        *,
        waits_for: Connection | None = None,
        session: Connection | None = None,
    ) -> Waiting:
        """Start a call, by default in a new session of alice, and check that the call waits."""
        return Waiting(
            self.database, session or self.session(), statement, parameters, waits_for=waits_for
        )

    def resolves(self, key: object) -> bool:
        return self._runtime.execute(RESOLVE, [key]).fetchone() is not None

    def statuses(self) -> list[str]:
        """The statuses of all keys, the oldest key first."""
        rows = self.owner.execute("select status from keylatch.keys order by created_at")
        return [row[0] for row in rows]
