-- Module events: recording an event in the transaction of each change of a key.

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
  v_agent constant text := nullif(current_setting('application_name'), '');
  v_headers jsonb;
begin
  if coalesce(v_text, '') = '' then
    -- PostgreSQL itself shortens and cleans this setting. Only a key is left to mask.
    return array[host(inet_client_addr()), case when strpos(v_agent, '_') > 0
      then keylatch_internal.clean_word(v_agent) else v_agent end];
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
  'Describes changed metadata for an event: both hashes and the changed JSON keys, but no values.';

create function keylatch_internal.limit_growth(p_workspace_id uuid, p_is_new boolean)
returns void language plpgsql volatile security invoker
-- jit off: JIT compilation of each call would take longer than the query.
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_user_id constant uuid := keylatch_internal.current_user_id();
  v_changes integer := 20000;
  v_keys integer := 200000;
  v_at timestamptz;
  -- From 0 to 1. Not random(): with setseed, a user would know when the rows are not counted.
  v_chance constant float8 := (hashtext(gen_random_uuid()::text) & 2147483647) / 2147483648.0;
begin
  select coalesce(max(s.changes_per_minute), v_changes), coalesce(max(s.keys_per_workspace), v_keys)
  into v_changes, v_keys
  from keylatch_internal.event_settings as s where s.only_row;
  -- Counting is slow for a large limit. So only one change in (limit / 20) counts the rows, and a
  -- user may exceed a large limit by a few per cent. A limit of up to 20 is exact.
  if v_chance * v_changes < 20 then
    select e.occurred_at into v_at from keylatch_internal.key_events as e
    where e.workspace_id = p_workspace_id and e.user_id is not distinct from v_user_id
      -- Without a UUID in the JWT, count the changes of all such users, and not those of services.
      and (v_user_id is not null or e.role = current_setting('role'))
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
  if p_is_new and v_chance * v_keys < 20 and exists (
    select from keylatch_internal.keys as k where k.workspace_id = p_workspace_id offset v_keys
  ) then
    perform keylatch_internal.refuse(
      'too_many_keys', format('The workspace has %s keys, including revoked keys.', v_keys)
    );
  end if;
end $$;
comment on function keylatch_internal.limit_growth is
  'Raises an error if the user made too many changes or keys. The function takes no lock.';

create function keylatch_internal.key_changes(
  p_old keylatch_internal.keys, p_new keylatch_internal.keys
)
returns jsonb language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
begin
  return jsonb_strip_nulls(jsonb_build_object(
    'label', case when p_new.label <> p_old.label then jsonb_build_object(
      'old', keylatch_internal.clean_word(p_old.label),
      'new', keylatch_internal.clean_word(p_new.label)) end,
    'metadata', case when p_new.metadata <> coalesce(p_old.metadata, '{}')
      then keylatch_internal.metadata_change(p_old.metadata, p_new.metadata) end,
    'rotated_from', case when p_new.rotated_from is distinct from p_old.rotated_from
      then jsonb_build_object('new', p_new.rotated_from) end,
    'allowed_origins', case when p_new.allowed_origins <> p_old.allowed_origins
      then jsonb_build_object('old', p_old.allowed_origins, 'new', p_new.allowed_origins) end,
    'scopes', case when p_new.scopes <> p_old.scopes
      then jsonb_build_object('old', p_old.scopes, 'new', p_new.scopes) end,
    'expires_at', case when p_new.expires_at is distinct from p_old.expires_at
      then jsonb_build_object('old', p_old.expires_at, 'new', p_new.expires_at) end,
    'suspended_at', case when p_new.suspended_at is distinct from p_old.suspended_at
      then jsonb_build_object('old', p_old.suspended_at, 'new', p_new.suspended_at) end,
    'superseded_at', case when p_new.superseded_at is distinct from p_old.superseded_at
      then jsonb_build_object('old', p_old.superseded_at, 'new', p_new.superseded_at) end,
    'revoked_at', case when p_new.revoked_at is distinct from p_old.revoked_at
      then jsonb_build_object('old', p_old.revoked_at, 'new', p_new.revoked_at) end
  ));
end $$;
comment on function keylatch_internal.key_changes is
  'Returns changed fields, old and new. If p_old is null, only the fields that few new keys have.';

create function keylatch_internal.record_new_key()
returns trigger language plpgsql volatile security definer
-- definer because: only the triggers write events.
set search_path = pg_catalog, pg_temp as $$
declare
  v_source constant text[] := keylatch_internal.current_source();
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
    -- The file of an import says who made the key, not who imports it.
    case when n.imported_at is null then n.created_by
      else keylatch_internal.current_user_id() end,
    v_source[1], v_source[2], keylatch_internal.clean_word(n.revoke_reason),
    jsonb_build_object(
      'kind', jsonb_build_object('new', n.kind),
      'environment', jsonb_build_object('new', n.environment),
      'masked_key', jsonb_build_object('new', n.masked_key),
      'allowed_origins', case when n.allowed_origins = '{}' then '{"new": []}'
        else jsonb_build_object('new', n.allowed_origins) end,
      'scopes', jsonb_build_object('new', n.scopes),
      'label', jsonb_build_object('new', case when strpos(n.label, '_') > 0
        then keylatch_internal.clean_word(n.label) else n.label end)
    ) || case
      when n.metadata = '{}' and num_nonnulls(
        n.rotated_from, n.expires_at, n.suspended_at, n.superseded_at, n.revoked_at
      ) = 0 then '{}'
      else keylatch_internal.key_changes(null, row(n.*)::keylatch_internal.keys)
    end
  from new_keys as n;
  if current_setting('role') not in ('none', current_user) then
    perform keylatch_internal.limit_growth(n.workspace_id, true) from new_keys as n
    where pg_has_role(current_setting('role'), 'authenticated', 'usage');
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
The trigger does not fire for rows that a restore or logical replication writes with their events.';

create function keylatch_internal.record_change()
returns trigger language plpgsql volatile security definer
-- definer because: only the triggers write events.
set search_path = pg_catalog, pg_temp as $$
declare
  v_source text[];
  v_event text;
  v_changes jsonb;
begin
  if tg_relid <> 'keylatch_internal.keys'::regclass then
    perform keylatch_internal.require_grants('keylatch_internal.record_change');
  end if;
  if pg_trigger_depth() > 1 and old.revoked_at is null and new.revoked_at is not null then
    return null; -- record_revocations writes the event.
  end if;
  if old.revoked_at is not null or new.revoked_at is null or (
    new.expires_at, new.suspended_at, new.superseded_at, new.label, new.metadata,
    new.allowed_origins, new.scopes) is distinct from (old.expires_at, old.suspended_at,
    old.superseded_at, old.label, old.metadata, old.allowed_origins, old.scopes) then
    v_changes := keylatch_internal.key_changes(old, new);
    v_event := case
      when v_changes = '{}' then null
      when v_changes ? 'revoked_at' then 'revoked'
      when v_changes ? 'superseded_at' then 'superseded'
      when v_changes -> 'suspended_at' ? 'new' then 'suspended'
      when v_changes ? 'suspended_at' then 'unsuspended'
      else 'changed'
    end;
  else
    -- A revocation alone is the most frequent change. For it, key_changes would take longer.
    v_changes := jsonb_build_object('revoked_at', jsonb_build_object(
      'new', to_jsonb(new.revoked_at at time zone 'UTC') #>> '{}' || '+00:00'));
    v_event := 'revoked';
  end if;
  -- A logical replica receives events from its publisher, and must not write them again.
  if v_event is null or current_setting('session_replication_role') = 'replica'
    and keylatch_internal.is_apply_worker() then
    return null;
  end if;
  v_source := keylatch_internal.current_source();
  insert into keylatch_internal.key_events (
    workspace_id, key_id, event, user_id, address, agent, reason, changes
  )
  values (
    new.workspace_id, new.id, v_event,
    case when v_event = 'revoked' then new.revoked_by else keylatch_internal.current_user_id() end,
    v_source[1], v_source[2],
    case when v_event <> 'revoked' then null
      when strpos(new.revoke_reason, '_') = 0 then new.revoke_reason
      else keylatch_internal.clean_word(new.revoke_reason) end,
    v_changes
  );
  if v_event in ('changed', 'unsuspended') then
    perform keylatch_internal.limit_growth(new.workspace_id, false)
    where current_setting('role') <> current_user
      and pg_has_role(nullif(current_setting('role'), 'none'), 'authenticated', 'usage');
  end if;
  return null;
end $$;
comment on function keylatch_internal.record_change is
  'A trigger function that writes an event for a changed key: who, when, from where and why.';

create trigger keys_update_record_events after update on keylatch_internal.keys
for each row execute function keylatch_internal.record_change();
alter table keylatch_internal.keys enable always trigger keys_update_record_events;
comment on trigger keys_update_record_events on keylatch_internal.keys is
  'Writes an event for each change of a key, even if session_replication_role is "replica".';

-- When a workspace is deleted, another trigger revokes all its keys. For many keys, a statement
-- trigger takes a quarter of the time of a row trigger. For one key, it takes longer. A caller
-- cannot choose between the two triggers: no setting changes pg_trigger_depth().
create function keylatch_internal.record_revocations()
returns trigger language plpgsql volatile security definer
-- definer because: only the triggers write events.
-- A plan made for one key must also serve thousands. A nested loop would compare all pairs of rows.
set search_path = pg_catalog, pg_temp set timezone = 'UTC'
set enable_nestloop = off set jit = off as $$
declare
  v_source constant text[] := keylatch_internal.current_source();
begin
  perform keylatch_internal.require_grants('keylatch_internal.record_revocations');
  -- If a foreign key changes a row, "when" counts its trigger. This function does not.
  if pg_trigger_depth() = 1 or keylatch_internal.is_apply_worker() then
    return null; -- record_change writes the event, or the publisher sends it.
  end if;
  insert into keylatch_internal.key_events (
    workspace_id, key_id, event, user_id, address, agent, reason, changes
  )
  select
    n.workspace_id, n.id, 'revoked', n.revoked_by, v_source[1], v_source[2],
    case when strpos(n.revoke_reason, '_') = 0 then n.revoke_reason
      else keylatch_internal.clean_word(n.revoke_reason) end,
    case when (
      n.expires_at, n.suspended_at, n.superseded_at, n.label, n.metadata, n.allowed_origins,
      n.scopes) is distinct from (o.expires_at, o.suspended_at, o.superseded_at, o.label,
      o.metadata, o.allowed_origins, o.scopes)
      then keylatch_internal.key_changes(
        row(o.*)::keylatch_internal.keys, row(n.*)::keylatch_internal.keys)
      else jsonb_build_object('revoked_at', jsonb_build_object('new', n.revoked_at)) end
  from new_keys as n inner join old_keys as o on n.id = o.id
  where o.revoked_at is null and n.revoked_at is not null;
  return null;
end $$;
comment on function keylatch_internal.record_revocations is
  'A trigger function that writes the events of all keys that a statement revoked.';

create trigger keys_update_record_revocations after update on keylatch_internal.keys
referencing old table as old_keys new table as new_keys
for each statement when (pg_catalog.pg_trigger_depth() > 0)
execute function keylatch_internal.record_revocations();
alter table keylatch_internal.keys enable always trigger keys_update_record_revocations;
comment on trigger keys_update_record_revocations on keylatch_internal.keys is
  'Writes the events of keys that another trigger revokes: the keys of a deleted workspace.';

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
    select e.occurred_at, e.id into v_at, v_id from keylatch.key_events as e
    where e.id = list_events.after and e.workspace_id = list_events.workspace_id
    order by e.occurred_at desc limit 1;
    if not found then
      perform keylatch_internal.refuse(
        'invalid_argument', 'after is not the id of an event of this workspace.',
        'Pass the id of the last event of the previous page.'
      );
    end if;
  end if;
  return query
  select e.* from keylatch.key_events as e
  where e.workspace_id = list_events.workspace_id and (e.occurred_at, e.id) < (v_at, v_id)
  order by e.occurred_at desc, e.id desc limit list_events."limit";
end $$;
comment on function keylatch.list_events is
  'Returns the events of a workspace that you administer, the newest first.

after: the id of the last event of the previous page; null for the first page. limit: 1 to 10000.
Errors: invalid_argument (400).';

-- The grants of this file. Only the triggers may insert events.
revoke all on function keylatch_internal.clean_word, keylatch_internal.current_source,
keylatch_internal.metadata_change, keylatch_internal.limit_growth, keylatch_internal.key_changes,
keylatch_internal.record_new_key, keylatch_internal.record_change,
keylatch_internal.record_revocations, keylatch.list_events
from public, anon, authenticated, service_role;
grant execute on function keylatch.list_events to authenticated, service_role;
