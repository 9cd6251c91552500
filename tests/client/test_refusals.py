"""Refusals of the database: class, slug, SQLSTATE and field, and an unchanged row."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest

from client.printing import everything_about
from client.system import Clients, System
from client.vectors import KEYS, SECRET
from keylatch import Keylatch, Secret
from keylatch.errors import (
    InvalidArgument,
    KeylatchError,
    KeyNotFound,
    KeyNotUsable,
    LatchViolation,
    PermissionDenied,
)

ActAs = Callable[[str], Keylatch]
HOUR = timedelta(hours=1)

CHANGES: dict[str, Callable[[Keylatch, UUID], object]] = {
    "rotate": lambda kl, id_: kl.rotate(id_),
    "revoke": lambda kl, id_: kl.revoke(id_, reason="x", cascade=True),
    "suspend": lambda kl, id_: kl.suspend(id_),
    "unsuspend": lambda kl, id_: kl.unsuspend(id_),
}


def refused(
    system: System,
    call: Callable[[], object],
    kind: type[KeylatchError],
    slug: str,
    state: str,
    *ids: UUID,
) -> KeylatchError:
    """Make a call that must raise this error and change neither these rows nor the key count."""
    before = system.rows(*ids), system.count()
    with pytest.raises(KeylatchError) as caught:
        call()
    error = caught.value
    assert (type(error), error.slug, error.sqlstate) == (kind, slug, state)
    assert error.detail
    assert (error.__cause__, error.__context__) == (None, None), (
        "no error of a library in the chain"
    )
    assert (system.rows(*ids), system.count()) == before
    return error


@pytest.mark.parametrize("change", CHANGES)
def test_a_key_that_is_not_there_is_not_found(kl: Keylatch, system: System, change: str) -> None:
    error = refused(
        system, lambda: CHANGES[change](kl, uuid4()), KeyNotFound, "key_not_found", "PT404"
    )
    assert error.hint


@pytest.mark.parametrize("who", ["bob", "mia", "stranger"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_key_of_others_is_not_found_in_the_same_words(
    kl: Keylatch, act_as: ActAs, system: System, change: str, who: str
) -> None:
    issued, other = kl.issue(system.people.a), act_as(who)
    seen = refused(
        system,
        lambda: CHANGES[change](other, issued.id),
        KeyNotFound,
        "key_not_found",
        "PT404",
        issued.id,
    )
    with pytest.raises(KeyNotFound) as unknown:
        CHANGES[change](other, uuid4())
    assert str(seen) == str(unknown.value), "nothing tells that the key exists"


@pytest.mark.parametrize("change", ["rotate", "suspend", "unsuspend"])
def test_a_revoked_or_expired_key_is_not_usable_and_the_reason_says_why(
    kl: Keylatch, system: System, change: str
) -> None:
    revoked = kl.issue(system.people.a)
    kl.revoke(revoked.id)
    expired = system.expired_key(system.people.a)
    for id_, slug in [(revoked.id, "key_revoked"), (expired, "key_expired")]:
        error = refused(system, partial(CHANGES[change], kl, id_), KeyNotUsable, slug, "PT409", id_)
        assert isinstance(error, KeyNotUsable)
        assert error.reason == slug


def test_a_key_is_rotated_once(kl: Keylatch, system: System) -> None:
    with_grace, without = kl.issue(system.people.a), kl.issue(system.people.a)
    kl.rotate(with_grace.id, grace=HOUR)
    kl.rotate(without.id)
    for issued in (with_grace, without):
        refused(
            system,
            partial(kl.rotate, issued.id),
            KeyNotUsable,
            "key_already_rotated",
            "PT409",
            issued.id,
        )


def test_a_suspended_key_is_not_rotated_with_grace(kl: Keylatch, system: System) -> None:
    issued = kl.issue(system.people.a)
    kl.suspend(issued.id)
    refused(
        system,
        lambda: kl.rotate(issued.id, grace=HOUR),
        KeyNotUsable,
        "key_suspended",
        "PT409",
        issued.id,
    )


LATCHED: dict[str, tuple[str, Callable[[Keylatch, UUID], object] | None]] = {
    "update keylatch_internal.keys set revoked_at = null where id = '{}'": (
        "revoked_is_final",
        lambda kl, id_: kl.revoke(id_),
    ),
    "update keylatch_internal.keys set expires_at = null where id = '{}'": (
        "superseded_is_final",
        lambda kl, id_: kl.rotate(id_, grace=HOUR),
    ),
    "update keylatch_internal.keys set masked_key = 'x' where id = '{}'": (
        "column_is_immutable",
        None,
    ),
    "delete from keylatch_internal.keys where id = '{}'": ("keys_are_kept", None),
    "truncate keylatch_internal.keys": ("keys_are_kept", None),
}


def as_owner(client: Keylatch, statement: str) -> None:
    """Run a statement as the owner of the table, through the transport of a client."""
    client._transport.call("run_as_owner", {"statement": statement})


@pytest.mark.parametrize("statement", LATCHED)
def test_the_latch_is_named_when_it_holds(kl: Keylatch, system: System, statement: str) -> None:
    slug, prepare = LATCHED[statement]
    issued = kl.issue(system.people.a)
    if prepare is not None:
        prepare(kl, issued.id)
    refused(
        system,
        lambda: as_owner(kl, statement.format(issued.id)),
        LatchViolation,
        slug,
        "PT409",
        issued.id,
    )


def test_the_latch_is_named_when_the_key_is_past_its_end(kl: Keylatch, system: System) -> None:
    id_ = system.expired_key(system.people.a)
    statement = f"update keylatch_internal.keys set expires_at = null where id = '{id_}'"
    refused(
        system, lambda: as_owner(kl, statement), LatchViolation, "expired_is_final", "PT409", id_
    )


OUT_OF_RULE: list[tuple[str, Callable[[Keylatch, UUID], object]]] = [
    ("kind", lambda kl, a: kl.issue(a, kind="private")),
    ("kind", lambda kl, a: kl.issue(a, kind="x" * 1_000_000)),
    ("label", lambda kl, a: kl.issue(a, label="x" * 201)),
    ("label", lambda kl, a: kl.issue(a, label="x" * 1_000_000)),
    ("label", lambda kl, a: kl.issue(a, label="bell\x07")),
    ("allowed_origins", lambda kl, a: kl.issue(a, allowed_origins=["https://A.example"])),
    ("allowed_origins", lambda kl, a: kl.issue(a, allowed_origins=["https://a.example/"])),
    ("allowed_origins", lambda kl, a: kl.issue(a, allowed_origins=["*"])),
    ("allowed_origins", lambda kl, a: kl.issue(a, allowed_origins=["https://a.example"] * 101)),
    (
        "allowed_origins",
        lambda kl, a: kl.issue(a, allowed_origins=[f"https://{n}.example" for n in range(1000)]),
    ),
    (
        "allowed_origins",
        lambda kl, a: kl.issue(a, kind="secret", allowed_origins=["https://a.example"]),
    ),
    ("scopes", lambda kl, a: kl.issue(a, scopes=["two words"])),
    ("scopes", lambda kl, a: kl.issue(a, scopes=["read", "read"])),
    ("scopes", lambda kl, a: kl.issue(a, scopes=[f"s{n}" for n in range(65)])),
    ("scopes", lambda kl, a: kl.issue(a, scopes=[""])),
    ("environment", lambda kl, a: kl.issue(a, environment="staging")),
    ("expires_at", lambda kl, a: kl.issue(a, expires_at=datetime(2001, 1, 1, tzinfo=UTC))),
    ("expires_at", lambda kl, a: kl.issue(a, expires_at=datetime.min.replace(tzinfo=UTC))),
    ("metadata", lambda kl, a: kl.issue(a, metadata={"a": "x" * 8192})),
    ("metadata", lambda kl, a: kl.issue(a, metadata={"a": "x" * 1_000_000})),
    ("prefix", lambda kl, a: kl.issue(a, prefix="")),
    ("prefix", lambda kl, a: kl.issue(a, prefix="W")),
    ("prefix", lambda kl, a: kl.issue(a, prefix="x" * 13)),
]


@pytest.mark.parametrize(("field", "call"), OUT_OF_RULE)
def test_a_new_key_out_of_rule_is_not_made_and_the_field_is_named(
    kl: Keylatch, system: System, field: str, call: Callable[[Keylatch, UUID], object]
) -> None:
    error = refused(
        system, lambda: call(kl, system.people.a), InvalidArgument, "invalid_argument", "PT400"
    )
    assert field in str(error.detail)
    assert error.hint
    assert isinstance(error, ValueError)


ROTATED_OUT_OF_RULE: list[tuple[str, Callable[[Keylatch, UUID], object]]] = [
    ("grace", lambda kl, id_: kl.rotate(id_, grace=timedelta(seconds=-1))),
    ("grace", lambda kl, id_: kl.rotate(id_, grace=timedelta(days=30, microseconds=1))),
    ("grace", lambda kl, id_: kl.rotate(id_, grace=timedelta(days=365))),
    ("grace", lambda kl, id_: kl.rotate(id_, grace=timedelta(microseconds=2**63 - 1))),
    ("grace", lambda kl, id_: kl.rotate(id_, grace=-timedelta(microseconds=2**63 - 1))),
    ("expires_at", lambda kl, id_: kl.rotate(id_, expires_at=datetime(2001, 1, 1, tzinfo=UTC))),
    ("reason", lambda kl, id_: kl.revoke(id_, reason="x" * 501)),
    ("reason", lambda kl, id_: kl.revoke(id_, reason="bell\x07", cascade=True)),
]


@pytest.mark.parametrize(("field", "call"), ROTATED_OUT_OF_RULE)
def test_a_change_out_of_rule_leaves_the_key_as_it_was_and_the_field_is_named(
    kl: Keylatch, system: System, field: str, call: Callable[[Keylatch, UUID], object]
) -> None:
    issued = kl.issue(system.people.a)
    error = refused(
        system, lambda: call(kl, issued.id), InvalidArgument, "invalid_argument", "PT400", issued.id
    )
    assert field in str(error.detail)


@pytest.mark.parametrize("who", ["mia", "stranger", "bob", "anon", "keylatch_resolver"])
def test_a_user_who_does_not_administer_the_workspace_issues_nothing_there(
    clients: Clients, system: System, who: str
) -> None:
    kl = clients.act_as(who)
    refused(
        system, lambda: kl.issue(system.people.a), PermissionDenied, "permission_denied", "42501"
    )


DENIED: dict[str, Callable[[Keylatch, System], object]] = {
    "anon list": lambda kl, system: kl.list(system.people.a),
    "anon rotate": lambda kl, system: kl.rotate(uuid4()),
    "anon explain": lambda kl, system: kl.explain(SECRET),
    "anon resolve": lambda kl, system: kl.resolve(SECRET),
    "anon installation": lambda kl, system: kl.installation(),
    "alice resolve": lambda kl, system: kl.resolve(SECRET),
    "keylatch_resolver list": lambda kl, system: kl.list(system.people.a),
    "keylatch_resolver revoke": lambda kl, system: kl.revoke(uuid4()),
}


@pytest.mark.parametrize("name", DENIED)
def test_a_role_without_the_grant_is_denied(clients: Clients, system: System, name: str) -> None:
    kl = clients.act_as(name.split()[0])
    error = refused(
        system, lambda: DENIED[name](kl, system), PermissionDenied, "permission_denied", "42501"
    )
    assert SECRET not in str(error)


def test_a_trigger_of_the_application_is_heard_over_every_transport(
    kl: Keylatch, system: System
) -> None:
    for raised, kind, slug, state in [
        (
            "raise sqlstate 'PT409' using message = 'plan_is_full'",
            KeyNotUsable,
            "plan_is_full",
            "PT409",
        ),
        (
            "raise exception 'no keys on %', '" + SECRET + "'",
            KeylatchError,
            "database_error",
            "P0001",
        ),
        ("raise sqlstate '53100' using message = 'no space'", KeylatchError, "", "53100"),
    ]:
        statement = f"do $body$ begin {raised}; end; $body$"
        with pytest.raises(KeylatchError) as caught:
            as_owner(kl, statement)
        assert isinstance(caught.value, kind)
        assert caught.value.slug == (slug or "unavailable")
        assert caught.value.sqlstate == state
        assert SECRET not in str(caught.value)


def test_a_refused_call_leaves_the_key_in_no_log_of_a_server(
    clients: Clients, system: System
) -> None:
    # Not SECRET, because a statement of the trigger test contains SECRET.
    key = KEYS[-1]["key"]
    with pytest.raises(PermissionDenied):
        clients.act_as("alice").resolve(key)
    with pytest.raises(InvalidArgument):
        clients.act_as("alice").issue(system.people.a, kind=key)
    assert "permission denied for function resolve_key" in system.database.server.log()
    for log in (system.database.server.log(), system.rest.postgrest.log()):
        assert key not in log


def test_a_refused_call_leaves_the_key_in_no_frame_of_the_traceback(clients: Clients) -> None:
    with pytest.raises(PermissionDenied) as caught:
        clients.act_as("alice").resolve(Secret(SECRET))
    text = everything_about(caught.value)
    assert f"'key': Secret('wk_sk_live_...{SECRET[-4:]}')" in text, "the frames are in it"
    assert SECRET not in text
