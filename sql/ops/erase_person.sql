-- Erase a person from the log of events. The seals still verify, and a later change is still found.
--
--   psql --no-psqlrc --set user_id=<uuid> --file sql/ops/erase_person.sql
--
-- This removes the user id, the address, the agent, the reason and the changes from each event of
-- the user, and keeps a digest of them. This cannot be undone. The log still shows that a key was
-- issued or revoked, and when, but no longer by whom and why.
--
-- created_by and revoked_by of keys stay, because they never change. They are random ids: without a
-- row in your table of users they identify nobody. An admin edits labels and metadata of keys.
-- This does not change files of archive_events.sql: erase a person before you archive.
-- Run it as the owner, in psql.
\set ON_ERROR_STOP on
\set QUIET on
begin;
set local lock_timeout = '1s';
update keylatch_internal.key_events as e
set
  erased = keylatch_internal.personal_digest(e),
  user_id = null, address = null, agent = null, reason = null, changes = '{}'
where e.user_id = :'user_id' and e.erased is null;
select
  (
    select count(*) from keylatch_internal.key_events as e
    where e.user_id = :'user_id'
  ) as events_left,
  (
    select count(*) from keylatch_internal.keys as k
    where k.created_by = :'user_id' or k.revoked_by = :'user_id'
  ) as keys_that_keep_the_id;
commit;
