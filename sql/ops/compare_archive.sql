-- Compare an archive of archive_events.sql with the checkpoints, which stay in the database:
--
--   psql --no-psqlrc --file sql/ops/compare_archive.sql < events.csv
--   psql --no-psqlrc --set remove=yes --file sql/ops/compare_archive.sql < events.csv
--
-- With remove=yes, the script also deletes the archived events from the database, if the whole
-- archive matches. Admins no longer see deleted events, and verify_events checks only the links of
-- their checkpoints. No change of a key waits for the script. Run the script as the owner, in psql.
--
-- The archive must have each checkpoint whose events were removed. If several files have them,
-- compare all files together: cat events-*.csv | psql ... With remove=yes, a new file is enough.
-- The archive must also have each other checkpoint up to its last one. A later checkpoint that is
-- still in the database may be missing: compare the summary with what you expect.
--
-- If the script finds a problem, it first prints a row for each checkpoint with a problem:
--
-- number    the checkpoint
-- events    how many events of the checkpoint the archive has
-- problem   what is wrong with these events
--
-- The script always prints a summary. With a problem, psql then ends with exit code 3:
--
-- checkpoints    how many checkpoints the archive has
-- events         how many events the archive has
-- first_number   the first checkpoint of the archive
-- last_number    the last checkpoint of the archive
-- problems       how many checkpoints have a problem
-- removed        how many events the script deleted
\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
\if :{?remove}
\else
\set remove no
\endif
select :'remove' in ('yes', 'no') as is_known \gset
\if :is_known
\else
do $$ begin
  raise exception 'The variable "remove" must be yes or no.'
    using hint = 'Use --set remove=yes to remove the archived events, or no --set to compare only.';
end $$;
\endif
\encoding UTF8
set timezone = 'UTC';
set datestyle = 'ISO';
begin;
create temporary table archived (like keylatch_internal.key_events) on commit drop;
\copy archived from pstdin with (format csv)
do $$ begin
  if not exists (select from archived) then
    raise exception 'The archive is empty, so nothing was compared.'
      using hint = 'Give the file of archive_events.sql: psql ... < events.csv';
  end if;
end $$;
create temporary table compared on commit drop as
select
  a.checkpoint as number,
  a.events,
  c.sealed_at,
  c.number is not null and c.archived_at is null as is_in_database,
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
create temporary table problems on commit drop as
select
  c.number,
  c.events,
  c.problem,
  c.is_in_database
from compared as c
where c.problem is not null
union all
select
  c.number,
  0 as events,
  case
    when c.archived_at is null then 'the archive lacks this checkpoint of the database'
    else 'the archive lacks this checkpoint, and its events were removed'
  end as problem,
  c.archived_at is null as is_in_database
from keylatch_internal.key_event_checkpoints as c
left join compared as a on c.number = a.number
where
  a.number is null
  and case
    -- archive_events prints all checkpoints before a day, so an earlier checkpoint was cut off.
    when c.archived_at is null then c.sealed_at <= (select max(n.sealed_at) from compared as n)
    else :'remove' = 'no'
  end;
\set removed 0
select count(*) > 0 as has_problems from problems \gset
\if :has_problems
select
  p.number,
  p.events,
  p.problem
from problems as p
order by p.number;
\elif :remove
update keylatch_internal.key_event_checkpoints as c
set archived_at = pg_catalog.now()
from compared as a
where c.number = a.number and c.archived_at is null;
with removed as (
  delete from keylatch_internal.key_events as e
  using compared as a
  where e.checkpoint = a.number
  returning e.id
)

select count(*) as removed from removed \gset
\endif
select
  count(*) as checkpoints,
  sum(c.events) as events,
  min(c.number) as first_number,
  max(c.number) as last_number,
  (select count(*) from problems) as problems,
  :removed as removed
from compared as c;
do $$ begin
  if not exists (select from problems) then
    return;
  elsif exists (select from problems as p where p.is_in_database is not true) then
    raise exception 'The archive is not whole. Nothing was removed.'
      using hint = 'Compare all archive files of this database together, and a copy of a file that '
        'has changed: cat events-*.csv | psql ...';
  else
    raise exception 'The archive is not whole. Nothing was removed.'
      using hint = 'The database still has these events: run archive_events.sql again.';
  end if;
end $$;
commit;
