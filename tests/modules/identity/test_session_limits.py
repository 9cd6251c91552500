"""The rate limit for opening sessions; no request waits for its counter."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from core.racing import attempt
from keylatch import Keylatch
from modules.identity.visitors import OPEN, open_, set_limits, token, visitor
from security.system import ORIGIN, System, slug
from stack import Database

pytestmark = pytest.mark.one_server

LIMITED = "too_many_requests"


def pass_a_minute(system: System) -> None:
    """Make the counted sessions older than a minute."""
    with system.database.connect() as owner:
        owner.execute(
            "update keylatch_internal.sessions set created_at = created_at - interval '1 minute'"
        )


def another_page(system: System) -> str:
    with system.connect("alice") as alice:
        issued = Keylatch.from_psycopg(alice).issue(system.people.a, allowed_origins=[ORIGIN])
    return issued.key.reveal()


def test_a_key_opens_so_many_in_a_minute_and_is_then_told_when_to_come_back(
    system: System, page: str
) -> None:
    set_limits(system, sessions_per_minute=3)
    assert [open_(system, page).status_code for _ in range(3)] == [200] * 3
    refused = open_(system, page)
    assert (refused.status_code, slug(refused)) == (429, LIMITED)
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["code"] == "PT429"
    assert refused.headers["Retry-After"] in refused.json()["details"]
    assert refused.json()["hint"].startswith("Wait for the number of seconds in Retry-After.")
    assert open_(system, another_page(system)).status_code == 200
    pass_a_minute(system)
    assert open_(system, page).status_code == 200


def test_a_database_without_the_row_of_limits_has_the_usual_ones(system: System, page: str) -> None:
    with system.database.connect() as owner:
        owner.execute("delete from keylatch_internal.session_limits")
        owner.execute(
            "insert into keylatch_internal.sessions"
            " (token_hash, workspace_id, key_id, origin, created_at, expires_at)"
            " select sha256(convert_to(n::text, 'UTF8')), %s, %s, %s, clock_timestamp(),"
            " clock_timestamp() + interval '1 day' from generate_series(1, 599) as n",
            [system.people.a, system.keys["widget"].id, ORIGIN],
        )
    assert open_(system, page).status_code == 200
    refused = open_(system, page)
    assert refused.status_code == 429
    assert "600 sessions" in refused.json()["details"]


def test_at_most_the_limit_and_the_requests_in_flight_get_through(
    system: System, page: str
) -> None:
    set_limits(system, sessions_per_minute=20)
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: open_(system, page).status_code, range(60)))
    assert set(codes) == {200, 429}
    assert 20 <= codes.count(200) < 20 + 8
    assert open_(system, page).status_code == 429


def impatient(system: System) -> psycopg.Connection[Any]:
    """A page's visitor in SQL; the request fails if it would wait for a lock."""
    connection = visitor(system)
    connection.execute("select set_config('lock_timeout', '1ms', false)")
    connection.commit()
    return connection


def test_a_request_in_flight_counts_and_nobody_waits_for_it(system: System, page: str) -> None:
    set_limits(system, sessions_per_minute=3)
    slow, slower, quick = (impatient(system) for _ in range(3))
    assert attempt(slow, OPEN, [page]).word == "done"
    assert attempt(slower, OPEN, [page]).word == "done"
    # Neither of the first two requests is committed.
    assert attempt(quick, OPEN, [page]).word == "done"
    assert attempt(quick, OPEN, [page]).word == LIMITED
    quick.rollback()
    assert attempt(slow, OPEN, [page]).word == "done"
    slow.commit()
    assert attempt(quick, OPEN, [page]).word == LIMITED
    quick.rollback()
    # A request that was rolled back no longer counts.
    slower.rollback()
    assert attempt(quick, OPEN, [page]).word == "done"
    assert attempt(quick, OPEN, [page]).word == LIMITED


def test_a_request_in_flight_counts_for_its_own_key_and_address_alone(
    system: System, page: str
) -> None:
    set_limits(system, sessions_per_address=1, trusted_address_header="x-real-ip")
    slow = impatient(system)
    sent = json.dumps({"origin": ORIGIN, "x-real-ip": "203.0.113.7"})
    slow.execute("select set_config('request.headers', %s, false)", [sent])
    assert attempt(slow, OPEN, [page]).word == "done"
    other = another_page(system)
    for key, address, status in (
        (page, "203.0.113.7", 429),
        (page, "[::ffff:203.0.113.7]:443", 429),
        (page, "203.0.113.8", 200),
        (other, "203.0.113.7", 200),
    ):
        assert open_(system, key, **{"x-real-ip": address}).status_code == status
    slow.rollback()
    assert open_(system, page, **{"x-real-ip": "203.0.113.7"}).status_code == 200


def test_nobody_without_rights_uses_up_the_limit_of_a_key(system: System, page: str) -> None:
    set_limits(system, sessions_per_minute=1)
    seen = (
        "select classid::bigint, objid::bigint from pg_locks"
        " where locktype = 'advisory' and pid = %s"
    )
    with psycopg.connect(system.database.superuser_url) as watcher:
        slow = impatient(system)
        assert attempt(slow, OPEN, [page]).word == "done"
        marks = watcher.execute(seen, [slow.info.backend_pid]).fetchall()
        watcher.rollback()
        slow.rollback()
        assert len(marks) == 1
        # Any login may take the same advisory lock and hold it forever.
        for mode in ("_shared", ""):
            take = (
                f"select pg_advisory_xact_lock{mode}((%s::bigint)::bit(32)::integer, %s::integer)"
            )
            with system.database.connect("anon", autocommit=False) as forger:
                forger.execute(take.encode(), marks[0])
                assert watcher.execute(seen, [forger.info.backend_pid]).fetchall() == marks
                watcher.rollback()
                quick = impatient(system)
                assert attempt(quick, OPEN, [page]).word == "done"
                quick.rollback()


def test_a_forger_with_many_marks_counts_as_one_request(system: System, page: str) -> None:
    """Any login may hold a lock on the table without the right to change the table."""
    set_limits(system, sessions_per_minute=3)
    with system.database.connect("anon", autocommit=False) as forger:
        forger.execute("prepare p as delete from keylatch_internal.sessions")
        forger.execute(
            "select pg_advisory_xact_lock_shared(hashtext(%s::text), n)"
            " from generate_series(0, 9) as n",
            [system.keys["widget"].id],
        )
        for _ in range(2):
            quick = impatient(system)
            assert attempt(quick, OPEN, [page]).word == "done"
            quick.commit()


def test_a_copy_on_the_same_server_does_not_use_up_the_limit_of_a_key(
    system: System, page: str, template: str
) -> None:
    """A copy of the database has the same keys, and its tables have the same oids."""
    set_limits(system, sessions_per_minute=1)
    here = system.database
    with (
        Database(here.server, f"{here.name}_copy", template) as copy,
        copy.connect(superuser=True, autocommit=False) as there,
    ):
        numbers = [
            one.execute("select 'keylatch_internal.sessions'::regclass::oid").fetchone()
            for one in (there, here.connect())
        ]
        assert numbers[0] == numbers[1]
        there.execute("lock table keylatch_internal.sessions in row exclusive mode")
        (key_id,) = here.connect().execute("select id from keylatch.keys").fetchone() or ("",)
        there.execute("select pg_advisory_xact_lock_shared(hashtext(%s::text), 0)", [key_id])
        quick = impatient(system)
        assert attempt(quick, OPEN, [page]).word == "done"
        quick.rollback()


def test_a_refused_key_is_not_counted(system: System, page: str) -> None:
    set_limits(system, sessions_per_minute=2)
    for _ in range(5):
        assert open_(system, page, "https://evil.example").status_code == 401
    assert open_(system, page).status_code == 200


def test_a_time_of_a_wrong_clock_counts_for_nobody(system: System, page: str) -> None:
    set_limits(system, sessions_per_minute=1)
    token(system, page)
    assert open_(system, page).status_code == 429
    with system.database.connect() as owner:
        owner.execute(
            "update keylatch_internal.sessions set created_at = created_at + interval '1 year'"
        )
    assert open_(system, page).status_code == 200
    assert open_(system, page).status_code == 429


def counted(owner: psycopg.Connection[Any], key_id: object, limit: int, after: str = "0 s") -> int:
    """The number of sessions that the key opened, as `count_opened` counts them for this limit."""
    row = owner.execute(
        "select number from keylatch_internal.count_opened(%s, clock_timestamp() + %s, %s)",
        [key_id, after, limit],
    ).fetchone()
    assert row is not None
    number: int = row[0]
    return number


def fetched(owner: psycopg.Connection[Any]) -> int:
    """The number of session rows that this transaction has read so far."""
    row = owner.execute(
        "select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables"
        " where relid = 'keylatch_internal.sessions'::regclass"
    ).fetchone()
    assert row is not None
    number: int = row[0]
    return number


def test_a_flood_is_refused_by_a_few_rows_however_many_sessions_there_are(
    system: System, page: str
) -> None:
    key_id = system.keys["widget"].id
    with visitor(system) as one:
        for _ in range(100):
            one.execute(OPEN, [page])
    with system.database.connect(autocommit=False) as owner:
        owner.execute("set enable_seqscan = off")
        assert counted(owner, key_id, 100) == 100
        assert fetched(owner) == 16
        assert counted(owner, key_id, 101) == 100
        assert fetched(owner) > 100
        # The counted minute is over, or the clock was set back.
        assert counted(owner, key_id, 1, after="61 s") == 0
        assert counted(owner, key_id, 1, after="-61 s") == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_last_rows_never_tell_of_more_sessions_than_there_are(
    system: System, page: str, seed: int
) -> None:
    """Visitors open sessions at random and commit late or roll back, while time passes."""
    choose = random.Random(seed)  # noqa: S311 - it only shuffles
    key_id = system.keys["widget"].id
    visitors = [impatient(system) for _ in range(4)]
    owner = system.database.connect()
    exact = 0
    for _ in range(150):
        one = choose.choice(visitors)
        step = choose.choices(["open", "commit", "rollback", "pass"], [60, 30, 10, 3])[0]
        if step == "open":
            assert attempt(one, OPEN, [page]).word == "done"
        elif step == "pass":
            for each in visitors:
                each.commit()
            owner.execute(
                "update keylatch_internal.sessions set created_at = created_at - interval '25 s',"
                " counted_since = counted_since - interval '25 s'"
            )
        else:
            getattr(one, step)()
        everything = counted(owner, key_id, 1_000_000)
        # With a limit of one, the function reads only a few rows.
        told = counted(owner, key_id, 1)
        assert told <= everything
        exact += told == everything
    assert exact > 60


def test_a_limit_that_the_owner_changes_counts_at_once(system: System, page: str) -> None:
    for limit, status in ((2, 200), (2, 200), (2, 429), (3, 200), (3, 429), (2, 429), (4, 200)):
        set_limits(system, sessions_per_minute=limit)
        assert open_(system, page).status_code == status


@pytest.mark.parametrize("limit", ["sessions_per_minute", "sessions_per_address"])
def test_a_full_limit_is_refused_without_reading_who_is_in_flight(
    system: System, page: str, limit: str
) -> None:
    set_limits(system, **{limit: 1}, trusted_address_header="x-real-ip")
    assert open_(system, page, **{"x-real-ip": "203.0.113.7"}).status_code == 200
    other = another_page(system)
    with system.database.connect() as owner:
        # Every request that calls this function fails from now on.
        owner.execute("drop function keylatch_internal.count_in_flight")
    assert open_(system, page, **{"x-real-ip": "203.0.113.7"}).status_code == 429
    assert open_(system, other, **{"x-real-ip": "203.0.113.7"}).status_code == 404


@pytest.mark.parametrize("trusted", [None, "x-real-ip", "x-forwarded-for"])
def test_an_address_counts_only_by_the_header_that_is_trusted(
    system: System, page: str, trusted: str | None
) -> None:
    set_limits(system, sessions_per_address=2, trusted_address_header=trusted)
    forged = [
        open_(system, page, **{"cf-connecting-ip": f"203.0.113.{n}", "x-client-ip": "1.1.1.1"})
        for n in range(3)
    ]
    # Requests without the trusted header share one count. If no header is trusted, none counts.
    assert [one.status_code for one in forged] == [200, 200, 429 if trusted else 200]
    if trusted:
        # The address that a client claims comes before the address that the gateway adds.
        codes = [
            open_(system, page, **{trusted: f"198.51.100.{n}, 203.0.113.7"}).status_code
            for n in range(3)
        ]
        assert codes == [200, 200, 429]
        assert open_(system, page, **{trusted: "203.0.113.8"}).status_code == 200
        # One visitor may use every address of an IPv6 network, so the network counts.
        codes = [open_(system, page, **{trusted: f"2001:db8::{n}"}).status_code for n in range(3)]
        assert codes == [200, 200, 429]
        odd = [
            open_(system, page, **{trusted: one}) for one in ("a" * 5000, "::::", "' or 1", "1.2")
        ]
        assert {one.status_code for one in odd} == {429}


@pytest.mark.parametrize(
    "form",
    ["{}", "::ffff:{}", "64:ff9b::{}", "{}:5678", "[::ffff:{}]:443"],
    ids=["plain", "mapped", "translated", "port", "mapped with port"],
)
def test_each_ipv4_visitor_has_a_limit_of_their_own_however_the_gateway_writes_them(
    system: System, page: str, form: str
) -> None:
    set_limits(system, sessions_per_address=2, trusted_address_header="x-real-ip")
    for n in (1, 2, 3, 4):
        written = form.format(f"203.0.113.{n}")
        assert open_(system, page, **{"x-real-ip": written}).status_code == 200
    first = [open_(system, page, **{"x-real-ip": form.format("203.0.113.1")}) for _ in range(2)]
    assert [one.status_code for one in first] == [200, 429]
    # Another gateway writes the same visitor's address in another form.
    assert open_(system, page, **{"x-real-ip": "203.0.113.1"}).status_code == 429


def test_a_call_without_http_gets_the_slug_of_the_database(system: System, page: str) -> None:
    set_limits(system, sessions_per_minute=1)
    token(system, page)
    with system.database.connect("anon") as client:
        client.execute(
            "select set_config('request.headers', %s, false)", [json.dumps({"origin": ORIGIN})]
        )
        with pytest.raises(psycopg.errors.DatabaseError) as caught:
            client.execute("select keylatch.open_session(%s)", [page])
    assert caught.value.sqlstate == "PT429"
    assert caught.value.diag.message_primary == LIMITED


def test_nobody_but_the_owner_changes_the_limits(system: System) -> None:
    for who in ("anon", "alice", "service_role", "keylatch_resolver"):
        with system.connect(who) as client:
            for statement in (
                "update keylatch_internal.session_limits set sessions_per_minute = 1000000",
                "delete from keylatch_internal.sessions",
                "select keylatch_internal.count_session(gen_random_uuid(), now())",
            ):
                assert attempt(client, statement).word == "42501"


def test_a_session_that_was_closed_still_counts(
    system: System, page: str, service: Keylatch
) -> None:
    set_limits(system, sessions_per_minute=1)
    service.close_session(token(system, page))
    trusted = Keylatch.from_psycopg(system.database.connect("service_role"))
    assert trusted.prune_sessions().pruned == 0
    assert open_(system, page).status_code == 429
    pass_a_minute(system)
    assert trusted.prune_sessions().pruned == 1
    assert open_(system, page).status_code == 200
