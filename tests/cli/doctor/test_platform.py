"""doctor checks what keylatch depends on: pgcrypto, roles, PostgREST's settings, the server log."""

import psycopg
import pytest

from cli.doctor.examining import examined, only, run, summaries
from stack import Database, People

pytestmark = pytest.mark.one_server

# The databases of a server share roles, so the test runs the fixes before it asserts anything.
ROLES = (
    ("alter role anon bypassrls", "role_above_policies", "role anon", ""),
    ("alter role authenticated superuser", "role_above_policies", "role authenticated", ""),
    ("alter role keylatch_resolver bypassrls", "role_above_policies", "role keylatch_resolver", ""),
    ("alter role service_role nobypassrls", "role_below_policies", "role service_role", ""),
    ("grant service_role to anon", "role_member", "role anon", "service_role"),
    (
        "set role postgres; grant service_role to anon",
        *("role_member", "role anon"),
        "is a member of service_role",
    ),
    ("grant authenticated to keylatch_resolver", "role_member", "role keylatch_resolver", ""),
    (
        "revoke keylatch_resolver from authenticator granted by postgres",
        "resolver_not_granted",
        "role keylatch_resolver",
        "not granted to authenticator",
    ),
)
LOGS = (
    ("log_statement = 'all'", "warning", "log_statement = all"),
    ("log_min_duration_statement = 0", "warning", "log_min_duration_statement = 0"),
    ("log_min_duration_statement = '1500ms'", "note", "longer than 1.5 s"),
    ("log_transaction_sample_rate = 0.1", "warning", "log_transaction_sample_rate"),
    ("log_min_duration_sample = 0", "warning", "log_min_duration_sample = 0"),
    ("log_parameter_max_length_on_error = -1", "warning", "failed calls"),
)


@pytest.mark.parametrize(("statement", "slug", "subject", "words"), ROLES)
def test_a_role_with_too_many_or_too_few_rights_is_named_and_mended(
    database: Database, people: People, statement: str, slug: str, subject: str, words: str
) -> None:
    run(database, statement)
    findings = examined(database).findings
    run(database, *(finding.fix for finding in findings))
    (finding,) = findings
    assert (finding.slug, finding.subject) == (slug, subject)
    assert words in finding.what
    assert examined(database).findings == ()


def test_a_role_that_a_dump_did_not_bring_along_is_missed(
    database: Database, people: People
) -> None:
    run(
        database,
        "revoke all on all functions in schema keylatch, keylatch_internal from keylatch_resolver",
        "revoke all on schema keylatch, keylatch_internal from keylatch_resolver",
        "alter role keylatch_resolver rename to another",
    )
    try:
        finding = only(examined(database))
    finally:
        run(database, "alter role another rename to keylatch_resolver")
    assert summaries([finding]) == [("error", "role_missing", "role keylatch_resolver")]
    assert "keylatch script after_restore" in finding.fix


def test_random_bytes_of_somebody_elses_are_an_error(database: Database, people: People) -> None:
    run(
        database,
        "drop extension pgcrypto",
        "create function extensions.gen_random_bytes(int) returns bytea language sql"
        " as 'select decode(repeat(''00'', $1), ''hex'')'",
    )
    finding = only(examined(database))
    assert (finding.level, finding.slug) == ("error", "pgcrypto_missing")
    run(database, "drop function extensions.gen_random_bytes(int)", finding.fix)
    assert examined(database).findings == ()


def test_pgcrypto_in_another_schema_is_an_error_and_moved(
    database: Database, people: People
) -> None:
    run(database, "alter extension pgcrypto set schema public")
    finding = only(examined(database))
    assert finding.slug == "pgcrypto_missing"
    run(database, finding.fix)
    assert examined(database).findings == ()


def test_the_exposed_schemas_are_read_from_the_setting_of_postgrest(
    database: Database, people: People
) -> None:
    where = f"alter role authenticator in database {database.name}"
    run(database, f"{where} set pgrst.db_schemas = 'public, keylatch'")
    assert examined(database).findings == ()
    run(database, f"{where} set pgrst.db_schemas = 'public, keylatch_internal '")
    findings = examined(database).findings
    assert summaries(findings) == [
        ("error", "schema_not_exposed", "schema keylatch"),
        ("error", "internal_exposed", "schema keylatch_internal"),
    ]
    wanted = "set pgrst.db_schemas = 'public, keylatch';"
    assert all(wanted in finding.fix for finding in findings)


SETTINGS = (
    ("session_replication_role", "replica", "error"),
    ("default_transaction_isolation", "serializable", "warning"),
    ("default_transaction_isolation", "'repeatable read'", "warning"),
    ("row_security", "off", "warning"),
    ("default_transaction_read_only", "on", "warning"),
)


@pytest.mark.parametrize(("name", "value", "level"), SETTINGS)
@pytest.mark.parametrize("whose", ["database {}", "role authenticator in database {}"])
def test_a_harmful_setting_is_named_and_reset(
    database: Database, people: People, name: str, value: str, level: str, whose: str
) -> None:
    place = whose.format(database.name)
    run(database, f"alter {place} set {name} = {value}")
    found = [one for one in examined(database).findings if one.slug == "harmful_setting"]
    assert summaries(found) == [(level, "harmful_setting", place)]
    assert found[0].what == f"has {name} = {value.strip(chr(39))}"
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute("set default_transaction_read_only = off")
        superuser.execute(found[0].fix.encode())
    assert examined(database).findings == ()


def test_a_harmless_setting_is_no_finding(database: Database, people: People) -> None:
    for setting in ("session_replication_role = origin", "row_security = on", "work_mem = '8MB'"):
        run(database, f"alter database {database.name} set {setting}")
    assert examined(database).findings == ()


@pytest.mark.parametrize(("setting", "level", "words"), LOGS)
def test_a_server_that_logs_keys_is_named_and_mended(
    database: Database, people: People, setting: str, level: str, words: str
) -> None:
    run(database, f"alter database {database.name} set {setting}")
    finding = only(examined(database))
    assert summaries([finding]) == [(level, "keys_logged", "server log")]
    assert words in finding.what
    run(database, finding.fix)
    assert examined(database).findings == ()


def test_a_role_whose_calls_are_logged_is_named(database: Database, people: People) -> None:
    place = f"authenticator in database {database.name}"
    run(database, f"alter role {place} set log_statement = 'all'")
    finding = only(examined(database))
    assert summaries([finding]) == [("warning", "keys_logged", f"server log, role {place}")]
    run(database, finding.fix)
    assert examined(database).findings == ()


def test_logging_without_arguments_is_no_finding(database: Database, people: People) -> None:
    for setting in (
        "log_parameter_max_length = 0",
        "log_statement = 'all'",
        "log_min_duration_statement = 0",
    ):
        run(database, f"alter database {database.name} set {setting}")
    assert examined(database).findings == ()


def test_plans_in_the_log_are_named(database: Database, people: People) -> None:
    place = f"authenticator in database {database.name}"
    run(
        database,
        "load 'auto_explain'",
        f"alter role {place} set session_preload_libraries = 'auto_explain'",
    )
    for setting in ("log_min_duration = '10s'", "log_verbose = on"):
        run(database, f"alter role {place} set auto_explain.{setting}")
    finding = only(examined(database))
    assert summaries([finding]) == [("note", "keys_logged", f"server log, role {place}")]
    assert "auto_explain.log_min_duration logs a call that takes longer than 10 s" in finding.what


def test_a_setting_of_the_role_that_asks_is_not_taken_for_the_servers(
    database: Database, people: People
) -> None:
    place = f"postgres in database {database.name}"
    run(database, f"alter role {place} set log_min_duration_statement = 0")
    report = examined(database)
    assert summaries(report.findings) == [("warning", "keys_logged", f"server log, role {place}")]
    assert report.unchecked[0].subject == "what the server logs by log_min_duration_statement"
