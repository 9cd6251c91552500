"""Each kind of damage is found, named, and repaired by the command that the finding gives."""

from dataclasses import dataclass

import pytest

from cli.doctor.examining import examined, only, run, summaries
from stack import Database, People

KEYS = "keylatch_internal.keys"


@dataclass(frozen=True)
class Damage:
    """A manual change to an installation, and what doctor must report."""

    done: str
    level: str
    slug: str
    subject: str
    words: str
    objects: int = 1


DAMAGE = (
    Damage(
        f"alter policy keys_select_admin on {KEYS} using (true)",
        *("error", "object_changed", f"policy keys_select_admin on {KEYS}"),
        "using true",
    ),
    Damage(
        f"alter policy keys_insert_admin on {KEYS} to authenticated, anon",
        *("error", "object_changed", f"policy keys_insert_admin on {KEYS}"),
        "roles anon, authenticated",
    ),
    Damage(
        f"alter policy keys_update_admin on {KEYS} with check (true)",
        *("error", "object_changed", f"policy keys_update_admin on {KEYS}"),
        "with check true",
    ),
    Damage(
        f"drop policy keys_update_admin on {KEYS}",
        *("error", "object_missing", f"policy keys_update_admin on {KEYS}"),
        "missing",
    ),
    Damage(
        f"create policy all_of_it on {KEYS} using (true)",
        *("error", "object_extra", f"policy all_of_it on {KEYS}"),
        "not part of keylatch",
    ),
    Damage(
        f"create policy less on {KEYS} as restrictive using (kind = 'secret')",
        *("warning", "object_extra", f"policy less on {KEYS}"),
        "not part of keylatch",
    ),
    Damage(
        f"alter table {KEYS} disable row level security",
        *("error", "object_changed", f"table {KEYS}"),
        "row level security off",
    ),
    Damage(
        f"alter table {KEYS} force row level security",
        *("error", "object_changed", f"table {KEYS}"),
        "forced row level security on",
    ),
    Damage(
        "alter table keylatch_internal.installation set unlogged",
        *("error", "object_changed", "table keylatch_internal.installation"),
        "logged off",
    ),
    Damage(
        f"alter table {KEYS} disable trigger keys_update_immutable",
        *("error", "object_changed", f"trigger keys_update_immutable on {KEYS}"),
        "fires never, but the release has always",
    ),
    Damage(
        f"alter table {KEYS} enable trigger keys_delete_keep",
        *("error", "object_changed", f"trigger keys_delete_keep on {KEYS}"),
        "fires origin, but the release has always",
    ),
    Damage(
        f"alter table {KEYS} enable always trigger keys_insert_mint",
        *("error", "object_changed", f"trigger keys_insert_mint on {KEYS}"),
        "fires always, but the release has origin",
    ),
    Damage(
        f"drop trigger keys_truncate_keep on {KEYS}",
        *("error", "object_missing", f"trigger keys_truncate_keep on {KEYS}"),
        "missing",
    ),
    Damage(
        "create or replace trigger workspaces_truncate_keep before truncate on keylatch.workspaces"
        " for each statement execute function keylatch_internal.hold_latch('keys_are_kept')",
        *("error", "object_changed", "trigger workspaces_truncate_keep on keylatch.workspaces"),
        "hold_latch('keys_are_kept')",
    ),
    Damage(
        f"create trigger zzz before update on {KEYS} for each row"
        " execute function suppress_redundant_updates_trigger()",
        *("error", "object_extra", f"trigger zzz on {KEYS}"),
        "not part of keylatch",
    ),
    Damage(
        "create rule keep as on delete to keylatch.workspaces do instead nothing",
        *("error", "object_extra", "rule keep on keylatch.workspaces"),
        "not part of keylatch",
    ),
    Damage(
        "create or replace function keylatch_internal.hold_latch() returns trigger language plpgsql"
        " set search_path = pg_catalog, pg_temp as 'begin return old; end'",
        *("error", "object_changed", "function keylatch_internal.hold_latch()"),
        "another body",
    ),
    Damage(
        "alter function keylatch.resolve_key(text, text) volatile",
        *("error", "object_changed", "function keylatch.resolve_key(text,text)"),
        "is volatile, but the release has stable",
    ),
    Damage(
        "alter function keylatch.explain_key security definer",
        *("error", "object_changed", "function keylatch.explain_key(text,text)"),
        "is security definer",
    ),
    Damage(
        "alter function keylatch.resolve_key(text, text) reset all",
        *("error", "object_changed", "function keylatch.resolve_key(text,text)"),
        "settings nothing, but the release has search_path=pg_catalog, pg_temp",
    ),
    Damage(
        "alter function keylatch_internal.find_key set search_path = public",
        *("error", "object_changed", "function keylatch_internal.find_key(text)"),
        "search_path=public",
    ),
    Damage(
        "alter function keylatch.hash_key strict parallel unsafe",
        *("error", "object_changed", "function keylatch.hash_key(text)"),
        "is strict",
    ),
    Damage(
        "drop function keylatch.list_keys",
        *("error", "object_missing", "function keylatch.list_keys(uuid)"),
        "missing",
    ),
    Damage(
        "create function keylatch.reveal_keys() returns int language sql as 'select 1'",
        *("error", "open_to_everybody", "function keylatch.reveal_keys()"),
        "everyone may execute the function",
    ),
    Damage(
        f"grant select (key_hash) on {KEYS} to authenticated",
        *("error", "grant_extra", f"column {KEYS}.key_hash"),
        "also granted: select to authenticated",
    ),
    Damage(
        f"grant select on {KEYS} to anon with grant option",
        *("error", "grant_extra", f"table {KEYS}"),
        "select with grant option to anon",
    ),
    Damage(
        "grant execute on function keylatch.resolve_key(text, text) to public",
        *("error", "open_to_everybody", "function keylatch.resolve_key(text,text)"),
        "execute to public",
    ),
    Damage(
        "grant all on keylatch.workspaces to authenticated",
        *("error", "grant_extra", "table keylatch.workspaces"),
        "truncate to authenticated",
    ),
    Damage(
        "grant create on schema keylatch_internal to anon",
        *("error", "grant_extra", "schema keylatch_internal"),
        "create to anon",
    ),
    Damage(
        "grant delete on keylatch.keys to service_role",
        *("error", "grant_extra", "view keylatch.keys"),
        "delete to service_role",
    ),
    Damage(
        "revoke execute on function keylatch.rotate_key from authenticated",
        *("error", "grant_missing", "function keylatch.rotate_key(uuid,interval,timestamp"),
        "no longer granted: execute to authenticated",
    ),
    Damage(
        f"revoke update (label, scopes) on {KEYS} from authenticated",
        *("error", "grant_missing", f"columns of {KEYS}: label, scopes"),
        "update to authenticated",
    ),
    Damage(
        f"revoke select on {KEYS} from postgres",
        *("error", "grant_missing", f"table {KEYS}"),
        "select to the owner",
    ),
    Damage(
        "alter function keylatch.hash_key owner to supabase_admin",
        *("error", "owner_differs", "function keylatch.hash_key(text)"),
        "belongs to supabase_admin, but everything else belongs to postgres",
    ),
    Damage(
        "alter schema keylatch owner to supabase_admin",
        *("error", "owner_differs", "schema keylatch"),
        "belongs to supabase_admin",
    ),
    Damage(
        f"alter table {KEYS} drop constraint keys_public_key_check",
        *("error", "object_missing", f"constraint keys_public_key_check on {KEYS}"),
        "missing",
    ),
    Damage(
        f"alter table {KEYS} drop constraint keys_kind_check,"
        " add constraint keys_kind_check check (length(kind) < 99)",
        *("error", "object_changed", f"constraint keys_kind_check on {KEYS}"),
        "< 99",
    ),
    Damage(
        f"alter table {KEYS} drop constraint keys_kind_check, add constraint keys_kind_check"
        " check (kind in ('publishable', 'secret')) not valid",
        *("error", "object_changed", f"constraint keys_kind_check on {KEYS}"),
        "NOT VALID",
    ),
    Damage(
        "alter table keylatch.workspace_membership disable trigger all",
        *("error", "object_changed", "constraint workspace_membership_"),
        "enforced off",
        objects=2,
    ),
    Damage(
        f"create unique index one_label on {KEYS} (label)",
        *("note", "object_extra", "index keylatch_internal.one_label"),
        "not part of keylatch",
    ),
    Damage(
        "drop index keylatch.workspace_membership_user_id_idx",
        *("warning", "object_missing", "index keylatch.workspace_membership_user_id_idx"),
        "missing",
    ),
    Damage(
        f"alter table {KEYS} alter label drop not null, alter label set default 'x'",
        *("error", "object_changed", f"column {KEYS}.label"),
        "default 'x'::text",
    ),
    Damage(
        f"alter table {KEYS} alter label set statistics -1",
        *("error", "object_changed", f"table {KEYS}"),
        "limited statistics nothing, but the release has on",
    ),
    Damage(
        f"alter table {KEYS} add column owner text",
        *("warning", "object_extra", f"column {KEYS}.owner"),
        "not part of keylatch",
    ),
    Damage(
        "create table keylatch.notes (id int primary key, note text)",
        *("warning", "object_extra", "table keylatch.notes"),
        "not part of keylatch",
    ),
    Damage(
        "alter view keylatch.keys reset (security_invoker)",
        *("error", "object_changed", "view keylatch.keys"),
        "options nothing, but the release has security_invoker=true",
    ),
    Damage(
        "create or replace view keylatch.keys with (security_invoker = true) as"
        " select k.id, k.workspace_id, k.kind, k.environment, k.public_key, k.masked_key,"
        " k.fingerprint, k.label, k.metadata, k.allowed_origins, k.scopes, k.expires_at,"
        " k.suspended_at, k.superseded_at, k.revoked_at, k.revoked_by, k.revoke_reason,"
        " k.rotated_from, k.created_at, k.created_by, k.updated_at, k.imported_at,"
        " 'active' as status from keylatch_internal.keys as k",
        *("error", "object_changed", "view keylatch.keys"),
        "another query",
    ),
    Damage(
        "comment on function keylatch.hash_key(text) is 'It''s a hash.'",
        *("note", "comment_changed", "function keylatch.hash_key(text)"),
        "another comment",
    ),
    Damage(
        f"comment on column {KEYS}.key_hash is null",
        *("note", "comment_changed", f"column {KEYS}.key_hash"),
        "another comment",
    ),
)


@pytest.mark.one_server
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.done[:70])
def test_damage_is_named_and_its_fix_makes_all_whole_again(
    database: Database, people: People, damage: Damage
) -> None:
    run(database, damage.done)
    findings = examined(database).findings
    assert len(findings) == damage.objects, summaries(findings)
    for found in findings:
        assert (found.level, found.slug) == (damage.level, damage.slug)
        assert found.subject.startswith(damage.subject)
        assert damage.words in found.what
        assert found.why.endswith(".")
    run(database, *(found.fix for found in findings))
    run(database, *(found.fix for found in examined(database).findings))
    assert summaries(examined(database).findings) == []


def test_a_function_of_another_shape_is_made_anew(database: Database, people: People) -> None:
    run(
        database,
        "drop function keylatch.suspend_key; create function keylatch.suspend_key(key_id uuid)"
        " returns boolean language sql as 'select true'",
    )
    findings = examined(database).findings
    assert {finding.subject for finding in findings} == {"function keylatch.suspend_key(uuid)"}
    run(database, *(finding.fix for finding in findings))
    assert examined(database).findings == ()


def test_parts_of_a_missing_or_added_object_are_not_named_separately(
    database: Database, people: People
) -> None:
    run(
        database,
        "drop table keylatch.workspace_membership cascade",
        "create table keylatch.notes (id int primary key, note text not null unique)",
    )
    assert summaries(examined(database).findings) == [
        ("error", "object_missing", "table keylatch.workspace_membership"),
        ("warning", "object_extra", "table keylatch.notes"),
    ]
    run(database, "drop schema keylatch cascade")
    finding = only(examined(database))
    assert summaries([finding]) == [("error", "incomplete", "core of keylatch")]
    assert "schema keylatch is missing" in finding.what


@pytest.mark.one_server
def test_the_worst_finding_comes_first(database: Database, people: People) -> None:
    run(
        database,
        "comment on schema keylatch is 'x'",
        "create table keylatch.notes ()",
        "alter function keylatch.hash_key(text) volatile",
    )
    levels = [one.level for one in examined(database).findings]
    assert levels == ["error", "warning", "note"]


@pytest.mark.one_server
def test_damage_is_named_to_a_user_who_may_see_nothing_else(database: Database) -> None:
    run(database, "drop policy keys_select_admin on keylatch_internal.keys")
    found = only(examined(database, database.authenticator_url))
    assert found.subject == "policy keys_select_admin on keylatch_internal.keys"


@pytest.mark.one_server
def test_a_table_that_inherits_from_the_keys_is_an_error(database: Database) -> None:
    run(database, f"create table public.more_keys () inherits ({KEYS})")
    (finding,) = (one for one in examined(database).findings if one.slug == "table_inherits")
    assert summaries([finding]) == [("error", "table_inherits", "table public.more_keys")]
    run(database, finding.fix)
    assert "table_inherits" not in [one.slug for one in examined(database).findings]
