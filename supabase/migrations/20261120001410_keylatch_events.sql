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
      '[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[1-9A-HJ-NP-Za-km-z]+', '…', 'g'
    ),
    300
  );
end;
$$;

comment on function keylatch_internal.clean_word(text) is
  'What a client says of itself, fit to be kept: 300 characters, no control characters, no keys.';

revoke all on function keylatch_internal.clean_word(text)
from public, anon, authenticated, service_role;

create function keylatch_internal.record_key_event()
returns trigger
language plpgsql
volatile
-- definer because: nobody writes events but this.
security definer
set search_path = ''
as $$
declare
  -- Names and stamps have columns of their own; a key or a hash is nowhere.
  v_hidden constant pg_catalog.text[] := array[
    'id', 'workspace_id', 'key_hash', 'public_key', 'created_at', 'created_by', 'revoked_by',
    'revoke_reason'
  ];
  v_headers pg_catalog.jsonb;
  v_old pg_catalog.jsonb := '{}';
  v_new pg_catalog.jsonb;
  v_changes pg_catalog.jsonb;
  v_event pg_catalog.text;
  v_role pg_catalog.text := current_setting('role');
begin
  -- At a logical replica the publisher's events arrive by themselves. Asked for here and not by
  -- enabling the trigger for origin sessions alone: a session that only sets its mode is recorded.
  if current_setting('session_replication_role') = 'replica' then
    if keylatch_internal.is_apply_worker() then
      return null;
    end if;
  end if;

  if tg_op = 'INSERT' then
    v_event := case
      when current_setting('keylatch.import', true) = 'on' then 'imported'
      when new.rotated_from is not null then 'rotated'
      else 'issued'
    end;
    v_new := jsonb_strip_nulls(to_jsonb(new) - v_hidden);
    select jsonb_object_agg(n.name, jsonb_build_object('new', n.value))
    into v_changes
    from jsonb_each(v_new) as n (name, value);
  else
    v_old := to_jsonb(old) - v_hidden;
    v_new := to_jsonb(new) - v_hidden;
    v_event := case
      when old.key_hash is null and new.key_hash is not null then 'claimed'
      when old.revoked_at is null and new.revoked_at is not null then 'revoked'
      when old.superseded_at is null and new.superseded_at is not null then 'superseded'
      when old.suspended_at is null and new.suspended_at is not null then 'suspended'
      when old.suspended_at is not null and new.suspended_at is null then 'resumed'
      when v_new <> v_old then 'changed'
    end;
    if v_event is null then
      return null;
    end if;
    select jsonb_object_agg(n.name, jsonb_build_object('old', v_old -> n.name, 'new', n.value))
    into v_changes
    from jsonb_each(v_new) as n (name, value)
    where n.value <> v_old -> n.name;
  end if;

  v_headers := nullif(current_setting('request.headers', true), '');
  insert into keylatch_internal.key_events (
    workspace_id, key_id, event, occurred_at, user_id, role, login, address, agent, reason, changes
  )
  values (
    new.workspace_id,
    new.id,
    v_event,
    clock_timestamp(),
    keylatch_internal.current_user_id(),
    -- Not current_user, which is the owner here.
    case v_role when 'none' then session_user else v_role end,
    session_user,
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
    end),
    case v_event when 'revoked' then new.revoke_reason end,
    coalesce(v_changes, '{}')
  );
  return null;
end;
$$;

comment on function keylatch_internal.record_key_event() is
  'Writes down what happened to a key: what, who, when, from where, why, and the old and new values
of its public fields.';

revoke all on function keylatch_internal.record_key_event()
from public, anon, authenticated, service_role;

create trigger keys_write_record
after insert or update on keylatch_internal.keys
for each row execute function keylatch_internal.record_key_event();
alter table keylatch_internal.keys enable always trigger keys_write_record;
comment on trigger keys_write_record on keylatch_internal.keys is
  'Nothing happens to a key without an event, by whatever path and in whatever mode.';
