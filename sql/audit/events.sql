-- Are the sealed events as they were sealed?
--
-- Needs: events
--
-- It computes the whole chain again, 100 checkpoints in a row; a million events take some ten
-- seconds. What the owner of the tables sealed anew from the first event to the last shows only
-- beside an anchor: see sql/ops/anchor_events.sql. Run it as the owner or as service_role.
--
-- from_checkpoint    where the row begins
-- is_intact          whether its checkpoints are as they were sealed
-- checkpoints        how many are, from the first of the row on
-- events             how many events these have
-- unsealed           how many events no checkpoint seals yet, in the whole database
-- broken_checkpoint  the first that is broken; the next row goes on behind it
-- problem            what is wrong with it
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
