-- Compare an archive of archive_events.sql with the checkpoints, which stay in the database:
--
--   psql --no-psqlrc --file sql/ops/compare_archive.sql < events.csv
--   psql --no-psqlrc --set remove=yes --file sql/ops/compare_archive.sql < events.csv
--
-- With remove=yes, the script also deletes the archived events from the database, if the whole
-- archive matches. Admins no longer see deleted events, and verify_events checks only the links of
-- their checkpoints. No change of a key waits for the script. Run the script as the owner, in psql.
--
-- If the script prints no row, the whole archive is unchanged.
--
-- number    the checkpoint
-- events    how many events of the checkpoint the archive has
-- problem   what is wrong with these events
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
    when c.number is null then 'this database does not have the checkpoint'
    when a.events <> c.events then 'the archive has too few or too many events of the checkpoint'
    when a.digest <> c.digest then 'an event differs from the sealed event'
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
