-- Module events: an audit log of all changes of keys. A trigger writes an event in the transaction
-- of the change. Later, seal_events adds the event to a hash chain of checkpoints.
--
-- A change of a key never waits for the audit log, and no revocation fails because of the audit
-- log: writing an event takes no lock. Only seal_events puts the events in order. A call of
-- seal_events waits only for another call of seal_events.

insert into keylatch_internal.errors (slug, code, hint) values
(
  'events_are_kept', 'PT409',
  'Leave events unchanged. To remove old events, run sql/ops/archive_events.sql.'
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

  -- Another constraint would be checked at every revocation, and could prevent it. A foreign key
  -- would lock the row of the key.
  constraint key_events_pkey primary key (id)
);

create index key_events_workspace_id_occurred_at_idx
on keylatch_internal.key_events (workspace_id, occurred_at, id);
-- This index sorts the events of each checkpoint. Unsealed events (null) are at its end.
create index key_events_checkpoint_idx
on keylatch_internal.key_events (checkpoint, occurred_at, id);
comment on table keylatch_internal.key_events is
  'The audit log of all changes of keys. Only triggers insert rows.';
comment on column keylatch_internal.key_events.id is 'A random id of the event.';
comment on column keylatch_internal.key_events.workspace_id is 'The workspace of the key.';
comment on column keylatch_internal.key_events.key_id is 'The id of the changed key.';
comment on column keylatch_internal.key_events.event is
  'issued, rotated (a new key that replaces an old key), imported, changed, suspended, unsuspended,
superseded (an old key that was replaced and still works for a grace period) or revoked.';
comment on column keylatch_internal.key_events.occurred_at is 'The time of the change.';
comment on column keylatch_internal.key_events.user_id is 'The signed-in user, or null.';
comment on column keylatch_internal.key_events.role is 'The role of "set role", or else login.';
comment on column keylatch_internal.key_events.login is 'The role that logged in (session_user).';
comment on column keylatch_internal.key_events.address is
  'The client address in the HTTP headers of the request. A client can forge these headers.';
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
comment on index keylatch_internal.key_events_workspace_id_occurred_at_idx is
  'Lists the newest events of a workspace, and counts the events of the last minute.';
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
  'SHA-256 of previous, number, and the hashes of the events, sorted by occurred_at and id.';
comment on column keylatch_internal.key_event_checkpoints.sealed_at is
  'When the checkpoint was made.';
comment on column keylatch_internal.key_event_checkpoints.archived_at is
  'When the owner allowed deleting the events of the checkpoint. Null if that is not allowed.';

create table keylatch_internal.event_settings (
  only_row boolean not null default true,
  -- squawk-ignore prefer-bigint-over-int
  keys_per_workspace integer not null default 200000,
  -- squawk-ignore prefer-bigint-over-int
  changes_per_minute integer not null default 20000,

  constraint event_settings_pkey primary key (only_row),
  constraint event_settings_only_row_check check (only_row),
  constraint event_settings_limits_check
  check (keys_per_workspace > 0 and changes_per_minute > 0)
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
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
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
changed sealed events. If "erased" is set, the owner erased the personal data of the event.';
-- PostgREST shows comments on columns, so the view copies the comments of the table.
do $$
begin
  execute (
    select string_agg(format(
      'comment on column keylatch.key_events.%I is %L',
      a.attname, col_description(a.attrelid, a.attnum)
    ), ';')
    from pg_catalog.pg_attribute as a
    where a.attrelid = 'keylatch_internal.key_events'::regclass and a.attnum > 0
      and a.attname <> 'erased'
  );
end $$;

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

create function keylatch_internal.is_erasure(
  p_old keylatch_internal.key_events, p_new keylatch_internal.key_events
)
returns boolean language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_expected keylatch_internal.key_events := p_old;
begin
  v_expected.user_id := null;
  v_expected.address := null;
  v_expected.agent := null;
  v_expected.reason := null;
  v_expected.changes := '{}';
  v_expected.erased := keylatch_internal.personal_digest(p_old);
  return p_old.erased is null and p_new is not distinct from v_expected;
end $$;
comment on function keylatch_internal.is_erasure is
  'True if an update only replaces the personal data of an event with the hash of that data.';

create function keylatch_internal.keep_events()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
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
    if keylatch_internal.is_erasure(old, new) then
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

create trigger key_events_insert_keep
before insert on keylatch_internal.key_events
for each statement when (pg_catalog.pg_trigger_depth() = 0)
execute function keylatch_internal.keep_events();
comment on trigger key_events_insert_keep on keylatch_internal.key_events is
  'Refuses INSERT statements: only the triggers on the table of keys insert events.

The trigger does not fire for rows that a restore or a publisher writes.';

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

create trigger key_events_delete_keep
before delete on keylatch_internal.key_events for each row
execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_events enable always trigger key_events_delete_keep;
comment on trigger key_events_delete_keep on keylatch_internal.key_events is
  'Refuses DELETE of an event, unless the owner marked the event''s checkpoint as archived.';

create trigger key_events_truncate_keep
before truncate on keylatch_internal.key_events
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
  'A checkpoint never changes. The owner only marks it as archived, once.';

create trigger key_event_checkpoints_delete_keep
before delete or truncate on keylatch_internal.key_event_checkpoints
for each statement execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_event_checkpoints
enable always trigger key_event_checkpoints_delete_keep;
comment on trigger key_event_checkpoints_delete_keep on keylatch_internal.key_event_checkpoints is
  'Refuses DELETE: a checkpoint stays after its events are archived and deleted.';

create function keylatch_internal.clean_word(p_text text)
returns text language plpgsql immutable strict parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Most strings need no cleaning. To return here saves half of the time.
  if p_text !~ E'[\\x01-\\x1f\\x7f-\\x9f]|_(?:live|test|st)_' then
    return left(p_text, 500);
  end if;
  return left(
    regexp_replace(
      regexp_replace(p_text, E'[\\x01-\\x1f\\x7f-\\x9f]', ' ', 'g'),
      '([a-z][a-z0-9]{1,11}_(?:(?:pk|sk)_(?:live|test)|st)_)[1-9A-HJ-NP-Za-km-z]+', E'\\1...', 'g'
    ),
    500
  );
end $$;
comment on function keylatch_internal.clean_word is
  'Prepares a string for an event: cuts to 500 characters, removes control characters, masks keys.';

create function keylatch_internal.current_source()
returns text[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_text constant text := current_setting('request.headers', true);
  v_headers jsonb;
begin
  if coalesce(v_text, '') = '' then
    return array[
      host(inet_client_addr()),
      keylatch_internal.clean_word(nullif(current_setting('application_name'), ''))
    ];
  end if;
  begin
    v_headers := v_text::jsonb;
  exception
    -- A session can set invalid headers. An error here would make a revocation fail.
    when data_exception or program_limit_exceeded then return null;
  end;
  return array[
    keylatch_internal.clean_word(coalesce(
      v_headers ->> 'cf-connecting-ip', v_headers ->> 'x-real-ip', v_headers ->> 'x-forwarded-for'
    )),
    keylatch_internal.clean_word(v_headers ->> 'user-agent')
  ];
end $$;
comment on function keylatch_internal.current_source is
  'Returns the address and the agent of the caller, from the HTTP headers or from the session.';

create function keylatch_internal.metadata_change(p_old jsonb, p_new jsonb)
returns jsonb language plpgsql immutable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return jsonb_build_object(
    'old', encode(sha256(convert_to(p_old::text, 'UTF8')), 'hex'),
    'new', encode(sha256(convert_to(p_new::text, 'UTF8')), 'hex'),
    'members', array(
      select keylatch_internal.clean_word(m.name)
      from jsonb_object_keys(
        -- A publisher may send metadata that is not a JSON object.
        case when jsonb_typeof(p_old) = 'object' then p_old else '{}' end
        || case when jsonb_typeof(p_new) = 'object' then p_new else '{}' end
      ) as m (name)
      where p_new -> m.name is distinct from p_old -> m.name
      order by m.name collate "C"
    )
  );
end $$;
comment on function keylatch_internal.metadata_change is
  'Describes changed metadata for an event: hashes and member names, but no values.';

create function keylatch_internal.limit_growth(p_workspace_id uuid, p_is_new boolean)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
-- jit off: JIT compilation of each call would take longer than the query.
set jit = off as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_user_id constant uuid := keylatch_internal.current_user_id();
  v_changes integer := 20000;
  v_keys integer := 200000;
  v_at timestamptz;
begin
  select coalesce(max(s.changes_per_minute), v_changes), coalesce(max(s.keys_per_workspace), v_keys)
  into v_changes, v_keys
  from keylatch_internal.event_settings as s where s.only_row;
  -- Counting is slow for a large limit. So only one change in (limit / 20) counts the rows, and a
  -- user may exceed a large limit by a few per cent. A limit of up to 20 is exact.
  if random() * v_changes < 20 then
    select e.occurred_at into v_at from keylatch_internal.key_events as e
    where e.workspace_id = p_workspace_id and e.user_id = v_user_id
      -- Ignore events with a time in the future, which a wrong clock caused.
      and e.occurred_at between v_now - interval '1 minute' and v_now
    order by e.occurred_at desc, e.id desc offset v_changes limit 1;
    if found then
      perform keylatch_internal.refuse(
        'too_many_requests',
        format('You made more than %s changes in the workspace in the last minute.', v_changes),
        null, v_at + interval '1 minute'
      );
    end if;
  end if;
  if p_is_new and random() * v_keys < 20 and exists (
    select from keylatch_internal.keys as k where k.workspace_id = p_workspace_id offset v_keys
  ) then
    perform keylatch_internal.refuse(
      'too_many_keys', format('The workspace has %s keys, including revoked keys.', v_keys)
    );
  end if;
end $$;
comment on function keylatch_internal.limit_growth is
  'Raises an error if the user made too many changes or keys. The function takes no lock.';

create function keylatch_internal.record_new_key()
returns trigger language plpgsql volatile security definer
-- definer because: only the triggers write events.
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' as $$
declare
  v_source constant text[] := keylatch_internal.current_source();
  -- Not the default of the column, which would be computed for each row.
  v_user_id constant uuid := keylatch_internal.current_user_id();
begin
  if tg_relid <> 'keylatch_internal.keys'::regclass then
    perform keylatch_internal.require_grants('keylatch_internal.record_new_key');
  end if;
  insert into keylatch_internal.key_events (
    workspace_id, key_id, event, user_id, address, agent, reason, changes
  )
  select
    n.workspace_id, n.id,
    case
      when n.imported_at is not null then 'imported'
      when n.rotated_from is not null then 'rotated'
      else 'issued'
    end,
    v_user_id, v_source[1], v_source[2], keylatch_internal.clean_word(n.revoke_reason),
    jsonb_build_object(
      'kind', jsonb_build_object('new', n.kind),
      'environment', jsonb_build_object('new', n.environment),
      'masked_key', jsonb_build_object('new', n.masked_key),
      'allowed_origins', case when n.allowed_origins = '{}' then '{"new": []}'
        else jsonb_build_object('new', n.allowed_origins) end,
      'scopes', jsonb_build_object('new', n.scopes),
      'label', jsonb_build_object('new', case when strpos(n.label, '_') > 0
        then keylatch_internal.clean_word(n.label) else n.label end)
    -- Most keys have none of the following fields.
    ) || case when n.metadata = '{}' and num_nonnulls(
      n.rotated_from, n.expires_at, n.suspended_at, n.superseded_at, n.revoked_at
    ) = 0 then '{}' else jsonb_strip_nulls(jsonb_build_object(
      'metadata', case when n.metadata <> '{}'
        then keylatch_internal.metadata_change(null, n.metadata) end,
      'rotated_from', jsonb_build_object('new', n.rotated_from),
      'expires_at', jsonb_build_object('new', n.expires_at),
      'suspended_at', jsonb_build_object('new', n.suspended_at),
      'superseded_at', jsonb_build_object('new', n.superseded_at),
      'revoked_at', jsonb_build_object('new', n.revoked_at)
    )) end
  from new_keys as n;
  if current_setting('role') = 'authenticated' then
    perform keylatch_internal.limit_growth(n.workspace_id, true) from new_keys as n;
  end if;
  return null;
end $$;
comment on function keylatch_internal.record_new_key is
  'A trigger function that writes an event for a new key: who made the key, when and from where.';

create trigger keys_insert_record_events
after insert on keylatch_internal.keys
referencing new table as new_keys
for each statement execute function keylatch_internal.record_new_key();
comment on trigger keys_insert_record_events on keylatch_internal.keys is
  'Writes an event for each new key.

The trigger does not fire for rows that a restore or a publisher writes: the events come along.';

create function keylatch_internal.content_changes(
  p_old keylatch_internal.keys, p_new keylatch_internal.keys
)
returns jsonb language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return jsonb_build_object(
    'label', case when p_new.label <> p_old.label then jsonb_build_object(
      'old', keylatch_internal.clean_word(p_old.label),
      'new', keylatch_internal.clean_word(p_new.label)) end,
    'metadata', case when p_new.metadata <> p_old.metadata
      then keylatch_internal.metadata_change(p_old.metadata, p_new.metadata) end,
    'allowed_origins', case when p_new.allowed_origins <> p_old.allowed_origins
      then jsonb_build_object('old', p_old.allowed_origins, 'new', p_new.allowed_origins) end,
    'scopes', case when p_new.scopes <> p_old.scopes
      then jsonb_build_object('old', p_old.scopes, 'new', p_new.scopes) end
  );
end $$;
comment on function keylatch_internal.content_changes is
  'Returns the old and new values of changed labels, metadata, origins and scopes for an event.';

create function keylatch_internal.record_change()
returns trigger language plpgsql volatile security definer
-- definer because: only the triggers write events.
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' as $$
declare
  v_source text[];
  v_event text;
  v_changes jsonb := jsonb_build_object(
    'expires_at', case when new.expires_at is distinct from old.expires_at
      then jsonb_build_object('old', old.expires_at, 'new', new.expires_at) end,
    'suspended_at', case when new.suspended_at is distinct from old.suspended_at
      then jsonb_build_object('old', old.suspended_at, 'new', new.suspended_at) end,
    'superseded_at', case when new.superseded_at is distinct from old.superseded_at
      then jsonb_build_object('old', old.superseded_at, 'new', new.superseded_at) end,
    'revoked_at', case when new.revoked_at is distinct from old.revoked_at
      then jsonb_build_object('old', old.revoked_at, 'new', new.revoked_at) end
  );
begin
  if tg_relid <> 'keylatch_internal.keys'::regclass then
    perform keylatch_internal.require_grants('keylatch_internal.record_change');
  end if;
  if (new.label, new.metadata, new.allowed_origins, new.scopes)
    is distinct from (old.label, old.metadata, old.allowed_origins, old.scopes)
  then
    v_changes := v_changes || keylatch_internal.content_changes(old, new);
  end if;
  v_changes := jsonb_strip_nulls(v_changes);
  -- A logical replica receives events from its publisher, and must not write them again.
  if v_changes = '{}' or current_setting('session_replication_role') = 'replica'
    and keylatch_internal.is_apply_worker()
  then
    return null;
  end if;
  v_event := case
    when v_changes ? 'revoked_at' then 'revoked'
    when v_changes ? 'superseded_at' then 'superseded'
    when v_changes -> 'suspended_at' ? 'new' then 'suspended'
    when v_changes ? 'suspended_at' then 'unsuspended'
    else 'changed'
  end;
  v_source := keylatch_internal.current_source();
  insert into keylatch_internal.key_events (
    workspace_id, key_id, event, address, agent, reason, changes
  )
  values (
    new.workspace_id, new.id, v_event, v_source[1], v_source[2],
    case
      when v_event <> 'revoked' then null
      when strpos(new.revoke_reason, '_') = 0 then new.revoke_reason
      else keylatch_internal.clean_word(new.revoke_reason)
    end,
    v_changes
  );
  if current_setting('role') = 'authenticated' and v_event in ('changed', 'unsuspended') then
    perform keylatch_internal.limit_growth(new.workspace_id, false);
  end if;
  return null;
end $$;
comment on function keylatch_internal.record_change is
  'A trigger function that writes an event for a changed key: who, when, from where and why.';

create trigger keys_update_record_events
after update on keylatch_internal.keys
for each row execute function keylatch_internal.record_change();
alter table keylatch_internal.keys enable always trigger keys_update_record_events;
comment on trigger keys_update_record_events on keylatch_internal.keys is
  'Writes an event for each change of a key, even if session_replication_role is "replica".';

create function keylatch.list_events(
  workspace_id uuid, after uuid default null, "limit" integer default 1000
)
returns setof keylatch.key_events language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_at timestamptz := 'infinity'::timestamptz;
  v_id uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid;
begin
  if list_events."limit" is null or list_events."limit" not between 1 and 10000 then
    perform keylatch_internal.refuse(
      'invalid_argument', 'limit must be from 1 to 10000.', 'Leave limit out to use 1000.'
    );
  elsif list_events.after is not null then
    select e.occurred_at, e.id into v_at, v_id
    from keylatch.key_events as e
    where e.id = list_events.after and e.workspace_id = list_events.workspace_id;
    if not found then
      perform keylatch_internal.refuse(
        'invalid_argument', 'after is not the id of an event of this workspace.',
        'Pass the id of the last event of the previous page.'
      );
    end if;
  end if;
  return query
  select e.*
  from keylatch.key_events as e
  where e.workspace_id = list_events.workspace_id and (e.occurred_at, e.id) < (v_at, v_id)
  order by e.occurred_at desc, e.id desc
  limit list_events."limit";
end $$;
comment on function keylatch.list_events is
  'Returns the events of a workspace that you administer, the newest first.

after: the id of the last event of the previous page; null for the first page. limit: 1 to 10000.
Errors: invalid_argument (400).';

create function keylatch_internal.event_digest(p_event keylatch_internal.key_events)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- JSON makes the hashed string unambiguous, whatever a label contains. The time is microseconds
  -- since 1970, so that no setting changes its format. For an erased event, the hash in "erased"
  -- replaces the personal data.
  return sha256(convert_to(jsonb_build_array(
    'keylatch event 1', p_event.id, p_event.workspace_id, p_event.key_id, p_event.event,
    trunc(extract(epoch from p_event.occurred_at) * 1000000), p_event.role, p_event.login,
    encode(case
      when p_event.erased is null then keylatch_internal.personal_digest(p_event)
      when coalesce(p_event.user_id::text, p_event.address, p_event.agent, p_event.reason) is null
        and p_event.changes = '{}' then p_event.erased
    end, 'hex')
  )::text, 'UTF8'));
end $$;
comment on function keylatch_internal.event_digest is
  'Returns the SHA-256 of a JSON array of all fields of an event.';

create function keylatch_internal.digest_events(
  p_number bigint, p_previous bytea, out events bigint, out digest bytea
)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  select count(*), sha256(p_previous || int8send(p_number) || coalesce(
    string_agg(keylatch_internal.event_digest(e), '' order by e.occurred_at, e.id), ''
  ))
  into events, digest
  from keylatch_internal.key_events as e
  where e.checkpoint = p_number;
end $$;
comment on function keylatch_internal.digest_events is
  'Counts the events of a checkpoint, and computes the digest of the checkpoint from these events.';

create type keylatch.event_sealing as (
  checkpoint bigint, events integer, is_done boolean
);
comment on type keylatch.event_sealing is
  'The result of seal_events: the last checkpoint that the call made (or null), how many events the
call sealed, and is_done: whether the call sealed all visible events.';

create function keylatch_internal.seal_key_events(p_limit integer)
returns keylatch.event_sealing language plpgsql volatile security definer
-- definer because: only this function may write or lock checkpoints.
set search_path = pg_catalog, pg_temp
-- These settings keep a cached plan fast when the table has grown.
set enable_seqscan = off
set jit = off as $$
declare
  v_result keylatch.event_sealing;
  v_number bigint;
  v_previous bytea;
  v_batch record;
begin
  perform keylatch_internal.require_grants('keylatch_internal.seal_key_events');
  -- Only concurrent calls of seal_events wait for this lock.
  lock table keylatch_internal.key_event_checkpoints in share row exclusive mode;
  select c.number, c.digest into v_number, v_previous
  from keylatch_internal.key_event_checkpoints as c
  order by c.number desc
  limit 1;
  v_number := coalesce(v_number, 0);
  with unsealed as materialized (
    select e.ctid as place, row_number() over (order by e.checkpoint, e.occurred_at, e.id) as n
    from keylatch_internal.key_events as e
    where e.checkpoint is null
    order by e.checkpoint, e.occurred_at, e.id
    limit p_limit
  )
  update keylatch_internal.key_events as e
  set checkpoint = v_number + (u.n + 999) / 1000
  from unsealed as u
  where e.ctid = u.place;
  get diagnostics v_result.events = row_count;
  for _ in 1 .. (v_result.events + 999) / 1000 loop
    v_number := v_number + 1;
    v_previous := coalesce(v_previous, '');
    v_batch := keylatch_internal.digest_events(v_number, v_previous);
    insert into keylatch_internal.key_event_checkpoints (
      number, events, previous, digest, sealed_at
    )
    values (v_number, v_batch.events, v_previous, v_batch.digest, clock_timestamp());
    v_previous := v_batch.digest;
    v_result.checkpoint := v_number;
  end loop;
  v_result.is_done := not exists (
    select from keylatch_internal.key_events as e where e.checkpoint is null
  );
  return v_result;
end $$;
comment on function keylatch_internal.seal_key_events is 'Implements keylatch.seal_events.';

create function keylatch.seal_events("limit" integer default 10000)
returns keylatch.event_sealing language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if seal_events."limit" is null or seal_events."limit" not between 1 and 100000 then
    perform keylatch_internal.refuse(
      'invalid_argument', 'limit must be from 1 to 100000.', 'Leave limit out to use 10000.'
    );
  elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- In REPEATABLE READ, two concurrent calls would make the same checkpoint.
    perform keylatch_internal.refuse(
      'read_committed_required', 'Sealing events needs isolation level READ COMMITTED.'
    );
  elsif exists (
    select from pg_catalog.pg_subscription_rel as r
    where r.srrelid = 'keylatch_internal.key_event_checkpoints'::regclass
  )
  then
    -- Two checkpoints with the same number would stop the replication of revocations, too.
    perform keylatch_internal.refuse(
      'sealed_at_publisher', 'On a logical replica, the checkpoints come from the publisher.'
    );
  end if;
  return keylatch_internal.seal_key_events(seal_events."limit");
end $$;
comment on function keylatch.seal_events is
  'Adds up to "limit" events, the oldest first, to the hash chain of checkpoints. Run seal_events in
a cron job, and repeat the call until is_done is true.

limit: 1 to 100000. Events of open transactions are sealed by a later call.
Errors: invalid_argument (400), sealed_at_publisher (409).';

create type keylatch.event_verification as (
  is_intact boolean, checkpoints bigint, events bigint, unsealed bigint, next_checkpoint bigint,
  broken_checkpoint bigint, problem text, digest text
);
comment on type keylatch.event_verification is
  'The result of verify_events: whether all checkpoints that the call read are intact; how many
checkpoints and events are intact; how many events are not sealed yet (up to a million); the
next checkpoint to verify (null at the end); the first broken checkpoint and its problem; and the
digest of the last intact checkpoint, in hex.';

create function keylatch_internal.verify_checkpoints(p_from bigint, p_limit integer)
returns keylatch.event_verification language plpgsql stable security definer
-- definer because: a checkpoint covers the events of all workspaces. Callers get only counts and
-- digests. "stable" gives all queries one snapshot, so a concurrent seal_events shows no gap.
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off as $$
declare
  v_result keylatch.event_verification;
  v_last bigint;
  v_previous bytea;
  v_checkpoint keylatch_internal.key_event_checkpoints;
  v_found record;
begin
  perform keylatch_internal.require_grants('keylatch_internal.verify_checkpoints');
  select coalesce(max(c.number), 0) into v_last from keylatch_internal.key_event_checkpoints as c;
  select c.digest into v_previous
  from keylatch_internal.key_event_checkpoints as c where c.number = p_from - 1;
  select 0, 0, count(*) into v_result.checkpoints, v_result.events, v_result.unsealed
  from (
    select from keylatch_internal.key_events as e where e.checkpoint is null limit 1000000
  ) as unsealed;
  for v_offset in 0 .. greatest(least(v_last - p_from, p_limit - 1), -1) loop
    select c.* into v_checkpoint
    from keylatch_internal.key_event_checkpoints as c
    where c.number = p_from + v_offset;
    v_found := keylatch_internal.digest_events(p_from + v_offset, v_checkpoint.previous);
    v_result.problem := case
      when v_checkpoint.number is null then 'The checkpoint is missing.'
      when v_checkpoint.previous is distinct from coalesce(v_previous, '')
        then 'The checkpoint does not contain the digest of the previous checkpoint.'
      when v_checkpoint.archived_at is not null and v_found.events = 0 then null
      when v_found.events < v_checkpoint.events then 'An event of the checkpoint is missing.'
      when v_found.events > v_checkpoint.events then 'An event was added to the checkpoint.'
      when v_found.digest is distinct from v_checkpoint.digest
        then 'An event, or the checkpoint, was changed.'
    end;
    v_result.next_checkpoint := nullif(p_from + v_offset, v_last) + 1;
    if v_result.problem is not null then
      v_result.broken_checkpoint := p_from + v_offset;
      exit;
    end if;
    v_previous := v_checkpoint.digest;
    v_result.digest := encode(v_previous, 'hex');
    v_result.checkpoints := v_result.checkpoints + 1;
    v_result.events := v_result.events + v_found.events;
  end loop;
  if v_result.problem is null and v_result.next_checkpoint is null and (
    select min(e.checkpoint) < 1 or max(e.checkpoint) > v_last
    from keylatch_internal.key_events as e
  )
  then
    v_result.broken_checkpoint := v_last + 1;
    v_result.problem := 'The checkpoint of sealed events is missing.';
  end if;
  v_result.is_intact := v_result.problem is null;
  return v_result;
end $$;
comment on function keylatch_internal.verify_checkpoints is 'Implements keylatch.verify_events.';

create function keylatch.verify_events(
  from_checkpoint bigint default 1, "limit" integer default 100
)
returns keylatch.event_verification language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if verify_events.from_checkpoint is null or verify_events.from_checkpoint < 1
    or verify_events."limit" is null or verify_events."limit" not between 1 and 1000
  then
    perform keylatch_internal.refuse(
      'invalid_argument', 'from_checkpoint must be 1 or more, and limit from 1 to 1000.',
      'Pass 1 first, and then next_checkpoint of the last result.'
    );
  elsif row_security_active('keylatch_internal.key_events'::regclass)
    and not exists (select from keylatch.admin_workspace_ids())
  then
    perform keylatch_internal.refuse('admin_required', 'You administer no workspace.');
  end if;
  return keylatch_internal.verify_checkpoints(
    verify_events.from_checkpoint, verify_events."limit"
  );
end $$;
comment on function keylatch.verify_events is
  'Detects sealed events that somebody changed, removed, duplicated or added. Pass from_checkpoint 1
first, and then next_checkpoint of the last result, until next_checkpoint is null.

limit: how many checkpoints to verify, 1 to 1000. The owner of the tables could rebuild the whole
chain. To detect that, store digests in another system (sql/ops/anchor_events.sql).
Errors: invalid_argument (400), admin_required (403).';

update keylatch_internal.installation set modules = array_append(modules, 'events');

-- The grants of this file. Only the triggers may insert events.
revoke all on table
keylatch_internal.key_events, keylatch_internal.key_event_checkpoints,
keylatch_internal.event_settings, keylatch.key_events
from public, anon, authenticated, service_role;
revoke all on function
keylatch_internal.keep_events, keylatch_internal.clean_word,
keylatch_internal.current_source, keylatch_internal.metadata_change,
keylatch_internal.limit_growth, keylatch_internal.record_new_key, keylatch_internal.content_changes,
keylatch_internal.record_change,
keylatch_internal.personal_digest, keylatch_internal.is_erasure,
keylatch_internal.event_digest, keylatch_internal.digest_events, keylatch_internal.seal_key_events,
keylatch_internal.verify_checkpoints, keylatch.list_events, keylatch.seal_events,
keylatch.verify_events
from public, anon, authenticated, service_role;

grant select on table keylatch_internal.key_events, keylatch.key_events
to authenticated, service_role;
grant select on table keylatch_internal.key_event_checkpoints to service_role;
grant execute on function
keylatch.list_events, keylatch.verify_events, keylatch_internal.verify_checkpoints
to authenticated, service_role;
grant execute on function keylatch.seal_events, keylatch_internal.seal_key_events to service_role;
