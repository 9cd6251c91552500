"""`keylatch install` and the files of a project: what it writes, refuses and leaves alone."""

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cli.install.project import NEXT, OWN, Project, next_release
from cli.program import Program
from keylatch.errors import InvalidArgument, KeylatchError
from keylatch_cli import writing
from keylatch_cli.install import project as install
from keylatch_cli.install.migrations import Choice, Tenancy, read_header, shipped

pytestmark = pytest.mark.one_server

VERSION = shipped().version
NAME = f"keylatch_{VERSION}"


def put(project: Project, *modules: str, tenancy: Tenancy = "keylatch") -> Path:
    """Install these modules, and return the file."""
    install.write(
        project.path, install.prepare(project.path, Choice(only=modules or ("core",)), tenancy)
    )
    return project.file(NAME)


def test_one_file_follows_the_projects_own(program: Program, project: Project) -> None:
    shown = program("install", project.path, "--tenancy", "keylatch")
    assert project.names() == [*OWN, NAME]
    (expected,) = shipped().plan(None, Choice(), "keylatch")
    assert project.file(NAME).read_text() == expected.text
    assert shown.out.splitlines() == [project.file(NAME).name]
    assert "supabase db push" in shown.err
    assert project.file(NAME).stat().st_mode & 0o777 == 0o644


def test_without_newer_stamps_the_stamp_is_the_current_time(project: Project) -> None:
    for path in project.migrations.iterdir():
        path.unlink()
    project.migrations.rmdir()
    before = f"{datetime.now().astimezone():%Y%m%d}"
    tomorrow = f"{datetime.strptime(before, '%Y%m%d') + timedelta(days=1):%Y%m%d}"
    put(project)
    assert project.names() == [NAME]
    assert min(project.migrations.iterdir()).name[:8] in {before, tomorrow}


def test_a_second_run_writes_nothing_and_says_so(program: Program, project: Project) -> None:
    program("install", project.path, "--tenancy", "keylatch", "--expose")
    before = project.snapshot()
    shown = program("install", project.path, "--expose")
    assert project.snapshot() == before
    assert shown.out == ""
    assert shown.err == (
        f"keylatch {VERSION} is already installed, with the core, events: nothing to do.\n"
    )


def test_the_tenancy_is_decided_before_anything_is_written(
    program: Program, project: Project
) -> None:
    before = project.snapshot()
    shown = program("install", project.path, "--expose", code=2)
    assert shown.err.startswith("tenancy_undecided: A new installation needs the option --tenancy.")
    assert project.snapshot() == before


@pytest.mark.parametrize("typed", ["own", "keylatch", ""])
def test_a_terminal_is_asked_for_the_tenancy(
    program: Program, project: Project, typed: str
) -> None:
    before = project.snapshot()
    shown = program.at_a_terminal("install", project.path, "--no-expose", typed=typed)
    assert "Which tables decide who administers a workspace?" in shown.err
    if not typed:
        assert (shown.code, project.snapshot()) == (1, before)
        return
    header = read_header(project.file(NAME).read_text())
    assert header is not None
    assert (shown.code, header.tenancy) == (0, typed)


def test_a_module_is_added_by_a_file_of_its_own_behind_what_came_since(
    program: Program, project: Project
) -> None:
    put(project, "events")
    project.add("invoices", "create table public.invoices (id uuid);\n", days=30)
    before = project.snapshot()
    shown = program("install", project.path, "--with", "usage, sessions", "--no-expose")
    added = "keylatch_usage_request_sessions"
    assert project.names() == [*OWN, NAME, "invoices", added]
    assert project.snapshot().items() >= before.items()
    assert shown.out.splitlines() == [project.file(added).name]
    again = program("install", project.path, "--with", "sessions", "--no-expose")
    assert "with the core, events, request, sessions, usage: nothing to do" in again.err


def test_a_later_version_brings_one_file_for_what_is_there(project: Project) -> None:
    put(project, tenancy="own")
    project.add("invoices", "create table public.invoices (id uuid);\n", days=30)
    plan = install.prepare(project.path, release=next_release())
    install.write(project.path, plan)
    upgrade = f"keylatch_{VERSION}_to_{NEXT}"
    assert project.names() == [*OWN, NAME, "invoices", upgrade]
    text = project.file(upgrade).read_text()
    assert "create table keylatch_internal.ledger" in text
    assert "count_events" not in text
    assert "keylatch.workspaces" not in text
    assert install.prepare(project.path, release=next_release()).new == {}
    with pytest.raises(KeylatchError, match="client_older"):
        install.prepare(project.path)


def test_a_dry_run_writes_nothing_and_shows_what_would_come(
    program: Program, project: Project
) -> None:
    before = project.snapshot()
    own = ("--tenancy", "own")
    shown = program("install", project.path, "--dry-run", "--expose", *own)
    assert project.snapshot() == before
    assert [line.partition("_")[2] for line in shown.out.splitlines()] == [f"{NAME}.sql"]
    answer = program.ok("install", project.path, "--dry-run", *own)
    assert (answer["dry_run"], len(answer["written"])) == (True, 1)
    assert project.snapshot() == before


def test_programs_get_json(program: Program, project: Project) -> None:
    written = program.ok("install", project.path, "--tenancy", "own", "--only", "usage")
    assert written == {
        "dry_run": False,
        "version": None,
        "modules": [],
        "tenancy": "own",
        "adds": ["core", "usage"],
        "present": [],
        "written": [project.file(NAME).name],
        "described": None,
        "exposed": False,
    }
    again = program.ok("install", project.path, "--expose")
    assert again == {
        **written,
        "version": VERSION,
        "modules": ["usage"],
        "adds": [],
        "present": written["written"],
        "written": [],
        "exposed": True,
    }


def test_options_that_cannot_be_combined_are_refused(program: Program, project: Project) -> None:
    for options in (("--all", "--only", "core"), ("--with", "usage", "--all")):
        shown = program("install", project.path, "--tenancy", "own", *options, code=2)
        assert "--with, --only and --all cannot be combined." in shown.err
    shown = program("install", project.path, "--tenancy", "own", "--with", "sesions", code=2)
    assert "There is no module 'sesions'." in shown.err
    assert "request, sessions" in shown.err
    assert project.names() == list(OWN)


def test_an_edited_file_is_refused_and_left_as_it_is(program: Program, project: Project) -> None:
    path = put(project)
    path.write_text(path.read_text().replace("enable always", "enable", 1))
    before = project.snapshot()
    for more in ((), ("--with", "usage"), ("--expose",), ("--dry-run",), ("--json",)):
        shown = program("install", project.path, *more, code=1)
        assert project.snapshot() == before, "nothing is written, not even what is new"
        assert shown.out == ""
        assert shown.err.startswith(
            f"migration_differs: A generated file was edited: {path.name}.\nhint: "
        )


def test_a_file_name_cannot_steer_the_terminal(program: Program, project: Project) -> None:
    path = put(project)
    path.rename(path.with_name(path.name.replace("keylatch_", "keylatch_\x1b[2J")))
    (path,) = project.migrations.glob("*keylatch_*.sql")
    path.write_text(f"{path.read_text()}select 1;\n")
    shown = program("install", project.path, code=1)
    assert "\x1b" not in shown.err
    assert "\\x1b[2J" in shown.err


def test_a_file_of_the_installation_that_was_deleted_is_missed(
    program: Program, project: Project
) -> None:
    first = put(project)
    program("install", project.path, "--with", "usage")
    text = first.read_text()
    first.unlink()
    before = project.snapshot()
    shown = program("install", project.path, code=1)
    assert shown.err.startswith("migration_missing: A file adds usage to keylatch ")
    assert project.snapshot() == before
    for name in (first, project.migrations / "21990101000000_again.sql"):
        name.write_text(text)
    assert program("install", project.path, code=1).err.startswith("migration_twice: ")


def test_a_project_with_the_files_of_an_earlier_checkout_is_told_to_drop_and_install_again(
    program: Program, project: Project
) -> None:
    project.add(
        "keylatch_foundation", "create schema keylatch;\ncreate schema keylatch_internal;\n"
    )
    project.add("keylatch_keys", "create table keylatch_internal.keys (id uuid);\n", days=3)
    before = project.snapshot()
    for option in (("--tenancy", "own"), ("--all",)):
        shown = program("install", project.path, *option, code=1)
        first, *hint = shown.err.splitlines()
        assert first.startswith("earlier_checkout: ")
        assert hint[0] == "hint: Drop it, with its keys, and install again:"
        assert hint[1].startswith(
            'psql "$DATABASE_URL" -c \'drop schema if exists keylatch_hooks, '
        )
        assert hint[2].startswith("rm supabase/migrations/*_keylatch_*.sql")
    assert project.snapshot() == before


def test_a_migration_of_the_users_own_may_have_any_name(project: Project) -> None:
    project.add("keylatch_tenancy", "create function public.x() returns int as '' language sql;\n")
    put(project, tenancy="own")
    assert sorted(project.names()) == sorted([*OWN, NAME, "keylatch_tenancy"])


def test_a_directory_that_is_no_project_is_left_alone(program: Program, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        shown = program("install", path, code=2)
        assert "supabase init" in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["mkstemp", "replace", "fchmod"])
@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError])
def test_an_interrupted_install_leaves_no_file_behind(
    project: Project, monkeypatch: pytest.MonkeyPatch, step: str, problem: type[BaseException]
) -> None:
    put(project)
    before = project.snapshot()
    plan = install.prepare(project.path, Choice(added=("usage",)), release=next_release())
    assert len(plan.new) == 2
    module = writing if step == "mkstemp" else os
    original, calls = getattr(module, step), 0

    def interrupted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise problem
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, step, interrupted)
        with pytest.raises(problem):
            install.write(project.path, plan)
    assert calls == 2
    assert project.snapshot() == before
    assert project.names() == [*OWN, NAME]


def test_install_shows_what_to_write_for_an_own_tenancy_and_never_replaces_it(
    program: Program, project: Project
) -> None:
    shown = program("install", project.path, "--tenancy", "own")
    text = project.file(NAME).read_text()
    assert "create table keylatch.workspaces" not in text
    assert "create or replace function keylatch.admin_workspace_ids()" in shown.err
    assert "before truncate on public.workspaces" in shown.err
    program("install", project.path)
    program("install", project.path, "--tenancy", "own")
    before = project.snapshot()
    refused = program("install", project.path, "--tenancy", "keylatch", code=1)
    assert refused.err.startswith("tenancy_installed: The application has its own tenancy")
    assert project.snapshot() == before


def test_keylatchs_tenancy_is_not_left_out_later(program: Program, project: Project) -> None:
    assert "create table keylatch.workspaces" in put(project).read_text()
    refused = program("install", project.path, "--tenancy", "own", code=1)
    assert refused.err.startswith("tenancy_installed: ")
    assert "keylatch.admin_workspace_ids()" in refused.err


def test_the_last_possible_stamp_is_named(project: Project) -> None:
    (project.migrations / "99999999999999_last.sql").write_text("select 1;\n")
    with pytest.raises(KeylatchError) as raised:
        put(project)
    assert raised.value.slug == "migration_order"


@pytest.mark.parametrize("what", ["supabase", "supabase/migrations", "supabase/config.toml"])
def test_a_link_that_leads_out_of_the_project_is_refused(
    program: Program, project: Project, tmp_path: Path, what: str
) -> None:
    outside = tmp_path / "outside"
    (project.path / what).rename(outside)
    (project.path / what).symlink_to(outside)
    before = contents(tmp_path)
    shown = program("install", project.path, "--tenancy", "own", "--expose", code=2)
    assert "links out of it" in shown.err
    with pytest.raises(InvalidArgument):
        put(project)
    if what != "supabase/migrations":
        with pytest.raises(InvalidArgument):
            install.expose(project.path)
    assert contents(tmp_path) == before


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_links_inside_of_the_project_are_followed_and_stay(project: Project) -> None:
    real = project.path / "migrations"
    project.migrations.rename(real)
    project.migrations.symlink_to(real)
    put(project)
    assert project.migrations.is_symlink()
    assert any(path.name.endswith(f"_{NAME}.sql") for path in real.iterdir())


@pytest.mark.parametrize("name", [".config.toml.keylatch", ".keylatch-config.toml"])
def test_a_planted_link_is_not_written_through(project: Project, tmp_path: Path, name: str) -> None:
    """A checkout has a link where an earlier version wrote its temporary file."""
    victim = tmp_path / "victim"
    victim.write_text("# mine\n")
    planted = project.config.with_name(name)
    planted.symlink_to(victim)
    install.expose(project.path)
    put(project)
    assert victim.read_text() == "# mine\n"
    assert planted.is_symlink()
    assert not project.config.is_symlink()
