"""doctor reports a copy, a restored database and a promoted server until `installation renew`."""

from collections.abc import Iterator

import psycopg
import pytest

from cli.program import Program
from stack import Database, Janitor, People, Server
from stack.standby import Standby

pytestmark = pytest.mark.one_server

HEALTHY = "Nothing to fix in the parts that were checked.\n"


@pytest.fixture
def copy(database: Database, people: People) -> Iterator[Database]:
    """A copy on the same server, beside its original."""
    with Database(database.server, f"{database.name}_copy", database.name, is_copy=True) as copy:
        yield copy


def findings(program: Program, url: str) -> list[tuple[str, str]]:
    """Return the level and slug of each finding of doctor without --against, which exits with 0."""
    found = program.having(DATABASE_URL=url).ok("doctor")["findings"]
    return [(one["level"], one["slug"]) for one in found]


def installation_id(program: Program, url: str) -> str:
    return str(program.having(DATABASE_URL=url).ok("installation")["id"])


def test_a_copy_is_named_until_it_has_an_id_of_its_own(
    program: Program, database: Database, copy: Database
) -> None:
    there = program.having(DATABASE_URL=copy.url, COLUMNS="80")
    assert findings(program, copy.url) == [("warning", "installed_elsewhere")]
    shown = there("doctor").out
    assert shown.startswith("1 warning\n")
    assert "was made in database oid" in shown
    assert "keylatch revocations apply FILE" in shown
    assert "keylatch installation renew" in shown
    assert "this is a copy or was" in " ".join(there("installation").out.split())

    original = installation_id(program, database.url)
    assert installation_id(program, copy.url) == original
    assert there.ok("installation", "renew")["id"] == installation_id(program, copy.url) != original
    assert there("doctor").out.startswith(HEALTHY)
    assert there("installation").out.rstrip().endswith("this database")
    assert findings(program, database.url) == []
    assert installation_id(program, database.url) == original


def test_what_took_the_place_of_its_original_keeps_the_id(
    program: Program, database: Database, copy: Database
) -> None:
    there = program.having(DATABASE_URL=copy.url)
    old = installation_id(program, copy.url)
    assert there("installation", "renew", "--keep-id").out == f"{old}\n"
    assert there("doctor").out.startswith(HEALTHY)
    assert there("installation", "renew", "--keep-id").err == ""
    asked = there.at_a_terminal("installation", "renew", "--keep-id", typed="n")
    assert f"Is the database {copy.name} the only one with the installation {old}?" in asked.err


def test_a_service_that_only_resolves_can_tell_a_copy(copy: Database) -> None:
    query = (
        "select i.made_in like concat(i.system_identifier, '/', i.database_oid, '/%')"
        " from keylatch.installation() as i"
    )
    resolver = copy.connect("keylatch_resolver")
    assert resolver.execute(query.encode()).fetchone() == (False,)
    copy.connect().execute("update keylatch_internal.installation set made_in = default")
    assert resolver.execute(query.encode()).fetchone() == (True,)


def test_a_failover_is_a_note_that_goes_away(
    program: Program, database: Database, people: People, local_server: Server, janitor: Janitor
) -> None:
    with Standby(local_server, janitor=janitor) as standby:
        standby.catch_up()
        url = standby.url(database.name)
        assert findings(program, url) == []
        with psycopg.connect(standby.superuser_url("postgres"), autocommit=True) as promoted:
            promoted.execute("select pg_promote()")
            # The control file has the new timeline after the next checkpoint.
            promoted.execute("checkpoint")
        assert findings(program, url) == [("note", "timeline_changed")]
        there = program.having(DATABASE_URL=url)
        # The old primary is still up: two servers accept changes of the same keys.
        both = there("doctor", "--against", database.url, code=1)
        assert "both servers accept changes" in " ".join(both.out.split())
        assert "point-in-time recovery" in " ".join(there("doctor").out.split())
        there("installation", "renew", "--keep-id")
        assert there("doctor").out.startswith(HEALTHY)
        assert findings(program, database.url) == []
