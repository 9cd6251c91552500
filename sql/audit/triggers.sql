-- Do all triggers that guard keys and write events exist, and do they fire?
--
-- Any role may run the query. The answer has each trigger of keylatch's tables, each missing
-- trigger, and the triggers of your own table of workspaces. A role with the owner's rights can
-- disable triggers. A table that inherits from a table of keylatch has none of its triggers.
--
-- table_name    the table
-- trigger_name  the trigger; of a table that inherits, "all of" the table that has the triggers
-- state         always: fires in every session. origin: not in replication mode. replication mode:
--               in no other mode. OFF, MISSING: no protection. NOT SHIPPED: not from keylatch
-- owned_by      the owner of the table, who can disable the trigger
-- what          what the trigger guarantees, from its comment
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
  ('events', 'keylatch_internal.keys', 'keys_update_record_revocations', 'A'),
  ('notify', 'keylatch_internal.keys', 'keys_insert_notify', 'A'),
  ('notify', 'keylatch_internal.keys', 'keys_update_hold_extension', 'O'),
  ('notify', 'keylatch_internal.keys', 'keys_update_notify', 'A'),
  ('sessions', 'keylatch.session_settings', 'session_settings_write_judge', 'O'),
  ('sessions', 'keylatch.sessions', 'sessions_delete_instead', 'O'),
  ('sessions', 'keylatch_internal.sessions', 'sessions_insert_check_key', 'O'),
  ('sessions', 'keylatch_internal.sessions', 'sessions_update_hold_expiry', 'O'),
  ('sessions', 'keylatch_internal.workspace_latches', 'workspace_latches_write_end_sessions', 'O'),
  ('legacy', 'keylatch_internal.legacy_keys', 'legacy_keys_delete_keep', 'A'),
  ('legacy', 'keylatch_internal.legacy_keys', 'legacy_keys_update_a_merge_first_use', 'R'),
  ('legacy', 'keylatch_internal.legacy_keys', 'legacy_keys_update_immutable', 'A'),
  ('legacy', 'keylatch_internal.legacy_keys', 'legacy_keys_update_upgraded', 'A'),
  ('legacy', 'keylatch_internal.legacy_schemes', 'legacy_schemes_change_keep', 'A'),
  ('legacy', 'keylatch_internal.legacy_schemes', 'legacy_schemes_truncate_keep', 'A'),
  ('legacy', 'keylatch_internal.legacy_texts', 'legacy_texts_change_keep', 'A'),
  ('legacy', 'keylatch_internal.legacy_texts', 'legacy_texts_insert_merge_first_use', 'R')
),

found as (
  select
    c.oid as table_id,
    c.oid::pg_catalog.regclass::text as table_name,
    t.tgname::text as trigger_name,
    t.tgenabled::text as fires,
    pg_catalog.pg_get_userbyid(c.relowner) as owned_by,
    p.pronamespace::pg_catalog.regnamespace::text = 'keylatch_internal'
    and p.proname = 'revoke_workspace_keys' as is_of_tenancy,
    -- The bits of pg_trigger.tgtype are 1 for each row, 2 before, 8 DELETE, 32 TRUNCATE, 64 instead
    -- of. A trigger with a condition (WHEN) does not fire for all rows.
    t.tgtype & 67 = 1 and t.tgqual is null as is_after_row,
    t.tgtype & 75 = 9 and t.tgqual is null as is_after_delete,
    t.tgtype & 35 = 34 and t.tgqual is null as is_before_truncate,
    split_part(pg_catalog.obj_description(t.oid, 'pg_trigger'), e'\n', 1) as what
  from pg_catalog.pg_trigger as t
  inner join pg_catalog.pg_class as c on t.tgrelid = c.oid
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  inner join pg_catalog.pg_proc as p on t.tgfoid = p.oid
  where not t.tgisinternal and (
    n.nspname in ('keylatch', 'keylatch_internal')
    or (
      p.pronamespace::pg_catalog.regnamespace::text = 'keylatch_internal'
      and p.proname = 'revoke_workspace_keys'
    )
  )
),

children as (
  select distinct
    h.inhrelid::pg_catalog.regclass::text as table_name,
    h.inhparent::pg_catalog.regclass::text as parent_name,
    pg_catalog.pg_get_userbyid(c.relowner) as owned_by
  from pg_catalog.pg_inherits as h
  inner join pg_catalog.pg_class as c on h.inhrelid = c.oid
  inner join pg_catalog.pg_class as t on h.inhparent = t.oid
  inner join pg_catalog.pg_namespace as n on t.relnamespace = n.oid
  where n.nspname in ('keylatch', 'keylatch_internal') and t.relkind in ('r', 'p')
),

installed as (
  select x.module_name
  from (
    values
    ('core', 'keylatch_internal.keys'),
    ('tenancy', 'keylatch.workspaces'),
    ('events', 'keylatch_internal.key_events'),
    ('notify', 'keylatch_internal.notices_left_out'),
    ('sessions', 'keylatch_internal.sessions'),
    ('legacy', 'keylatch_internal.legacy_keys')
  ) as x (module_name, relation_name)
  -- Reads pg_class, because to_regclass would need usage on the schema.
  where x.relation_name in (
    select n.nspname || '.' || c.relname
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  )
)

select
  coalesce(f.table_name, e.table_name) as table_name,
  coalesce(f.trigger_name, e.trigger_name) as trigger_name,
  case
    when f.fires is null then 'MISSING'
    when f.fires = 'D' then 'OFF'
    when e.trigger_name is null
      and not (f.is_of_tenancy and (f.is_after_row or f.is_before_truncate)) then 'NOT SHIPPED'
    when f.fires = 'A' then 'always'
    when f.fires = 'R' and e.fires = 'R' then 'replication mode'
    when f.fires = 'R' then 'OFF but in replication mode'
    when e.fires = 'A' or f.is_of_tenancy and f.is_before_truncate then 'origin, should be ALWAYS'
    else 'origin'
  end as state,
  coalesce(f.owned_by, '') as owned_by,
  case
    when f.trigger_name is not null then f.what
    else 'The trigger is shipped with keylatch, and is missing.'
  end as what
from (
  select x.* from expected as x
  where x.module_name in (select i.module_name from installed as i)
) as e
full join found as f on e.table_name = f.table_name and e.trigger_name = f.trigger_name
union all
select
  'your table of workspaces' as table_name,
  'workspaces_delete_revoke_keys' as trigger_name,
  'MISSING' as state,
  '' as owned_by,
  'No trigger revokes the keys of a deleted workspace: see sql/tenancy.' as what
where 'tenancy' not in (select i.module_name from installed as i)
  and not exists (
    select 1
    from found as o
    where o.is_of_tenancy and o.is_after_delete
  )
union all
select
  o.table_name,
  'workspaces_truncate_keep' as trigger_name,
  'MISSING' as state,
  min(o.owned_by) as owned_by,
  'No trigger refuses TRUNCATE, which leaves the keys active: see sql/tenancy.' as what
from found as o
where o.is_of_tenancy and o.table_name <> 'keylatch.workspaces'
group by o.table_id, o.table_name
having not bool_or(o.is_before_truncate)
union all
select
  c.table_name,
  'all of ' || c.parent_name as trigger_name,
  'MISSING' as state,
  c.owned_by,
  'The table inherits from ' || c.parent_name || ', and its rows bypass the triggers.' as what
from children as c
order by table_name, trigger_name;
