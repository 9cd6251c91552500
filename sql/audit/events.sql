-- Are the events of every workspace as they were written?
--
-- It computes every chain again, some 30 000 events a second. What the owner of the tables rewrote
-- from the first event to the last shows only beside an anchor: see sql/ops/anchor_events.sql.
--
-- workspace_id   the workspace
-- is_intact      whether its events are as they were written
-- events         how many are, from the first on
-- broken_number  the first that is not
-- problem        what is wrong with it
select
  v.workspace_id,
  v.is_intact,
  v.events,
  v.broken_number,
  v.problem
from (
  select k.workspace_id from keylatch_internal.keys as k
  union
  select h.workspace_id from keylatch_internal.key_event_heads as h
) as w
cross join lateral keylatch.verify_events(w.workspace_id) as v
order by v.is_intact, v.workspace_id;
