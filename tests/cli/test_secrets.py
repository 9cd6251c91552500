"""No key, token or password appears in process arguments, stderr, errors or logs."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from cli.program import Program
from cli.system import System
from stack import Cluster

pytestmark = pytest.mark.one_server


class Arguments:
    """The arguments of all processes, as `ps` shows them, while the block runs.

    Attributes:
        seen: The arguments of every process that was seen.
    """

    def __init__(self) -> None:
        """Start with no arguments seen."""
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Arguments":
        """Start to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(process.read_bytes())
                except OSError:
                    continue


@pytest.fixture
def statements(system: System, server: Cluster) -> Iterator[Callable[[], str]]:
    """A function that returns what the server logged during the test: every statement."""
    superuser = system.database.connect(superuser=True)
    settings = {"log_statement": "'all'", "log_parameter_max_length": "0"}
    for name, value in settings.items():
        superuser.execute(f"alter system set {name} = {value}")
    superuser.execute("select pg_reload_conf()")
    before = len(server.log())
    try:
        yield lambda: server.log()[before:]
    finally:
        for name in settings:
            superuser.execute(f"alter system reset {name}")
        superuser.execute("select pg_reload_conf()")


def test_no_key_is_in_the_arguments_of_a_process_or_in_a_log(
    alice: Program, resolver: Program, system: System, statements: Callable[[], str]
) -> None:
    # The installed script is a process of its own, so `ps` shows its arguments.
    alice, resolver = replace(alice, is_preloaded=False), replace(resolver, is_preloaded=False)
    with Arguments() as arguments:
        old = alice("issue", system.people.a, "--kind", "secret", "--key-only").out.strip()
        found = resolver.ok("resolve", stdin=old)
        new = alice("rotate", found["key_id"], "--key-only").out.strip()
        alice("explain", stdin=old, code=1)
        alice("explain", stdin=new)
        resolver("resolve", stdin=old, code=1)
        alice("revoke", found["key_id"])
    everything = b"\n".join(arguments.seen)
    assert b"resolve" in everything
    assert "revoke_key" in statements()
    logs = statements() + system.rest.postgrest.log()
    for key in (old, new):
        assert key.encode() not in everything
        assert key not in logs


def test_no_command_but_the_one_that_makes_it_shows_a_secret_key(
    sql_alice: Program, sql_owner: Program, system: System
) -> None:
    issued = sql_alice.ok("issue", system.people.a, "--kind", "secret")
    key, key_id = issued["key"], issued["id"]
    for arguments in (("show", key_id), ("list", system.people.a), ("suspend", key_id)):
        for form in ((), ("--json",)):
            shown = sql_alice(*arguments, *form)
            assert key not in shown.out + shown.err
    sql_alice("unsuspend", key_id)
    for program, command in ((sql_alice, "explain"), (sql_owner, "resolve")):
        for form in ((), ("--json",)):
            shown = program(command, *form, stdin=key)
            assert key not in shown.out + shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("resolve", "{key}"),
        ("explain", "--origin", "x", "{key}"),
        ("show", "{key}"),
        ("revoke", "{key}"),
        ("{key}",),
        ("list", "{key}"),
        ("list", "x", "--{key}"),
        ("list", "x", "--status", "{key}"),
        ("issue", "x", "--kind", "{key}"),
        ("issue", "x", "--expires", "{key}"),
        ("issue", "x", "--metadata", "{key}"),
        ("rotate", "x", "--grace", "{key}"),
        ("resolve", "--key", "{key}"),
        ("resolve", "--token", "{key}", "--url", "http://127.0.0.1:9"),
        ("resolve", "--token", "{key}\n", "--url", "http://127.0.0.1:9"),
        ("resolve", "--as-user", "{key}"),
        ("resolve", "--db-url", "{key}"),
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(
    program: Program, system: System, arguments: tuple[str, ...]
) -> None:
    key = "wk_sk_live_4fzYdSuGgPSPxSAXeyVp8jHDcFLHdfoK4Lbu"
    connected = program
    if not any(one.startswith("--") and one in ("--key", "--token") for one in arguments):
        connected = program.having(DATABASE_URL=system.database.url)
    refused = connected(*(one.format(key=key) for one in arguments), stdin="x", code=None)
    assert refused.code in (2, 4)
    assert refused.out == ""
    assert key not in refused.err
    assert key[-20:] not in refused.err


def test_a_key_of_keylatch_is_not_sent_as_that_of_the_project(
    program: Program, system: System
) -> None:
    key = "wk_sk_live_4fzYdSuGgPSPxSAXeyVp8jHDcFLHdfoK4Lbu"
    refused = program("resolve", "--url", system.rest.url, "--key", key, stdin="x", code=2)
    assert refused.err.startswith("usage: --key needs the API key of the project")


# These characters end a password early if they are not escaped. The rest of the password then
# becomes part of the host, the port or the name of the database.
@pytest.mark.parametrize(
    "password",
    ["pass@word", "pass/word", "pass?word", "pass#word", "pass:1%z", quote("pass@/word", safe="")],
)
def test_no_part_of_a_password_is_printed(program: Program, system: System, password: str) -> None:
    for address in (f"127.0.0.1:{system.database.server.port}", "127.0.0.1:9", "127.0.0.1:port"):
        url = f"postgresql://postgres:{password}@{address}/{system.database.name}"
        refused = program("list", system.people.a, "--db-url", url, code=None)
        assert refused.code in (2, 3, 4)
        # The error itself may say "password" and "getpass".
        said = refused.err.lower().replace("password", "").replace("getpass", "")
        assert not [part for part in ("pass", "word", password) if part in said]
    wrong = program("list", system.people.a, "--url", url, "--key", "x", code=2)
    assert "word" not in wrong.err


@pytest.mark.parametrize("name", ["SUPABASE_KEY", "KEYLATCH_TOKEN"])
@pytest.mark.parametrize("secret", ["hunter2", "hunter2\n", "hunter2\u2026", "hunter2\x1b[0m"])
def test_no_api_key_or_token_is_printed(
    program: Program, system: System, name: str, secret: str
) -> None:
    for url in (system.rest.url, "http://127.0.0.1:9"):
        there = program.having(**{"SUPABASE_URL": url, name: secret})
        refused = there("list", system.people.a, code=None)
        # An HTTP header cannot carry the other secrets, so nothing is sent.
        assert refused.code in ((3, 4, 5) if secret == "hunter2" else (2,))
        assert "hunter2" not in refused.out + refused.err


def test_a_text_of_others_cannot_steer_the_terminal(sql_alice: Program, system: System) -> None:
    # The database refuses a label that changes the direction of text. A reason may be any text.
    label = "\u200bevil \u200e"
    reason = "line one\nline two\t[bold] \u202eevil\u2066"
    issued = sql_alice.ok(
        "issue", system.people.a, "--label", label, "--metadata", '{"a": "\\u001b[2J"}'
    )
    sql_alice("revoke", issued["id"], "--reason", reason)
    for arguments in (("show", issued["id"]), ("list", system.people.a)):
        shown = sql_alice(*arguments).out
        assert not set(shown) & set("\x1b\u202e\u2066\u200b\u200e\t")
        assert "\\u200bevil" in shown
    assert "line two\\t[bold] \\u202eevil" in sql_alice("show", issued["id"]).out
    found = sql_alice.ok("show", issued["id"])
    assert (found["label"], found["revoke_reason"]) == (label, reason)


def test_a_reader_that_has_seen_enough_is_no_error(sql_alice: Program, system: System) -> None:
    for form in ((), ("--json",)):
        with subprocess.Popen(
            sql_alice.command("list", system.people.a, *form),
            **sql_alice.surroundings(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 1
