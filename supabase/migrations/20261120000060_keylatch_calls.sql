-- The calls for an admin of a workspace: issue, rotate, revoke, suspend and list keys.
--
-- Every function in keylatch runs with the rights of its caller, so the row policies apply. For a
-- key of a workspace that the caller does not administer, a call raises key_not_found.

insert into keylatch_internal.errors (slug, code, hint) values
('key_not_found', 'PT404', 'List the keys of the workspace with list_keys.'),
('key_already_rotated', 'PT409', 'Rotate the newer key, which has this key id in rotated_from.'),
('key_revoked', 'PT409', 'A revoked key stays revoked. Call issue_key for a new key.'),
('key_expired', 'PT409', 'An expired key stays expired. Call issue_key for a new key.'),
('key_suspended', 'PT409', 'Call unsuspend_key first, or call rotate_key with grace 0.');

create function keylatch_internal.require_unrevoked(p_key keylatch.keys)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if p_key.revoked_at is not null then
    perform keylatch_internal.refuse(
      'key_revoked', format('The key was revoked at %s.', p_key.revoked_at)
    );
  elsif p_key.expires_at <= clock_timestamp() then
    perform keylatch_internal.refuse(
      'key_expired', format('The key expired at %s.', p_key.expires_at)
    );
  end if;
end $$;
comment on function keylatch_internal.require_unrevoked is 'Raises key_revoked or key_expired.';

create function keylatch_internal.require_rotatable(p_successor keylatch_internal.keys)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_old keylatch.keys;
begin
  -- Lock the old key until commit, so that a concurrent revocation happens either before or after
  -- the whole rotation.
  select k.* into v_old from keylatch.keys as k where k.id = p_successor.rotated_from for update;
  if not found then
    perform keylatch_internal.refuse(
      'key_not_found', 'rotated_from is not the id of a key that you administer.'
    );
  elsif (v_old.workspace_id, v_old.kind, v_old.environment)
    is distinct from (p_successor.workspace_id, p_successor.kind, p_successor.environment) then
    perform keylatch_internal.refuse(
      'invalid_argument', 'The key in rotated_from has another workspace_id, kind or environment.',
      'Call rotate_key, which copies these columns.'
    );
  elsif v_old.superseded_at is not null
    or exists (select from keylatch.keys as k where k.rotated_from = v_old.id) then
    perform keylatch_internal.refuse(
      'key_already_rotated', 'The key already has a successor, or superseded_at was set by hand.'
    );
  end if;
  perform keylatch_internal.require_unrevoked(v_old);
end $$;
comment on function keylatch_internal.require_rotatable is
  'Locks the old key in rotated_from, and checks that the new key may replace the old key.';

-- insert_key and the trigger mint_key exchange data in a setting of the transaction: insert_key
-- writes the prefix to the setting, and mint_key replaces the prefix with the new key. A plain
-- INSERT does not return the plaintext of a secret key, so the key is useless until it is rotated.

create function keylatch_internal.mint_key()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_handoff text := coalesce(current_setting('keylatch.handoff', true), '');
  v_is_awaited constant boolean := starts_with(v_handoff, 'prefix:');
  v_prefix constant text := case when v_is_awaited then substr(v_handoff, 8) else 'wk' end;
  v_key text;
  v_given constant text := (
    select n.key from jsonb_each_text(to_jsonb(new)) as n
    where n.value is not null and (n.key = any (
      '{id,public_key,masked_key,suspended_at,superseded_at,revoked_at,revoked_by,revoke_reason}'
      || '{created_at,created_by,updated_at,imported_at}'::text[]
    ) or (n.key = 'rotated_from' and not v_is_awaited)) limit 1
  );
  v_problem constant text[] := case
    when v_given is not null then array[
      v_given || ' of a new key cannot be passed, because the database sets this column.',
      'Leave this column out. To change an existing key, send a PATCH, not an upsert.']
    when new.workspace_id is null then array[
      'workspace_id must be given.', 'Pass the id of a workspace that you administer.']
    when v_prefix !~ '^[a-z][a-z0-9]{1,11}$' then array[
      'prefix must be 2 to 12 lower-case letters and digits and begin with a letter.',
      'Pass a short name of your product, for example "acme".']
    else keylatch_internal.check_key(null, new)
  end;
begin
  if v_given is null and new.rotated_from is not null then
    -- Check the old key first: if it is expired, the error should not be about the new expires_at.
    perform keylatch_internal.require_rotatable(new);
  end if;
  if v_problem is not null then
    perform keylatch_internal.refuse('invalid_argument', v_problem[1], v_problem[2]);
  end if;
  v_key := keylatch_internal.complete_key(
    v_prefix || case new.kind when 'secret' then '_sk_' else '_pk_' end || new.environment || '_'
  );
  new.id := gen_random_uuid();
  new.key_hash := sha256(convert_to(v_key, 'UTF8'));
  new.public_key := case new.kind when 'publishable' then v_key end;
  -- Write "..." and not "…": a client with the encoding LATIN1 could not read the character "…".
  new.masked_key := left(v_key, -36) || '...' || right(v_key, 4);
  new.created_at := clock_timestamp();
  new.updated_at := new.created_at;
  new.created_by := keylatch_internal.current_user_id();
  if v_is_awaited then
    -- A PL/pgSQL assignment hides the key from logs, which can show parameters of statements.
    v_handoff := set_config('keylatch.handoff', 'key:' || v_key, true);
  end if;
  return new;
end $$;
comment on function keylatch_internal.mint_key is
  'A trigger function that sets the id, hash, masked key and timestamps of an inserted key.';

create trigger keys_insert_mint before insert on keylatch_internal.keys for each row
-- Only the owner of the table may insert a key_hash, to import an existing key.
when (new.key_hash is null) execute function keylatch_internal.mint_key();
comment on trigger keys_insert_mint on keylatch_internal.keys is
  'Makes a new key for each inserted row, so that no caller can choose the hash of a key. On a
logical replica, the trigger does not fire for rows that the publisher sends.';

create type keylatch.issued_key as (
  key text, id uuid, workspace_id uuid, kind text, environment text, masked_key text,
  fingerprint text, label text, allowed_origins text[], scopes text[], metadata jsonb,
  expires_at timestamptz, rotated_from uuid, created_at timestamptz, created_by uuid
);
comment on type keylatch.issued_key is
  'A new key. Only this result of issue_key and rotate_key contains the plaintext of a secret key.';

create function keylatch_internal.insert_key(
  p_workspace_id uuid, p_kind text, p_label text, p_allowed_origins text[], p_scopes text[],
  p_environment text, p_expires_at timestamptz, p_metadata jsonb, p_prefix text, p_rotated_from uuid
)
returns keylatch.issued_key language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- A trigger of the application may call issue_key while the caller's issue_key runs.
  v_outer text := coalesce(current_setting('keylatch.handoff', true), '');
  v_row keylatch.keys;
  v_key text;
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
  if right(v_key, 4) is distinct from right(v_row.masked_key, 4) then
    raise object_not_in_prerequisite_state using
      message = 'a trigger on keylatch_internal.keys used a plain insert while a key was issued',
      hint = 'Call issue_key in your trigger instead of INSERT.';
  end if;
  return row(
    v_key, v_row.id, v_row.workspace_id, v_row.kind, v_row.environment, v_row.masked_key,
    v_row.fingerprint, v_row.label, v_row.allowed_origins, v_row.scopes, v_row.metadata,
    v_row.expires_at, v_row.rotated_from, v_row.created_at, v_row.created_by
  )::keylatch.issued_key;
end $$;
comment on function keylatch_internal.insert_key is 'Inserts a key, and returns the new key.';

create function keylatch.issue_key(
  workspace_id uuid, kind text default 'publishable', label text default '',
  allowed_origins text[] default '{}', scopes text[] default '{}',
  environment text default 'live', expires_at timestamptz default null,
  metadata jsonb default '{}', prefix text default 'wk'
)
returns keylatch.issued_key language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch_internal.insert_key(
    issue_key.workspace_id, issue_key.kind, issue_key.label, issue_key.allowed_origins,
    issue_key.scopes, issue_key.environment, issue_key.expires_at, issue_key.metadata,
    issue_key.prefix, null
  );
end $$;
comment on function keylatch.issue_key is
  'Makes a key in a workspace that you administer. Only this call returns a secret key in plaintext.

kind: publishable (for a web page in allowed_origins) or secret (for a server). environment: live or
test. expires_at: in the future, or null for never. prefix: 2 to 12 of a-z and 0-9, first a letter.
Errors: invalid_argument (400), not an admin of the workspace (403), workspace_deleted (409).';

create type keylatch.issued_keys as (keys keylatch.issued_key[]);
comment on type keylatch.issued_keys is
  'A list of new keys in one row: the setting max-rows of PostgREST cannot truncate the list.';

create function keylatch.issue_keys(
  workspace_id uuid, labels text[], kind text default 'secret',
  allowed_origins text[] default '{}', scopes text[] default '{}',
  environment text default 'live', expires_at timestamptz default null,
  metadata jsonb default '{}', prefix text default 'wk'
)
returns keylatch.issued_keys language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_label text;
  v_issued keylatch.issued_key[] := '{}'::keylatch.issued_key[];
begin
  if issue_keys.labels is null or cardinality(issue_keys.labels) > 100000 then
    perform keylatch_internal.refuse(
      'invalid_argument', 'labels must be a list of up to 100000 labels, one for each key.',
      'Pass one label for each key, for example the number of the device.'
    );
  end if;
  foreach v_label in array issue_keys.labels loop
    v_issued := array_append(v_issued, keylatch_internal.insert_key(
      issue_keys.workspace_id, issue_keys.kind, v_label, issue_keys.allowed_origins,
      issue_keys.scopes, issue_keys.environment, issue_keys.expires_at, issue_keys.metadata,
      issue_keys.prefix, null
    ));
  end loop;
  return row(v_issued)::keylatch.issued_keys;
end $$;
comment on function keylatch.issue_keys is
  'Makes one key for each label, and returns the keys in the order of the labels.

A call makes up to 100000 keys that differ only in their label. If one key fails, no key is made.
Over REST, make at most a few thousand keys in a call, because a request has a time limit.
Errors: invalid_argument (400), not an admin of the workspace (403), workspace_deleted (409).';

create function keylatch.rotate_key(
  key_id uuid, grace interval default '0', expires_at timestamptz default null
)
returns keylatch.issued_key language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_old keylatch.keys;
  v_now timestamptz;
  v_old_expires_at timestamptz;
  v_issued keylatch.issued_key;
begin
  select k.* into v_old from keylatch.keys as k where k.id = rotate_key.key_id for update;
  if not found then
    perform keylatch_internal.refuse('key_not_found', 'You administer no key with this id.');
  end if;
  v_now := clock_timestamp();
  begin
    -- Add the grace in UTC: a day in a time zone with daylight saving time can have 25 hours.
    v_old_expires_at := (v_now at time zone 'UTC' + rotate_key.grace) at time zone 'UTC';
  exception
    when datetime_field_overflow or interval_field_overflow then v_old_expires_at := 'infinity';
  end;
  -- Compare timestamps, because a comparison of intervals treats a month as 30 days.
  if v_old_expires_at is null or v_old_expires_at not between v_now and v_now + interval '720 hours'
  then
    perform keylatch_internal.refuse(
      'invalid_argument', 'grace must be from 0 to 30 days.',
      'Pass 0 to revoke the old key now, or for example ''24 hours''.'
    );
  end if;
  v_issued := keylatch_internal.insert_key(
    v_old.workspace_id, v_old.kind, v_old.label, v_old.allowed_origins, v_old.scopes,
    v_old.environment, coalesce(rotate_key.expires_at, v_old.expires_at), v_old.metadata,
    coalesce(substring(v_old.masked_key, '^([a-z][a-z0-9]{1,11})_'), 'wk'), v_old.id
  );
  -- A grace period of less than a second would end before the caller gets the new key.
  if v_old_expires_at < v_now + interval '1 second' then
    update keylatch.keys as k set revoked_at = v_now, revoke_reason = 'rotated'
    where k.id = v_old.id;
  elsif v_old.suspended_at is not null then
    perform keylatch_internal.refuse(
      'key_suspended', 'A suspended key can be rotated with grace 0 only.'
    );
  else
    update keylatch.keys as k
    set superseded_at = v_now, expires_at = least(v_old.expires_at, v_old_expires_at)
    where k.id = v_old.id;
  end if;
  return v_issued;
end $$;
comment on function keylatch.rotate_key is
  'Makes a new key that replaces the key key_id, and returns the new key in plaintext, once.

grace: how long (0 to 30 days) the old key still works, at most until the old key expires. 0 revokes
the old key at once. expires_at: when the new key expires. Null copies expires_at of the old key.
Errors: key_not_found (404), 409: key_already_rotated, key_revoked, key_expired, key_suspended;
invalid_argument (400).';

create type keylatch.revocation as (
  id uuid, revoked_at timestamptz, already_revoked boolean, also_revoked uuid[]
);
comment on type keylatch.revocation is
  'The result of revoke_key: when the key was revoked, whether the key was already revoked before
this call, and the ids of other keys that this call revoked because of cascade.';

create function keylatch.revoke_key(
  key_id uuid, reason text default null, cascade boolean default false
)
returns keylatch.revocation language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_result keylatch.revocation;
  v_id uuid;
  v_oldest uuid;
  v_next uuid := revoke_key.key_id;
  v_revoked uuid[] := '{}'::uuid[];
begin
  if not coalesce(revoke_key.cascade, false) then
    update keylatch.keys as k set revoked_at = clock_timestamp(), revoke_reason = revoke_key.reason
    where k.id = revoke_key.key_id and k.revoked_at is null
    returning k.id, k.revoked_at, false, '{}'::uuid[] into v_result;
    if found then
      return v_result;
    end if;
  end if;
  while revoke_key.cascade and v_next is not null loop
    v_id := v_next;
    v_next := (select k.rotated_from from keylatch.keys as k where k.id = v_id);
  end loop;
  v_oldest := v_id;
  for v_try in 1 .. 3 loop
    begin
      -- Revoke the oldest key first, and each key before the key that replaces it. A concurrent
      -- rotation then either commits first, and its new key is found, or fails with key_revoked.
      while v_id is not null loop
        update keylatch.keys as k
        set revoked_at = clock_timestamp(), revoke_reason = revoke_key.reason
        where k.id = v_id and k.revoked_at is null;
        v_revoked := case when found then v_revoked || v_id else v_revoked end;
        v_id := (select k.id from keylatch.keys as k where k.rotated_from = v_id);
      end loop;
      exit;
    exception when deadlock_detected then
      -- A concurrent update of the same keys can cause a deadlock. Let that update finish first.
      if v_try = 3 then raise; end if;
      perform pg_sleep(0.1);
      v_id := v_oldest;
      v_revoked := '{}';
    end;
  end loop;
  select k.id, k.revoked_at, k.id <> all (v_revoked), array_remove(v_revoked, k.id) into v_result
  from keylatch.keys as k where k.id = revoke_key.key_id and k.revoked_at is not null;
  if not found then
    perform keylatch_internal.refuse('key_not_found', 'You administer no key with this id.');
  end if;
  return v_result;
end $$;
comment on function keylatch.revoke_key is
  'Revokes a key permanently. If the key is already revoked, the call succeeds and changes nothing.

reason: up to 500 characters, stored with the key. cascade: also revokes all older and newer keys
in the key''s chain of rotations. Errors: key_not_found (404), invalid_argument (400).';

create type keylatch.retirement as (revoked integer, is_done boolean);
comment on type keylatch.retirement is
  'The number of keys that a call of retire_workspace revoked. is_done: no key is left to revoke.';

create function keylatch.retire_workspace(workspace_id uuid, "limit" integer default 10000)
returns keylatch.retirement language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_result keylatch.retirement;
begin
  if retire_workspace."limit" is null or retire_workspace."limit" not between 1 and 100000 then
    perform keylatch_internal.refuse(
      'invalid_argument', 'limit must be from 1 to 100000.', 'Leave limit out to use 10000.'
    );
  end if;
  with locked as materialized (
    select k.id from keylatch.keys as k
    where k.workspace_id = retire_workspace.workspace_id and k.revoked_at is null
    -- Skip locked keys, so that this call does not wait. The next call revokes the skipped keys.
    order by k.created_at, k.id limit retire_workspace."limit"
    for update skip locked
  )
  update keylatch.keys as k
  set revoked_at = clock_timestamp(), revoke_reason = 'workspace retired' from locked as l
  where k.id = l.id;
  get diagnostics v_result.revoked = row_count;
  v_result.is_done := not exists (
    select from keylatch.keys as k
    where k.workspace_id = retire_workspace.workspace_id and k.revoked_at is null
  );
  return v_result;
end $$;
comment on function keylatch.retire_workspace is
  'Revokes up to "limit" keys of a workspace. Keys that you do not administer do not count.

Before you delete a workspace with more than 100000 keys, repeat retire_workspace until is_done is
true. limit: 1 to 100000. Errors: invalid_argument (400).';

create function keylatch_internal.set_suspended(p_key_id uuid, p_is_suspended boolean)
returns keylatch.keys language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_key keylatch.keys;
begin
  select k.* into v_key from keylatch.keys as k where k.id = p_key_id for update;
  if not found then
    perform keylatch_internal.refuse('key_not_found', 'You administer no key with this id.');
  end if;
  perform keylatch_internal.require_unrevoked(v_key);
  update keylatch.keys as k
  set suspended_at = case when p_is_suspended then clock_timestamp() end
  where k.id = p_key_id returning k.* into v_key;
  return v_key;
end $$;
comment on function keylatch_internal.set_suspended is 'Suspends or unsuspends an active key.';

create function keylatch.suspend_key(key_id uuid)
returns keylatch.keys language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch_internal.set_suspended(suspend_key.key_id, true);
end $$;
comment on function keylatch.suspend_key is
  'Suspends a key until unsuspend_key is called. Returns the key. A suspended key is no error.

Errors: key_not_found (404), key_revoked (409), key_expired (409).';

create function keylatch.unsuspend_key(key_id uuid)
returns keylatch.keys language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch_internal.set_suspended(unsuspend_key.key_id, false);
end $$;
comment on function keylatch.unsuspend_key is
  'Makes a suspended key active again. Returns the key. A key that is not suspended is no error.

Errors: key_not_found (404), key_revoked (409), key_expired (409).';

create function keylatch.list_keys(workspace_id uuid)
returns setof keylatch.keys language sql stable security invoker
-- list_keys has no "set search_path", because this clause would prevent inlining: "limit 20" would
-- then read all keys of the workspace. list_keys is safe: invoker rights, and all names qualified.
as $$
  select k.* from keylatch.keys as k
  where k.workspace_id operator(pg_catalog.=) list_keys.workspace_id
  order by k.created_at desc, k.id asc;
$$;
comment on function keylatch.list_keys is
  'Returns the keys of a workspace, the newest first, or no rows if you are not an admin of it.

Use list_keys in SQL. Over REST, use the view keylatch.keys, which supports filters and pages.';

-- The grants of this file. The row policies decide which keys a caller may see and change.
revoke all on function keylatch_internal.require_unrevoked, keylatch_internal.require_rotatable,
keylatch_internal.mint_key, keylatch_internal.insert_key, keylatch_internal.set_suspended,
keylatch.issue_key, keylatch.issue_keys, keylatch.rotate_key, keylatch.revoke_key,
keylatch.retire_workspace, keylatch.suspend_key, keylatch.unsuspend_key, keylatch.list_keys
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.require_unrevoked, keylatch_internal.require_rotatable,
keylatch_internal.insert_key, keylatch_internal.set_suspended, keylatch.issue_key,
keylatch.issue_keys, keylatch.rotate_key, keylatch.revoke_key, keylatch.retire_workspace,
keylatch.suspend_key, keylatch.unsuspend_key, keylatch.list_keys to authenticated, service_role;
