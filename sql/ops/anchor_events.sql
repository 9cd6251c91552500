-- Seal all events, and give the digest of the last checkpoint, to be kept where this database's
-- owner cannot write.
--
-- The chain shows a change of the past, unless somebody with the owner's rights computes all of it
-- anew. Whoever keeps a digest elsewhere sees that too: everything up to a checkpoint is as it was
-- sealed if the checkpoint still has that digest.
--
-- Daily, to a write-once bucket, and the day you want to know:
--   psql --no-psqlrc --file sql/ops/anchor_events.sql >> anchors.csv
--   psql --no-psqlrc --file sql/ops/compare_anchors.sql < anchors.csv
--
-- It gives up nothing. Run it as the owner or as service_role, in psql. The output has no header,
-- so that it can be appended:
--
-- number        of the checkpoint
-- digest        in hex
-- anchored_at   when this was asked
\set ON_ERROR_STOP on
\set QUIET on
\pset format csv
\pset tuples_only on
do $$
begin
  -- Each call is a transaction of its own, so that a long way ends in small steps.
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
