"""Durations and times as a user types them."""

from datetime import UTC, datetime, timedelta

import pytest

from keylatch.errors import InvalidArgument
from keylatch_cli.keys.times import parse_duration, parse_time

pytestmark = pytest.mark.one_server


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", timedelta()),
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("24h", timedelta(hours=24)),
        ("90d", timedelta(days=90)),
        ("2w", timedelta(weeks=2)),
        ("1d12h30m", timedelta(days=1, hours=12, minutes=30)),
    ],
)
def test_a_duration_is_numbers_with_their_units(text: str, expected: timedelta) -> None:
    assert parse_duration("grace", text) == expected


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "1 h", "1y", "1H", "٣h", "1h\n"])
def test_an_invalid_duration_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(InvalidArgument, match="grace is not a duration"):
        parse_duration("grace", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T09:30", datetime(2027, 1, 31, 9, 30, tzinfo=UTC)),
        ("2027-01-31T09:30Z", datetime(2027, 1, 31, 9, 30, tzinfo=UTC)),
        ("2027-01-31 09:30+02:00", datetime(2027, 1, 31, 7, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_utc_unless_it_says_otherwise(text: str, expected: datetime) -> None:
    assert parse_time("expires", text) == expected


def test_a_duration_counts_from_now() -> None:
    before = datetime.now(UTC)
    time = parse_time("expires", "90d")
    assert time is not None
    assert before <= time - timedelta(days=90) <= datetime.now(UTC)
    assert parse_time("expires", None) is None


@pytest.mark.parametrize("text", ["", "soon", "90", "31.01.2027", "2027-02-30", "infinity"])
def test_an_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expires is neither a duration nor a time"):
        parse_time("expires", text)


@pytest.mark.parametrize("text", ["999999999w", "9000000d"])
def test_a_time_that_no_calendar_has_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"expires is after the year 9999|is too long"):
        parse_time("expires", text)
