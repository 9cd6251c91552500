-- Compare the chains of events with anchors that were kept elsewhere, as anchor_events.sql gives
-- them: psql --file sql/ops/compare_anchors.sql < anchors.csv
--
-- It changes nothing that lasts: the anchors go into a temporary table. No row means that every
-- anchor holds; then verify_events (sql/audit/events.sql) says whether what lies between them does.
--
-- workspace_id  whose chain it is
-- number        the number of the event that was anchored
-- anchored_at   when it was
-- problem       what became of it since
create temporary table anchors (
  workspace_id uuid,
  number bigint,
  hash text,
  anchored_at timestamptz
);
\copy anchors from pstdin with (format csv, header match)

select
  a.workspace_id,
  a.number,
  a.anchored_at,
  case
    when l.number is null then 'the event is gone'
    else 'the event, or one before it, was rewritten'
  end as problem
from anchors as a
left join keylatch_internal.key_event_links as l
  on a.workspace_id = l.workspace_id and a.number = l.number
where pg_catalog.encode(l.hash, 'hex') is distinct from a.hash and a.number > 0
order by a.anchored_at, a.workspace_id;
