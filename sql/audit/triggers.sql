-- Are the triggers there that hold the latch and write the events, and do they fire always?
--
-- Each trigger of keylatch's tables, and each one that should be there and is missing. A role with
-- the owner's rights can switch triggers off, and nothing else reports it.
--
-- table_name    the table
-- trigger_name  the trigger
-- state         always: in every session. origin: not in replication mode. replication mode: only
--               there. OFF and MISSING: a hole
-- owned_by      who owns the table, and so may switch the trigger off
-- what          what the trigger promises, as its comment says
with expected (module_name, table_name, trigger_name, fires) as (
  values
  ('core', 'keylatch_internal.keys', 'keys_delete_keep', 'A'),
  ('core', 'keylatch_internal.keys', 'keys_insert_mint', 'O'),
  ('core', 'keylatch_internal.keys', 'keys_insert_share_workspaces', 'O'),
  ('core', 'keylatch_internal.keys', 'keys_truncate_keep', 'A'),
  ('core', 'keylatch_internal.keys', 'keys_update_a_merge_revocation', 'R'),
  ('core', 'keylatch_internal.keys', 'keys_update_expired_is_final', 'A'),
  ('core', 'keylatch_internal.keys', 'keys_update_hold_expiry', 'A'),
  ('core', 'keylatch_internal.keys', 'keys_update_immutable', 'A'),
  ('core', 'keylatch_internal.keys', 'keys_update_revoked_is_final', 'A'),
  ('core', 'keylatch_internal.keys', 'keys_update_stamp', 'O'),
  ('core', 'keylatch_internal.keys', 'keys_update_superseded_is_final', 'A'),
  ('core', 'keylatch_internal.keys', 'keys_update_values', 'O'),
  ('tenancy', 'keylatch.workspaces', 'workspaces_delete_revoke_keys', 'O'),
  ('tenancy', 'keylatch.workspaces', 'workspaces_truncate_keep', 'A'),
  ('events', 'keylatch_internal.key_event_checkpoints', 'key_event_checkpoints_delete_keep', 'A'),
  ('events', 'keylatch_internal.key_event_checkpoints', 'key_event_checkpoints_update_keep', 'A'),
  ('events', 'keylatch_internal.key_events', 'key_events_delete_keep', 'A'),
  ('events', 'keylatch_internal.key_events', 'key_events_insert_keep', 'O'),
  ('events', 'keylatch_internal.key_events', 'key_events_truncate_keep', 'A'),
  ('events', 'keylatch_internal.key_events', 'key_events_update_keep', 'A'),
  ('events', 'keylatch_internal.keys', 'keys_insert_record_events', 'O'),
  ('events', 'keylatch_internal.keys', 'keys_update_record_events', 'A'),
  ('notify', 'keylatch_internal.keys', 'keys_update_hold_extension', 'O'),
  ('notify', 'keylatch_internal.keys', 'keys_update_note_extension', 'O'),
  ('notify', 'keylatch_internal.keys', 'keys_update_notify', 'A'),
  ('sessions', 'keylatch.session_settings', 'session_settings_write_judge', 'O'),
  ('sessions', 'keylatch.sessions', 'sessions_delete_instead', 'O'),
  ('sessions', 'keylatch_internal.sessions', 'sessions_insert_check_key', 'O'),
  ('sessions', 'keylatch_internal.workspace_latches', 'workspace_latches_write_end_sessions', 'O'),
  ('legacy', 'keylatch_internal.legacy_keys', 'legacy_keys_delete_keep', 'A'),
  ('legacy', 'keylatch_internal.legacy_keys', 'legacy_keys_update_immutable', 'A'),
  ('legacy', 'keylatch_internal.legacy_texts', 'legacy_texts_change_keep', 'A')
),

found as (
  select
    c.oid::pg_catalog.regclass::text as table_name,
    t.tgname::text as trigger_name,
    t.tgenabled::text as fires,
    pg_catalog.pg_get_userbyid(c.relowner) as owned_by,
    split_part(pg_catalog.obj_description(t.oid, 'pg_trigger'), e'\n', 1) as what
  from pg_catalog.pg_trigger as t
  inner join pg_catalog.pg_class as c on t.tgrelid = c.oid
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  where n.nspname in ('keylatch', 'keylatch_internal') and not t.tgisinternal
)

select
  coalesce(f.table_name, e.table_name) as table_name,
  coalesce(f.trigger_name, e.trigger_name) as trigger_name,
  case
    when f.fires is null then 'MISSING'
    when f.fires = 'D' then 'OFF'
    when f.fires = 'A' then 'always'
    when f.fires = 'R' and e.fires = 'R' then 'replication mode'
    when f.fires = 'R' then 'OFF but in replication mode'
    when e.fires = 'A' then 'origin, should be ALWAYS'
    else 'origin'
  end as state,
  coalesce(f.owned_by, '') as owned_by,
  coalesce(f.what, 'It is shipped with keylatch, and is missing.') as what
from (
  select x.* from expected as x
  where
    x.module_name = 'core'
    or (x.module_name = 'tenancy' and pg_catalog.to_regclass('keylatch.workspaces') is not null)
    or x.module_name in (select unnest(i.modules) from keylatch_internal.installation as i)
) as e
full join found as f on e.table_name = f.table_name and e.trigger_name = f.trigger_name
order by table_name, trigger_name;
