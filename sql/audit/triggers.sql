-- Are the triggers that hold the latch and write the events there, and do they fire always?
--
-- Every trigger of keylatch's tables, and those that should be there and are not. This is what a
-- role with the owner's rights can switch off: nothing else reports it.
--
-- table_name    the table
-- trigger_name  the trigger
-- state         always: in every session. origin: not in replication mode. OFF and MISSING: a hole
-- owned_by      who owns the table, and so may switch it off
-- what          what it is for, as its comment says
with expected (table_name, trigger_name, fires) as (
  values
  ('keylatch_internal.keys', 'keys_delete_keep', 'A'),
  ('keylatch_internal.keys', 'keys_insert_mint', 'O'),
  ('keylatch_internal.keys', 'keys_truncate_keep', 'A'),
  ('keylatch_internal.keys', 'keys_update_hold_expiry', 'A'),
  ('keylatch_internal.keys', 'keys_update_latch', 'A'),
  ('keylatch_internal.keys', 'keys_update_notify', 'A'),
  ('keylatch_internal.keys', 'keys_insert_add_event', 'A'),
  ('keylatch_internal.keys', 'keys_update_add_event', 'A'),
  ('keylatch_internal.key_events', 'key_events_change_keep', 'A'),
  ('keylatch_internal.key_events', 'key_events_insert_link', 'A'),
  ('keylatch_internal.key_events', 'key_events_truncate_keep', 'A'),
  ('keylatch_internal.key_event_heads', 'key_event_heads_change_keep', 'A'),
  ('keylatch_internal.key_event_heads', 'key_event_heads_truncate_keep', 'A'),
  ('keylatch_internal.key_event_links', 'key_event_links_change_keep', 'A'),
  ('keylatch_internal.key_event_links', 'key_event_links_truncate_keep', 'A')
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
