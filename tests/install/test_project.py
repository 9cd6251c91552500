"""`keylatch install` and the files of a project: what it writes, refuses and leaves alone."""

import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cli.program import Program
from install.project import LEDGER, OWN, Project, next_version
from keylatch import install
from keylatch.errors import KeylatchError
from keylatch.migrations import TENANCY_NAME, shipped

pytestmark = pytest.mark.one_server

ALL = [one.name for one in shipped()]


def install_all(project: Project) -> None:
    install.copy(project.path, install.prepare(project.path).new)


def test_they_follow_the_projects_own_in_order(program: Program, project: Project) -> None:
    shown = program("install", project.path)
    assert project.names() == [*OWN, *ALL]
    first, *_, last = sorted(project.migrations.iterdir())[1:]
    times = [datetime.strptime(one.name[:14], "%Y%m%d%H%M%S") for one in (first, last)]
    assert times[1] - times[0] == timedelta(seconds=len(ALL))
    for one in shipped():
        assert project.file(one.name).read_text() == one.text
    assert shown.out.splitlines() == [project.file(name).name for name in ALL]
    assert "supabase db push" in shown.err


def test_without_newer_ones_they_are_of_now(project: Project) -> None:
    for path in project.migrations.iterdir():
        path.unlink()
    project.migrations.rmdir()
    before = f"{datetime.now().astimezone():%Y%m%d}"
    install_all(project)
    assert project.names() == ALL
    assert min(project.migrations.iterdir()).name[:8] in {before, _tomorrow(before)}


def _tomorrow(day: str) -> str:
    return f"{datetime.strptime(day, '%Y%m%d') + timedelta(days=1):%Y%m%d}"


def test_again_nothing_is_written_and_that_is_said(program: Program, project: Project) -> None:
    program("install", project.path, "--expose")
    before = project.snapshot()
    shown = program("install", project.path, "--expose")
    assert project.snapshot() == before
    assert shown.out == ""
    assert shown.err == f"{len(ALL)} migrations are there already: nothing to copy.\n"


def test_only_what_is_new_is_copied_behind_what_came_since(
    program: Program, project: Project
) -> None:
    older = install.prepare(project.path, shipped()[:-1])
    install.copy(project.path, older.new)
    project.add("invoices", "create table public.invoices (id uuid);\n", days=30)
    before = project.snapshot()
    shown = program("install", project.path, "--no-expose")
    assert project.names() == [*OWN, *ALL[:-1], "invoices", ALL[-1]]
    assert project.snapshot().items() >= before.items()
    assert shown.out.splitlines() == [project.file(ALL[-1]).name]
    assert f"{len(ALL) - 1} migrations are there already." in shown.err


def test_a_dry_run_writes_nothing_and_shows_what_would_come(
    program: Program, project: Project
) -> None:
    before = project.snapshot()
    shown = program("install", project.path, "--dry-run", "--expose")
    assert project.snapshot() == before
    names = [line.partition("_")[2] for line in shown.out.splitlines()]
    assert names == [f"{name}.sql" for name in ALL]
    answer = program.ok("install", project.path, "--dry-run")
    assert (answer["dry_run"], len(answer["copied"])) == (True, len(ALL))
    assert project.snapshot() == before


def test_programs_get_json(program: Program, project: Project) -> None:
    copied = program.ok("install", project.path, "--tenancy", "own")
    assert copied == {
        "dry_run": False,
        "present": [],
        "copied": [path.name for path in sorted(project.migrations.iterdir())[2:]],
        "left_out": [TENANCY_NAME],
        "exposed": False,
    }
    again = program.ok("install", project.path, "--expose")
    assert again["present"] == [name for name in ALL if name != TENANCY_NAME]
    assert (again["copied"], again["exposed"]) == ([], True)


def test_an_edited_file_is_refused_with_its_differences(program: Program, project: Project) -> None:
    install.copy(project.path, install.prepare(project.path, shipped()[:-1]).new)
    path = project.file("keylatch_latch")
    path.write_text(path.read_text().replace("enable always", "enable", 1))
    before = project.snapshot()
    for more in ((), ("--expose",), ("--dry-run",), ("--json",)):
        shown = program("install", project.path, *more, code=1)
        assert project.snapshot() == before, "nothing is written, not even what is new"
        assert shown.out == ""
        lines = shown.err.splitlines()
        assert lines[0].startswith("--- keylatch ")
        assert lines[1] == f"+++ {path}"
        changed = [line for line in lines[2:] if re.match(r"[-+]", line)]
        assert len(changed) == 2
        assert changed[0] == changed[1].replace("+", "-").replace("enable", "enable always")
        assert f"\nmigration_differs: not what keylatch 0.1.0 ships: {path.name}\n" in shown.err


def test_an_edited_file_cannot_steer_the_terminal(program: Program, project: Project) -> None:
    install_all(project)
    path = project.file("keylatch_keys")
    path.write_bytes(path.read_bytes() + b"-- \x1b[2J \xff\n")
    shown = program("install", project.path, code=1)
    assert "\x1b" not in shown.err
    assert "\\x1b[2J" in shown.err


@pytest.mark.parametrize("change", ["\r\n", "no end", "blank lines"])
def test_white_space_is_no_edit(program: Program, project: Project, change: str) -> None:
    install_all(project)
    for path in project.migrations.glob("*_keylatch_*.sql"):
        text = path.read_text()
        match change:
            case "\r\n":
                path.write_bytes(text.replace("\n", "\r\n").encode())
            case "no end":
                path.write_text(text.rstrip())
            case _:
                path.write_text(text.replace("\n\n", "\n"))
    assert "nothing to copy" in program("install", project.path).err


def test_the_same_migration_twice_is_refused(program: Program, project: Project) -> None:
    install_all(project)
    path = project.file("keylatch_keys")
    path.with_name("20200101000000_keylatch_keys.sql").write_bytes(path.read_bytes())
    shown = program("install", project.path, code=1)
    assert shown.err.startswith("migration_twice: 20200101000000_keylatch_keys.sql and ")


def test_a_file_that_was_deleted_is_not_copied_behind_the_others(
    program: Program, project: Project
) -> None:
    install_all(project)
    project.file("keylatch_keys").unlink()
    before = project.snapshot()
    assert program("install", project.path, code=1).err.startswith(
        "migration_missing: keylatch_keys is missing"
    )
    assert project.snapshot() == before


def test_what_is_no_project_is_left_alone(program: Program, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        shown = program("install", path, code=2)
        assert "supabase init" in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["write_text", "rename"])
@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError])
def test_what_is_interrupted_leaves_no_file_behind(
    project: Project, monkeypatch: pytest.MonkeyPatch, step: str, problem: type[BaseException]
) -> None:
    before = project.snapshot()
    new = install.prepare(project.path).new
    original, calls = getattr(Path, step), []

    def interrupted(path: Path, *arguments: object, **options: object) -> object:
        calls.append(path)
        if len(calls) == 5:
            raise problem
        return original(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, step, interrupted)
        with pytest.raises(problem):
            install.copy(project.path, new)
    assert len(calls) == 5
    assert project.snapshot() == before
    assert project.names() == list(OWN)


def test_own_tenancy_shows_what_to_write_and_is_remembered(
    program: Program, project: Project
) -> None:
    shown = program("install", project.path, "--tenancy", "own")
    rest = [name for name in ALL if name != TENANCY_NAME]
    assert project.names() == [*OWN, *rest]
    assert "create or replace function keylatch.admin_workspace_ids()" in shown.err
    assert "execute function keylatch_internal.revoke_workspace_keys();" in shown.err
    later = program("install", project.path)
    assert project.names() == [*OWN, *rest]
    assert f"{TENANCY_NAME} is left out" in later.err
    asked = program("install", project.path, "--tenancy", "keylatch")
    assert project.names() == [*OWN, *rest, TENANCY_NAME]
    assert TENANCY_NAME in asked.out
    assert program("install", project.path, "--tenancy", "own", code=1).err.startswith(
        "tenancy_installed: "
    )


def test_a_later_version_keeps_the_tenancy_out(project: Project) -> None:
    install.copy(project.path, install.prepare(project.path, tenancy="own").new)
    later = install.prepare(project.path, next_version())
    assert [one.name for one in later.new] == [LEDGER.name]
    assert [one.name for one in later.left_out] == [TENANCY_NAME]


def test_a_version_that_no_other_can_follow_is_named(project: Project) -> None:
    (project.migrations / "99999999999999_last.sql").write_text("select 1;\n")
    with pytest.raises(KeylatchError) as raised:
        install.prepare(project.path)
    assert raised.value.slug == "migration_order"
