-- What an admin does with a key that exists: revoke, suspend, resume, list.
--
-- Every call runs with the caller's rights, as in issuing.

create type keylatch.revocation as (
  id uuid,
  revoked_at timestamptz,
  already_revoked boolean,
  also_revoked uuid[]
);
comment on type keylatch.revocation is
  'A revoked key, since when, whether it was so before this call, and which others of its rotation
family this call revoked with it.';

create function keylatch.revoke_key(
  key_id uuid,
  reason text default null,
  cascade boolean default false,
  wait_for_replicas boolean default false,
  end_sessions boolean default false
)
returns keylatch.revocation
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_result keylatch.revocation;
  v_family pg_catalog.uuid[] := array[revoke_key.key_id];
  v_living pg_catalog.uuid;
begin
  if revoke_key.wait_for_replicas then
    if current_setting('synchronous_standby_names') = '' then
      raise sqlstate 'PT400' using
        message = 'invalid_argument',
        detail = 'wait_for_replicas needs a synchronous standby, and none is configured. The key is '
          || 'as it was.',
        hint = 'Revoke without it, or set synchronous_standby_names on the primary.';
    end if;
    -- Until the end of the transaction: it is the commit that waits.
    perform set_config('synchronous_commit', 'remote_apply', true);
  end if;

  if revoke_key.cascade then
    perform keylatch_internal.lock_family(revoke_key.key_id, true);
  end if;

  update keylatch.keys as k
  set revoked_at = clock_timestamp(), revoke_reason = revoke_key.reason
  where k.id = revoke_key.key_id and k.revoked_at is null
  returning k.id, k.revoked_at, false, '{}'::pg_catalog.uuid[] into v_result;

  if not found then
    select k.id, k.revoked_at, true, '{}'::pg_catalog.uuid[] into v_result
    from keylatch.keys as k
    where k.id = revoke_key.key_id;
    if not found then
      raise sqlstate 'PT404' using
        message = 'key_not_found',
        detail = 'There is no key of that id that you administer.',
        hint = 'List the keys of the workspace with list_keys.';
    end if;
    if revoke_key.wait_for_replicas then
      -- A commit that has written nothing would wait for nobody.
      perform from keylatch.keys as k where k.id = revoke_key.key_id for update;
    end if;
  end if;

  -- Nobody makes a successor meanwhile, so one look at the family is enough: up to its first key,
  -- and down again from there, each by an index.
  if revoke_key.cascade then
    with recursive ancestors as (
      select k.id, k.rotated_from from keylatch.keys as k where k.id = revoke_key.key_id
      union all
      select k.id, k.rotated_from
      from keylatch.keys as k
      inner join ancestors as a on k.id = a.rotated_from
    ),

    family as (
      select a.id from ancestors as a where a.rotated_from is null
      union all
      select k.id from keylatch.keys as k inner join family as f on k.rotated_from = f.id
    )

    select array_agg(f.id) into v_family from family as f;
    for v_living in
      select k.id
      from unnest(v_family) as f (id)
      inner join keylatch.keys as k on f.id = k.id
      where k.revoked_at is null
      order by k.created_at, k.id
    loop
      update keylatch.keys as k
      set revoked_at = clock_timestamp(), revoke_reason = revoke_key.reason
      where k.id = v_living and k.revoked_at is null;
      if found then
        v_result.also_revoked := v_result.also_revoked || v_living;
      end if;
    end loop;
  end if;

  -- Also of keys that were revoked before: that is when it turns out that one was abused.
  if revoke_key.end_sessions then
    delete from keylatch_internal.sessions as s
    where s.key_id = any (v_family);
  end if;
  return v_result;
end;
$$;

comment on function keylatch.revoke_key(uuid, text, boolean, boolean, boolean) is
  'Revokes a key, for good. Again is not an error: it answers since when the key is revoked.

reason: up to 500 characters, kept beside it. cascade: also all keys that it was rotated from or to.
wait_for_replicas: commit only when every synchronous standby refuses the key too. A time-out of the
commit ends the waiting and not the revocation. end_sessions: also the sessions that were opened
with the keys that this call is about; without it they live on.
Errors: key_not_found (404), invalid_argument (400).';

revoke all on function keylatch.revoke_key(uuid, text, boolean, boolean, boolean)
from public, anon, authenticated, service_role;
grant execute on function keylatch.revoke_key(uuid, text, boolean, boolean, boolean)
to authenticated, service_role;

create function keylatch_internal.set_suspended(p_key_id uuid, p_suspended boolean)
returns keylatch.keys
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_key keylatch.keys;
begin
  select k.* into v_key from keylatch.keys as k where k.id = p_key_id for update;
  if not found then
    raise sqlstate 'PT404' using
      message = 'key_not_found',
      detail = 'There is no key of that id that you administer.',
      hint = 'List the keys of the workspace with list_keys.';
  end if;
  perform keylatch_internal.require_living(v_key);

  update keylatch.keys as k
  set suspended_at = case when p_suspended then clock_timestamp() end
  where k.id = p_key_id
  returning k.* into v_key;
  return v_key;
end;
$$;

comment on function keylatch_internal.set_suspended(uuid, boolean) is
  'Suspends or resumes a living key, as the caller.';

revoke all on function keylatch_internal.set_suspended(uuid, boolean)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.set_suspended(uuid, boolean)
to authenticated, service_role;

create function keylatch.suspend_key(key_id uuid)
returns keylatch.keys
language sql
volatile
security invoker
set search_path = ''
as $$
  select keylatch_internal.set_suspended(suspend_key.key_id, true);
$$;

comment on function keylatch.suspend_key(uuid) is
  'Takes a living key out of use until resume_key; again is not an error. Answers with its row.

Errors: key_not_found (404), key_revoked, key_expired (409).';

revoke all on function keylatch.suspend_key(uuid)
from public, anon, authenticated, service_role;
grant execute on function keylatch.suspend_key(uuid) to authenticated, service_role;

create function keylatch.resume_key(key_id uuid)
returns keylatch.keys
language sql
volatile
security invoker
set search_path = ''
as $$
  select keylatch_internal.set_suspended(resume_key.key_id, false);
$$;

comment on function keylatch.resume_key(uuid) is
  'Puts a suspended key back into use; again is not an error. Answers with its row.

Errors: key_not_found (404), key_revoked, key_expired (409).';

revoke all on function keylatch.resume_key(uuid)
from public, anon, authenticated, service_role;
grant execute on function keylatch.resume_key(uuid) to authenticated, service_role;

create function keylatch.list_keys(workspace_id uuid)
returns setof keylatch.keys
language sql
stable
security invoker
set search_path = ''
as $$
  select k.*
  from keylatch.keys as k
  where k.workspace_id = list_keys.workspace_id
  order by k.created_at desc, k.id asc;
$$;

comment on function keylatch.list_keys(uuid) is
  'The keys of a workspace, the newest first; none if you do not administer it.

For SQL callers. Over REST read the view keys itself, which filters, orders and pages.';

revoke all on function keylatch.list_keys(uuid)
from public, anon, authenticated, service_role;
grant execute on function keylatch.list_keys(uuid) to authenticated, service_role;
