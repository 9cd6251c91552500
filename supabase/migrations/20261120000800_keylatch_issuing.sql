-- How an admin gets a key: issue and rotate.
--
-- Both run with the caller's rights, so the row policies decide; a key of another workspace is
-- simply not found.

create type keylatch.issued_key as (
  key text,
  id uuid,
  workspace_id uuid,
  kind text,
  environment text,
  hint text,
  label text,
  allowed_origins text[],
  scopes text[],
  metadata jsonb,
  expires_at timestamptz,
  rotated_from uuid,
  created_at timestamptz,
  created_by uuid
);
comment on type keylatch.issued_key is
  'A new key with all its public fields. A secret key is shown here and never again.';

create function keylatch.issue_key(
  workspace_id uuid,
  kind text default 'publishable',
  label text default '',
  allowed_origins text[] default '{}',
  scopes text[] default '{}',
  environment text default 'live',
  expires_at timestamptz default null,
  metadata jsonb default '{}',
  prefix text default 'wk'
)
returns keylatch.issued_key
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  return keylatch_internal.insert_key(
    issue_key.workspace_id, issue_key.kind, issue_key.label, issue_key.allowed_origins,
    issue_key.scopes, issue_key.environment, issue_key.expires_at, issue_key.metadata,
    issue_key.prefix, null
  );
end;
$$;

comment on function keylatch.issue_key(
  uuid, text, text, text[], text[], text, timestamptz, jsonb, text
) is
  'Makes a key in a workspace that you administer and answers with it, once.

kind: publishable (for a page, works from allowed_origins) or secret (for a server). environment:
live or test. expires_at: in the future, or null. prefix: 2 to 12 letters and digits.
Errors: invalid_argument (400), not an admin there (403).';

revoke all on function keylatch.issue_key(
  uuid, text, text, text[], text[], text, timestamptz, jsonb, text
) from public, anon, authenticated, service_role;
grant execute on function keylatch.issue_key(
  uuid, text, text, text[], text[], text, timestamptz, jsonb, text
) to authenticated, service_role;

create function keylatch_internal.insert_key(
  p_workspace_id uuid,
  p_kind text,
  p_label text,
  p_allowed_origins text[],
  p_scopes text[],
  p_environment text,
  p_expires_at timestamptz,
  p_metadata jsonb,
  p_prefix text,
  p_rotated_from uuid
)
returns keylatch.issued_key
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  -- A trigger or hook of the application may issue a key of its own inside of the caller's.
  v_outer pg_catalog.text := coalesce(current_setting('keylatch.handoff', true), '');
  v_row keylatch.keys;
  v_key pg_catalog.text;
begin
  perform set_config('keylatch.handoff', 'prefix:' || coalesce(p_prefix, ''), true);
  insert into keylatch.keys as k (
    workspace_id, kind, label, allowed_origins, scopes, environment, expires_at, metadata,
    rotated_from
  )
  values (
    p_workspace_id, p_kind, p_label, p_allowed_origins, p_scopes, p_environment, p_expires_at,
    p_metadata, p_rotated_from
  )
  returning k.* into v_row;

  v_key := substr(current_setting('keylatch.handoff'), 5);
  v_outer := set_config('keylatch.handoff', v_outer, true);
  if keylatch_internal.key_hint(v_key) is distinct from v_row.hint then
    raise object_not_in_prerequisite_state using
      message = 'a trigger on the keys took the key that the caller waits for',
      detail = 'It inserted a row of its own before this one was made.',
      hint = 'Let the trigger call issue_key instead of a plain insert.';
  end if;
  return row(
    v_key, v_row.id, v_row.workspace_id, v_row.kind, v_row.environment, v_row.hint, v_row.label,
    v_row.allowed_origins, v_row.scopes, v_row.metadata, v_row.expires_at, v_row.rotated_from,
    v_row.created_at, v_row.created_by
  )::keylatch.issued_key;
end;
$$;

comment on function keylatch_internal.insert_key(
  uuid, text, text, text[], text[], text, timestamptz, jsonb, text, uuid
) is
  'Inserts a row as the caller, takes over the key that the database made for it, and forgets it.';

revoke all on function keylatch_internal.insert_key(
  uuid, text, text, text[], text[], text, timestamptz, jsonb, text, uuid
) from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.insert_key(
  uuid, text, text, text[], text[], text, timestamptz, jsonb, text, uuid
) to authenticated, service_role;

create function keylatch_internal.lock_family(p_key_id uuid, p_alone boolean)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_workspace_id pg_catalog.uuid;
  v_first_id pg_catalog.uuid;
  v_lock bigint;
begin
  -- Where a key comes from never changes, so a plain look finds the first of the family.
  with recursive ancestors as (
    select k.id, k.rotated_from, k.workspace_id from keylatch.keys as k where k.id = p_key_id
    union all
    select k.id, k.rotated_from, k.workspace_id
    from keylatch.keys as k
    inner join ancestors as a on k.id = a.rotated_from
  )
  select a.id, a.workspace_id into v_first_id, v_workspace_id
  from ancestors as a
  where a.rotated_from is null;
  if not found then
    return;
  end if;

  -- The workspace, the family, the row: in this order everywhere, or two would wait for each other.
  perform pg_advisory_xact_lock_shared(keylatch_internal.workspace_lock(v_workspace_id));
  v_lock := hashtextextended('keylatch family:' || v_first_id, 0);
  if p_alone then
    perform pg_advisory_xact_lock(v_lock);
  else
    perform pg_advisory_xact_lock_shared(v_lock);
  end if;
end;
$$;

comment on function keylatch_internal.lock_family(uuid, boolean) is
  'Locks the rotation family of a key and its workspace against deletion: rotations share the lock,
a cascade has it alone, so that no family rotates away from its revocation.';

revoke all on function keylatch_internal.lock_family(uuid, boolean)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.lock_family(uuid, boolean)
to authenticated, service_role;

create function keylatch.rotate_key(
  key_id uuid,
  grace interval default '0',
  expires_at timestamptz default null
)
returns keylatch.issued_key
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_old keylatch.keys;
  v_now pg_catalog.timestamptz;
  v_ends_at pg_catalog.timestamptz;
  v_issued keylatch.issued_key;
begin
  perform keylatch_internal.lock_family(rotate_key.key_id, false);
  select k.* into v_old from keylatch.keys as k where k.id = rotate_key.key_id for update;
  if not found then
    raise sqlstate 'PT404' using
      message = 'key_not_found',
      detail = 'There is no key of that id that you administer.',
      hint = 'List the keys of the workspace with list_keys.';
  end if;

  v_now := clock_timestamp();
  begin
    v_ends_at := v_now + rotate_key.grace;
  exception
    when datetime_field_overflow or interval_field_overflow then v_ends_at := 'infinity';
  end;
  -- The times are compared: a month is longer than 30 days only as an interval.
  if v_ends_at is null or v_ends_at < v_now or v_ends_at > v_now + interval '30 days' then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'grace must be from 0 to 30 days.',
      hint = 'Pass 0 to end the old key now, or for example ''24 hours''.';
  end if;

  perform keylatch_internal.require_rotatable(v_old);
  if v_old.suspended_at is not null and v_ends_at > v_now then
    raise sqlstate 'PT409' using
      message = 'key_suspended',
      detail = 'A suspended key has no grace: nobody may use it meanwhile.',
      hint = 'Rotate it with grace 0, or resume it first.';
  end if;

  -- First the successor: only a living key has one.
  v_issued := keylatch_internal.insert_key(
    v_old.workspace_id, v_old.kind, v_old.label, v_old.allowed_origins, v_old.scopes,
    v_old.environment, coalesce(rotate_key.expires_at, v_old.expires_at), v_old.metadata,
    keylatch_internal.hint_prefix(v_old.hint), v_old.id
  );
  -- Less than a second would be over before the answer is there.
  if v_ends_at < v_now + interval '1 second' then
    update keylatch.keys as k
    set revoked_at = v_now, revoke_reason = 'rotated'
    where k.id = rotate_key.key_id;
  else
    update keylatch.keys as k
    set superseded_at = v_now, expires_at = least(v_old.expires_at, v_ends_at)
    where k.id = rotate_key.key_id;
  end if;
  return v_issued;
end;
$$;

comment on function keylatch.rotate_key(uuid, interval, timestamptz) is
  'Makes the successor of a key and answers with it, once; the old key ends now or after a grace.

grace: 0 revokes the old key at once; up to 30 days lets both live until then, never longer than the
old key''s own expiry. expires_at: of the successor; null copies the old one''s.
Errors: key_not_found (404), key_already_rotated, key_revoked, key_expired, key_suspended (409),
invalid_argument (400).';

revoke all on function keylatch.rotate_key(uuid, interval, timestamptz)
from public, anon, authenticated, service_role;
grant execute on function keylatch.rotate_key(uuid, interval, timestamptz)
to authenticated, service_role;

create function keylatch_internal.require_living(p_key keylatch.keys)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if p_key.revoked_at is not null then
    raise sqlstate 'PT409' using
      message = 'key_revoked',
      detail = format('The key was revoked at %s.', p_key.revoked_at),
      hint = 'A revoked key stays revoked: issue a new one.';
  elsif p_key.expires_at <= clock_timestamp() then
    raise sqlstate 'PT409' using
      message = 'key_expired',
      detail = format('The key expired at %s.', p_key.expires_at),
      hint = 'An expired key stays expired: issue a new one.';
  end if;
end;
$$;

comment on function keylatch_internal.require_living(keylatch.keys) is
  'Raises key_revoked or key_expired unless the key lives.';

revoke all on function keylatch_internal.require_living(keylatch.keys)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.require_living(keylatch.keys)
to authenticated, service_role;

create function keylatch_internal.require_rotatable(p_key keylatch.keys)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if exists (select 1 from keylatch.keys as k where k.rotated_from = p_key.id) then
    raise sqlstate 'PT409' using
      message = 'key_already_rotated',
      detail = 'The key has a successor already, and can have only one.',
      hint = 'Rotate the successor: it is the key whose rotated_from is this id.';
  end if;
  perform keylatch_internal.require_living(p_key);
  if p_key.superseded_at is not null then
    raise sqlstate 'PT409' using
      message = 'key_already_rotated',
      detail = format('The key was superseded at %s, by hand: it has no successor.',
        p_key.superseded_at),
      hint = 'Issue a new key.';
  end if;
end;
$$;

comment on function keylatch_internal.require_rotatable(keylatch.keys) is
  'Raises key_already_rotated, key_revoked or key_expired unless the key may get a successor.';

revoke all on function keylatch_internal.require_rotatable(keylatch.keys)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.require_rotatable(keylatch.keys)
to authenticated, service_role;
