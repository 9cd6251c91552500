-- Compare the chain of checkpoints with anchors of anchor_events.sql that were kept elsewhere:
--
--   psql --no-psqlrc --file sql/ops/compare_anchors.sql < anchors.csv
--
-- The script only writes a temporary table. If it prints no row, all checkpoints have the digests
-- of their anchors. Then check the events with verify_events (sql/audit/events.sql).
-- Run the script as the owner or as service_role, in psql.
--
-- number        the checkpoint of the anchor
-- anchored_at   when the anchor was made
-- problem       how the checkpoint has changed
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
    when c.number is null then 'the checkpoint is missing'
    else 'the checkpoint, or an earlier checkpoint, was sealed again'
  end as problem
from anchors as a
left join keylatch_internal.key_event_checkpoints as c on a.number = c.number
where pg_catalog.encode(c.digest, 'hex') is distinct from a.digest
order by a.anchored_at, a.number;
