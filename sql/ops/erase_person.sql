-- Erase a person from the log of events. verify_events still works, and still finds later changes.
--
--   psql --no-psqlrc --set user_id=<uuid> --file sql/ops/erase_person.sql
--
-- The script removes the user id, the address, the agent, the reason and the changes from each
-- event of the user, and keeps a digest of these values. Nobody can undo the removal. The log still
-- shows that a key was issued or revoked, and when, but no longer by whom and why.
--
-- created_by, revoked_by and revoke_reason of keys stay, because these columns never change. So the
-- reason of a revocation is erased from the event, but admins still read it in the key: write no
-- personal data into a reason. A user id identifies nobody without a row in your table of users.
-- An admin can edit the label and metadata of a key. Files of archive_events.sql do not change:
-- erase a person before you archive.
-- Run the script as the owner, in psql.
\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
\if :{?user_id}
\else
\set user_id
\endif
select :'user_id' = '' as is_missing \gset
\if :is_missing
do $$ begin
  raise exception 'The variable "user_id" is not set.'
    using hint = 'Use: psql --set user_id=<uuid> --file erase_person.sql';
end $$;
\endif
begin;
-- Wait for a running seal_events. Until this transaction ends, seal_events waits.
lock table keylatch_internal.key_event_checkpoints in share row exclusive mode;
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
