-- Compare the chain of checkpoints with anchors of anchor_events.sql that were kept elsewhere:
--
--   psql --no-psqlrc --file sql/ops/compare_anchors.sql < anchors.csv
--
-- It changes nothing that lasts: the anchors go into a temporary table. No row means that every
-- anchor holds; then verify_events (sql/audit/events.sql) says whether the events do. Run it as the
-- owner or as service_role, in psql.
--
-- number        the checkpoint that was anchored
-- anchored_at   when it was
-- problem       what became of it since
\set ON_ERROR_STOP on
\set QUIET on
create temporary table anchors (
  number bigint,
  digest text,
  anchored_at timestamptz
);
\copy anchors from pstdin with (format csv)
select
  a.number,
  a.anchored_at,
  case
    when c.number is null then 'the checkpoint is gone'
    else 'the checkpoint, or one before it, was made anew'
  end as problem
from anchors as a
left join keylatch_internal.key_event_checkpoints as c on a.number = c.number
where pg_catalog.encode(c.digest, 'hex') is distinct from a.digest
order by a.anchored_at, a.number;
