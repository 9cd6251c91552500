-- Print the events of all checkpoints that were sealed before a day, as CSV, and change nothing.
-- compare_archive.sql then removes the events in the file from the database.
--
--   psql --no-psqlrc --set before=2026-01-01 --file sql/ops/archive_events.sql > events.csv
--   psql --no-psqlrc --set remove=yes --file sql/ops/compare_archive.sql < events.csv
--
-- Keep the file, which is the only copy after the removal. The file has no header. It has the
-- columns of keylatch.key_events and, before the last column, erased: the digest of the values that
-- erase_person.sql removed. Run the script as the owner, in psql.
\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
\if :{?before}
\else
\set before
\endif
select :'before' = '' as is_missing \gset
\if :is_missing
do $$ begin
  raise exception 'The variable "before" is not set.'
    using hint = 'Use: psql --set before=2026-01-01 --file archive_events.sql > events.csv';
end $$;
\endif
\encoding UTF8
set timezone = 'UTC';
set datestyle = 'ISO';
\pset format csv
\pset tuples_only on
select
  e.id, e.workspace_id, e.key_id, e.event, e.occurred_at, e.user_id, e.role, e.login, e.address,
  e.agent, e.reason, e.changes, e.erased, e.checkpoint
from keylatch_internal.key_events as e
inner join keylatch_internal.key_event_checkpoints as c on e.checkpoint = c.number
where c.sealed_at < :'before'::timestamptz and c.archived_at is null
order by e.checkpoint, e.occurred_at, e.id;
