-- Are the triggers there that hold the latch and write the events, and do they fire always?
--
-- Each trigger of keylatch's tables, and each one that should be there and is missing. A role with
-- the owner's rights can switch triggers off, and nothing else reports it.
--
-- table_name    the table
-- trigger_name  the trigger
-- state         always: in every session. origin: not in replication mode. OFF and MISSING: a hole
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
  ('core', 'keylatch_internal.keys', 'keys_update_values', 'O')
  -- modules: filled in below
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
    when f.fires = 'R' then 'OFF but in replication mode'
    when e.fires = 'A' then 'origin, should be ALWAYS'
    else 'origin'
  end as state,
  coalesce(f.owned_by, '') as owned_by,
  coalesce(f.what, 'It is shipped with keylatch, and is gone.') as what
from expected as e
full join found as f on e.table_name = f.table_name and e.trigger_name = f.trigger_name
order by table_name, trigger_name;
