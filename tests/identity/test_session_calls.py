"""Visitors' sessions: who opens one and with what, how long it lasts, and how often."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from database.racing import Waiting, attempt
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import (
    InvalidArgument,
    LatchViolation,
    PermissionDenied,
    SessionNotFound,
    TooManyRequests,
)
from security.world import ORIGIN, World, make_world, slug
from stack import Database, People, Rest

HOUR = timedelta(hours=1)
HEADERS = json.dumps({"origin": ORIGIN})
USERS = ("anon", "stranger", "mia", "bob", "alice")
# What a token is mistyped to.
WRONG: tuple[Callable[[str], str], ...] = (
    str.swapcase,
    lambda text: text[:-1],
    lambda text: text + "1",
    lambda text: f" {text}",
    lambda _: "",
)
ATTACH = "select subject from keylatch.attach_subject(%s, %s)"


@pytest.fixture
def world(database: Database, people: People, rest: Rest) -> World:
    return make_world(database, rest, people)


@pytest.fixture
def page(world: World) -> str:
    """The key of the page."""
    return world.keys["widget"].key


@pytest.fixture
def service(world: World) -> Keylatch:
    return Keylatch.from_psycopg(world.database.connect("keylatch_resolver"))


def open_(world: World, key: str, origin: str | None = ORIGIN, **headers: str) -> httpx.Response:
    """What a page gets."""
    sent = {**headers, **({} if origin is None else {"Origin": origin})}
    return world.request("anon", "POST", "rpc/open_session", json={"key": key}, headers=sent)


def token(world: World, key: str) -> str:
    answer = open_(world, key)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["token"]
    return text


def set_(world: World, **limits: object) -> None:
    """Change the installation's row, as its owner."""
    with world.database.connect() as owner:
        for name, value in limits.items():
            owner.execute(
                f"update keylatch_internal.installation set {name} = %s".encode(), [value]
            )


def past(world: World) -> None:
    """Let all windows and sessions have ended."""
    with world.database.connect() as owner:
        owner.execute("update keylatch_internal.permits set window_ends_at = now()")


def test_a_page_opens_a_session_and_learns_a_token_and_its_end_and_nothing_else(
    world: World, page: str, service: Keylatch
) -> None:
    opened = open_(world, page).json()
    assert sorted(opened) == ["expires_at", "token"]
    assert opened["token"].startswith("wk_st_")
    assert len(opened["token"]) == len("wk_st_") + 36
    ends = datetime.fromisoformat(opened["expires_at"]) - datetime.now(UTC)
    assert 23 * HOUR < ends < 25 * HOUR
    found = service.resume_session(opened["token"])
    assert found is not None
    assert (found.workspace_id, found.key_id, found.origin, found.subject) == (
        world.people.a,
        world.keys["widget"].id,
        ORIGIN,
        None,
    )


def test_every_reason_not_to_open_one_has_the_same_answer(world: World, page: str) -> None:
    living = world.keys["living"].key
    answers = [
        open_(world, page, origin)
        for origin in (None, "", "null", "https://evil.example", ORIGIN.upper(), f"{ORIGIN}/")
    ]
    answers += [open_(world, key) for key in (living, "", "x", page[:-1], page + "1", "\u202e")]
    answers += [open_(world, living, None), open_(world, "wk_st_" + "a" * 36)]
    with world.connect("alice") as alice:
        alice.execute("select keylatch.revoke_key(%s)", [world.keys["widget"].id])
    answers.append(open_(world, page))
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert slug(answers[0]) == "session_refused"


def test_the_origin_is_that_of_the_request_and_not_an_argument(world: World, page: str) -> None:
    for who in USERS:
        refused = world.call(who, "open_session", key=page, origin=ORIGIN)
        assert refused.status_code == 404
        with world.connect(who) as client:
            assert attempt(client, "select keylatch.open_session(%s)", [page]).word == (
                "session_refused"
            )
        get = world.request(
            "anon", "GET", f"rpc/open_session?key={page}", headers={"Origin": ORIGIN}
        )
        assert get.status_code == 405


def test_nobody_but_a_service_resumes_closes_attaches_or_prunes(world: World, page: str) -> None:
    for who in USERS:
        text = token(world, page)
        calls: list[dict[str, Any]] = [{"function": "resume_session", "token": text}]
        calls += [{"function": "resume_session", "token": text, "slide": True}]
        calls += [{"function": "close_session", "token": text}, {"function": "prune_sessions"}]
        calls += [{"function": "attach_subject", "token": text, "subject": "x"}]
        for call in calls:
            assert world.call(who, **call).status_code in (401, 403)
        with world.connect(who) as client:
            for read in ("token_hash", "*"):
                outcome = attempt(client, f"select {read} from keylatch_internal.sessions")
                assert outcome.word == "42501"
            for write in ("update keylatch_internal.sessions set subject = 'x'", "truncate {}"):
                statement = write.format("keylatch_internal.sessions")
                assert attempt(client, statement).word == "42501"


def test_an_admin_sees_the_sessions_of_their_workspaces_and_ends_them(
    world: World, page: str, service: Keylatch
) -> None:
    text = token(world, page)
    for who, count in (("alice", 1), ("bob", 0), ("mia", 0), ("stranger", 0)):
        rows = world.request(who, "GET", "sessions").json()
        assert len(rows) == count
        assert not any("token" in name for row in rows for name in row)
        if who != "alice":
            world.request(who, "DELETE", "sessions?id=not.is.null")
    assert world.request("anon", "GET", "sessions").status_code == 401
    assert service.resume_session(text) is not None
    assert world.request("alice", "DELETE", "sessions?id=not.is.null").status_code == 204
    assert service.resume_session(text) is None


def test_a_session_outlives_its_key_unless_the_revocation_ends_it(
    world: World, page: str, service: Keylatch
) -> None:
    first, second = token(world, page), token(world, page)
    with world.connect("alice") as connection:
        alice = Keylatch.from_psycopg(connection)
        alice.revoke(world.keys["widget"].id)
        for text in (first, second):
            assert service.resume_session(text, slide=True) is not None
        assert slug(open_(world, page)) == "session_refused"
        # It turns out later that the key was abused.
        again = alice.revoke(world.keys["widget"].id, end_sessions=True)
    assert again.already_revoked
    assert service.resume_session(first) is service.resume_session(second) is None


def test_ending_the_sessions_of_a_family_takes_its_dead_keys_along(
    world: World, page: str, service: Keylatch
) -> None:
    old = token(world, page)
    with world.connect("alice") as connection:
        alice = Keylatch.from_psycopg(connection)
        successor = alice.rotate(world.keys["widget"].id)
        new = token(world, successor.key.reveal())
        alice.revoke(successor.id, cascade=True, end_sessions=True)
    assert service.resume_session(old) is service.resume_session(new) is None


def test_nobody_ends_sessions_of_another_workspace(
    world: World, page: str, service: Keylatch
) -> None:
    text = token(world, page)
    for who in ("bob", "mia", "stranger"):
        refused = world.call(
            who, "revoke_key", key_id=str(world.keys["widget"].id), end_sessions=True
        )
        assert refused.status_code == 404
    assert service.resume_session(text) is not None


def test_a_deleted_workspace_has_no_sessions(world: World, page: str, service: Keylatch) -> None:
    text = token(world, page)
    with world.connect("service_role") as trusted:
        trusted.execute("delete from keylatch.workspaces where id = %s", [world.people.a])
    assert service.resume_session(text) is None


@pytest.mark.parametrize("first", ["open", "revoke"])
def test_opening_and_ending_at_the_same_moment_leaves_no_session(
    world: World, page: str, service: Keylatch, first: str
) -> None:
    revoke = "select keylatch.revoke_key(%s, end_sessions => true)"
    visitor = world.database.connect("anon", autocommit=False)
    visitor.execute("select set_config('request.headers', %s, false)", [HEADERS])
    visitor.commit()
    opened = "select (keylatch.open_session(%s)).token"
    alice = world.database.connect("authenticated", world.people.claims("alice"), autocommit=False)
    key_id = world.keys["widget"].id
    if first == "open":
        row = visitor.execute(opened, [page]).fetchone()
        assert row is not None
        waiting = Waiting(world.database, alice, revoke, [key_id], waits_for=visitor)
        visitor.commit()
        assert waiting.outcome().word == "done"
        alice.commit()
        assert service.resume_session(row[0]) is None
    else:
        alice.execute(revoke, [key_id])
        waiting = Waiting(world.database, visitor, opened, [page], waits_for=alice)
        alice.commit()
        assert waiting.outcome().word == "session_refused"


def test_the_workspace_says_how_long_and_a_slide_extends_a_session_and_a_read_does_not(
    world: World, page: str, service: Keylatch
) -> None:
    setting = {"workspace_id": str(world.people.a), "lifetime": "2 hours"}
    for who in ("bob", "mia", "stranger", "anon"):
        assert world.request(who, "POST", "session_settings", json=setting).status_code in (
            401,
            403,
        )
    assert world.request("alice", "POST", "session_settings", json=setting).status_code == 201
    for bad in ("30 seconds", "91 days", "-1 day", "soon"):
        path = f"session_settings?workspace_id=eq.{world.people.a}"
        assert world.request("alice", "PATCH", path, json={"lifetime": bad}).status_code == 400
    text = token(world, page)
    found = service.resume_session(text)
    assert found is not None
    assert HOUR < found.expires_at - datetime.now(UTC) < 2 * HOUR
    with world.database.connect() as owner:
        owner.execute("update keylatch_internal.sessions set expires_at = now() + interval '1 min'")
    read = service.resume_session(text)
    assert read is not None
    assert read.expires_at - datetime.now(UTC) < HOUR
    slid = service.resume_session(text, slide=True)
    assert slid is not None
    assert slid.expires_at - datetime.now(UTC) > HOUR
    assert service.resume_session(text) == slid


def test_an_expired_or_closed_session_is_over_for_good(
    world: World, page: str, service: Keylatch
) -> None:
    expired, closed = token(world, page), token(world, page)
    assert service.close_session(closed).origin == ORIGIN
    with world.database.connect() as owner:
        owner.execute(
            "update keylatch_internal.sessions set created_at = now() - interval '1 day',"
            " expires_at = clock_timestamp()"
        )
    for text in (expired, closed):
        assert service.resume_session(text) is None
        assert service.resume_session(text, slide=True) is None
        with pytest.raises(SessionNotFound):
            service.close_session(text)
        with pytest.raises(SessionNotFound):
            service.attach_subject(text, subject="x")


def test_what_is_no_token_is_no_session_and_no_failure(
    world: World, page: str, service: Keylatch
) -> None:
    for wrong in WRONG:
        text = token(world, page)
        for other in (wrong(text), page, world.keys["living"].key, "\x00", "\ud800", "x" * 100_000):
            assert service.resume_session(other) is None
            with pytest.raises(SessionNotFound):
                service.close_session(other)
        # Nor is a token a key.
        assert service.resolve(text, origin=ORIGIN) is None
        assert service.resolve(text) is None


def test_a_subject_is_attached_once(world: World, page: str, service: Keylatch) -> None:
    text = token(world, page)
    assert service.attach_subject(text, subject="visitor 7").subject == "visitor 7"
    assert service.attach_subject(text, subject="visitor 7").subject == "visitor 7"
    with pytest.raises(LatchViolation, match="subject_is_final"):
        service.attach_subject(text, subject="visitor 8")
    found = service.resume_session(text)
    assert found is not None
    assert found.subject == "visitor 7"
    for bad in ("", "x" * 201, "a\nb"):
        with pytest.raises(InvalidArgument, match="subject"):
            service.attach_subject(text, subject=bad)


def test_of_two_subjects_at_once_one_is_attached(world: World, page: str) -> None:
    text = token(world, page)
    sessions = [world.database.connect("keylatch_resolver") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        came = list(
            pool.map(
                lambda n: attempt(sessions[n], ATTACH, [text, str(n)]),
                range(2),
            )
        )
    assert sorted(one.word for one in came) == ["done", "subject_is_final"]


def test_pruning_deletes_what_is_over_in_batches_and_passes_by_what_is_in_hand(
    world: World, page: str
) -> None:
    texts = [token(world, page) for _ in range(5)]
    with world.database.connect() as owner:
        owner.execute(
            "update keylatch_internal.sessions set created_at = now() - interval '1 day',"
            " expires_at = now() where token_hash <> sha256(%s)",
            [texts[0].encode()],
        )
    service = Keylatch.from_psycopg(world.database.connect("service_role"))
    with world.database.connect(autocommit=False) as other:
        other.execute(
            "select 1 from keylatch_internal.sessions where expires_at <= now() limit 1 for update"
        )
        assert service.prune_sessions(batch=2).pruned == 2
        assert service.prune_sessions().pruned == 1
        # An open session is opened meanwhile, and waits for nobody.
        token(world, page)
    assert service.prune_sessions().pruned == 1
    assert service.prune_sessions().pruned == 0
    assert service.resume_session(texts[0]) is not None
    for bad in (0, -1, 100_001):
        with pytest.raises(InvalidArgument, match="batch"):
            service.prune_sessions(batch=bad)


def test_pruning_forgets_the_permits_of_the_past(world: World, page: str) -> None:
    token(world, page)
    past(world)
    Keylatch.from_psycopg(world.database.connect("service_role")).prune_sessions()
    with world.database.connect() as owner:
        left = owner.execute("select count(*) from keylatch_internal.permits").fetchone()
    assert left == (0,)


async def test_the_async_client_knows_sessions(world: World, page: str) -> None:
    text = token(world, page)
    connection = await psycopg.AsyncConnection.connect(world.database.url, autocommit=True)
    async with connection:
        service = AsyncKeylatch.from_psycopg(connection)
        found = await service.resume_session(text, slide=True)
        assert found is not None
        attached = await service.attach_subject(text, subject="seven")
        assert attached.subject == "seven"
        assert (await service.close_session(text)).subject == "seven"
        assert (await service.prune_sessions()).pruned == 0


# How often.


def test_a_key_opens_so_many_in_a_minute_and_is_then_told_when_to_come_back(
    world: World, page: str
) -> None:
    set_(world, sessions_per_minute=3)
    assert [open_(world, page).status_code for _ in range(3)] == [200] * 3
    refused = open_(world, page)
    assert (refused.status_code, slug(refused)) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["code"] == "PT429"
    assert refused.headers["Retry-After"] in refused.json()["details"]
    # Another key has its own window, and a new one begins when this is over.
    with world.connect("alice") as alice:
        other = Keylatch.from_psycopg(alice).issue(world.people.a, allowed_origins=[ORIGIN])
    assert open_(world, other.key.reveal()).status_code == 200
    past(world)
    assert open_(world, page).status_code == 200


def test_the_limit_holds_exactly_however_many_ask_at_once(world: World, page: str) -> None:
    set_(world, sessions_per_minute=20)
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: open_(world, page).status_code, range(60)))
    assert (codes.count(200), codes.count(429)) == (20, 40)


def test_a_refused_key_costs_no_permit(world: World, page: str) -> None:
    set_(world, sessions_per_minute=2)
    for _ in range(5):
        assert open_(world, page, "https://evil.example").status_code == 401
    assert open_(world, page).status_code == 200


def test_two_keys_never_wait_for_each_other(world: World, page: str) -> None:
    with world.connect("alice") as alice:
        other = Keylatch.from_psycopg(alice).issue(world.people.a, allowed_origins=[ORIGIN])
    headers = json.dumps({"origin": ORIGIN, "cf-connecting-ip": "203.0.113.7"})
    set_(world, trusted_address_header="cf-connecting-ip")
    opened = "select (keylatch.open_session(%s)).token"
    visitors = [world.database.connect("anon", autocommit=False) for _ in range(2)]
    for visitor in visitors:
        visitor.execute("select set_config('request.headers', %s, false)", [headers])
        visitor.execute("set lock_timeout = '5s'")
        visitor.commit()
    visitors[0].execute(opened, [page])
    assert attempt(visitors[1], opened, [other.key.reveal()]).word == "done"


@pytest.mark.parametrize("trusted", [None, "x-real-ip", "x-forwarded-for"])
def test_an_address_counts_only_by_the_header_that_is_trusted(
    world: World, page: str, trusted: str | None
) -> None:
    set_(world, sessions_per_address=2, trusted_address_header=trusted)
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


def test_the_database_keeps_its_slug_for_who_comes_without_http(world: World, page: str) -> None:
    set_(world, sessions_per_minute=1)
    token(world, page)
    with world.database.connect("anon") as visitor:
        visitor.execute("select set_config('request.headers', %s, false)", [HEADERS])
        with pytest.raises(psycopg.errors.DatabaseError) as caught:
            visitor.execute("select keylatch.open_session(%s)", [page])
    assert caught.value.sqlstate == "PT429"
    assert caught.value.diag.message_primary == "too_many_requests"


def test_claims_of_a_workspace_are_limited(world: World, service: Keylatch) -> None:
    set_(world, claims_per_minute=2)
    salted = {"alg": "pbkdf2_sha256", "hash": "ab" * 32, "hash_encoding": "hex", "iter": 1}
    salted |= {"salt": "salt", "salt_encoding": "text", "workspace_id": str(world.people.a)}
    trusted = Keylatch.from_psycopg(world.database.connect("service_role"))
    assert trusted.import_keys([salted]).imported == 1
    for _ in range(2):
        assert service.resolve("guessed", workspace_id=world.people.a) is None
    with pytest.raises(TooManyRequests, match="Try again in"):
        service.resolve("guessed", workspace_id=world.people.a)
    # Where nothing is to be claimed no slow hash is computed, and nothing is counted.
    for _ in range(5):
        assert service.resolve("guessed", workspace_id=world.people.b) is None


def test_nobody_but_the_owner_changes_the_limits(world: World) -> None:
    for who in ("anon", "alice", "service_role", "keylatch_resolver"):
        with world.connect(who) as client:
            for statement in (
                "update keylatch_internal.installation set sessions_per_minute = 1000000",
                "delete from keylatch_internal.permits",
                "select keylatch_internal.take_permit('open_session', 'x', 1)",
            ):
                assert attempt(client, statement).word == "42501"


def test_a_service_key_is_needed_to_prune(world: World, service: Keylatch) -> None:
    with pytest.raises(PermissionDenied):
        service.prune_sessions()
