"""Planning an installation, without files or a database."""

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.install.project import MORE, NEXT, REPOSITORY, next_release
from keylatch.errors import InvalidArgument, KeylatchError
from keylatch_cli.install.migrations import (
    Choice,
    Header,
    Installed,
    Migration,
    TenancyUndecided,
    checksum,
    next_stamps,
    own_tenancy,
    platform,
    read_header,
    read_installed,
    shipped,
    split_name,
)
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

NOW = datetime(2026, 12, 31, 23, 59, 58, tzinfo=UTC)
RELEASE = shipped()
MODULES = RELEASE.modules
NO_CHOICE = Choice()
BEGIN = "set search_path = pg_catalog, pg_temp;\n\n"
RELOAD = "\nreset search_path;\n\n-- PostgREST caches the schema.\nnotify pgrst, 'reload schema';\n"


def has(*modules: str, version: str = RELEASE.version, tenancy: str = "keylatch") -> Installed:
    return Installed(version, frozenset(modules), "own" if tenancy == "own" else "keylatch")


def planned(
    installed: Installed | None, choice: Choice = NO_CHOICE, tenancy: str | None = None
) -> list[tuple[str, tuple[str, ...]]]:
    """The names and parts of a plan."""
    decided = {"keylatch": "keylatch", "own": "own", None: None}[tenancy]
    return [(one.name, one.parts) for one in RELEASE.plan(installed, choice, decided)]  # type: ignore[arg-type]


def slug_of(installed: Installed | None, choice: Choice, tenancy: str | None = None) -> str:
    with pytest.raises(KeylatchError) as raised:
        planned(installed, choice, tenancy)
    assert raised.value.hint
    return raised.value.slug


def test_every_migration_of_the_repository_belongs_to_one_part() -> None:
    lists = tomllib.loads((ROOT / "sql" / "modules.toml").read_text())
    parts = [lists["core"], lists["tenancy"], *lists["modules"].values()]
    told = [name for part in parts for name in part["files"]]
    files = [path.stem.partition("_keylatch_")[2] for path in sorted(REPOSITORY.glob("*.sql"))]
    assert told == files
    assert list(RELEASE.parts) == ["core", "tenancy", *lists["modules"]]
    texts = [path.read_text() for path in sorted(REPOSITORY.glob("*.sql"))]
    assert "\n".join(part.text for part in RELEASE.parts.values()) == "\n".join(texts)
    platform_files = sorted((ROOT / "sql" / "platform").glob("*.sql"))
    assert list(platform()) == [path.read_text() for path in platform_files]


def test_the_default_is_the_core_the_tenancy_and_the_events() -> None:
    (one,) = RELEASE.plan(None, NO_CHOICE, "keylatch")
    assert (one.name, one.parts) == (
        f"keylatch_{RELEASE.version}",
        ("core", "tenancy", "events"),
    )
    sql = "\n".join(RELEASE.parts[name].text for name in one.parts)
    assert one.body == BEGIN + sql + RELOAD


@pytest.mark.parametrize(
    ("choice", "modules"),
    [
        (Choice(added=("usage",)), ("events", "usage")),
        (Choice(added=("sessions",)), ("events", "request", "sessions")),
        (Choice(only=("core",)), ()),
        (Choice(only=("sessions", "core")), ("request", "sessions")),
        (Choice(all=True), MODULES),
    ],
)
def test_a_new_installation_has_what_is_chosen_with_its_needs(
    choice: Choice, modules: tuple[str, ...]
) -> None:
    name = f"keylatch_{RELEASE.version}"
    assert planned(None, choice, "keylatch") == [(name, ("core", "tenancy", *modules))]
    assert planned(None, choice, "own") == [(name, ("core", *modules))]


def test_a_new_installation_needs_a_word_about_its_tenancy() -> None:
    with pytest.raises(TenancyUndecided, match="--tenancy own if your application"):
        RELEASE.plan(None, NO_CHOICE, None)


def test_the_plan_is_empty_if_all_chosen_modules_are_installed() -> None:
    assert planned(has()) == []
    assert planned(has("events", "usage")) == []
    assert planned(has("events"), Choice(added=("events",)), "keylatch") == []
    assert planned(has(*MODULES, tenancy="own"), Choice(all=True), "own") == []
    assert planned(has(), Choice(only=("core",))) == []


def test_a_module_that_was_added_comes_with_what_it_needs_and_lacks() -> None:
    assert planned(has("events"), Choice(added=("sessions", "usage"))) == [
        ("keylatch_usage_request_sessions", ("usage", "request", "sessions"))
    ]
    (one,) = RELEASE.plan(has("request"), Choice(added=("sessions",)), None)
    assert one.parts == ("sessions",)
    assert "array['request']::text[]" in one.body
    assert RELEASE.parts["sessions"].text in one.body
    assert BEGIN in one.body
    assert one.body.endswith(RELOAD)


def test_an_upgrade_has_the_sections_of_what_is_installed() -> None:
    later = next_release()
    (one,) = later.plan(has("usage", tenancy="own"), NO_CHOICE, None)
    assert one.name == f"keylatch_{RELEASE.version}_to_{NEXT}"
    assert one.parts == ("core", "usage")
    assert MORE["core"] in one.body
    assert MORE["tenancy"] not in one.body
    assert MORE["events"] not in one.body
    assert BEGIN in one.body
    assert one.body.endswith(
        f"update keylatch_internal.installation set schema_version = '{NEXT}';\n{RELOAD}"
    )
    (one,) = later.plan(has("events"), NO_CHOICE, None)
    assert all(MORE[name] in one.body for name in ("core", "tenancy", "events"))


def test_several_steps_are_joined_in_order_and_the_longest_is_taken() -> None:
    steps = {
        ("0.0.7", "0.0.8"): "select 7;\n",
        (
            "0.0.8",
            "0.0.9",
        ): "select 8;\n-- module: usage\nselect 'used';\n-- module: core\nselect 9;\n",
        ("0.0.9", RELEASE.version): "select 10;\n",
        ("0.0.9", "99.0.0"): "select 99;\n",
        ("0.0.7", "0.0.9"): "select 79;\n",
    }
    release = replace(RELEASE, upgrades=steps)
    (one,) = release.plan(has(version="0.0.8"), NO_CHOICE, None)
    found = [line for line in one.body.splitlines() if line.startswith("select")]
    assert found == ["select 8;", "select 9;", "select 10;"]
    (one,) = release.plan(has("usage", version="0.0.7"), NO_CHOICE, None)
    found = [line for line in one.body.splitlines() if line.startswith("select")]
    assert found == ["select 79;", "select 10;"]


def test_an_upgrade_comes_before_a_module_that_is_added() -> None:
    plan = next_release().plan(has("events"), Choice(added=("usage",)), None)
    assert [one.name for one in plan] == [f"keylatch_{RELEASE.version}_to_{NEXT}", "keylatch_usage"]
    assert f"schema_version = '{NEXT}'" in plan[1].body


def test_the_other_tenancy_is_refused_in_both_directions() -> None:
    assert slug_of(has(), NO_CHOICE, "own") == "tenancy_installed"
    assert slug_of(has(tenancy="own"), NO_CHOICE, "keylatch") == "tenancy_installed"


def test_an_impossible_plan_is_refused() -> None:
    assert slug_of(has("events"), Choice(only=("core",))) == "module_installed"
    assert slug_of(has(version="99.0.0"), NO_CHOICE) == "client_older"
    assert slug_of(has(version="0.0.1"), NO_CHOICE) == "no_upgrade"
    for choice in (Choice(added=("evnts",)), Choice(only=("evnts",))):
        with pytest.raises(InvalidArgument, match="There is no module 'evnts'"):
            planned(None, choice, "own")
    # An error does not repeat a key that was pasted as the name of a module.
    key = "wk_sk_live_" + "1" * 36
    with pytest.raises(InvalidArgument) as raised:
        planned(None, Choice(added=(key,)), "own")
    assert key not in str(raised.value)


def test_a_header_says_what_the_file_is() -> None:
    (one,) = RELEASE.plan(None, NO_CHOICE, "own")
    assert read_header(one.text) == Header(
        RELEASE.version, None, ("core", "events"), "own", is_intact=True
    )
    first = one.text.splitlines()[:7]
    assert first == [
        f"-- keylatch {RELEASE.version}",
        "-- contains: core, events",
        "-- tenancy: own",
        f"-- sha256: {checksum(one.body)}",
        "-- made by: keylatch install . --tenancy own --only events",
        "-- Do not edit this file. Put changes into a migration of your own.",
        "",
    ]
    (one,) = next_release().plan(has("events"), NO_CHOICE, None)
    assert read_header(one.text) == Header(
        NEXT, RELEASE.version, ("core", "tenancy", "events"), "keylatch", is_intact=True
    )
    assert read_header("-- A migration of mine.\ncreate table x ();\n") is None


def test_white_space_is_no_edit_and_words_are() -> None:
    (one,) = RELEASE.plan(None, Choice(only=("core",)), "own")
    for same in (
        one.text.replace("\n", "\r\n"),
        one.text.replace("\n\n", "\n"),
        f"\n{one.text.rstrip()}",
    ):
        header = read_header(same)
        assert header is not None and header.is_intact
    header = read_header(one.text.replace("enable always", "enable", 1))
    assert header is not None and not header.is_intact


def headers(*texts: Migration) -> list[Header]:
    found = [read_header(one.text) for one in texts]
    assert None not in found
    return [one for one in found if one is not None]


def test_the_headers_of_the_files_say_what_is_there() -> None:
    (first,) = RELEASE.plan(None, NO_CHOICE, "own")
    (second,) = RELEASE.plan(has("events", tenancy="own"), Choice(added=("usage",)), None)
    (third,) = next_release().plan(has("events", "usage", tenancy="own"), NO_CHOICE, None)
    assert read_installed([]) is None
    assert read_installed(headers(first)) == has("events", tenancy="own")
    assert read_installed(headers(first, second)) == has("events", "usage", tenancy="own")
    last = has("events", "usage", version=NEXT, tenancy="own")
    assert read_installed(headers(first, second, third)) == last


def test_a_file_that_builds_on_one_that_is_missing_is_refused() -> None:
    (first,) = RELEASE.plan(None, NO_CHOICE, "own")
    (second,) = RELEASE.plan(has(), Choice(added=("usage",)), None)
    (third,) = next_release().plan(has(), NO_CHOICE, None)
    (fourth,) = next_release().plan(has(version=NEXT), Choice(added=("notify",)), None)
    for files in ([second], [third], [first, fourth], [first, third, second]):
        with pytest.raises(KeylatchError) as raised:
            read_installed(headers(*files))
        assert raised.value.slug == "migration_missing"
    with pytest.raises(KeylatchError) as raised:
        read_installed(headers(first, first))
    assert raised.value.slug == "migration_twice"


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)),
    st.datetimes(datetime(2026, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
)
def test_new_stamps_follow_the_newest_and_the_clock(newest: datetime, now: datetime) -> None:
    stamps = next_stamps(f"{newest:%Y%m%d%H%M%S}", now, 3)
    assert list(stamps) == sorted(set(stamps))
    assert stamps[0] > f"{newest:%Y%m%d%H%M%S}"
    assert stamps[0] >= f"{now:%Y%m%d%H%M%S}"
    times = [datetime.strptime(one, "%Y%m%d%H%M%S") for one in stamps]
    assert times[-1] - times[0] == timedelta(seconds=2)


@pytest.mark.parametrize("newest", ["", "0001", "20261231235957"])
def test_new_stamps_are_the_current_time_if_no_file_is_newer(newest: str) -> None:
    stamps = next_stamps(newest, NOW, 3)
    assert stamps == ("20261231235958", "20261231235959", "20270101000000")


@pytest.mark.parametrize("newest", ["20279931000000", "9", "2027010100000", "99991231235959"])
def test_a_newest_stamp_that_is_not_a_time_is_named(newest: str) -> None:
    with pytest.raises(KeylatchError) as raised:
        next_stamps(newest, NOW, 1)
    assert raised.value.slug == "migration_order"
    assert newest in (raised.value.detail or "")


@pytest.mark.parametrize(
    ("file_name", "parts"),
    [
        ("20261120000100_keylatch_0.1.0.sql", ("20261120000100", "keylatch_0.1.0")),
        ("1_x.sql", ("1", "x")),
        ("20261120000100_keylatch_0.1.0.sql.bak", None),
        ("keylatch_0.1.0.sql", None),
        ("seed.sql", None),
        (".20261120000100_x.sql", None),
    ],
)
def test_a_file_is_a_migration_where_the_cli_takes_it_for_one(
    file_name: str, parts: tuple[str, str] | None
) -> None:
    assert split_name(file_name) == parts


def test_own_tenancy_is_a_function_and_two_triggers_and_no_table() -> None:
    text = own_tenancy()
    assert "create or replace function keylatch.admin_workspace_ids()" in text
    assert text.count("execute function keylatch_internal.revoke_workspace_keys()") == 2
    assert "before truncate on public.workspaces" in text
    assert "create table" not in text
