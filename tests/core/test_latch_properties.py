"""The latch under random statements of every role; a model checks what must hold."""

import re
from typing import LiteralString

import psycopg
import pytest

from core.latch_model import NEVER_CHANGE, System, run
from stack import Database, People

pytestmark = pytest.mark.long


def test_no_statement_of_any_role_turns_the_latch_back(database: Database, people: People) -> None:
    system = System(database, people)
    wrong = run(system, examples=100, beginnings=1)
    assert wrong is None, wrong
    for slug in ("revoked_is_final", "expired_is_final", "superseded_is_final"):
        assert system.errors[slug], f"never tried: {slug} in {system.errors}"
    for slug in ("column_is_immutable", "keys_are_kept", "key_revoked", "42501", "0A000"):
        assert system.errors[slug], f"never tried: {slug} in {system.errors}"
    for state in ("revoked", "expired", "superseded", "resolves"):
        assert system.deaths[state] > 100, f"seldom seen: {state} in {system.deaths}"


TABLE = "alter table keylatch_internal.keys"
WORKSPACES = "alter table keylatch.workspaces"
STAMPS = "not who revoked it|not of the server's clock"
REVOKED = "of a revoked key"
EXPIRED = "of a revoked or expired key"
SUPERSEDED = "superseded_at changed|a superseded key got more time"
# A guard that is disabled, or that no longer fires in replication mode; the columns that the random
# updates write; and the violation that the model must find.
ALWAYS = (
    ("keys_update_revoked_is_final", "revoked_at", REVOKED),
    ("keys_update_expired_is_final", "scopes suspended_at", EXPIRED),
    ("keys_update_superseded_is_final", "superseded_at", SUPERSEDED),
    ("keys_update_immutable", "masked_key", "masked_key"),
    ("keys_delete_keep", "", "rows are gone"),
    ("keys_truncate_keep", "", "rows are gone"),
)
DISABLED = (
    *((f"{TABLE} disable trigger {name}", columns, found) for name, columns, found in ALWAYS),
    *((f"{TABLE} enable trigger {name}", columns, found) for name, columns, found in ALWAYS),
    (f"{TABLE} disable trigger keys_update_stamp", "revoked_at", f"{STAMPS}|updated_at"),
    (f"{TABLE} disable trigger keys_insert_share_workspaces", "", "in a deleted workspace"),
    (f"{WORKSPACES} disable trigger workspaces_delete_revoke_keys", "", "a workspace is gone"),
)
FINAL = "keys_update_revoked_is_final"
# A line that is removed from the condition of a trigger; then the columns and the violation.
CONDITIONS = (
    *(
        ("keys_update_immutable", f"new.{name} IS DISTINCT FROM old.{name}", name, name)
        for name in NEVER_CHANGE
        # A constraint ties these two columns to others, so their lines are never the only guard.
        if name not in ("kind", "public_key")
    ),
    *(
        (FINAL, f"new.{name} IS DISTINCT FROM old.{name}", name, f"{REVOKED}|{EXPIRED}")
        for name in ("revoked_at", "revoke_reason", "expires_at", "suspended_at", "scopes")
    ),
    (
        "keys_update_expired_is_final",
        "new.scopes IS DISTINCT FROM old.scopes",
        "scopes",
        EXPIRED,
    ),
    (
        "keys_update_superseded_is_final",
        "new.superseded_at IS DISTINCT FROM old.superseded_at",
        "superseded_at",
        SUPERSEDED,
    ),
    (
        "keys_update_superseded_is_final",
        "new.expires_at > old.expires_at",
        "expires_at",
        SUPERSEDED,
    ),
)
# A line of a function or view that is removed or replaced; then the columns and the violation.
STAMP = "select pg_get_functiondef('keylatch_internal.stamp_update()'::regprocedure)"
ACTIVE = (
    "select 'create or replace view keylatch_internal.active_keys as '"
    " || pg_get_viewdef('keylatch_internal.active_keys'::regclass)"
)
WEAKENED = (
    (
        STAMP,
        "new.revoked_at := v_now;",
        "",
        "revoked_at",
        "revoked_at is not of the server's clock",
    ),
    (
        STAMP,
        "new.revoked_by := keylatch_internal.current_user_id();",
        "",
        "revoked_at revoked_by",
        "not who revoked it",
    ),
    (STAMP, "new.updated_at := v_now;", "", "label", "updated_at is not when"),
    (ACTIVE, "k.revoked_at IS NULL", "true", "revoked_at", "key .* resolves from"),
    (ACTIVE, "k.suspended_at IS NULL", "true", "suspended_at", "key .* resolves from"),
    (ACTIVE, "k.expires_at > clock_timestamp()", "true", "expires_at", "key .* resolves from"),
    (ACTIVE, "k.expires_at > clock_timestamp()", "false", "expires_at", "key .* does not resolve"),
)


@pytest.mark.one_server
@pytest.mark.parametrize(("statement", "columns", "violation"), DISABLED)
def test_the_interleavings_find_a_guard_that_is_switched_off(
    database: Database, people: People, statement: LiteralString, columns: str, violation: str
) -> None:
    with psycopg.connect(database.url) as owner:
        owner.execute(statement)
    found = run(System(database, people), columns.split())
    assert found is not None
    assert re.search(violation, found.splitlines()[0]), found


@pytest.mark.one_server
@pytest.mark.parametrize(("trigger", "line", "columns", "violation"), CONDITIONS)
def test_the_interleavings_find_a_line_that_is_missing_from_a_condition(
    database: Database, people: People, trigger: str, line: str, columns: str, violation: str
) -> None:
    with psycopg.connect(database.url) as owner:
        row = owner.execute(
            "select pg_get_triggerdef(oid, true) from pg_trigger where tgname = %s", [trigger]
        ).fetchone()
        assert row is not None
        assert line in row[0]
        owner.execute(f"drop trigger {trigger} on keylatch_internal.keys".encode())
        owner.execute(row[0].replace(line, "false", 1))
        owner.execute(f"{TABLE} enable always trigger {trigger}".encode())
    found = run(System(database, people), columns.split())
    assert found is not None
    assert re.search(violation, found.splitlines()[0]), found


@pytest.mark.one_server
@pytest.mark.parametrize(("definition", "line", "instead", "columns", "violation"), WEAKENED)
def test_the_interleavings_find_a_line_that_is_missing_from_the_code(
    database: Database,
    people: People,
    definition: LiteralString,
    line: str,
    instead: str,
    columns: str,
    violation: str,
) -> None:
    with psycopg.connect(database.url) as owner:
        row = owner.execute(definition).fetchone()
        assert row is not None
        assert line in row[0]
        owner.execute(row[0].replace(line, instead, 1))
    found = run(System(database, people), columns.split())
    assert found is not None
    assert re.search(violation, found.splitlines()[0]), found
