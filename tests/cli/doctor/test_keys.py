"""doctor reports the keys that need attention, and no others."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from cli.doctor.examining import examined, only, run, summaries
from stack import Database, People

IMPORT = """
insert into keylatch_internal.keys
  (id, workspace_id, kind, key_hash, public_key, masked_key, label, allowed_origins,
   created_at, updated_at, expires_at, suspended_at, superseded_at, revoked_at)
select
  %(id)s, %(workspace)s, %(kind)s, keylatch.hash_key(%(key)s),
  case %(kind)s when 'publishable' then %(key)s end, 'wk_...' || right(%(key)s, 4), %(label)s,
  case when %(kind)s = 'publishable' and %(has_origin)s then '{https://client.example}'::text[]
    else '{}' end,
  now() - %(age)s::interval, now(), now() + %(left)s::interval,
  case when %(fate)s = 'suspended' then now() end,
  case when %(fate)s = 'superseded' then now() end,
  case when %(fate)s = 'revoked' then now() end
"""


class Stock:
    """Keys of any age in a database, inserted as an import inserts them."""

    def __init__(self, database: Database, people: People) -> None:
        self._owner, self._people = database.connect(), people

    def key(
        self,
        kind: str = "secret",
        *,
        age: str = "1 day",
        left: str | None = None,
        fate: str = "active",
        has_origin: bool = True,
        label: str = "",
    ) -> UUID:
        """Insert a key of this age, which expires after the time `left`, and return its id."""
        values: dict[str, Any] = {"id": uuid4(), "workspace": self._people.a, "key": uuid4().hex}
        values |= {"kind": kind, "age": age, "left": left, "fate": fate}
        values |= {"has_origin": has_origin, "label": label}
        self._owner.execute(IMPORT, values)
        found: UUID = values["id"]
        return found


@pytest.fixture
def stock(database: Database, people: People) -> Stock:
    return Stock(database, people)


def test_healthy_keys_are_no_findings(database: Database, stock: Stock) -> None:
    stock.key()
    stock.key("publishable", age="400 days")
    stock.key(left="15 days")
    stock.key("publishable", fate="revoked", has_origin=False)
    stock.key("publishable", age="30 days", left="-1 day", has_origin=False)
    stock.key(age="400 days", left="1 day", fate="revoked")
    assert examined(database).findings == ()


@pytest.mark.parametrize("fate", ["active", "suspended"])
def test_a_publishable_key_without_an_origin_is_a_warning(
    database: Database, stock: Stock, fate: str
) -> None:
    key = stock.key("publishable", has_origin=False, fate=fate, label="shop")
    finding = only(examined(database))
    assert summaries([finding]) == [("warning", "key_without_origin", "1 key")]
    assert f"{key}  wk_..." in finding.what
    assert finding.what.endswith("  shop")
    run(database, finding.fix)
    assert examined(database).findings == ()


def test_a_key_that_expires_soon_is_a_warning_until_it_is_rotated(
    database: Database, stock: Stock, people: People
) -> None:
    key = stock.key(age="60 days", left="13 days")
    finding = only(examined(database))
    assert summaries([finding]) == [("warning", "key_expires_soon", "1 key")]
    # Without --expires, the new key would expire as soon, and nothing would say so.
    assert finding.fix == f"keylatch rotate {key} --grace 7d --expires 90d"
    with database.connect("authenticated", people.claims("alice")) as alice:
        alice.execute("select keylatch.rotate_key(%s, '7 days', now() + interval '90 days')", [key])
    assert examined(database).findings == ()


def test_a_key_that_was_issued_for_days_may_expire_soon(database: Database, stock: Stock) -> None:
    stock.key(age="1 day", left="12 days")
    assert examined(database).findings == ()


def test_old_secrets_are_noted_and_nothing_is_claimed_of_their_use(
    database: Database, stock: Stock
) -> None:
    keys = [stock.key(age=f"{100 + n} days", label=f"n{n}") for n in range(7)]
    finding = only(examined(database))
    assert summaries([finding]) == [("note", "secret_old", "7 keys")]
    _, *lines, last = finding.what.splitlines()
    assert "used" not in finding.what + finding.why
    # The oldest keys come first.
    assert [line.split()[0] for line in lines] == [str(key) for key in keys[:1:-1]]
    assert last == "and 2 more"


def test_secrets_that_nobody_uses_are_noted_once_use_was_reported_for_as_long(
    database: Database, stock: Stock
) -> None:
    used, unused, never = (stock.key(age="200 days") for _ in range(3))
    stock.key(age="10 days")
    owner = database.connect()

    def reported(key: UUID, days: int) -> None:
        owner.execute(
            "insert into keylatch_internal.key_usage (key_id, workspace_id, last_used_at, uses)"
            " values (%(key)s, %(a)s, now() - %(ago)s, 1)"
            " on conflict (key_id) do update set last_used_at = excluded.last_used_at",
            {"key": key, "a": People.a, "ago": timedelta(days=days)},
        )
        owner.execute(
            "insert into keylatch_internal.key_days (key_id, day, verdict, workspace_id, number)"
            " values (%(key)s, current_date - %(days)s::integer, 'valid', %(a)s, 1)",
            {"key": key, "a": People.a, "days": days},
        )

    def found() -> set[str]:
        noted = [one for one in examined(database).findings if one.slug == "secret_unused"]
        return {line.split()[0] for one in noted for line in one.what.splitlines()[1:]}

    reported(used, 1)
    reported(unused, 89)
    assert found() == set()
    reported(unused, 95)
    assert found() == {str(unused), str(never)}


def test_only_the_masked_key_of_a_key_is_shown(database: Database, people: People) -> None:
    with database.connect("authenticated", people.claims("alice")) as alice:
        row = alice.execute("select key from keylatch.issue_key(%s)", [people.a]).fetchone()
    assert row is not None
    finding = only(examined(database))
    assert finding.slug == "key_without_origin"
    assert row[0] not in repr(finding)
    assert row[0][-4:] in finding.what


def test_a_user_bound_by_row_policies_is_not_treated_like_one_who_sees_all(
    database: Database, stock: Stock
) -> None:
    stock.key("publishable", has_origin=False)
    run(
        database,
        "create role doctor_reader login password 'reader'",
        "grant authenticated to doctor_reader",
    )
    try:
        url = database.url.replace("://postgres:", "://doctor_reader:").replace(
            database.server.passwords["postgres"], "reader"
        )
        report = examined(database, url)
        assert report.findings == ()
        assert (
            "keys",
            "row policies hide the keys from this user; connect as the owner of keylatch",
        ) in [(one.subject, one.reason) for one in report.unchecked]
    finally:
        run(database, "drop role doctor_reader")
