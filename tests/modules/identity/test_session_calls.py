"""Sessions of visitors: who may open and use sessions, and how long sessions last."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from core.racing import Waiting, attempt
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import InvalidArgument, LatchViolation, PermissionDenied, SessionNotFound
from modules.identity.visitors import open_, token
from security.system import ORIGIN, System, slug
from stack import until

pytestmark = pytest.mark.one_server

HOUR = timedelta(hours=1)
USERS = ("anon", "stranger", "mia", "bob", "alice")
# Ways to mistype a token.
WRONG: tuple[Callable[[str], str], ...] = (
    str.swapcase,
    lambda text: text[:-1],
    lambda text: text + "1",
    lambda text: f" {text}",
    lambda _: "",
)
ATTACH = "select subject from keylatch.attach_subject(%s, %s)"


def test_a_page_opens_a_session_and_learns_a_token_and_its_end_and_nothing_else(
    system: System, page: str, service: Keylatch
) -> None:
    opened = open_(system, page).json()
    assert sorted(opened) == ["expires_at", "token"]
    assert opened["token"].startswith("wk_st_")
    assert len(opened["token"]) == len("wk_st_") + 36
    ends = datetime.fromisoformat(opened["expires_at"]) - datetime.now(UTC)
    assert 23 * HOUR < ends < 25 * HOUR
    found = service.resolve_session(opened["token"])
    assert found is not None
    assert (found.workspace_id, found.key_id, found.origin, found.subject) == (
        system.people.a,
        system.keys["widget"].id,
        ORIGIN,
        None,
    )


def test_every_reason_not_to_open_one_has_the_same_answer(system: System, page: str) -> None:
    active = system.keys["active"].key
    answers = [
        open_(system, page, origin)
        for origin in (None, "", "null", "https://evil.example", ORIGIN.upper(), f"{ORIGIN}/")
    ]
    answers += [open_(system, key) for key in (active, "", "x", page[:-1], page + "1", "\u202e")]
    answers += [open_(system, active, None), open_(system, "wk_st_" + "a" * 36)]
    with system.connect("alice") as alice:
        alice.execute("select keylatch.revoke_key(%s)", [system.keys["widget"].id])
    answers.append(open_(system, page))
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert slug(answers[0]) == "session_refused"


def test_the_origin_is_that_of_the_request_and_not_an_argument(system: System, page: str) -> None:
    for who in USERS:
        refused = system.call(who, "open_session", key=page, origin=ORIGIN)
        assert refused.status_code == 404
        with system.connect(who) as client:
            assert attempt(client, "select keylatch.open_session(%s)", [page]).word == (
                "session_refused"
            )
        get = system.request(
            "anon", "GET", f"rpc/open_session?key={page}", headers={"Origin": ORIGIN}
        )
        assert get.status_code == 405


def test_nobody_but_a_service_resolves_closes_attaches_or_prunes(system: System, page: str) -> None:
    for who in USERS:
        text = token(system, page)
        calls: list[dict[str, Any]] = [{"function": "resolve_session", "token": text}]
        calls += [{"function": "resolve_session", "token": text, "extend": True}]
        calls += [{"function": "close_session", "token": text}, {"function": "prune_sessions"}]
        calls += [{"function": "attach_subject", "token": text, "subject": "x"}]
        for call in calls:
            assert system.call(who, **call).status_code in (401, 403)
        with system.connect(who) as client:
            for read in ("token_hash", "*"):
                outcome = attempt(client, f"select {read} from keylatch_internal.sessions")
                assert outcome.word == "42501"
            for write in ("update keylatch_internal.sessions set subject = 'x'", "truncate {}"):
                statement = write.format("keylatch_internal.sessions")
                assert attempt(client, statement).word == "42501"


def test_an_admin_sees_the_sessions_of_their_workspaces_and_ends_them(
    system: System, page: str, service: Keylatch
) -> None:
    text = token(system, page)
    for who, count in (("alice", 1), ("bob", 0), ("mia", 0), ("stranger", 0)):
        rows = system.request(who, "GET", "sessions").json()
        assert len(rows) == count
        assert not any("token" in name for row in rows for name in row)
        if who != "alice":
            system.request(who, "DELETE", "sessions?id=not.is.null")
    assert system.request("anon", "GET", "sessions").status_code == 401
    assert service.resolve_session(text) is not None
    assert system.request("alice", "DELETE", "sessions?id=not.is.null").status_code == 204
    assert service.resolve_session(text) is None


def test_the_workspace_says_how_long_and_only_extend_moves_the_expiry(
    system: System, page: str, service: Keylatch
) -> None:
    setting = {"workspace_id": str(system.people.a), "lifetime": "2 hours"}
    for who in ("bob", "mia", "stranger", "anon"):
        assert system.request(who, "POST", "session_settings", json=setting).status_code in (
            401,
            403,
        )
    assert system.request("alice", "POST", "session_settings", json=setting).status_code == 201
    for bad in ("30 seconds", "91 days", "-1 day", "soon"):
        path = f"session_settings?workspace_id=eq.{system.people.a}"
        assert system.request("alice", "PATCH", path, json={"lifetime": bad}).status_code == 400
    text = token(system, page)
    found = service.resolve_session(text)
    assert found is not None
    assert HOUR < found.expires_at - datetime.now(UTC) < 2 * HOUR
    with system.database.connect() as owner:
        owner.execute("update keylatch_internal.sessions set expires_at = now() + interval '1 min'")
    read = service.resolve_session(text)
    assert read is not None
    assert read.expires_at - datetime.now(UTC) < HOUR
    extended = service.resolve_session(text, extend=True)
    assert extended is not None
    assert extended.expires_at - datetime.now(UTC) > HOUR
    assert service.resolve_session(text) == extended


def test_an_expired_or_closed_session_is_over_for_good(
    system: System, page: str, service: Keylatch
) -> None:
    expired, closed = token(system, page), token(system, page)
    assert service.close_session(closed).origin == ORIGIN
    with system.database.connect() as owner:
        owner.execute(
            "update keylatch_internal.sessions set created_at = now() - interval '1 day',"
            " expires_at = clock_timestamp()"
        )
    for text in (expired, closed):
        assert service.resolve_session(text) is None
        assert service.resolve_session(text, extend=True) is None
        with pytest.raises(SessionNotFound):
            service.close_session(text)
        with pytest.raises(SessionNotFound):
            service.attach_subject(text, subject="x")


def test_a_text_that_is_not_a_token_gives_no_session_and_no_failure(
    system: System, page: str, service: Keylatch
) -> None:
    for wrong in WRONG:
        text = token(system, page)
        for other in (
            wrong(text),
            page,
            system.keys["active"].key,
            "\x00",
            "\ud800",
            "x" * 100_000,
        ):
            assert service.resolve_session(other) is None
            with pytest.raises(SessionNotFound):
                service.close_session(other)
        # A token is not a key either.
        assert service.resolve(text, origin=ORIGIN) is None
        assert service.resolve(text) is None


def test_a_session_is_resolved_where_nothing_can_be_written(system: System, page: str) -> None:
    text = token(system, page)
    headers = json.dumps({"origin": ORIGIN, "x-session-token": text})
    asked: tuple[tuple[str, str, list[str]], ...] = (
        ("keylatch_resolver", "select workspace_id from keylatch.resolve_session(%s)", [text]),
        ("anon", "select keylatch.current_workspace_id()", []),
    )
    for who, statement, values in asked:
        reader = system.database.connect(who, autocommit=False)
        reader.execute("set transaction read only")
        reader.execute("select set_config('request.headers', %s, true)", [headers])
        assert reader.execute(statement.encode(), values).fetchone() == (system.people.a,)
        # On a standby, reading an unlogged table fails.
        assert (
            reader.execute(
                "select c.oid::regclass from pg_locks join pg_class as c on c.oid = relation"
                " where pid = pg_backend_pid() and relpersistence = 'u'"
            ).fetchall()
            == []
        )
        reader.rollback()
    with system.database.connect("keylatch_resolver") as reader:
        reader.execute("set default_transaction_read_only = on")
        extended = attempt(reader, "select keylatch.resolve_session(%s, true)", [text])
    assert extended.word == "25006"


def test_a_subject_is_attached_once(system: System, page: str, service: Keylatch) -> None:
    text = token(system, page)
    assert service.attach_subject(text, subject="visitor 7").subject == "visitor 7"
    assert service.attach_subject(text, subject="visitor 7").subject == "visitor 7"
    with pytest.raises(LatchViolation, match="subject_is_final"):
        service.attach_subject(text, subject="visitor 8")
    found = service.resolve_session(text)
    assert found is not None
    assert found.subject == "visitor 7"
    for bad in ("", "x" * 201, "a\nb"):
        with pytest.raises(InvalidArgument, match="subject"):
            service.attach_subject(text, subject=bad)


def test_one_of_two_subjects_attached_at_once_wins(system: System, page: str) -> None:
    text = token(system, page)
    sessions = [system.database.connect("keylatch_resolver") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        came = list(
            pool.map(
                lambda n: attempt(sessions[n], ATTACH, [text, str(n)]),
                range(2),
            )
        )
    assert sorted(one.word for one in came) == ["done", "subject_is_final"]


def test_pruning_deletes_what_is_over_in_batches_and_passes_by_what_is_in_hand(
    system: System, page: str
) -> None:
    texts = [token(system, page) for _ in range(5)]
    with system.database.connect() as owner:
        owner.execute(
            "update keylatch_internal.sessions set created_at = now() - interval '1 day',"
            " expires_at = now() where token_hash <> sha256(%s)",
            [texts[0].encode()],
        )
    service = Keylatch.from_psycopg(system.database.connect("service_role"))
    with system.database.connect(autocommit=False) as other:
        other.execute(
            "select 1 from keylatch_internal.sessions where expires_at <= now() limit 1 for update"
        )
        assert service.prune_sessions(batch=2).pruned == 2
        assert service.prune_sessions().pruned == 1
        # Opening a session meanwhile does not wait.
        token(system, page)
    assert service.prune_sessions().pruned == 1
    assert service.prune_sessions().pruned == 0
    assert service.resolve_session(texts[0]) is not None
    for bad in (0, -1, 100_001):
        with pytest.raises(InvalidArgument, match="batch"):
            service.prune_sessions(batch=bad)


async def test_the_async_client_knows_sessions(system: System, page: str) -> None:
    text = token(system, page)
    connection = await psycopg.AsyncConnection.connect(system.database.url, autocommit=True)
    async with connection:
        service = AsyncKeylatch.from_psycopg(connection)
        found = await service.resolve_session(text, extend=True)
        assert found is not None
        attached = await service.attach_subject(text, subject="seven")
        assert attached.subject == "seven"
        assert (await service.close_session(text)).subject == "seven"
        assert (await service.prune_sessions()).pruned == 0


def test_a_service_key_is_needed_to_prune(service: Keylatch) -> None:
    with pytest.raises(PermissionDenied):
        service.prune_sessions()


@pytest.mark.parametrize(
    "lifetime",
    [
        "120000 months -3599950 days",
        "-12000 months 360050 days",
        "4 months",
        "178000000 years",
        None,
    ],
)
def test_a_lifetime_is_compared_as_time_and_never_breaks_a_page(
    system: System, page: str, lifetime: str | None
) -> None:
    setting = {"workspace_id": str(system.people.a), "lifetime": lifetime}
    refused = system.request("alice", "POST", "session_settings", json=setting)
    assert (refused.status_code, slug(refused)) == (400, "invalid_argument")
    assert "lifetime" in refused.json()["details"]
    opened = open_(system, page)
    assert opened.status_code == 200
    expires_at = datetime.fromisoformat(opened.json()["expires_at"])
    assert expires_at < datetime.now(UTC) + 25 * HOUR


@pytest.mark.parametrize("lifetime", ["1 month", "90 days", "1 month -1 day"])
def test_no_accepted_lifetime_makes_a_session_longer_than_90_days(
    system: System, page: str, service: Keylatch, lifetime: str
) -> None:
    setting = {"workspace_id": str(system.people.a), "lifetime": lifetime}
    assert system.request("alice", "POST", "session_settings", json=setting).status_code == 201
    text = token(system, page)
    with system.database.connect() as owner:
        owner.execute(
            "update keylatch_internal.sessions set created_at = now() - interval '2159 hours',"
            " expires_at = now() + interval '1 min'"
        )
    found = service.resolve_session(text, extend=True)
    assert found is not None
    assert found.expires_at - datetime.now(UTC) < HOUR


def test_a_session_that_expires_while_an_extension_waits_stays_expired(
    system: System, page: str, service: Keylatch
) -> None:
    text = token(system, page)
    extend = "select expires_at from keylatch.resolve_session(%s, true)"
    with system.database.connect(autocommit=False) as holder:
        holder.execute("select from keylatch_internal.sessions for update")
        resolver = system.database.connect("keylatch_resolver")
        waiting = Waiting(system.database, resolver, extend, [text], waits_for=holder)
        # The holder sets the expiry to now, as if the session expired during the wait.
        holder.execute("update keylatch_internal.sessions set expires_at = clock_timestamp()")
        holder.commit()
        assert waiting.outcome() == ("done", ())
    assert service.resolve_session(text) is None


@pytest.mark.parametrize("is_role_reset", [False, True])  # as the client does after a call
def test_an_extension_that_is_committed_after_the_expiry_revives_no_session(
    system: System, page: str, service: Keylatch, is_role_reset: bool
) -> None:
    """Threat: extending a session that has expired, by a transaction opened while it lived."""
    text = token(system, page)
    resolver = system.database.connect("keylatch_resolver", autocommit=False)
    with system.database.connect() as owner:
        owner.execute("update keylatch_internal.sessions set expires_at = now() + interval '5 s'")
    extended = resolver.execute("select expires_at from keylatch.resolve_session(%s, true)", [text])
    assert extended.fetchone() is not None
    until(lambda: service.resolve_session(text) is None)
    if is_role_reset:
        resolver.execute("reset role")
    with pytest.raises(psycopg.Error) as refused:
        resolver.commit()
    assert refused.value.diag.message_primary == "session_not_found"
    assert service.resolve_session(text) is None
