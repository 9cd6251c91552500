-- Give the end of every chain of events, to be kept where this database's owner cannot write.
--
-- The chain shows a change of the past, unless somebody with the owner's rights computes all of it
-- anew. Whoever keeps a hash elsewhere sees that too: the events up to a number are as they were
-- if that number still has that hash.
--
--   psql --csv --file sql/ops/anchor_events.sql >> anchors.csv    daily, to a write-once bucket
--   psql --file sql/ops/compare_anchors.sql < anchors.csv         the day you want to know
--
-- It gives up nothing and changes nothing. Run it as the owner or as service_role: the row policies
-- show anybody else their own workspaces alone.
--
-- workspace_id  whose chain it is
-- number        how many events it has
-- hash          of the last of them, in hex
-- anchored_at   when this was asked
select
  h.workspace_id,
  h.number,
  pg_catalog.encode(h.hash, 'hex') as hash,
  pg_catalog.now() as anchored_at
from keylatch_internal.key_event_heads as h
order by h.workspace_id;
