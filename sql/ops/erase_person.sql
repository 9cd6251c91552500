-- Erase a person from the log of events. The seals still verify, and a later change is still found.
--
--   psql --no-psqlrc --set user_id=<uuid> --file sql/ops/erase_person.sql
--
-- Of each event of that user it removes the user id, the address, the agent, the reason and the
-- changes, and leaves their digest. That cannot be undone. It gives up what these events said: the
-- log still tells that a key was issued or revoked, and when, and no longer by whom and why.
--
-- What stays: created_by and revoked_by of keys, which never change. They are random ids; without a
-- row in your table of users they name nobody. Labels and metadata of keys are edited by an admin.
-- An archive of archive_events.sql is a file of yours: erase a person there before you archive.
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
