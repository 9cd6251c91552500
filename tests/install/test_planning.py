"""What is new, what is left out, and which versions it gets: decided without files or database."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from install.project import LEDGER, REPOSITORY, next_version
from keylatch.errors import KeylatchError
from keylatch.migrations import (
    TENANCY_NAME,
    Migration,
    own_tenancy,
    plan,
    platform,
    restamp,
    shipped,
    split_name,
)

pytestmark = pytest.mark.one_server

NOW = datetime(2026, 12, 31, 23, 59, 58, tzinfo=UTC)
ALL = [one.name for one in shipped()]
BUT_TENANCY = [name for name in ALL if name != TENANCY_NAME]


def names(migrations: tuple[Migration, ...]) -> list[str]:
    return [one.name for one in migrations]


def test_what_is_shipped_is_what_the_repository_holds() -> None:
    files = {path.name: path.read_text() for path in REPOSITORY.glob("*.sql")}
    assert {one.file_name: one.text for one in shipped()} == files
    assert [one.file_name for one in shipped()] == sorted(files)
    platform_files = sorted(REPOSITORY.parents[1].glob("sql/platform/*.sql"))
    assert list(platform()) == [path.read_text() for path in platform_files]


def test_shipped_names_are_unique_and_versions_are_times() -> None:
    assert len(set(ALL)) == len(ALL)
    assert TENANCY_NAME in ALL[:-1], "that it was left out shows in what comes after it"
    for one in shipped():
        assert datetime.strptime(one.version, "%Y%m%d%H%M%S")
        assert len(one.version) == 14


def test_each_ends_as_the_history_can_give_it_back() -> None:
    assert all(one.text.endswith(";\n") for one in next_version())


def test_where_nothing_is_all_is_new_and_where_all_is_nothing() -> None:
    assert plan(shipped(), []).new == shipped()
    done = plan(shipped(), ALL)
    assert (done.present, done.new, done.left_out) == (shipped(), (), ())


def test_what_is_not_ours_is_not_looked_at() -> None:
    assert plan(shipped(), ["orders", "keylatch_of_a_later_version"]).new == shipped()


def test_a_later_version_adds_what_it_has_more() -> None:
    found = plan(next_version(), ALL)
    assert (found.new, names(found.present)) == ((LEDGER,), ALL)


@given(st.integers(0, len(ALL)))
def test_an_install_that_was_broken_off_is_brought_to_its_end(count: int) -> None:
    found = plan(shipped(), ALL[:count])
    assert names(found.present) + names(found.new) == ALL
    assert found.left_out == ()


def test_own_tenancy_leaves_one_out() -> None:
    found = plan(shipped(), [], "own")
    assert names(found.new) == BUT_TENANCY
    assert names(found.left_out) == [TENANCY_NAME]


@pytest.mark.parametrize("tenancy", [None, "own"])
def test_own_tenancy_is_kept_by_later_runs_and_versions(tenancy: None) -> None:
    found = plan(next_version(), BUT_TENANCY, tenancy)
    assert found.new == (LEDGER,)
    assert names(found.left_out) == [TENANCY_NAME]


def test_only_who_asks_for_it_gets_the_tenancy_later() -> None:
    found = plan(next_version(), BUT_TENANCY, "keylatch")
    assert names(found.new) == [TENANCY_NAME, LEDGER.name]
    assert found.left_out == ()


def test_own_tenancy_cannot_be_had_where_the_other_is_there() -> None:
    with pytest.raises(KeylatchError) as raised:
        plan(shipped(), ALL, "own")
    assert raised.value.slug == "tenancy_installed"


@pytest.mark.parametrize("missing", [name for name in ALL[:-1] if name != TENANCY_NAME])
def test_a_gap_is_not_filled_since_it_would_run_too_late(missing: str) -> None:
    with pytest.raises(KeylatchError) as raised:
        plan(shipped(), [name for name in ALL if name != missing])
    assert raised.value.slug == "migration_missing"
    assert missing in (raised.value.detail or "")


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)),
    st.datetimes(datetime(2026, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
)
def test_new_versions_follow_the_newest_and_the_clock(newest: datetime, now: datetime) -> None:
    versions = [one.version for one in restamp(shipped(), f"{newest:%Y%m%d%H%M%S}", now)]
    assert versions == sorted(set(versions))
    assert versions[0] > f"{newest:%Y%m%d%H%M%S}"
    assert versions[0] >= f"{now:%Y%m%d%H%M%S}"
    times = [datetime.strptime(one, "%Y%m%d%H%M%S") for one in versions]
    assert times[-1] - times[0] == timedelta(seconds=len(ALL) - 1)


@pytest.mark.parametrize("newest", ["", "0001", "20261231235957"])
def test_new_versions_are_of_now_where_nothing_is_newer(newest: str) -> None:
    versions = [one.version for one in restamp(shipped()[:3], newest, NOW)]
    assert versions == ["20261231235958", "20261231235959", "20270101000000"]


def test_new_texts_and_names_are_the_old_ones() -> None:
    for old, new in zip(shipped(), restamp(shipped(), "", NOW), strict=True):
        assert (new.name, new.text) == (old.name, old.text)


@pytest.mark.parametrize("newest", ["20279931000000", "9", "2027010100000", "99991231235959"])
def test_a_newest_version_that_is_no_time_is_named(newest: str) -> None:
    with pytest.raises(KeylatchError) as raised:
        restamp(shipped(), newest, NOW)
    assert raised.value.slug == "migration_order"
    assert newest in (raised.value.detail or "")


def test_white_space_is_no_difference_and_words_are() -> None:
    one = Migration("1", "x", "select 1;\n\nselect  2;\n")
    assert one.checksum == Migration("2", "y", "\tselect 1;\r\nselect 2;").checksum
    assert one.checksum != Migration("1", "x", "select 1; select 3;").checksum


@pytest.mark.parametrize(
    ("file_name", "parts"),
    [
        ("20261120000100_keylatch_keys.sql", ("20261120000100", "keylatch_keys")),
        ("1_x.sql", ("1", "x")),
        ("20261120000100_keylatch_keys.sql.bak", None),
        ("keylatch_keys.sql", None),
        ("seed.sql", None),
        (".20261120000100_x.sql", None),
    ],
)
def test_a_file_is_a_migration_where_the_cli_takes_it_for_one(
    file_name: str, parts: tuple[str, str] | None
) -> None:
    assert split_name(file_name) == parts


def test_own_tenancy_is_a_function_and_a_trigger_and_no_table() -> None:
    text = own_tenancy()
    assert "create or replace function keylatch.admin_workspace_ids()" in text
    assert "execute function keylatch_internal.revoke_workspace_keys()" in text
    assert "create table" not in text
