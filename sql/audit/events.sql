-- Are the sealed events unchanged?
--
-- Needs: events
--
-- This computes the whole chain again, 100 checkpoints for each row of the answer. A million events
-- take about ten seconds. If the owner of the tables sealed everything again, only an anchor shows
-- that: see sql/ops/anchor_events.sql. Run it as the owner or as service_role.
--
-- from_checkpoint    the first checkpoint of the row
-- is_intact          whether all checkpoints of the row are unchanged
-- checkpoints        how many are unchanged, from the first checkpoint of the row on
-- events             how many events these checkpoints have
-- unsealed           how many events no checkpoint seals yet, in the whole database
-- broken_checkpoint  the first broken checkpoint; the next row begins after it
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
