-- Are the sealed events unchanged?
--
-- Needs: events
--
-- The query computes the whole chain again: each row of the answer covers 100 checkpoints. A
-- million events take about ten seconds. Only an anchor shows that the owner sealed all events
-- again: see sql/ops/anchor_events.sql. Run the query as the owner or as service_role.
--
-- from_checkpoint    the first checkpoint of the row
-- is_intact          whether all checkpoints of the row are unchanged
-- checkpoints        how many checkpoints are unchanged, from the first checkpoint of the row on
-- events             how many events these checkpoints have
-- unsealed           how many events no checkpoint seals yet, in the whole database
-- broken_checkpoint  the first broken checkpoint; the next row begins after this checkpoint
-- problem            what is wrong with the broken checkpoint
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
)

select
  s.from_checkpoint,
  s.is_intact,
  s.checkpoints,
  s.events,
  s.unsealed,
  s.broken_checkpoint,
  s.problem
from stretches as s
order by s.is_intact, s.from_checkpoint;
