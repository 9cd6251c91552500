-- Seal all events, and print the digest of the last checkpoint. Keep the digest where the owner of
-- this database cannot write.
--
-- The chain shows a change of old events, unless somebody with the owner's rights computes the
-- whole chain again. A digest that is kept elsewhere shows that, too: if the checkpoint still has
-- this digest, all events up to the checkpoint are unchanged.
--
-- Run the first command daily, into a write-once bucket, and the second to check:
--   psql --no-psqlrc --file sql/ops/anchor_events.sql >> anchors.csv
--   psql --no-psqlrc --file sql/ops/compare_anchors.sql < anchors.csv
--
-- This gives up nothing. Run it as the owner or as service_role, in psql. The output has no header,
-- so that it can be appended to a file:
--
-- number        the number of the checkpoint
-- digest        its digest, in hex
-- anchored_at   when this script ran
\set ON_ERROR_STOP on
\set QUIET on
\pset format csv
\pset tuples_only on
do $$
begin
  -- Each call is a transaction of its own, so that many events are sealed in small steps.
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
