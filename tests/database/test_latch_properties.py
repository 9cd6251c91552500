"""The latch under random statements of every role, and a model that says what must hold."""

import re
from typing import LiteralString

import psycopg
import pytest

from database.latch_model import NEVER_CHANGE, World, run
from stack import Database, People


def test_no_statement_of_any_role_turns_the_latch_back(database: Database, people: People) -> None:
    world = World(database, people)
    wrong = run(world, examples=100)
    assert wrong is None, wrong
    for slug in ("revoked_is_final", "expired_is_final", "superseded_is_final"):
        assert world.errors[slug], f"never tried: {slug} in {world.errors}"
    for slug in ("column_is_immutable", "keys_are_kept", "key_revoked", "42501", "0A000"):
        assert world.errors[slug], f"never tried: {slug} in {world.errors}"
    for state in ("revoked", "expired", "superseded", "resolves"):
        assert world.deaths[state] > 100, f"seldom seen: {state} in {world.deaths}"


TABLE = "alter table keylatch_internal.keys"
LATCH = "keylatch_internal.hold_latch()"
RESOLVE = "keylatch.resolve_key(text, text)"
WORKSPACES = "alter table keylatch.workspaces"
STAMPS = "not who revoked it|not of the server's clock"
DISABLED = (
    (f"{TABLE} disable trigger keys_update_latch", "revoked_at", f"of a revoked key|{STAMPS}"),
    (f"{TABLE} enable trigger keys_update_latch", "revoked_at", "of a revoked key"),
    (f"{TABLE} disable trigger keys_delete_keep", "", "rows are gone"),
    (f"{TABLE} enable trigger keys_delete_keep", "", "rows are gone"),
    (f"{TABLE} disable trigger keys_truncate_keep", "", "rows are gone"),
    (f"{TABLE} enable trigger keys_truncate_keep", "", "rows are gone"),
    (f"{WORKSPACES} disable trigger workspaces_delete_revoke_keys", "", "a workspace is gone"),
)
ENDS = "expires_at superseded_at"
WEAKENED = (
    (
        LATCH,
        "if old.revoked_at is not null then",
        "if false then",
        "revoked_at",
        "of a revoked key",
    ),
    (LATCH, ":= clock_timestamp()", ":= now()", "expires_at", "of a dead key|the server's clock"),
    (LATCH, "or new.expires_at > old.expires_at", "", ENDS, "a superseded key got more time"),
    (
        LATCH,
        "if new.superseded_at is distinct from old.superseded_at",
        "if false",
        "superseded_at",
        "superseded_at changed",
    ),
    (LATCH, "when new.scopes is distinct from old.scopes then 'scopes'", "", "scopes", "of a dead"),
    (
        LATCH,
        "new.revoked_at := v_now;",
        "",
        "revoked_at",
        "revoked_at is not of the server's clock",
    ),
    (
        LATCH,
        "new.revoked_by := keylatch_internal.current_user_id();",
        "",
        "revoked_at revoked_by",
        "not who revoked it",
    ),
    (RESOLVE, "and k.revoked_at is null", "", "revoked_at", "key .* resolves from"),
    (RESOLVE, "and k.suspended_at is null", "", "suspended_at", "key .* resolves from"),
    (RESOLVE, "k.expires_at > clock_timestamp()", "true", "expires_at", "key .* resolves from"),
    (RESOLVE, "k.expires_at > clock_timestamp()", "false", "expires_at", "key .* does not resolve"),
    (
        LATCH,
        "when new.key_hash is distinct from old.key_hash and old.key_hash is not null then",
        "when false then",
        "key_hash",
        "key_hash",
    ),
    (
        LATCH,
        "when new.key_hash is distinct from old.key_hash then 'key_hash'",
        "",
        "key_hash",
        "of a dead key",
    ),
    *(
        (LATCH, f"when new.{name} is distinct from old.{name} then '{name}'", "", name, name)
        for name in NEVER_CHANGE
        # A constraint ties these two to the others, so their lines are never the only guard.
        if name not in ("kind", "public_key", "key_hash")
    ),
)


@pytest.mark.one_server
@pytest.mark.parametrize(("statement", "columns", "violation"), DISABLED)
def test_the_stories_find_a_guard_that_is_switched_off(
    database: Database, people: People, statement: LiteralString, columns: str, violation: str
) -> None:
    with psycopg.connect(database.url) as owner:
        owner.execute(statement)
    found = run(World(database, people), columns.split())
    assert found is not None
    assert re.search(violation, found.splitlines()[0]), found


@pytest.mark.one_server
@pytest.mark.parametrize(("function", "line", "instead", "columns", "violation"), WEAKENED)
def test_the_stories_find_a_line_that_is_missing_from_the_guards(
    database: Database,
    people: People,
    function: str,
    line: str,
    instead: str,
    columns: str,
    violation: str,
) -> None:
    with psycopg.connect(database.url) as owner:
        row = owner.execute("select pg_get_functiondef(%s::regprocedure)", [function]).fetchone()
        assert row is not None
        assert line in row[0]
        owner.execute(row[0].replace(line, instead, 1))
    found = run(World(database, people), columns.split())
    assert found is not None
    assert re.search(violation, found.splitlines()[0]), found
