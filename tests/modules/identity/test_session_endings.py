"""Calls that end sessions early; no opening of a session delays these calls."""

import re
from uuid import UUID

import psycopg
import pytest

from core.racing import attempt
from keylatch import Keylatch
from keylatch.errors import KeyNotFound
from modules.identity.visitors import OPEN, open_, slow_visitors, token, visitor
from security.system import ORIGIN, System, slug

pytestmark = pytest.mark.one_server

END = "select ended from keylatch.end_sessions(%s, 'abused')"
REVOKE = "select id from keylatch.revoke_key(%s, 'leaked')"
IMPATIENT = "select set_config('lock_timeout', '1ms', false)"
EARLY = "set constraints all immediate"
# How often to try on a busy machine, where slow visitors may reach anon's time limit too early.
TRIES = 10


def impatient(system: System, who: str = "alice") -> psycopg.Connection[tuple[object, ...]]:
    """An admin's connection that fails as soon as it would wait for a lock."""
    connection = system.connect(who)
    connection.execute(IMPATIENT)
    return connection


def widget(system: System) -> UUID:
    return system.keys["widget"].id


def test_a_session_outlives_its_key_until_somebody_ends_it(
    system: System, page: str, service: Keylatch
) -> None:
    first, second = token(system, page), token(system, page)
    with system.connect("alice") as connection:
        alice = Keylatch.from_psycopg(connection)
        alice.revoke(widget(system), reason="leaked")
        for text in (first, second):
            assert service.resolve_session(text, extend=True) is not None
        assert slug(open_(system, page)) == "session_refused"
        # Later the admin learns that the key was abused.
        ended = alice.end_sessions(widget(system), reason="abused")
        assert (ended.already_revoked, ended.ended) == (True, 2)
        assert alice.end_sessions(widget(system)).ended == 0
    assert service.resolve_session(first) is service.resolve_session(second) is None


def test_end_sessions_revokes_an_active_key_and_no_other(
    system: System, page: str, service: Keylatch
) -> None:
    with system.connect("alice") as connection:
        alice = Keylatch.from_psycopg(connection)
        other = alice.issue(system.people.a, allowed_origins=[ORIGIN])
        spared, text = token(system, other.key.reveal()), token(system, page)
        ended = alice.end_sessions(widget(system), reason="abused")
    assert (ended.id, ended.already_revoked, ended.ended) == (widget(system), False, 1)
    assert not system.resolves(page, ORIGIN)
    assert service.resolve_session(text) is None
    assert service.resolve_session(spared) is not None
    assert open_(system, other.key.reveal()).status_code == 200


def test_pruning_does_not_compare_each_ending_with_each_session(system: System) -> None:
    """One workspace with many of both would stop the pruning of all workspaces."""
    owner, plans = system.database.connect(superuser=True), []
    owner.add_notice_handler(lambda notice: plans.append(str(notice.message_primary)))
    owner.execute("alter table keylatch_internal.sessions disable trigger user")
    many = "from generate_series(1, 2000) as n"
    owner.execute(
        "insert into keylatch_internal.sessions"
        " (token_hash, workspace_id, key_id, origin, created_at, expires_at)"
        " select sha256(n::text::bytea), %s, gen_random_uuid(), 'x', now(), now() + '1 hour'"
        f" {many}",
        [system.people.a],
    )
    owner.execute(
        "insert into keylatch_internal.session_endings (workspace_id, key_id)"
        f" select %s, gen_random_uuid() {many}",
        [system.people.a],
    )
    with owner.transaction():
        owner.execute("load 'auto_explain'")
        for setting in (
            "client_min_messages = log",
            "auto_explain.log_nested_statements = on",
            "auto_explain.log_analyze = on",
            "auto_explain.log_min_duration = 0",
        ):
            owner.execute(f"set local {setting}".encode())
        owner.execute("select keylatch.prune_sessions()")
    (plan,) = [plan for plan in plans if "session_endings" in plan and "Delete on" in plan]
    removed = [int(rows) for rows in re.findall(r"Rows Removed by Join Filter: (\d+)", plan)]
    assert sum(removed) < 10_000, plan


def test_nobody_ends_sessions_of_another_workspace(
    system: System, page: str, service: Keylatch
) -> None:
    text = token(system, page)
    for who in ("bob", "mia", "stranger"):
        refused = system.call(who, "end_sessions", key_id=str(widget(system)))
        assert (refused.status_code, slug(refused)) == (404, "key_not_found")
        with system.connect(who) as connection, pytest.raises(KeyNotFound):
            Keylatch.from_psycopg(connection).end_sessions(widget(system))
    for who in ("anon", "keylatch_resolver"):
        assert system.call(who, "end_sessions", key_id=str(widget(system))).status_code in (
            401,
            403,
        )
    assert service.resolve_session(text) is not None
    assert system.resolves(page, ORIGIN)


def test_a_refused_revocation_ends_no_session(system: System, page: str, service: Keylatch) -> None:
    text = token(system, page)
    with system.connect("alice") as alice:
        refused = attempt(
            alice, "select keylatch.end_sessions(%s, %s)", [widget(system), "x" * 501]
        )
    assert refused.word == "invalid_argument"
    assert service.resolve_session(text) is not None


def test_a_deleted_workspace_has_no_sessions(system: System, page: str, service: Keylatch) -> None:
    text = token(system, page)
    with system.connect("alice") as alice:
        # All keys are revoked first, so the deletion finds no key to revoke.
        alice.execute("select keylatch.revoke_key(id) from keylatch.keys where status <> 'revoked'")
    with system.connect("service_role") as trusted:
        trusted.execute("delete from keylatch.workspaces where id = %s", [system.people.a])
        assert trusted.execute("select id from keylatch.sessions").fetchall() == []
    assert service.resolve_session(text) is None
    with pytest.raises(psycopg.Error, match="invalid_session"), system.connect("anon") as page_:
        page_.execute(
            "select set_config('request.headers', json_build_object('origin', %s::text,"
            " 'x-session-token', %s::text)::text, false)",
            [ORIGIN, text],
        )
        page_.execute("select keylatch.current_workspace_id()")


@pytest.mark.parametrize("ending", ["end_sessions", "workspace"])
def test_a_session_that_is_committed_after_the_ending_is_over(
    system: System, page: str, service: Keylatch, ending: str
) -> None:
    slow = visitor(system)
    # A visitor in SQL may run the commit's check early, and commit much later.
    slow.execute(EARLY)
    text = slow.execute(OPEN, [page]).fetchone()[0]  # type: ignore[index]
    if ending == "workspace":
        with impatient(system, "service_role") as trusted:
            trusted.execute("delete from keylatch.workspaces where id = %s", [system.people.a])
    else:
        with impatient(system) as alice:
            # The session is not committed yet, so the call does not count it.
            assert attempt(alice, END, [widget(system)]) == ("done", (0,))
    slow.commit()
    assert service.resolve_session(text) is None
    assert service.resolve_session(text, extend=True) is None


@pytest.mark.parametrize("call", [END, REVOKE, "select id from keylatch.suspend_key(%s)"])
def test_a_request_that_outlasts_the_end_of_its_key_opens_nothing(
    system: System, page: str, call: str
) -> None:
    slow = visitor(system)
    text = slow.execute(OPEN, [page]).fetchone()[0]  # type: ignore[index]
    with impatient(system) as alice:
        assert attempt(alice, call, [widget(system)]).word == "done"
    with pytest.raises(psycopg.Error, match="session_refused") as refused:
        slow.commit()
    assert refused.value.sqlstate == "PT401"
    with system.database.connect() as owner:
        kept = owner.execute(
            "select from keylatch_internal.sessions where token_hash = sha256(%s)", [text.encode()]
        )
        assert kept.fetchall() == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_key_that_was_revoked_opens_no_session_on_an_old_snapshot(
    system: System, page: str, level: str
) -> None:
    late = visitor(system)
    late.execute(f"set transaction isolation level {level}".encode())
    late.execute("select 1")
    with system.connect("alice") as connection:
        Keylatch.from_psycopg(connection).revoke(widget(system), reason="leaked")
    assert attempt(late, OPEN, [page]).word == "0A000"


@pytest.mark.parametrize("call", ["end_sessions", "revoke_key", "suspend_key", "rotate_key"])
def test_no_slow_visitor_holds_up_an_admin_or_another_visitor(
    system: System, page: str, call: str
) -> None:
    revoke = f"select id from keylatch.{call}(%s)"
    quick = visitor(system)
    quick.execute(IMPATIENT)
    quick.commit()
    with impatient(system) as alice:
        for _ in range(TRIES):
            with slow_visitors(system, page, 6) as busy:
                before = busy()
                alice.execute("begin")
                # Another visitor does not wait for the slow visitors either.
                assert attempt(quick, OPEN, [page]).word == "done"
                quick.commit()
                assert attempt(alice, revoke, [widget(system)]).word == "done"
                is_meanwhile = busy() == before
                # The try proves something only if every slow visitor is still busy with its locks.
                alice.execute("commit" if is_meanwhile else "rollback")
            if is_meanwhile:
                break
        assert is_meanwhile
    assert not system.resolves(page, ORIGIN)


def test_no_signed_in_slow_visitor_holds_up_an_admin(system: System, page: str) -> None:
    with impatient(system) as alice, slow_visitors(system, page, 3, "stranger") as busy:
        before = busy()
        assert attempt(alice, REVOKE, [widget(system)]).word == "done"
        assert busy() == before


def test_opening_a_session_takes_no_lock_that_anybody_waits_for(system: System, page: str) -> None:
    slow = visitor(system)
    slow.execute(OPEN, [page])
    with psycopg.connect(system.database.superuser_url) as watcher:
        locks = watcher.execute(
            "select locktype, mode, relation::regclass::text from pg_locks where pid = %s"
            " and (locktype in ('advisory', 'tuple') or relation = any (%s::regclass[]))",
            [
                slow.info.backend_pid,
                ["keylatch_internal.keys", "keylatch_internal.workspace_latches"],
            ],
        ).fetchall()
        # A lock on a row leaves its mark in xmax.
        marked = watcher.execute(
            "select from keylatch_internal.keys where id = %s and xmax <> 0", [widget(system)]
        ).fetchall()
        watcher.rollback()
    slow.rollback()
    # The advisory lock marks the request for the rate limit. Nothing takes an exclusive one.
    assert set(locks) == {
        ("relation", "AccessShareLock", "keylatch_internal.keys"),
        ("advisory", "ShareLock", None),
    }
    assert marked == []
