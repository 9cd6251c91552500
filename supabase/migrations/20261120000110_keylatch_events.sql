-- Module events: an audit log of all changes of keys. A trigger writes an event in the transaction
-- of the change. Later, seal_events adds the event to a hash chain of checkpoints.
--
-- A change of a key never waits for the audit log, and no revocation fails because of the audit
-- log: writing an event takes no lock. Only seal_events puts the events in order. A call of
-- seal_events waits only for another call of seal_events.

insert into keylatch_internal.errors (slug, code, hint) values
(
  'events_are_kept', 'PT409',
  'Leave events unchanged. To remove old events, run archive_events.sql, then compare_archive.sql.'
),
('admin_required', '42501', 'Ask an admin of a workspace to make the call.'),
('sealed_at_publisher', 'PT409', 'Call seal_events on the publisher. Checkpoints are replicated.'),
(
  'too_many_keys', 'PT409',
  'Let the owner raise keys_per_workspace in event_settings, or use another workspace.'
);

-- The column defaults record who made the change. The triggers run as the owner, so the default
-- reads the caller's role from the setting "role" and not from current_user.
create table keylatch_internal.key_events (
  id uuid not null default pg_catalog.gen_random_uuid(),
  workspace_id uuid not null,
  key_id uuid not null,
  event text not null,
  occurred_at timestamptz not null default pg_catalog.clock_timestamp(),
  user_id uuid default keylatch_internal.current_user_id(),
  role text not null
  default coalesce(nullif(pg_catalog.current_setting('role'), 'none'), session_user),
  login text not null default session_user,
  address text,
  agent text,
  reason text,
  changes jsonb not null,
  erased bytea,
  checkpoint bigint,

  -- list_events uses this order. An index on the id alone would make each change slower.
  -- Another constraint would be checked at every revocation, and could prevent it. A foreign key
  -- would lock the row of the key.
  constraint key_events_pkey primary key (workspace_id, occurred_at, id)
);

create index key_events_checkpoint_idx
on keylatch_internal.key_events (checkpoint, occurred_at, id);
comment on table keylatch_internal.key_events is
  'The audit log of all changes of keys. Only triggers insert rows.';
comment on column keylatch_internal.key_events.id is
  'A random id of the event. To find one event, also give its workspace_id.';
comment on column keylatch_internal.key_events.workspace_id is 'The workspace of the key.';
comment on column keylatch_internal.key_events.key_id is 'The id of the changed key.';
comment on column keylatch_internal.key_events.event is
  'issued, rotated (a new key that replaces an old key), imported, changed, suspended, unsuspended,
superseded (an old key that was replaced and still works for a grace period) or revoked.';
comment on column keylatch_internal.key_events.occurred_at is 'The time of the change.';
comment on column keylatch_internal.key_events.user_id is 'The signed-in user, or null.';
comment on column keylatch_internal.key_events.role is
  'The role that acted: the role of "set role", else the login role.';
comment on column keylatch_internal.key_events.login is 'The role that logged in (session_user).';
comment on column keylatch_internal.key_events.address is
  'The address in the HTTP headers, which a client can forge, or that of an SQL connection.';
comment on column keylatch_internal.key_events.agent is
  'The User-Agent of the request, or the application_name of a session in SQL.';
comment on column keylatch_internal.key_events.reason is 'Why a key was revoked.';
comment on column keylatch_internal.key_events.changes is
  'The old and new value of each changed field: {"label": {"old": "a", "new": "b"}}. If "old" or
"new" is missing, that value is null. For metadata, the event stores only the SHA-256 hashes of the
old and the new value, and the names of the changed members.';
comment on column keylatch_internal.key_events.erased is
  'A hash that replaces user_id, address, agent, reason and changes if the owner erased them.';
comment on column keylatch_internal.key_events.checkpoint is
  'The number of the checkpoint that seals the event. Null if the event is not sealed yet.';
comment on index keylatch_internal.key_events_checkpoint_idx is
  'Finds the events of a checkpoint, and the events that are not sealed yet.';

create table keylatch_internal.key_event_checkpoints (
  number bigint not null,
  events bigint not null,
  previous bytea not null,
  digest bytea not null,
  sealed_at timestamptz not null,
  archived_at timestamptz,

  constraint key_event_checkpoints_pkey primary key (number)
);
comment on table keylatch_internal.key_event_checkpoints is
  'A hash chain that makes tampering with events detectable. Each row covers up to 1000 events.';
comment on column keylatch_internal.key_event_checkpoints.number is
  'The number of the checkpoint. Numbers begin with 1 and have no gaps.';
comment on column keylatch_internal.key_event_checkpoints.events is 'The number of sealed events.';
comment on column keylatch_internal.key_event_checkpoints.previous is
  'The digest of the previous checkpoint.';
comment on column keylatch_internal.key_event_checkpoints.digest is
  'SHA-256 of the columns previous and number, and of the hashes of the events in order of time.';
comment on column keylatch_internal.key_event_checkpoints.sealed_at is
  'When the checkpoint was made.';
comment on column keylatch_internal.key_event_checkpoints.archived_at is
  'When the owner allowed deleting the events of the checkpoint. Null if that is not allowed.';

-- squawk-ignore-file prefer-bigint-over-int
create table keylatch_internal.event_settings (
  only_row boolean not null default true,
  keys_per_workspace integer not null default 200000,
  changes_per_minute integer not null default 20000,

  constraint event_settings_pkey primary key (only_row),
  constraint event_settings_only_row_check check (only_row),
  constraint event_settings_limits_check check (keys_per_workspace > 0 and changes_per_minute > 0)
);
comment on table keylatch_internal.event_settings is
  'One row with the rate limits for signed-in users. Only the owner may change the limits.';
comment on column keylatch_internal.event_settings.only_row is 'Always true: there is one row.';
comment on column keylatch_internal.event_settings.keys_per_workspace is
  'How many keys, including revoked keys, users can make in a workspace.';
comment on column keylatch_internal.event_settings.changes_per_minute is
  'How many changes a user can make to the keys of a workspace in a minute. Above this limit, the
user can only revoke and suspend keys.';
insert into keylatch_internal.event_settings default values;

alter table keylatch_internal.key_events enable row level security;
alter table keylatch_internal.key_event_checkpoints enable row level security;
alter table keylatch_internal.event_settings enable row level security;

create policy key_events_select_admin on keylatch_internal.key_events
for select to authenticated using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_events_select_admin on keylatch_internal.key_events is
  'A signed-in user may read the events of the workspaces that the user administers.';

create view keylatch.key_events with (security_invoker = true) as
select
  e.id, e.workspace_id, e.key_id, e.event, e.occurred_at, e.user_id, e.role, e.login, e.address,
  e.agent, e.reason, e.changes, e.checkpoint
from keylatch_internal.key_events as e;
comment on view keylatch.key_events is
  'The audit log of the keys in the workspaces that you administer.

Filter by workspace_id, and order by occurred_at and id. verify_events shows whether somebody
changed sealed events. If the owner erased the personal data of an event, changes is {}.';
select keylatch_internal.expose_table('keylatch_internal.key_events', 'keylatch.key_events');

create function keylatch_internal.personal_digest(p_event keylatch_internal.key_events)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Hash the random event id, too, so that equal personal data give different hashes.
  return sha256(convert_to(jsonb_build_array(
    'keylatch event 1', p_event.id, p_event.user_id, p_event.address, p_event.agent,
    p_event.reason, p_event.changes
  )::text, 'UTF8'));
end $$;
comment on function keylatch_internal.personal_digest is
  'The SHA-256 of the personal data of an event: user, address, agent, reason and changes.';

create function keylatch_internal.keep_events()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_erased keylatch_internal.key_events;
begin
  if tg_op = 'INSERT' then
    perform keylatch_internal.refuse(
      'events_are_kept', 'Only the triggers on the table of keys may insert events.',
      'To restore the data of a dump, first run: set session_replication_role = replica;'
    );
  elsif tg_op = 'DELETE' and tg_level = 'ROW' then
    if exists (
      select from keylatch_internal.key_event_checkpoints as c
      where c.number = old.checkpoint and c.archived_at is not null
    ) then
      return old;
    end if;
  elsif tg_op = 'UPDATE' and tg_relid = 'keylatch_internal.key_events'::regclass then
    -- An erasure only replaces the personal data of an event with the hash of that data.
    v_erased := old;
    v_erased.user_id := null;
    v_erased.address := null;
    v_erased.agent := null;
    v_erased.reason := null;
    v_erased.changes := '{}';
    v_erased.erased := keylatch_internal.personal_digest(old);
    if old.erased is null and new is not distinct from v_erased then
      return new;
    end if;
  end if;
  perform keylatch_internal.refuse(
    'events_are_kept', 'Events and checkpoints cannot be changed, deleted or truncated.'
  );
  return null;
end $$;
comment on function keylatch_internal.keep_events is
  'Refuses changes of events, but allows deleting archived events and erasing personal data.';

create trigger key_events_insert_keep before insert on keylatch_internal.key_events
for each statement when (pg_catalog.pg_trigger_depth() = 0)
execute function keylatch_internal.keep_events();
comment on trigger key_events_insert_keep on keylatch_internal.key_events is
  'Refuses INSERT statements that no trigger makes. The triggers on the table of keys insert events.
The trigger does not fire for rows that a restore or logical replication writes.';

create trigger key_events_update_keep
before update on keylatch_internal.key_events for each row
when (
  old.checkpoint is not null or new.id is distinct from old.id
  or new.workspace_id is distinct from old.workspace_id
  or new.key_id is distinct from old.key_id or new.event is distinct from old.event
  or new.occurred_at is distinct from old.occurred_at
  or new.user_id is distinct from old.user_id or new.role is distinct from old.role
  or new.login is distinct from old.login or new.address is distinct from old.address
  or new.agent is distinct from old.agent or new.reason is distinct from old.reason
  or new.changes is distinct from old.changes or new.erased is distinct from old.erased
) execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_events enable always trigger key_events_update_keep;
comment on trigger key_events_update_keep on keylatch_internal.key_events is
  'Refuses UPDATE, with two exceptions: seal_events sets the checkpoint of an event, once, and the
owner may erase the personal data of an event (sql/ops/erase_person.sql).';

create trigger key_events_delete_keep before delete on keylatch_internal.key_events
for each row execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_events enable always trigger key_events_delete_keep;
comment on trigger key_events_delete_keep on keylatch_internal.key_events is
  'Refuses DELETE of an event, unless the owner marked the event''s checkpoint as archived.';

create trigger key_events_truncate_keep before truncate on keylatch_internal.key_events
for each statement execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_events enable always trigger key_events_truncate_keep;
comment on trigger key_events_truncate_keep on keylatch_internal.key_events is
  'Refuses TRUNCATE of this table.';

create trigger key_event_checkpoints_update_keep
before update on keylatch_internal.key_event_checkpoints for each row
when (
  old.archived_at is not null or new.number is distinct from old.number
  or new.events is distinct from old.events or new.previous is distinct from old.previous
  or new.digest is distinct from old.digest or new.sealed_at is distinct from old.sealed_at
) execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_event_checkpoints
enable always trigger key_event_checkpoints_update_keep;
comment on trigger key_event_checkpoints_update_keep on keylatch_internal.key_event_checkpoints is
  'The owner can mark a checkpoint as archived, once. Nothing else in a checkpoint can change.';

create trigger key_event_checkpoints_delete_keep
before delete or truncate on keylatch_internal.key_event_checkpoints
for each statement execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_event_checkpoints
enable always trigger key_event_checkpoints_delete_keep;
comment on trigger key_event_checkpoints_delete_keep on keylatch_internal.key_event_checkpoints is
  'Refuses DELETE: a checkpoint stays after its events are archived and deleted.';

-- The grants of this file. Only the triggers may insert events.
revoke all on table keylatch_internal.key_events, keylatch_internal.key_event_checkpoints,
keylatch_internal.event_settings, keylatch.key_events
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.keep_events, keylatch_internal.personal_digest
from public, anon, authenticated, service_role;
grant select on table keylatch_internal.key_events, keylatch.key_events
to authenticated, service_role;
grant select on table keylatch_internal.key_event_checkpoints to service_role;
