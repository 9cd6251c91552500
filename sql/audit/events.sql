-- Are the sealed events unchanged?
--
-- Needs: events
--
-- The query computes the whole chain again: each row of the answer covers 100 checkpoints. A
-- million events take about ten seconds. Only an anchor shows that the owner sealed all events
-- again: see sql/ops/anchor_events.sql. Run the query as the owner or as service_role.
--
-- The owner may delete the events of a checkpoint that is marked as archived, and the chain stays
-- intact. Compare the last two columns with your archives: sql/ops/compare_archive.sql.
--
-- from_checkpoint    the first checkpoint of the row
-- is_intact          whether all checkpoints of the row are unchanged
-- checkpoints        how many checkpoints are unchanged, from the first checkpoint of the row on
-- events             how many events these checkpoints have
-- unsealed           how many events no checkpoint seals yet, in the whole database
-- broken_checkpoint  the first broken checkpoint; the next row begins after this checkpoint
-- problem            what is wrong with the broken checkpoint
-- archived           how many checkpoints are marked as archived, in the whole database
-- events_removed     how many sealed events are no longer in the table, in the whole database
with recursive stretches as (
  select
    1::bigint as from_checkpoint,
    v.is_intact,
    v.checkpoints,
    v.events,
    v.unsealed,
    v.broken_checkpoint,
    v.problem,
    v.next_checkpoint
  from keylatch.verify_events(1) as v
  union all
  select
    s.next_checkpoint as from_checkpoint,
    v.is_intact,
    v.checkpoints,
    v.events,
    v.unsealed,
    v.broken_checkpoint,
    v.problem,
    v.next_checkpoint
  from stretches as s
  cross join lateral keylatch.verify_events(s.next_checkpoint) as v
  where s.next_checkpoint is not null
),

counts as (
  select
    e.checkpoint,
    count(*) as events
  from keylatch_internal.key_events as e
  group by e.checkpoint
),

removals as (
  select
    count(*) filter (where c.archived_at is not null) as archived,
    coalesce(sum(greatest(c.events - coalesce(n.events, 0), 0)), 0)::bigint as events_removed
  from keylatch_internal.key_event_checkpoints as c
  left join counts as n on c.number = n.checkpoint
)

select
  s.from_checkpoint,
  s.is_intact,
  s.checkpoints,
  s.events,
  s.unsealed,
  s.broken_checkpoint,
  s.problem,
  r.archived,
  r.events_removed
from stretches as s
cross join removals as r
order by s.is_intact, s.from_checkpoint;
