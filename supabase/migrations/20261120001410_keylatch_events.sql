-- What happened to the keys: an event for every change, written by trigger in the transaction of
-- the change, and kept for good.

create table keylatch_internal.key_events (
  id bigint not null generated always as identity,
  workspace_id uuid not null,
  key_id uuid not null,
  event text not null,
  occurred_at timestamptz not null,
  user_id uuid,
  role text not null,
  login text not null,
  address text,
  agent text,
  reason text,
  changes jsonb not null,
  is_first boolean not null default true,

  constraint key_events_pkey primary key (id),
  constraint key_events_event_check check (
    event in (
      'first_key', 'issued', 'rotated', 'imported', 'claimed', 'changed', 'suspended', 'resumed',
      'superseded', 'revoked'
    )
  )
);

comment on table keylatch_internal.key_events is
  'What happened to the keys. Rows are added by the database and never changed or deleted. No
foreign key: its check would lock the row of the key.';
comment on column keylatch_internal.key_events.id is 'The order in which changes were made.';
comment on column keylatch_internal.key_events.workspace_id is 'The workspace of the key.';
comment on column keylatch_internal.key_events.key_id is 'The key.';
comment on column keylatch_internal.key_events.event is
  'first_key, issued, rotated (made as a successor), imported, claimed, changed, suspended, resumed,
superseded (by its successor, with a grace) or revoked.';
comment on column keylatch_internal.key_events.occurred_at is 'When, by the server''s clock.';
comment on column keylatch_internal.key_events.user_id is
  'The signed-in user; null when it was none.';
comment on column keylatch_internal.key_events.role is 'The role that the session had taken.';
comment on column keylatch_internal.key_events.login is 'The role that had logged in.';
comment on column keylatch_internal.key_events.address is
  'Where the request came from, as its headers say, or the session without a request.';
comment on column keylatch_internal.key_events.agent is
  'The User-Agent of the request, or the application_name of the session.';
comment on column keylatch_internal.key_events.reason is 'Why, of a revocation.';
comment on column keylatch_internal.key_events.changes is
  'Old and new of each public field that changed: {"label": {"old": "a", "new": "b"}}.';
comment on column keylatch_internal.key_events.is_first is
  'Whether it is the first of its statement: that one takes the others along into the chain.';

revoke all on table keylatch_internal.key_events from public, anon, authenticated, service_role;
grant select on table keylatch_internal.key_events to authenticated, service_role;
revoke all on sequence keylatch_internal.key_events_id_seq
from public, anon, authenticated, service_role;
comment on sequence keylatch_internal.key_events_id_seq is 'The ids of events.';

alter table keylatch_internal.key_events enable row level security;

create policy key_events_select_admin on keylatch_internal.key_events
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy key_events_select_admin on keylatch_internal.key_events is
  'A signed-in user sees what happened to the keys of the workspaces that they administer.';

create function keylatch_internal.keep_events()
returns trigger
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if tg_op = 'UPDATE' and tg_table_name = 'key_event_heads' then
    -- The one thing here that moves, and forward only.
    if new.workspace_id = old.workspace_id and new.number > old.number then
      return new;
    end if;
  end if;
  raise sqlstate 'PT409' using
    message = 'events_are_kept',
    detail = 'What happened is not changed or deleted afterwards.',
    hint = 'Read keylatch.key_events; to give up old ones is for the owner of the tables.';
end;
$$;

comment on function keylatch_internal.keep_events() is
  'Refuses to update, delete or truncate; the end of a chain moves forward.';

revoke all on function keylatch_internal.keep_events()
from public, anon, authenticated, service_role;

create trigger key_events_change_keep
before update or delete on keylatch_internal.key_events
for each row execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_events enable always trigger key_events_change_keep;
comment on trigger key_events_change_keep on keylatch_internal.key_events is
  'Events are not changed or deleted.';

create trigger key_events_truncate_keep
before truncate on keylatch_internal.key_events
for each statement execute function keylatch_internal.keep_events();
alter table keylatch_internal.key_events enable always trigger key_events_truncate_keep;
comment on trigger key_events_truncate_keep on keylatch_internal.key_events is
  'The table is not emptied.';

create function keylatch_internal.clean_word(p_text text)
returns text
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return left(
    regexp_replace(
      regexp_replace(p_text, '[\x01-\x1f\x7f-\x9f]', ' ', 'g'),
      '[a-z][a-z0-9]{1,11}_((pk|sk)_(live|test)|st)_[1-9A-HJ-NP-Za-km-z]+', '…', 'g'
    ),
    300
  );
end;
$$;

comment on function keylatch_internal.clean_word(text) is
  'What a client says of itself, fit to be kept: 300 characters, no control characters, no keys.';

revoke all on function keylatch_internal.clean_word(text)
from public, anon, authenticated, service_role;

create type keylatch_internal.event_source as (
  user_id uuid,
  role text,
  login text,
  address text,
  agent text
);
comment on type keylatch_internal.event_source is
  'Who makes a change, and from where: what all events of a statement share.';

create function keylatch_internal.current_source()
returns keylatch_internal.event_source
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_login constant pg_catalog.text := session_user;
  v_role constant pg_catalog.text := current_setting('role');
  v_headers constant pg_catalog.jsonb :=
    nullif(current_setting('request.headers', true), '')::pg_catalog.jsonb;
begin
  return row(
    keylatch_internal.current_user_id(),
    -- Not current_user, which is the owner where events are written.
    case v_role when 'none' then v_login else v_role end,
    v_login,
    case
      when v_headers is null then host(inet_client_addr())
      else keylatch_internal.clean_word(coalesce(
        v_headers ->> 'cf-connecting-ip', v_headers ->> 'x-real-ip',
        v_headers ->> 'x-forwarded-for'
      ))
    end,
    keylatch_internal.clean_word(case
      when v_headers is null then nullif(current_setting('application_name'), '')
      else v_headers ->> 'user-agent'
    end)
  );
end;
$$;

comment on function keylatch_internal.current_source() is
  'Who makes a change now, and from where, as the session and the headers of the request say.';

revoke all on function keylatch_internal.current_source()
from public, anon, authenticated, service_role;

create function keylatch_internal.is_recorded_elsewhere()
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  -- Asked for, and the triggers not enabled for origin sessions alone: a session that only sets its
  -- mode is recorded.
  if current_setting('session_replication_role') = 'replica' then
    return keylatch_internal.is_apply_worker();
  end if;
  return false;
end;
$$;

comment on function keylatch_internal.is_recorded_elsewhere() is
  'Whether this is the worker of a logical replica: the publisher''s events come by themselves.';

revoke all on function keylatch_internal.is_recorded_elsewhere()
from public, anon, authenticated, service_role;

create function keylatch_internal.event_fields(p_key keylatch_internal.keys)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  -- Names and stamps have columns of their own; a key or a hash is nowhere.
  return to_jsonb(p_key) - array[
    'id', 'workspace_id', 'key_hash', 'public_key', 'created_at', 'created_by', 'imported_at',
    'revoked_by', 'revoke_reason'
  ];
end;
$$;

comment on function keylatch_internal.event_fields(keylatch_internal.keys) is
  'The fields of a key whose old and new values an event names.';

revoke all on function keylatch_internal.event_fields(keylatch_internal.keys)
from public, anon, authenticated, service_role;

create function keylatch_internal.record_new_keys()
returns trigger
language plpgsql
volatile
-- definer because: nobody writes events but this.
security definer
set search_path = ''
as $$
declare
  v_source keylatch_internal.event_source;
begin
  if keylatch_internal.is_recorded_elsewhere() then
    return null;
  end if;
  v_source := keylatch_internal.current_source();
  insert into keylatch_internal.key_events (
    workspace_id, key_id, event, occurred_at, user_id, role, login, address, agent, reason, changes,
    is_first
  )
  select
    n.workspace_id,
    n.id,
    case
      when n.imported_at is not null then 'imported'
      when n.rotated_from is not null then 'rotated'
      else 'issued'
    end,
    clock_timestamp(),
    v_source.user_id,
    v_source.role,
    v_source.login,
    v_source.address,
    v_source.agent,
    n.revoke_reason,
    case
      when num_nonnulls(
        n.expires_at, n.rotated_from, n.suspended_at, n.superseded_at, n.revoked_at
      ) = 0
        -- What most keys have, at a third of the cost: an import makes a million of them.
        then jsonb_build_object(
          'kind', jsonb_build_object('new', n.kind),
          'environment', jsonb_build_object('new', n.environment),
          'hint', jsonb_build_object('new', n.hint),
          'label', jsonb_build_object('new', n.label),
          'metadata', jsonb_build_object('new', n.metadata),
          'allowed_origins', jsonb_build_object('new', n.allowed_origins),
          'scopes', jsonb_build_object('new', n.scopes)
        )
      else (
        select jsonb_object_agg(f.name, jsonb_build_object('new', f.value))
        from jsonb_each(keylatch_internal.event_fields(n)) as f (name, value)
        where f.value <> 'null'
      )
    end,
    row_number() over () = 1
  from new_keys as n;
  return null;
end;
$$;

comment on function keylatch_internal.record_new_keys() is
  'Writes down that keys were made or imported: who, when, from where, and their public fields.';

revoke all on function keylatch_internal.record_new_keys()
from public, anon, authenticated, service_role;

create trigger keys_insert_add_event
after insert on keylatch_internal.keys
referencing new table as new_keys
for each statement execute function keylatch_internal.record_new_keys();
alter table keylatch_internal.keys enable always trigger keys_insert_add_event;
comment on trigger keys_insert_add_event on keylatch_internal.keys is
  'No key comes without an event, by whatever path and in whatever mode.';

create function keylatch_internal.record_key_change()
returns trigger
language plpgsql
volatile
-- definer because: nobody writes events but this.
security definer
set search_path = ''
as $$
declare
  v_source keylatch_internal.event_source;
  v_old constant pg_catalog.jsonb := keylatch_internal.event_fields(old);
  v_new constant pg_catalog.jsonb := keylatch_internal.event_fields(new);
  v_event constant pg_catalog.text := case
    when old.key_hash is null and new.key_hash is not null then 'claimed'
    when old.revoked_at is null and new.revoked_at is not null then 'revoked'
    when old.superseded_at is null and new.superseded_at is not null then 'superseded'
    when old.suspended_at is null and new.suspended_at is not null then 'suspended'
    when old.suspended_at is not null and new.suspended_at is null then 'resumed'
    when v_new <> v_old then 'changed'
  end;
begin
  if v_event is null or keylatch_internal.is_recorded_elsewhere() then
    return null;
  end if;
  v_source := keylatch_internal.current_source();
  insert into keylatch_internal.key_events (
    workspace_id, key_id, event, occurred_at, user_id, role, login, address, agent, reason, changes
  )
  values (
    new.workspace_id,
    new.id,
    v_event,
    clock_timestamp(),
    v_source.user_id,
    v_source.role,
    v_source.login,
    v_source.address,
    v_source.agent,
    case v_event when 'revoked' then new.revoke_reason end,
    coalesce(
      (
        select jsonb_object_agg(n.name, jsonb_build_object('old', v_old -> n.name, 'new', n.value))
        from jsonb_each(v_new) as n (name, value)
        where n.value <> v_old -> n.name
      ),
      '{}'
    )
  );
  return null;
end;
$$;

comment on function keylatch_internal.record_key_change() is
  'Writes down what happened to a key: what, who, when, from where, why, and the old and new values
of its public fields.';

revoke all on function keylatch_internal.record_key_change()
from public, anon, authenticated, service_role;

create trigger keys_update_add_event
after update on keylatch_internal.keys
for each row execute function keylatch_internal.record_key_change();
alter table keylatch_internal.keys enable always trigger keys_update_add_event;
comment on trigger keys_update_add_event on keylatch_internal.keys is
  'Nothing happens to a key without an event, by whatever path and in whatever mode.';
