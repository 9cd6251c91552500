"""doctor checks the API: its database, its exposed schemas, and its schema cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import httpx
import pytest
from postgrest import SyncPostgrestClient

from cli.doctor.examining import examined, only, run, summaries
from keylatch_cli.doctor.report import Report
from stack import Cluster, Database, Janitor, People, Rest, Tokens
from stack.gateway import Gateway
from stack.ports import free_port

pytestmark = pytest.mark.one_server


@contextmanager
def client_of(url: str, token: str) -> Iterator[SyncPostgrestClient]:
    """Open a PostgREST client that sends a token."""
    with httpx.Client(timeout=20) as session:
        yield SyncPostgrestClient(
            url, headers={"Authorization": f"Bearer {token}"}, http_client=session
        )


def seen(database: Database, rest: Rest, token: str | None = None) -> Report:
    """Examine a database and an API, with the service key unless a token is given."""
    with client_of(rest.rest_url, token or rest.service_key) as client:
        return examined(database, rest=client)


def where(rest: Rest) -> str:
    """Return the name of the API in a finding."""
    return f"API at {rest.rest_url.removeprefix('http://')}"


def test_an_api_that_serves_the_database_is_no_finding(
    database: Database, people: People, rest: Rest
) -> None:
    for token in (rest.service_key, people.token("alice")):
        report = seen(database, rest, token)
        assert (report.findings, report.unchecked) == ((), ())


def test_a_public_key_sees_what_it_can_and_the_rest_is_said(
    database: Database, people: People, rest: Rest
) -> None:
    report = seen(database, rest, rest.anon_key)
    assert report.findings == ()
    ((subject, reason),) = [(one.subject, one.reason) for one in report.unchecked]
    assert subject == "whether the API reaches this database"
    assert "may not call installation; give the key of service_role" in reason


def test_a_schema_that_is_not_exposed_is_an_error_that_names_the_setting(
    database: Database, people: People, tokens: Tokens, janitor: Janitor
) -> None:
    with Rest(database, tokens, janitor=janitor, schemas="public") as rest:
        finding = only(seen(database, rest))
    assert summaries([finding]) == [("error", "schema_not_exposed", "schema keylatch")]
    assert "supabase/config.toml" in finding.fix


def test_schemas_that_should_be_hidden_are_errors_where_they_are_exposed(
    database: Database, people: People, tokens: Tokens, janitor: Janitor
) -> None:
    schemas = "public,keylatch,keylatch_internal"
    with Rest(database, tokens, janitor=janitor, schemas=schemas) as rest:
        for token in (rest.service_key, people.token("alice"), rest.anon_key):
            assert summaries(seen(database, rest, token).findings) == [
                ("error", "internal_exposed", "schema keylatch_internal"),
            ]


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (
            "alter function keylatch.list_keys(uuid) rename to list_all",
            "alter function keylatch.list_all(uuid) rename to list_keys",
            "list_keys(workspace_id)",
        ),
        (
            "alter function keylatch.installation() rename to which",
            "alter function keylatch.which() rename to installation",
            "installation()",
        ),
        (
            "alter function keylatch.rotate_key(uuid, interval, timestamptz) rename to rotate_now;"
            " create function keylatch.rotate_key(key_id uuid) returns int language sql"
            " as 'select 1'",
            "drop function keylatch.rotate_key(uuid);"
            " alter function keylatch.rotate_now(uuid, interval, timestamptz) rename to rotate_key",
            "rotate_key(key_id, grace, expires_at)",
        ),
    ],
    ids=["a function", "the one that is asked first", "an older signature"],
)
def test_objects_missing_in_the_schema_cache_of_postgrest_are_named_until_it_reloads(
    database: Database,
    people: People,
    tokens: Tokens,
    janitor: Janitor,
    before: str,
    after: str,
    named: str,
) -> None:
    run(database, before)
    with Rest(database, tokens, janitor=janitor) as rest:
        run(database, after)
        for token in (rest.service_key, rest.anon_key):
            finding = only(seen(database, rest, token))
            assert summaries([finding]) == [("error", "api_stale", where(rest))]
            assert finding.what.endswith(f": {named}")
        run(database, finding.fix)
        for _ in range(100):
            if not (report := seen(database, rest)).findings:
                return
    raise AssertionError(report)


def test_an_api_of_another_installation_is_an_error(
    database: Database, people: People, server: Cluster, tokens: Tokens, janitor: Janitor
) -> None:
    with Database(server, f"other_{uuid4().hex}") as other:
        other.migrate()
        with Rest(other, tokens, janitor=janitor) as rest:
            finding = only(seen(database, rest))
    assert summaries([finding]) == [("error", "other_installation", where(rest))]


def test_asking_the_api_writes_nothing(database: Database, people: People, rest: Rest) -> None:
    with database.connect("authenticated", people.claims("alice")) as alice:
        alice.execute("select keylatch.issue_key(%s)", [people.a])
    rows = "select xmin::text, to_jsonb(k)::text from keylatch_internal.keys as k"
    before = database.connect().execute(rows.encode()).fetchall()
    for token in (rest.service_key, people.token("alice")):
        seen(database, rest, token)
    assert database.connect().execute(rows.encode()).fetchall() == before


def test_an_address_that_does_not_answer_or_is_not_postgrest_is_an_error(
    database: Database, people: People, rest: Rest
) -> None:
    with Gateway(rest.rest_url) as gateway:
        for url in (f"http://127.0.0.1:{free_port()}", gateway.url):
            with client_of(url, rest.service_key) as client:
                finding = only(examined(database, rest=client))
            assert summaries([finding]) == [("error", "api_fails", f"API at {url[7:]}")]


def test_a_token_that_is_refused_is_no_error_of_the_installation(
    database: Database, people: People, rest: Rest
) -> None:
    report = seen(database, rest, rest.token(role="service_role", seconds=-60))
    assert report.findings == ()
    assert "expired" in report.unchecked[0].reason
