"""The program as a whole: its help, its version, its completion, and what it loads."""

import subprocess
import sys
from pathlib import Path

import pytest

import keylatch
from cli.program import SCRIPT, Program
from keylatch_cli.output import EXIT_CODES
from stack.tools import ROOT

pytestmark = pytest.mark.one_server


CALLS = [
    *("issue", "list", "show", "rotate", "revoke", "suspend", "unsuspend", "end-sessions"),
    *("retire", "legacy", "resolve", "upgrade", "explain"),
]
COMMANDS = [
    *CALLS,
    *("import", "adopt", "install", "sql", "apply", "uninstall", "doctor", "script", "audit"),
    *("revocations", "installation"),
]
NESTED = ["revocations export", "revocations apply", "installation renew"]
LIBRARIES = {"supabase", "postgrest", "httpx", "psycopg", "psycopg_pool", "rich"}


@pytest.mark.parametrize("command", [None, *COMMANDS, *NESTED])
def test_help_fits_eighty_columns_and_nothing_is_cut(program: Program, command: str | None) -> None:
    shown = program.having(COLUMNS="80")(*(command or "").split(), "--help")
    assert shown.err == ""
    usage, *lines = shown.out.splitlines()
    assert max(map(len, [usage, *lines])) <= 80
    assert not any("..." in line for line in lines)


def test_help_names_every_command_and_every_exit_code(program: Program) -> None:
    shown = program("--help").out
    for command in COMMANDS:
        assert f"\n  {command} " in shown
    for code, meaning in EXIT_CODES.items():
        assert f"{code:<4} {meaning}\n" in shown


def test_script_prints_the_file_for_the_owner(program: Program) -> None:
    names = program("script").out.split()
    assert names == sorted(file.stem for file in (ROOT / "sql/ops").iterdir())
    for name in names:
        assert program("script", name).out == (ROOT / f"sql/ops/{name}.sql").read_text()
    shown = program("script", "../audit/grants", code=2)
    assert shown.err.startswith("usage: no script has this name\nhint: The names: after_restore, ")


def test_no_command_shows_the_help_and_is_a_mistake(program: Program) -> None:
    shown = program(code=2)
    assert shown.out == ""
    assert shown.err == program("--help").out


@pytest.mark.parametrize("command", CALLS)
def test_help_says_how_to_connect_without_showing_secrets_to_ps(
    program: Program, command: str
) -> None:
    shown = " ".join(program(command, "--help").out.split())
    for option in ("--db-url", "--url", "--key", "--token", "--as-user", "--json"):
        assert f" {option} " in shown
    assert shown.count("`ps` shows options") == 2


def test_the_installed_script_is_the_program_and_has_the_version_of_the_package(
    tmp_path: Path,
) -> None:
    assert Program(tmp_path)("--version").out == f"keylatch {keylatch.__version__}\n"


def test_completion_knows_the_commands_and_their_options(program: Program) -> None:
    def complete(words: str, number: int) -> set[str]:
        completing = program.having(
            _KEYLATCH_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(number)
        )
        return set(completing().out.split())

    assert complete("keylatch re", 1) == {"revoke", "retire", "resolve", "revocations"}
    assert complete("keylatch issue --kind ", 3) == {"publishable", "secret"}
    assert "--grace" in complete("keylatch rotate --g", 2)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list", "--help"], ["issue", "--nothing"]]
)
def test_no_library_is_loaded_before_there_is_work_for_it(
    program: Program, arguments: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", SCRIPT, *arguments],
        **program.surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert {"keylatch", "typer"} <= loaded
    # An error is printed with rich.
    assert not (LIBRARIES - ({"rich"} if done.returncode else set())) & loaded


@pytest.mark.parametrize(
    ("missing", "variables"),
    [
        ("typer", {}),
        ("rich", {}),
        ("psycopg", {"DATABASE_URL": "postgresql://x@127.0.0.1:9/x"}),
        ("postgrest", {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_KEY": "x"}),
    ],
)
def test_a_library_that_is_not_there_is_named_with_the_command_that_installs_it(
    program: Program, missing: str, variables: dict[str, str]
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from keylatch_cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "list", "x"],
        **program.having(**variables).surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    first, second = done.stderr.splitlines()
    assert first.startswith(f"missing_extra: {missing} ")
    assert second == 'hint: Run: pip install "keylatch[cli]"'


INTERRUPTED = """
import sys


class Interrupted:
    def find_spec(self, name, *more):
        if name == "keylatch_cli.app":
            raise KeyboardInterrupt


sys.meta_path.insert(0, Interrupted())
from keylatch_cli import main
main()
"""


def test_control_c_before_a_command_runs_ends_it_without_a_traceback(program: Program) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        **program.surroundings(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
