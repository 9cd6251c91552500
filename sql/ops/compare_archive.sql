-- Compare an archive of archive_events.sql with the checkpoints, which stay in the database:
--
--   psql --no-psqlrc --file sql/ops/compare_archive.sql < events.csv
--   psql --no-psqlrc --set remove=yes --file sql/ops/compare_archive.sql < events.csv
--
-- With remove=yes it also deletes the events that the archive holds, if all of the archive matches.
-- That gives up the events in the database: admins see them no longer, and verify_events verifies
-- the links of these checkpoints alone. No change of a key waits for it. Run it as the owner, in
-- psql.
--
-- No row means that all of the archive is as it was sealed.
--
-- number    the checkpoint
-- events    how many events of it the archive has
-- problem   what is wrong with them
\set ON_ERROR_STOP on
\set QUIET on
\if :{?remove}
\else
\set remove no
\endif
set timezone = 'UTC';
set datestyle = 'ISO';
begin;
create temporary table archived (like keylatch_internal.key_events) on commit drop;
\copy archived from pstdin with (format csv)
create temporary table compared on commit drop as
select
  a.checkpoint as number,
  a.events,
  case
    when c.number is null then 'the checkpoint is not one of this database'
    when a.events <> c.events then 'the archive has not all of its events, or more'
    when a.digest <> c.digest then 'an event is not what was sealed'
  end as problem
from (
  select
    e.checkpoint,
    count(*) as events,
    sha256(
      k.previous || pg_catalog.int8send(e.checkpoint)
      || string_agg(
        keylatch_internal.event_digest(
          row(
            e.id, e.workspace_id, e.key_id, e.event, e.occurred_at, e.user_id, e.role, e.login,
            e.address, e.agent, e.reason, e.changes, e.erased, e.checkpoint
          )::keylatch_internal.key_events
        ),
        '' order by e.occurred_at, e.id
      )
    ) as digest
  from archived as e
  left join keylatch_internal.key_event_checkpoints as k on e.checkpoint = k.number
  group by e.checkpoint, k.previous
) as a
left join keylatch_internal.key_event_checkpoints as c on a.checkpoint = c.number;
select
  c.number,
  c.events,
  c.problem
from compared as c
where c.problem is not null
order by c.number;
select (:'remove' = 'yes' and count(c.problem) = 0) as is_removing from compared as c \gset
\if :is_removing
update keylatch_internal.key_event_checkpoints as c
set archived_at = pg_catalog.now()
from compared as a
where c.number = a.number and c.archived_at is null;
delete from keylatch_internal.key_events as e
using compared as a
where e.checkpoint = a.number;
\endif
commit;
