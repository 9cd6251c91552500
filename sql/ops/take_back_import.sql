-- Undo a wrong import (workspace, expiry or scheme) whose keys were never used: delete the imported
-- keys, so that a correct import can insert the keys again.
--
--   psql --no-psqlrc --set import_id=<uuid> --file sql/ops/take_back_import.sql
--
-- This script gives up the rule that keys are never deleted, and nobody can undo the deletion. For
-- a deleted key, explain_key says unknown. The key's events stay, and the last event is revoked.
--
-- The script refuses to run if any key was used: upgrade_key saw the key, the key was rotated or
-- opened a session, or a service reported a use. resolve_key alone leaves no trace of a use.
--
-- Keys that were revoked or suspended, or that expired after the import, stay, and a later import
-- finds these keys inactive. Keys that existed before the import keep what the import changed.
--
-- While the script runs, keys resolve, but imports, first uses, new sessions and all changes of
-- keys wait, also revocations. A logical replica that has keylatch refuses the deletion, and then
-- replication stops: run the script on the replica first. A restored older backup has the keys: run
-- the script again after the restore. Run the script as the owner, in psql.
--
-- deleted                how many keys were deleted
-- kept_because_inactive  how many keys of the import stay
\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
\if :{?import_id}
\else
\set import_id
\endif
select :'import_id' = '' as is_missing \gset
\if :is_missing
do $$ begin
  raise exception 'The variable "import_id" is not set.'
    using hint = 'Use: psql --set import_id=<uuid> --file take_back_import.sql';
end $$;
\endif
set default_transaction_isolation = 'read committed';
begin;
set local lock_timeout = '3s';
do $$
begin
  -- Exclusive mode, so that the script also waits for a revocation that has only locked its row.
  lock table keylatch_internal.legacy_settings, keylatch_internal.legacy_texts,
    keylatch_internal.legacy_keys, keylatch_internal.keys in exclusive mode;
  if pg_catalog.to_regclass('keylatch_internal.key_usage') is not null then
    lock table keylatch_internal.key_usage in share mode;
  end if;
  if pg_catalog.to_regclass('keylatch_internal.sessions') is not null then
    lock table keylatch_internal.sessions in share mode;
  end if;
exception when lock_not_available then
  raise exception 'Another session changes keys, so the import was not undone.'
    using errcode = 'lock_not_available', hint = 'Run the script again.';
end $$;
create temporary table undone on commit drop as
with texts as (select distinct l.key_hash from keylatch_internal.legacy_texts as l)

select
  k.id,
  -- A key that had expired when it was imported is deleted, too: its expires_at may be the mistake.
  k.revoked_at is null and k.suspended_at is null and (
    k.expires_at is null or k.expires_at > pg_catalog.clock_timestamp()
    or k.expires_at <= k.imported_at
  ) as is_deleted,
  -- For the scheme sha256, the import itself inserts into legacy_texts, so a row shows no use.
  g.upgraded_at is not null or (g.scheme <> 'sha256' and t.key_hash is not null) as had_first_use,
  k.superseded_at is not null or s.id is not null as was_rotated,
  false as was_reported,
  false as opened_session
from keylatch_internal.legacy_keys as g
inner join keylatch_internal.keys as k on g.key_id = k.id
left join keylatch_internal.keys as s on k.id = s.rotated_from
left join texts as t on k.key_hash = t.key_hash
where g.import_id = :'import_id';
do $$
declare
  v_uses record;
begin
  if pg_catalog.to_regclass('keylatch_internal.key_usage') is not null then
    update undone as n set was_reported = true
    from keylatch_internal.key_usage as u where u.key_id = n.id and u.uses > 0;
  end if;
  if pg_catalog.to_regclass('keylatch_internal.sessions') is not null then
    update undone as n set opened_session = true
    from keylatch_internal.sessions as s where s.key_id = n.id;
  end if;
  select
    count(*) as keys, count(*) filter (where n.had_first_use) as first_uses,
    count(*) filter (where n.was_rotated) as rotations,
    count(*) filter (where n.was_reported) as reports,
    count(*) filter (where n.opened_session) as sessions,
    count(*) filter (
      where n.had_first_use or n.was_rotated or n.was_reported or n.opened_session
    ) as used
  into v_uses from undone as n;
  if v_uses.keys = 0 then
    raise exception 'No key came with this import_id.'
      using hint = 'Find the import_id in the report of import_keys or in keylatch.imported_keys.';
  elsif v_uses.used > 0 then
    raise exception 'The import was not undone, because % of its % keys were used (%).',
      v_uses.used, v_uses.keys, concat_ws(
        ', ',
        'first use: ' || nullif(v_uses.first_uses, 0), 'rotated: ' || nullif(v_uses.rotations, 0),
        'use reported: ' || nullif(v_uses.reports, 0),
        'session opened: ' || nullif(v_uses.sessions, 0)
      )
      using hint = 'Revoke the wrong keys with revoke_key, and issue new keys.';
  end if;
end $$;
-- Revoke before deleting: a revocation notifies caches and writes an event, a deletion does not.
update keylatch_internal.keys as k
set revoked_at = pg_catalog.clock_timestamp(), revoke_reason = 'the import was undone'
from undone as n
where k.id = n.id and n.is_deleted;
alter table keylatch_internal.legacy_keys disable trigger legacy_keys_delete_keep;
alter table keylatch_internal.keys disable trigger keys_delete_keep;
delete from keylatch_internal.legacy_keys as g
using undone as n
where g.key_id = n.id and n.is_deleted;
delete from keylatch_internal.keys as k
using undone as n
where k.id = n.id and n.is_deleted;
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_delete_keep;
alter table keylatch_internal.keys enable always trigger keys_delete_keep;
select
  count(*) filter (where n.is_deleted) as deleted,
  count(*) filter (where not n.is_deleted) as kept_because_inactive
from undone as n;
commit;
