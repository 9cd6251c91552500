"""Every call over every transport, sync and async, against the real database."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from client.system import Clients, System
from client.vectors import mistyped
from keylatch import Keylatch, Secret, fingerprint, hash_key, parse_key
from keylatch.errors import KeyNotFound, UnexpectedAnswer, UnreadableRow
from keylatch.models import Key

SITE = "https://client.example"
ActAs = Callable[[str], Keylatch]


def soon(**how_far: float) -> datetime:
    """Return the time that is this far in the future, with a time zone."""
    return datetime.now(UTC) + timedelta(**how_far)


def test_issue_gives_the_key_and_all_its_fields(kl: Keylatch, system: System) -> None:
    ends, before = soon(days=30), soon()
    issued = kl.issue(
        str(system.people.a),
        kind="publishable",
        label="Bücher & “Läden”",
        allowed_origins=[SITE, "https://*.client.example"],
        scopes=["orders:read", "a.b-c_d:*"],
        environment="test",
        expires_at=ends,
        metadata={"tier": 3, "tags": ["a", None, {"b": 1.5}], "quote": "'\"\\%s"},
        prefix="acme",
    )
    parsed = parse_key(issued.key)
    assert (parsed.prefix, parsed.kind, parsed.environment) == ("acme", "publishable", "test")
    assert issued.masked_key == str(issued.key)
    assert issued.fingerprint == fingerprint(issued.key)
    assert issued.label == "Bücher & “Läden”"
    assert issued.allowed_origins == (SITE, "https://*.client.example")
    assert issued.scopes == ("orders:read", "a.b-c_d:*")
    assert (issued.kind, issued.environment, issued.expires_at) == ("publishable", "test", ends)
    assert issued.metadata == {"tier": 3, "tags": ["a", None, {"b": 1.5}], "quote": "'\"\\%s"}
    assert (issued.workspace_id, issued.created_by) == (system.people.a, system.people.alice)
    assert issued.rotated_from is None
    assert before <= issued.created_at <= datetime.now(UTC)
    row = system.rows(issued.id)[issued.id]
    assert row["key_hash"] == "\\x" + hash_key(issued.key).hex()
    assert row["public_key"] == issued.key.reveal()


def test_issue_needs_nothing_but_the_workspace(kl: Keylatch, system: System) -> None:
    issued = kl.issue(system.people.a)
    assert parse_key(issued.key).prefix == "wk"
    assert (issued.kind, issued.environment, issued.label) == ("publishable", "live", "")
    assert (issued.allowed_origins, issued.scopes, issued.metadata) == ((), (), {})
    assert issued.expires_at is None


def test_a_secret_key_is_kept_nowhere_but_in_the_answer(kl: Keylatch, system: System) -> None:
    issued = kl.issue(system.people.a, kind="secret")
    assert issued.key.reveal() not in str(system.rows(issued.id))
    (listed,) = [key for key in kl.list(system.people.a) if key.id == issued.id]
    assert listed.public_key is None


def test_rotate_with_grace_leaves_both_keys_resolving(
    kl: Keylatch, act_as: ActAs, system: System
) -> None:
    service = act_as("service_role")
    old = kl.issue(system.people.a, kind="secret", scopes=["read"], metadata={"a": 1}, label="x")
    before = soon(hours=24)
    new = kl.rotate(old.id, grace=timedelta(hours=24), expires_at=soon(days=90))
    assert new.rotated_from == old.id
    assert new.key != old.key
    assert (new.scopes, new.metadata, new.label, new.kind) == (("read",), {"a": 1}, "x", "secret")
    assert new.expires_at is not None
    assert new.expires_at > soon(days=89)

    found = service.resolve(old.key)
    assert found is not None
    assert found.expires_at is not None
    assert before <= found.expires_at <= soon(hours=24)
    assert service.resolve(new.key) is not None
    assert kl.explain(old.key).verdict == "valid"


def test_rotate_without_grace_ends_the_old_key_and_copies_its_expiry(
    kl: Keylatch, act_as: ActAs, system: System
) -> None:
    old = kl.issue(system.people.a, kind="secret", expires_at=soon(days=3))
    new = kl.rotate(str(old.id))
    assert new.expires_at == old.expires_at
    assert act_as("service_role").resolve(old.key) is None
    assert kl.explain(old.key).verdict == "revoked"


def test_revoke_is_final_and_may_be_repeated(kl: Keylatch, act_as: ActAs, system: System) -> None:
    issued = kl.issue(system.people.a, kind="secret")
    first = kl.revoke(issued.id, reason="leaked; löschen")
    again = kl.revoke(issued.id, reason="another reason", cascade=True)
    assert (first.id, first.already_revoked, first.also_revoked) == (issued.id, False, ())
    assert (again.revoked_at, again.already_revoked) == (first.revoked_at, True)
    assert system.rows(issued.id)[issued.id]["revoke_reason"] == "leaked; löschen"
    assert act_as("service_role").resolve(issued.key) is None


def test_revoke_with_cascade_names_the_others_that_it_ended(kl: Keylatch, system: System) -> None:
    first = kl.issue(system.people.a)
    second = kl.rotate(first.id, grace=timedelta(hours=1))
    third = kl.rotate(second.id, grace=timedelta(hours=1))
    done = kl.revoke(second.id, cascade=True)
    assert done.id == second.id
    assert set(done.also_revoked) == {first.id, third.id}
    assert all(isinstance(one, UUID) for one in done.also_revoked)
    assert all(row["revoked_at"] for row in system.rows(first.id, second.id, third.id).values())


def test_suspend_and_unsuspend_return_the_key_as_it_is_afterwards(
    kl: Keylatch, act_as: ActAs, system: System
) -> None:
    service = act_as("service_role")
    issued = kl.issue(system.people.a, kind="secret")
    suspended = kl.suspend(issued.id)
    assert isinstance(suspended, Key)
    assert (suspended.id, suspended.status) == (issued.id, "suspended")
    assert suspended.suspended_at is not None
    assert service.resolve(issued.key) is None
    active = kl.unsuspend(str(issued.id))
    assert (active.status, active.suspended_at) == ("active", None)
    assert active.updated_at >= suspended.updated_at > issued.created_at
    assert service.resolve(issued.key) is not None


def test_show_returns_one_key_of_the_caller(kl: Keylatch, act_as: ActAs, system: System) -> None:
    issued = kl.issue(system.people.a, label="shown")
    shown = kl.show(str(issued.id))
    assert (shown.id, shown.label, shown.status) == (issued.id, "shown", "active")
    assert shown.public_key == issued.key.reveal()
    assert shown.fingerprint == fingerprint(issued.key)
    for client, id_ in [(kl, uuid4()), (act_as("bob"), issued.id), (act_as("mia"), issued.id)]:
        with pytest.raises(KeyNotFound, match="key_not_found"):
            client.show(id_)


def test_list_gives_the_keys_of_a_workspace_the_newest_first(kl: Keylatch, system: System) -> None:
    made = [kl.issue(system.people.a, label=f"{number}") for number in range(3)]
    kl.revoke(made[0].id, reason="revoked keys are listed, too")
    listed = kl.list(str(system.people.a))
    assert isinstance(listed, tuple)
    ids = {issued.id for issued in made}
    assert [key.id for key in listed if key.id in ids] == [issued.id for issued in reversed(made)]
    (dead,) = [key for key in listed if key.id == made[0].id]
    assert (dead.status, dead.revoke_reason) == ("revoked", "revoked keys are listed, too")
    assert dead.revoked_by == system.people.alice
    assert dead.public_key == made[0].key.reveal()
    assert {key.workspace_id for key in listed} == {system.people.a}


def test_list_gives_nothing_of_a_workspace_of_others(
    kl: Keylatch, act_as: ActAs, system: System
) -> None:
    act_as("bob").issue(system.people.b)
    assert kl.list(system.people.b) == ()
    assert kl.list(uuid4()) == ()


@pytest.mark.parametrize("role", ["service_role", "keylatch_resolver"])
def test_resolve_gives_what_a_service_needs_to_know(
    kl: Keylatch, act_as: ActAs, system: System, role: str
) -> None:
    ends = soon(days=1)
    issued = kl.issue(
        system.people.a,
        allowed_origins=[SITE],
        scopes=["read"],
        metadata={"tier": 1},
        expires_at=ends,
        environment="test",
    )
    service = act_as(role)
    for key in (issued.key, issued.key.reveal()):
        found = service.resolve(key, origin=SITE)
        assert found is not None
        assert (found.key_id, found.workspace_id) == (issued.id, system.people.a)
        assert (found.kind, found.environment) == ("publishable", "test")
        assert (found.scopes, found.metadata, found.expires_at) == (("read",), {"tier": 1}, ends)
    for origin in (None, "", "null", "https://client.example.evil.example", SITE + "/", "\x00"):
        assert service.resolve(issued.key, origin=origin) is None


ODD_TEXTS = {
    "empty": "",
    "a NUL": "wk_sk_live_\x00",
    "lone surrogates": "\ud800\udfff",
    "spaces": "   ",
    "right to left": "\u202ewk_sk_live_1",
    "a megabyte": "x" * 1_000_000,
    "a megabyte of NUL": "\x00" * 1_000_000,
    "SQL": "'; drop schema keylatch cascade; --",
    "placeholders": "%s %(key)s $1 {0}",
    "an emoji": "🔑",
}


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_any_text_is_resolved_to_nothing_and_explained_as_malformed(
    kl: Keylatch, act_as: ActAs, name: str
) -> None:
    text = ODD_TEXTS[name]
    assert act_as("keylatch_resolver").resolve(text, origin=text) is None
    explained = kl.explain(Secret(text), origin=text)
    assert (explained.verdict, explained.key_id) == ("malformed", None)


def test_a_key_with_anything_around_it_is_no_key(
    kl: Keylatch, act_as: ActAs, system: System
) -> None:
    issued = kl.issue(system.people.a, kind="secret")
    key, service = issued.key.reveal(), act_as("service_role")
    for text in (f" {key}", f"{key} ", f"{key}\n", f"{key}\x00", f"\ufeff{key}", key + "x" * 9000):
        assert service.resolve(text) is None
        assert kl.explain(text).verdict == "malformed"
    # Neither the stored hash nor its hex is accepted as a key.
    for text in (hash_key(key).hex(), "\\x" + hash_key(key).hex(), hash_key(key).decode("latin-1")):
        assert service.resolve(text) is None


def test_explain_gives_a_verdict_why_and_what_to_do(
    kl: Keylatch, act_as: ActAs, system: System
) -> None:
    issued = kl.issue(system.people.a, allowed_origins=[SITE], expires_at=soon(days=1))
    secret = kl.issue(system.people.a, kind="secret")
    key = issued.key.reveal()
    verdicts = {
        "valid": kl.explain(issued.key, origin=SITE),
        "origin_required": kl.explain(key),
        "origin_denied": kl.explain(key, origin="https://evil.example"),
        "secret_in_browser": kl.explain(secret.key, origin=SITE),
        "checksum_failed": kl.explain(mistyped(key), origin=SITE),
        "malformed": kl.explain("hunter2"),
        "unknown": act_as("bob").explain(key, origin=SITE),
    }
    kl.suspend(issued.id)
    verdicts["suspended"] = kl.explain(key)
    kl.revoke(issued.id, reason="leaked")
    verdicts["revoked"] = kl.explain(key)
    for verdict, explained in verdicts.items():
        assert explained.verdict == verdict
        assert explained.detail
        assert explained.hint
        is_known = verdict not in ("checksum_failed", "malformed", "unknown")
        assert (explained.key_id is not None) is is_known
    assert verdicts["valid"].fingerprint == verdicts["unknown"].fingerprint == fingerprint(key)
    assert verdicts["checksum_failed"].fingerprint == fingerprint(mistyped(key))
    assert verdicts["valid"].expires_at == issued.expires_at
    assert "leaked" in str(verdicts["revoked"].detail)


def test_a_service_learns_the_verdict_and_nothing_that_an_admin_wrote(
    kl: Keylatch, act_as: ActAs, system: System
) -> None:
    issued = kl.issue(system.people.a, kind="secret")
    kl.revoke(issued.id, reason="leaked by Bob")
    explained = act_as("keylatch_resolver").explain(issued.key)
    assert (explained.verdict, explained.key_id) == ("revoked", issued.id)
    assert explained.fingerprint == issued.fingerprint
    assert "Bob" not in repr(explained)


def test_installation_is_the_same_over_every_transport_and_for_everybody(
    clients: Clients, system: System
) -> None:
    row, oid = system.owner.execute(
        """
        select to_jsonb(i), d.oid
        from keylatch_internal.installation as i, pg_database as d
        where d.datname = current_database()
        """
    ).fetchone() or ({}, 0)
    for who in ("alice", "stranger", "service_role", "keylatch_resolver"):
        found = clients.act_as(who).installation()
        assert str(found.id) == row["id"]
        assert found.schema_version == row["schema_version"]
        assert found.installed_at == datetime.fromisoformat(row["installed_at"])
        assert found.system_identifier.isdecimal()
        assert found.database_name == system.owner.info.dbname
        assert found.database_oid == int(oid)
        assert list(found.modules) == row["modules"]
        assert (found.is_replica, found.replica_lag_seconds) == (False, 0.0)


def test_retire_workspace_revokes_a_bounded_number_of_keys_until_none_is_left(
    act_as: ActAs, system: System
) -> None:
    service, workspace = act_as("service_role"), uuid4()
    made = [issued.id for issued in service.issue_many(workspace, labels=["a", "b", "c"])]
    first = service.retire_workspace(workspace, limit=2)
    assert (first.revoked, first.is_done) == (2, False)
    second = service.retire_workspace(str(workspace), limit=2)
    assert (second.revoked, second.is_done) == (1, True)
    assert all(row["revoked_at"] for row in system.rows(*made).values())


# Python 3.13 reads 10,000 nested lists. PostgreSQL stores a few thousand more.
@pytest.mark.parametrize(
    "value", ["[" * 11_000 + "]" * 11_000, "9" * 5000], ids=["nested", "digits"]
)
def test_a_row_that_python_cannot_read_is_the_trouble_of_that_row_alone(
    act_as: ActAs, system: System, value: str
) -> None:
    """Only the owner can store such metadata. A batch with it also contains a readable key."""
    service, workspace = act_as("service_role"), uuid4()
    good = service.issue(workspace, kind="secret", metadata={"a": 1})
    id_ = uuid4()
    system.owner.execute(
        """
        insert into keylatch_internal.keys
          (id, workspace_id, kind, key_hash, masked_key, metadata, created_at, updated_at)
        values (%s, %s, 'secret', keylatch.hash_key(%s), '...', %s, now(), now())
        """,
        [id_, workspace, str(id_), f'{{"n": {value}}}'],
    )
    bad, first = service.list(workspace)
    assert (first.id, first.metadata) == (good.id, {"a": 1})
    assert (bad.id, bad.status) == (id_, "active")
    unknown, broken, whole = service.resolve_many(["none", str(id_), good.key])
    assert unknown is None
    assert whole is not None
    assert whole.metadata == {"a": 1}
    assert broken is not None
    assert broken.workspace_id == workspace
    for row in (bad, broken):
        with pytest.raises(UnreadableRow, match=f"metadata .* {id_} cannot be read"):
            row.metadata  # noqa: B018
    for call in (lambda: service.show(id_), lambda: service.resolve(str(id_))):
        with pytest.raises(UnexpectedAnswer, match="metadata"):
            call()
    assert service.revoke(id_).already_revoked is False
