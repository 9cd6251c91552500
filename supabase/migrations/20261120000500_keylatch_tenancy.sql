-- Who administers a workspace: one function, and the row policies that follow it.

create function keylatch.admin_workspace_ids()
returns setof uuid
language sql
stable
security invoker
set search_path = ''
as $$
  select null::pg_catalog.uuid where false;
$$;

comment on function keylatch.admin_workspace_ids() is
  'The workspaces that the current user administers: the one place where tenancy is decided.

As made here it gives nobody anything. The migration "workspaces" lets it read keylatch''s own
tables; an application with tables of its own leaves that one out and replaces this function.';

revoke all on function keylatch.admin_workspace_ids()
from public, anon, authenticated, service_role;
grant execute on function keylatch.admin_workspace_ids() to authenticated, service_role;

create policy keys_select_admin on keylatch_internal.keys
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy keys_select_admin on keylatch_internal.keys is
  'A signed-in user sees the keys of the workspaces that they administer.';

create policy keys_insert_admin on keylatch_internal.keys
for insert to authenticated
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy keys_insert_admin on keylatch_internal.keys is
  'A signed-in user makes keys in the workspaces that they administer.';

create policy keys_update_admin on keylatch_internal.keys
for update to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()))
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy keys_update_admin on keylatch_internal.keys is
  'A signed-in user edits the keys of the workspaces that they administer, as far as the latch lets
them.';

create function keylatch_internal.current_user_id()
returns uuid
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  -- Not auth.uid(): that fails for an identity provider whose subjects are not uuids. Nor auth.jwt():
  -- it casts to a bare "jsonb", and where this runs with the owner's rights, that would be the
  -- caller's temporary type, whose checks are the caller's code.
  v_subject pg_catalog.text := coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb ->> 'sub'
  );
begin
  if v_subject ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    return v_subject::pg_catalog.uuid;
  end if;
  return null;
end;
$$;

comment on function keylatch_internal.current_user_id() is
  'The signed-in user for the stamps created_by and revoked_by; null without one.';

revoke all on function keylatch_internal.current_user_id()
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.current_user_id() to authenticated, service_role;

create function keylatch_internal.workspace_lock(p_workspace_id uuid)
returns bigint
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return hashtextextended('keylatch:' || p_workspace_id::pg_catalog.text, 0);
end;
$$;

comment on function keylatch_internal.workspace_lock(uuid) is
  'The advisory lock that making a key shares and deleting its workspace takes alone.';

revoke all on function keylatch_internal.workspace_lock(uuid)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.workspace_lock(uuid) to authenticated, service_role;

create function keylatch_internal.revoke_workspace_keys()
returns trigger
language plpgsql
volatile
-- definer because: whoever may delete a workspace need not be one who may edit its keys.
security definer
set search_path = ''
as $$
declare
  v_id_column constant pg_catalog.text := coalesce(tg_argv[0], 'id');
  v_workspace_id pg_catalog.uuid;
begin
  if tg_op = 'TRUNCATE' then
    raise sqlstate 'PT409' using
      message = 'keys_are_kept',
      detail = 'Truncating workspaces would leave living keys in workspaces that are gone.',
      hint = 'Delete the workspaces instead: that revokes their keys.';
  end if;

  v_workspace_id := case
    when tg_level = 'ROW' and tg_when = 'AFTER' and tg_op in ('DELETE', 'UPDATE')
      then (to_jsonb(old) ->> v_id_column)::pg_catalog.uuid
  end;
  if v_workspace_id is null then
    raise object_not_in_prerequisite_state using
      message = format('trigger %s on %s is attached wrongly', tg_name, tg_table_name),
      detail = 'The keys of a workspace that goes would live on.',
      hint = 'Make it "after delete or update of <id column> … for each row", and pass the name of '
        || 'the id column if it is not "id".';
  end if;
  if tg_op = 'UPDATE' and to_jsonb(new) ->> v_id_column = to_jsonb(old) ->> v_id_column then
    return null;
  end if;

  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    raise feature_not_supported using
      message = 'a workspace is deleted in a transaction that reads what is committed',
      detail = 'On an older snapshot the keys that were made since would live on.',
      hint = 'Run: set transaction isolation level read committed;';
  end if;

  -- Whoever is importing or making a key there now finishes first, and is seen by the update below.
  lock table keylatch_internal.installation in share mode;
  perform pg_advisory_xact_lock(keylatch_internal.workspace_lock(v_workspace_id));
  update keylatch_internal.keys as k
  set revoked_at = clock_timestamp(), revoke_reason = 'workspace deleted'
  where k.workspace_id = v_workspace_id and k.revoked_at is null;
  delete from keylatch_internal.sessions as s where s.workspace_id = v_workspace_id;
  return null;
end;
$$;

comment on function keylatch_internal.revoke_workspace_keys() is
  'Trigger for a table of workspaces: revokes the keys of a workspace that is deleted or whose id
changes, and refuses to truncate.

  create trigger workspaces_delete_revoke_keys after delete or update of id on public.workspaces
  for each row execute function keylatch_internal.revoke_workspace_keys();

The name of the id column, if it is another, is the trigger''s argument.';

revoke all on function keylatch_internal.revoke_workspace_keys()
from public, anon, authenticated, service_role;
