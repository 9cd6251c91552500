-- Compare the chain of checkpoints with anchors of anchor_events.sql that were kept elsewhere:
--
--   psql --no-psqlrc --file sql/ops/compare_anchors.sql < anchors.csv
--
-- The script only writes a temporary table. An anchor covers all checkpoints up to its number, so
-- the file need not have each checkpoint. Then check the events with verify_events
-- (sql/audit/events.sql). Run the script as the owner or as service_role, in psql.
--
-- If the script finds a problem, it first prints a row for each anchor with a problem:
--
-- number        the checkpoint of the anchor
-- anchored_at   when the anchor was made
-- problem       how the checkpoint has changed
--
-- The script always prints a summary. With a problem, psql then ends with exit code 3:
--
-- anchors        how many anchors the file has
-- first_number   the first checkpoint that has an anchor
-- last_number    the last checkpoint that has an anchor. No anchor covers later checkpoints
-- newest         the newest checkpoint of the database
-- problems       how many anchors have a problem
\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
begin;
create temporary table anchors (
  number bigint,
  digest text,
  anchored_at timestamptz
) on commit drop;
\copy anchors from pstdin with (format csv)
do $$ begin
  if not exists (select from anchors) then
    raise exception 'The file has no anchors, so nothing was compared.'
      using hint = 'Give the file of anchor_events.sql: psql ... < anchors.csv';
  end if;
end $$;
create temporary table problems on commit drop as
select
  a.number,
  a.anchored_at,
  case
    when c.number is null then 'the checkpoint is missing'
    else 'the checkpoint, or an earlier checkpoint, was sealed again'
  end as problem
from anchors as a
left join keylatch_internal.key_event_checkpoints as c on a.number = c.number
where pg_catalog.encode(c.digest, 'hex') is distinct from a.digest;
select count(*) > 0 as has_problems from problems \gset
\if :has_problems
select
  p.number,
  p.anchored_at,
  p.problem
from problems as p
order by p.anchored_at, p.number;
\endif
select
  count(*) as anchors,
  min(a.number) as first_number,
  max(a.number) as last_number,
  (select max(c.number) from keylatch_internal.key_event_checkpoints as c) as newest,
  (select count(*) from problems) as problems
from anchors as a;
do $$ begin
  if not exists (select from problems) then
    return;
  elsif exists (select from problems as p where p.problem <> 'the checkpoint is missing') then
    raise exception 'The database was changed: a checkpoint differs from its anchor.'
      using hint = 'Save a dump of this database, and compare its events with a backup.';
  else
    raise exception 'The database is older than its last anchor: a checkpoint is missing.'
      using hint = 'If a backup was restored, run: keylatch revocations apply FILE';
  end if;
end $$;
commit;
