"""The command doctor: its output for people and programs, its settings, and its exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.doctor.examining import run
from cli.program import Program
from stack import Database, People, Rest
from stack.ports import free_port

pytestmark = pytest.mark.one_server

POLICY = "policy keys_select_admin on keylatch_internal.keys"
DAMAGE = "alter policy keys_select_admin on keylatch_internal.keys using (true)"


@pytest.fixture
def program(tmp_path: Path, database: Database, people: People) -> Program:
    """The program in an empty directory, with the database in its environment."""
    return Program(tmp_path, {"DATABASE_URL": database.url}, is_preloaded=True)


def test_the_exit_code_is_zero_for_a_healthy_installation(program: Program, rest: Rest) -> None:
    shown = program("doctor", "--url", rest.rest_url, "--token", rest.service_key)
    assert shown.err == ""
    assert shown.out.startswith("Nothing to fix.\n")
    assert "unchecked" not in shown.out


def test_the_exit_code_is_one_for_an_error_and_the_finding_names_what_why_and_the_fix(
    program: Program, database: Database
) -> None:
    run(database, DAMAGE)
    shown = program("doctor", code=1)
    assert shown.err == ""
    lines = [line.split(maxsplit=1) for line in shown.out.splitlines()]
    assert ["error", POLICY] in [[word.strip() for word in line] for line in lines]
    labels = [line[0] for line in lines if line]
    assert {"database", "what", "why", "fix", "unchecked"} <= set(labels)
    assert shown.out.startswith("1 error\n")


def test_the_exit_code_is_zero_with_only_warnings_and_notes(
    program: Program, database: Database
) -> None:
    run(
        database,
        "create table keylatch.notes ()",
        "create table keylatch.more ()",
        "comment on schema keylatch is null",
    )
    assert program("doctor").out.startswith("2 warnings, 1 note\n")


def test_a_screen_is_enough_unless_all_of_it_is_asked_for(
    program: Program, database: Database
) -> None:
    run(
        database,
        DAMAGE,
        "drop function keylatch.issue_key",
        "comment on schema keylatch is null",
        "revoke all on keylatch_internal.keys from service_role",
        "create table keylatch.notes ()",
        "grant execute on function keylatch.list_keys to public",
    )
    found = json.loads(program("doctor", "--json", code=1).out)["findings"]
    assert len(found) > 5
    lines = program("doctor", code=1).out.splitlines()
    assert len(lines) <= 23
    assert lines[0] == "5 errors, 1 warning, 1 note"
    assert "function keylatch.list_keys(uuid)" in lines[4], "what everybody may do comes first"
    assert lines[-1].endswith("more findings: keylatch doctor --all")
    everything = program("doctor", "--all", code=1).out
    assert all(one["subject"].partition(" ")[2][:30] in everything for one in found)


def test_everything_fits_eighty_columns(program: Program, database: Database, rest: Rest) -> None:
    run(
        database,
        DAMAGE,
        "drop function keylatch.issue_key",
        "comment on function keylatch.rotate_key(uuid, interval, timestamptz) is null",
        "revoke all on keylatch_internal.keys from service_role",
        "create function keylatch.a_function_with_quite_a_long_name(one text, another"
        " timestamptz, third jsonb) returns int language sql as 'select 1'",
    )
    shown = program("doctor", "--url", rest.rest_url, "--token", rest.service_key, code=1)
    assert max(map(len, shown.out.splitlines())) <= 80


def test_the_json_output_has_everything_under_stable_names(
    program: Program, database: Database
) -> None:
    run(database, DAMAGE)
    shown = program("doctor", "--json", code=1)
    found: dict[str, Any] = json.loads(shown.out)
    assert list(found) == [
        "client_version",
        "schema_version",
        "site",
        "against",
        "findings",
        "unchecked",
    ]
    site = found["site"]
    assert list(site) == [
        *("database", "database_oid", "server_version", "installation", "started_at"),
    ]
    assert {"id", "system_identifier", "schema_version", "is_replica"} <= set(site["installation"])
    assert found["against"] is None
    (finding,) = found["findings"]
    assert list(finding) == ["level", "slug", "subject", "what", "why", "fix"]
    assert (finding["level"], finding["slug"]) == ("error", "object_changed")
    assert finding["subject"] == POLICY
    assert found["unchecked"] == [
        {"subject": "API", "reason": "no project is set; set SUPABASE_URL and SUPABASE_KEY"}
    ]


def test_the_api_of_the_environment_is_checked_with_its_database(
    program: Program, rest: Rest
) -> None:
    both = program.having(SUPABASE_URL=rest.url, SUPABASE_KEY=rest.service_key)
    assert both.ok("doctor")["unchecked"] == []


def test_a_database_named_by_hand_is_not_compared_with_the_project_around_it(
    program: Program, database: Database, rest: Rest
) -> None:
    both = program.having(SUPABASE_URL=rest.url, SUPABASE_KEY=rest.service_key)
    found = both.ok("doctor", "--db-url", database.url)
    assert [one["subject"] for one in found["unchecked"]] == ["API"]


def test_against_is_taken_from_the_command_line_or_the_environment(
    program: Program, database: Database
) -> None:
    same = program.ok("doctor", "--against", database.url)
    assert same["against"] == same["site"]
    assert program.having(KEYLATCH_AGAINST=database.url).ok("doctor") == same
    shown = program("doctor", "--against", database.url.replace(database.name, "postgres"), code=1)
    assert "has no keylatch" in shown.out


@pytest.mark.parametrize(
    ("arguments", "code", "slug"),
    [
        (("--url", "http://127.0.0.1:1"), 2, "usage"),
        (("--db-url", "nonsense://x"), 2, "usage"),
        (("--db-url", f"postgresql://127.0.0.1:{free_port()}/x"), 4, "unavailable"),
        (("--against", f"postgresql://127.0.0.1:{free_port()}/x"), 4, "unavailable"),
    ],
)
def test_a_database_that_cannot_be_reached_is_an_error_of_the_command(
    program: Program, arguments: tuple[str, ...], code: int, slug: str
) -> None:
    shown = program("doctor", *arguments, code=code)
    assert shown.out == ""
    assert shown.err.startswith(f"{slug}: ")


def test_no_database_is_a_usage_error(tmp_path: Path) -> None:
    assert Program(tmp_path)("doctor", code=2).err.startswith("usage: no database is set")


def test_no_password_or_token_is_printed(program: Program, database: Database, rest: Rest) -> None:
    run(database, DAMAGE)
    for form in ((), ("--json",)):
        shown = program(
            *("doctor", *form, "--url", rest.rest_url, "--token", rest.service_key),
            *("--against", database.url),
            code=1,
        )
        for secret in (rest.service_key, *database.server.passwords.values()):
            assert secret not in shown.out + shown.err


def test_a_text_in_the_database_cannot_steer_the_terminal(
    program: Program, database: Database
) -> None:
    run(database, 'create table keylatch."\x1b[2Jgone" ()')
    assert "\x1b" not in program("doctor").out


def test_the_help_fits_80_columns_and_names_every_option(program: Program) -> None:
    shown = program("doctor", "--help")
    assert max(map(len, shown.out.splitlines())) <= 80
    for option in (
        "--db-url",
        "--url",
        "--key",
        "--token",
        "--against",
        "--anchors",
        "--all",
        "--json",
    ):
        assert option in shown.out
