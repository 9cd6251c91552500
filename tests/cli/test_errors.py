"""Errors: `slug: detail` and a hint on stderr, nothing on stdout, and the exit code."""

import subprocess
from pathlib import Path
from uuid import uuid4

import pytest
import typer

from cli.program import Program, Result
from cli.system import System
from keylatch.errors import KeylatchError
from keylatch_cli.output import fail
from stack import Cluster, Database, Janitor, Rest, Tokens

pytestmark = pytest.mark.one_server

REFUSED, USAGE, DENIED, UNAVAILABLE, SETUP = 1, 2, 3, 4, 5


def is_refused(result: Result, slug: str, words: str = "") -> None:
    """Assert that the result is one line with this slug, and at most one more line with a hint."""
    assert result.out == ""
    first, *rest = result.err.splitlines()
    assert first.startswith(f"{slug}: ")
    assert words in result.err
    assert [line.partition(":")[0] for line in rest] in ([], ["hint"])


@pytest.mark.parametrize(
    "command", ["show", "rotate", "revoke", "suspend", "unsuspend", "end-sessions"]
)
def test_an_unknown_key_is_not_found(alice: Program, command: str) -> None:
    is_refused(alice(command, uuid4(), code=REFUSED), "key_not_found")
    is_refused(alice(command, uuid4(), "--json", code=REFUSED), "key_not_found")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("show", "nonsense"),
        ("rotate", "12"),
        ("revoke", ""),
        ("suspend", "\udcff"),
        ("unsuspend", "wk_sk_live_...abcd"),
    ],
)
def test_an_invalid_id_is_refused_by_name(sql_alice: Program, command: str, text: str) -> None:
    is_refused(sql_alice(command, text, code=USAGE), "invalid_argument", "key_id")


def test_a_rotated_or_revoked_key_is_not_usable(sql_alice: Program, system: System) -> None:
    issued = sql_alice.ok("issue", system.people.a)
    sql_alice("rotate", issued["id"], "--grace", "1h")
    is_refused(sql_alice("rotate", issued["id"], code=REFUSED), "key_already_rotated")
    sql_alice("revoke", issued["id"])
    for command in ("suspend", "unsuspend"):
        # The database says "Call issue_key", which is a function and not a command.
        words = "Run keylatch issue for a new key."
        is_refused(sql_alice(command, issued["id"], code=REFUSED), "key_revoked", words)


@pytest.mark.parametrize(
    "hint",
    ["Call issue_key in your trigger instead of INSERT.", "Run: select keylatch.revoke_key("],
)
def test_a_hint_about_sql_stays_as_it_is(hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail(KeylatchError(hint=hint))
    assert f"hint: {hint}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--origin", "https://Shop.example/"), "hint: Write https://shop.example."),
        (("--origin", "*"), "allowed_origins"),
        (("--scope", "two words"), "scopes"),
        (("--label", "x" * 201), "label"),
        (("--prefix", "X"), "prefix"),
        (("--metadata", "[]"), "metadata"),
        (("--metadata", "{"), "metadata is not JSON"),
        (("--metadata", "[" * 100_000), "metadata is not JSON"),
        (("--metadata", '{"a": NaN}'), "metadata"),
        (("--expires", "2001-01-01"), "expires_at must be in the future"),
        (("--expires", "0"), "Leave the option out for a key that never expires."),
        (("--expires", "soon"), "expires is neither a duration nor a time"),
        (("--expires", "999999999w"), "expires"),
    ],
)
def test_issue_names_the_value_that_is_out_of_its_rule(
    sql_alice: Program, system: System, options: tuple[str, ...], words: str
) -> None:
    refused = sql_alice("issue", system.people.a, *options, code=USAGE)
    is_refused(refused, "invalid_argument", words)


def test_rotate_refuses_an_invalid_grace(sql_alice: Program, system: System) -> None:
    issued = sql_alice.ok("issue", system.people.a)
    for grace in ("31d", "1", "-1h", "", "999999999w"):
        refused = sql_alice("rotate", issued["id"], f"--grace={grace}", code=USAGE)
        is_refused(refused, "invalid_argument", "grace")
    assert sql_alice.ok("show", issued["id"])["status"] == "active"


@pytest.mark.parametrize(
    "arguments",
    [
        ("issue", "x", "--kind", "public"),
        ("issue", "x", "--nothing"),
        ("issue", "x", "--key-only", "--json"),
        ("list",),
        ("list", "a", "b"),
        ("list", "x", "--status", "dead"),
        ("retire",),
        ("revoke", "x", "--legacy", "--cascade"),
        ("revoke", "x", "--legacy", "--wait-for-replicas"),
        ("show",),
        ("shw", "x"),
        ("--nothing",),
    ],
)
def test_a_command_line_that_is_wrong_says_so(
    sql_alice: Program, arguments: tuple[str, ...]
) -> None:
    is_refused(sql_alice(*arguments, code=USAGE), "usage")


@pytest.mark.parametrize("command", ["resolve", "explain", "upgrade"])
def test_no_key_at_all_is_a_mistake(sql_alice: Program, command: str) -> None:
    is_refused(sql_alice(command, stdin="\n", code=USAGE), "invalid_argument", "key is empty")


@pytest.mark.parametrize("who", ["bob", "mia", "stranger"])
def test_a_user_who_is_not_an_admin_of_the_workspace_is_refused(
    alice: Program, program: Program, system: System, connection: str, who: str
) -> None:
    other = system.acting_as(program, connection, who)
    is_refused(other("issue", system.people.a, code=DENIED), "permission_denied")
    is_refused(other("resolve", stdin="x", code=DENIED), "permission_denied", "keylatch_resolver")
    issued = alice.ok("issue", system.people.a)
    is_refused(other("show", issued["id"], code=REFUSED), "key_not_found")
    assert other.ok("list", system.people.a) == []
    unknown = other("explain", "--json", stdin=issued["key"], code=REFUSED)
    assert unknown.json["verdict"] == "unknown"


def test_a_token_or_password_that_is_wrong_is_a_matter_of_permission(
    program: Program, system: System, server: Cluster
) -> None:
    token = program.having(SUPABASE_URL=system.rest.url, SUPABASE_KEY=system.rest.service_key + "x")
    is_refused(token("list", system.people.a, code=DENIED), "permission_denied")
    url = system.database.url.replace(server.passwords["postgres"], "hunter2")
    password = program.having(DATABASE_URL=url)
    is_refused(password("list", system.people.a, code=DENIED), "permission_denied")


@pytest.mark.parametrize(
    "variables",
    [
        {"DATABASE_URL": "postgresql://postgres:hunter2@127.0.0.1:9/postgres"},
        {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_KEY": "hunter2"},
    ],
)
def test_what_does_not_answer_is_unavailable(program: Program, variables: dict[str, str]) -> None:
    is_refused(program.having(**variables)("list", uuid4(), code=UNAVAILABLE), "unavailable")


@pytest.mark.parametrize("command", ["list", "show"])
def test_a_database_without_keylatch_or_with_it_unexposed_is_not_set_up(
    program: Program, server: Cluster, tokens: Tokens, janitor: Janitor, command: str
) -> None:
    with Database(server, f"cli_empty_{command}") as database:
        server.install_platform(database.name)
        direct = program.having(DATABASE_URL=database.url)
        is_refused(direct(command, uuid4(), code=SETUP), "not_installed", "supabase db push")
        with Rest(database, tokens, janitor=janitor, schemas="public") as rest:
            unexposed = program.having(SUPABASE_URL=rest.url, SUPABASE_KEY=rest.service_key)
            is_refused(unexposed(command, uuid4(), code=SETUP), "schema_not_exposed")


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://u:hunter2@h/d",
        "postgresql://u:hunter2%zz@h",
        "postgresql://u:hunter2\udcff@h/d",
    ],
)
def test_a_database_url_that_cannot_be_read_is_a_mistake(program: Program, url: str) -> None:
    is_refused(program.having(DATABASE_URL=url)("list", uuid4(), code=USAGE), "usage")


def test_a_full_disk_is_an_error_as_any_other(sql_alice: Program, system: System) -> None:
    sql_alice("issue", system.people.a)
    for form in ((), ("--json",)):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                sql_alice.command("list", system.people.a, *form),
                **sql_alice.surroundings(),
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert (done.returncode, done.stderr) == (REFUSED, b"io_error: No space left on device\n")


@pytest.mark.parametrize("form", [(), ("--json",), ("--key-only",)])
def test_a_new_key_that_cannot_be_written_is_named(
    sql_alice: Program, system: System, form: tuple[str, ...]
) -> None:
    """After a rotation, the old key is revoked, and nobody has the new key."""
    old = sql_alice.ok("issue", system.people.a, "--kind", "secret")["id"]
    for words in (("issue", system.people.a), ("rotate", old)):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                sql_alice.command(*words, *form),
                **sql_alice.surroundings(),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        (newest, *_) = sql_alice.ok("list", system.people.a)
        assert done.returncode == UNAVAILABLE
        assert done.stderr == (
            f"key_not_shown: the key {newest['id']} was issued, but cannot be written: "
            "No space left on device\n"
            f"hint: Run: keylatch revoke {newest['id']}; then issue or rotate again.\n"
        )
