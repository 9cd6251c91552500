-- Seal all events, and print the digest of the last checkpoint. Keep the digest in a place that the
-- owner of this database cannot change.
--
-- The chain of checkpoints shows a change of old events, unless somebody with the owner's rights
-- computes the whole chain again. A digest that is kept elsewhere shows a new chain, too: if the
-- checkpoint still has this digest, all events up to the checkpoint are unchanged.
--
-- Run the first command daily and keep its output in a write-once bucket. The second checks all:
--   psql --no-psqlrc --file sql/ops/anchor_events.sql >> anchors.csv
--   psql --no-psqlrc --file sql/ops/compare_anchors.sql < anchors.csv
--
-- This script gives up nothing. Run the script as the owner or as service_role, in psql. The output
-- has no header, so that you can append the output to a file:
--
-- number        the number of the checkpoint
-- digest        the digest of the checkpoint, in hex
-- anchored_at   when this script ran
\set ON_ERROR_STOP on
\set QUIET on
\pset format csv
\pset tuples_only on
do $$
begin
  -- Each call of seal_events commits on its own, so that a long backlog is sealed in small steps.
  while not (keylatch.seal_events(10000)).is_done loop
    commit;
  end loop;
end $$;
select
  c.number,
  pg_catalog.encode(c.digest, 'hex') as digest,
  pg_catalog.now() as anchored_at
from keylatch_internal.key_event_checkpoints as c
order by c.number desc
limit 1;
