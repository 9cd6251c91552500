"""How many sessions a key opens in a minute: exactly, without anybody waiting for the counter."""

import json
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from database.racing import attempt
from identity.visitors import OPEN, open_, set_limits, slow_visitors, token, visitor
from keylatch import Keylatch
from security.world import ORIGIN, World, slug

LIMITED = "too_many_requests"


def pass_a_minute(world: World) -> None:
    """Let what was counted be older than a minute."""
    with world.database.connect() as owner:
        owner.execute(
            "update keylatch_internal.rate_limits set taken_at = taken_at - interval '1 minute'"
        )


def another_page(world: World) -> str:
    with world.connect("alice") as alice:
        issued = Keylatch.from_psycopg(alice).issue(world.people.a, allowed_origins=[ORIGIN])
    return issued.key.reveal()


def test_a_key_opens_so_many_in_a_minute_and_is_then_told_when_to_come_back(
    world: World, page: str
) -> None:
    set_limits(world, sessions_per_minute=3)
    assert [open_(world, page).status_code for _ in range(3)] == [200] * 3
    refused = open_(world, page)
    assert (refused.status_code, slug(refused)) == (429, LIMITED)
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["code"] == "PT429"
    assert refused.headers["Retry-After"] in refused.json()["details"]
    assert refused.json()["hint"] == "Wait for the number of seconds in Retry-After."
    assert open_(world, another_page(world)).status_code == 200
    pass_a_minute(world)
    assert open_(world, page).status_code == 200


def test_a_database_without_the_row_of_limits_has_the_usual_ones(world: World, page: str) -> None:
    with world.database.connect() as owner:
        owner.execute("delete from keylatch_internal.session_limits")
        owner.execute(
            "insert into keylatch_internal.rate_limits (key_id, taken_at)"
            " select %s, clock_timestamp() from generate_series(1, 599)",
            [world.keys["widget"].id],
        )
    assert open_(world, page).status_code == 200
    refused = open_(world, page)
    assert refused.status_code == 429
    assert "600 sessions" in refused.json()["details"]


def test_at_most_the_limit_and_the_requests_in_flight_get_through(world: World, page: str) -> None:
    set_limits(world, sessions_per_minute=20)
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: open_(world, page).status_code, range(60)))
    assert set(codes) == {200, 429}
    assert 20 <= codes.count(200) < 20 + 8
    assert open_(world, page).status_code == 429


def test_nobody_waits_for_the_counter_and_what_is_rolled_back_is_not_counted(
    world: World, page: str
) -> None:
    set_limits(world, sessions_per_minute=2)
    visitors = [visitor(world) for _ in range(4)]
    for one in visitors:
        one.execute("select set_config('lock_timeout', '1ms', false)")
        one.commit()
        assert attempt(one, OPEN, [page]).word == "done"
        # What a request has opened itself counts for it at once.
    assert attempt(visitors[0], OPEN, [page]).word == "done"
    assert attempt(visitors[0], OPEN, [page]).word == LIMITED
    for one in visitors:
        one.rollback()
    assert attempt(visitors[1], OPEN, [page]).word == "done"
    assert attempt(visitors[2], OPEN, [page]).word == "done"
    for one in visitors:
        one.commit()
    assert open_(world, page).status_code == 429


def test_slow_requests_free_nobody_from_the_limit(world: World, page: str) -> None:
    set_limits(world, sessions_per_minute=5)
    with slow_visitors(world, page, 4) as busy:
        before = busy()
        codes = [open_(world, page).status_code for _ in range(7)]
        assert busy() == before
    assert codes == [200] * 5 + [429] * 2
    # They were rolled back, and what was opened beside them still counts.
    assert open_(world, page).status_code == 429


def test_a_refused_key_is_not_counted(world: World, page: str) -> None:
    set_limits(world, sessions_per_minute=2)
    for _ in range(5):
        assert open_(world, page, "https://evil.example").status_code == 401
    assert open_(world, page).status_code == 200


def test_a_time_of_a_wrong_clock_counts_for_nobody(world: World, page: str) -> None:
    set_limits(world, sessions_per_minute=1)
    token(world, page)
    assert open_(world, page).status_code == 429
    with world.database.connect() as owner:
        owner.execute(
            "update keylatch_internal.rate_limits set taken_at = taken_at + interval '1 year'"
        )
    assert open_(world, page).status_code == 200
    assert open_(world, page).status_code == 429


@pytest.mark.parametrize("trusted", [None, "x-real-ip", "x-forwarded-for"])
def test_an_address_counts_only_by_the_header_that_is_trusted(
    world: World, page: str, trusted: str | None
) -> None:
    set_limits(world, sessions_per_address=2, trusted_address_header=trusted)
    forged = [
        open_(world, page, **{"cf-connecting-ip": f"203.0.113.{n}", "x-client-ip": "1.1.1.1"})
        for n in range(3)
    ]
    # Nobody wrote the trusted header: all of them share one place. Without trust there is no limit.
    assert [one.status_code for one in forged] == [200, 200, 429 if trusted else 200]
    if trusted:
        # What a client claims stands before what the gateway saw.
        codes = [
            open_(world, page, **{trusted: f"198.51.100.{n}, 203.0.113.7"}).status_code
            for n in range(3)
        ]
        assert codes == [200, 200, 429]
        assert open_(world, page, **{trusted: "203.0.113.8"}).status_code == 200
        # A household has a network of IPv6.
        codes = [open_(world, page, **{trusted: f"2001:db8::{n}"}).status_code for n in range(3)]
        assert codes == [200, 200, 429]
        odd = [
            open_(world, page, **{trusted: one}) for one in ("a" * 5000, "::::", "' or 1", "1.2")
        ]
        assert {one.status_code for one in odd} == {429}


@pytest.mark.parametrize(
    "form",
    ["{}", "::ffff:{}", "64:ff9b::{}", "{}:5678", "[::ffff:{}]:443"],
    ids=["plain", "mapped", "translated", "port", "mapped with port"],
)
def test_each_ipv4_visitor_has_a_limit_of_their_own_however_the_gateway_writes_them(
    world: World, page: str, form: str
) -> None:
    set_limits(world, sessions_per_address=2, trusted_address_header="x-real-ip")
    for n in (1, 2, 3, 4):
        written = form.format(f"203.0.113.{n}")
        assert open_(world, page, **{"x-real-ip": written}).status_code == 200
    first = [open_(world, page, **{"x-real-ip": form.format("203.0.113.1")}) for _ in range(2)]
    assert [one.status_code for one in first] == [200, 429]
    # The same visitor by another gateway is the same visitor.
    assert open_(world, page, **{"x-real-ip": "203.0.113.1"}).status_code == 429


def test_the_database_keeps_its_slug_for_who_comes_without_http(world: World, page: str) -> None:
    set_limits(world, sessions_per_minute=1)
    token(world, page)
    with world.database.connect("anon") as client:
        client.execute(
            "select set_config('request.headers', %s, false)", [json.dumps({"origin": ORIGIN})]
        )
        with pytest.raises(psycopg.errors.DatabaseError) as caught:
            client.execute("select keylatch.open_session(%s)", [page])
    assert caught.value.sqlstate == "PT429"
    assert caught.value.diag.message_primary == LIMITED


def test_nobody_but_the_owner_changes_the_limits(world: World) -> None:
    for who in ("anon", "alice", "service_role", "keylatch_resolver"):
        with world.connect(who) as client:
            for statement in (
                "update keylatch_internal.session_limits set sessions_per_minute = 1000000",
                "delete from keylatch_internal.rate_limits",
                "select keylatch_internal.take_rate_limit(gen_random_uuid())",
            ):
                assert attempt(client, statement).word == "42501"


def test_pruning_forgets_what_no_longer_counts(world: World, page: str) -> None:
    token(world, page)
    pass_a_minute(world)
    token(world, page)
    Keylatch.from_psycopg(world.database.connect("service_role")).prune_sessions()
    with world.database.connect() as owner:
        left = owner.execute("select count(*) from keylatch_internal.rate_limits").fetchone()
    assert left == (1,)
