-- The function that decides who administers a workspace, the row policies that call this function,
-- and the triggers that revoke the keys of a deleted workspace.

create function keylatch.admin_workspace_ids()
returns setof uuid language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return;
end $$;
comment on function keylatch.admin_workspace_ids is
  'Returns the ids of the workspaces whose keys the current user may read and change.

This version returns no workspace. An application with its own tenancy replaces the function.';

create policy keys_select_admin on keylatch_internal.keys
for select to authenticated using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy keys_select_admin on keylatch_internal.keys is
  'A signed-in user may read the keys of the workspaces that the user administers.';

create policy keys_insert_admin on keylatch_internal.keys
for insert to authenticated with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy keys_insert_admin on keylatch_internal.keys is
  'A signed-in user may insert keys into the workspaces that the user administers.';

create policy keys_update_admin on keylatch_internal.keys
for update to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()))
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy keys_update_admin on keylatch_internal.keys is
  'A signed-in user may update the keys of the workspaces that the user administers.';

create function keylatch_internal.current_user_id()
returns uuid language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- auth.uid() fails if the JWT subject is not a UUID. auth.jwt() casts to "jsonb" without a
  -- schema, so a caller could put a temporary type named jsonb in its place.
  v_subject text := coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  );
begin
  if v_subject ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    return v_subject::uuid;
  end if;
  return null;
end $$;
comment on function keylatch_internal.current_user_id is 'Returns the signed-in user, or null.';

insert into keylatch_internal.errors (slug, code, hint) values
('workspace_deleted', 'PT409', 'Create a workspace with a new id, and issue the key there.'),
('keys_are_kept', 'PT409', 'Call revoke_key instead.');

create table keylatch_internal.workspace_latches (
  workspace_id uuid not null,
  deleted_at timestamptz,
  constraint workspace_latches_pkey primary key (workspace_id)
);
comment on table keylatch_internal.workspace_latches is
  'One row for each workspace that ever had a key. A transaction that makes a key takes a share lock
on the row. A transaction that deletes the workspace takes an exclusive lock, so that a deleted
workspace never has an active key. Only the owner of the table can lock rows.';
comment on column keylatch_internal.workspace_latches.workspace_id is 'The id of the workspace.';
comment on column keylatch_internal.workspace_latches.deleted_at is 'The time of the deletion.';

alter table keylatch_internal.workspace_latches enable row level security;

create function keylatch_internal.share_workspaces()
returns trigger language plpgsql volatile security definer
-- definer because: a role that may lock rows of workspace_latches could block all new keys.
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'keylatch_internal.keys'::regclass then
    perform keylatch_internal.require_grants('keylatch_internal.share_workspaces');
  end if;
  insert into keylatch_internal.workspace_latches (workspace_id)
  select distinct n.workspace_id from new_keys as n where not exists (
    select from keylatch_internal.workspace_latches as w where w.workspace_id = n.workspace_id
  )
  order by 1 on conflict do nothing;
  -- Do not wait for the lock, to prevent a deadlock: a transaction that deletes the workspace holds
  -- the lock and may wait for a key that this transaction has locked.
  if (
    select count(*) from (
      select from keylatch_internal.workspace_latches as w
      where w.workspace_id in (select n.workspace_id from new_keys as n) and w.deleted_at is null
      for share skip locked
    ) as shared
  ) < (select count(distinct n.workspace_id) from new_keys as n) then
    perform keylatch_internal.refuse(
      'workspace_deleted', 'The workspace is deleted, so it cannot get a new key.'
    );
  end if;
  return null;
end $$;
comment on function keylatch_internal.share_workspaces is
  'Blocks the deletion of a workspace until the new keys of the workspace are committed. Refuses a
new key for a workspace that is deleted or that another transaction deletes now.';

create trigger keys_insert_share_workspaces after insert on keylatch_internal.keys
referencing new table as new_keys
for each statement execute function keylatch_internal.share_workspaces();
comment on trigger keys_insert_share_workspaces on keylatch_internal.keys is
  'Refuses new keys in a deleted workspace. The trigger does not fire on a logical replica for rows
that the publisher sends.';

create function keylatch_internal.revoke_workspace(p_workspace_id uuid)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.require_read_committed('Deleting a workspace');
  if exists (
    select from keylatch_internal.keys as k
    where k.workspace_id = p_workspace_id and k.revoked_at is null offset 100000
  ) then
    perform keylatch_internal.refuse(
      'keys_are_kept',
      'The workspace has more than 100000 keys that are not revoked: too many for one statement.',
      'Repeat retire_workspace(workspace_id) until is_done is true, then delete the workspace.'
    );
  end if;
  for v_try in 1 .. 3 loop
    begin
      insert into keylatch_internal.workspace_latches as w (workspace_id, deleted_at)
      values (p_workspace_id, clock_timestamp())
      on conflict (workspace_id) do update
      set deleted_at = coalesce(w.deleted_at, excluded.deleted_at);
      -- This row blocks all later keys of the workspace in other transactions.
      with locked as materialized (
        select k.id from keylatch_internal.keys as k
        where k.workspace_id = p_workspace_id and k.revoked_at is null
        order by k.created_at, k.id for update
      )
      update keylatch_internal.keys as k
      set revoked_at = clock_timestamp(), revoke_reason = 'workspace deleted'
      from locked as l where k.id = l.id;
      exit;
    exception when deadlock_detected then
      -- A concurrent update of the same keys can cause a deadlock. Let that update finish first.
      if v_try = 3 then raise; end if;
      perform pg_sleep(0.1);
    end;
  end loop;
end $$;
comment on function keylatch_internal.revoke_workspace is
  'Marks a workspace as deleted permanently, and revokes all keys of the workspace.';

create function keylatch_internal.revoke_workspace_keys()
returns trigger language plpgsql volatile security definer
-- definer because: a role that may delete a workspace may lack the right to update keys.
set search_path = pg_catalog, pg_temp as $$
declare
  v_column constant text := coalesce(tg_argv[0], 'id');
  v_old text;
  v_new text;
begin
  perform keylatch_internal.require_grants('keylatch_internal.revoke_workspace_keys');
  if tg_op = 'TRUNCATE' then
    perform keylatch_internal.refuse(
      'keys_are_kept', 'Truncating workspaces would leave active keys in deleted workspaces.',
      'Use DELETE instead of TRUNCATE: DELETE revokes the keys.'
    );
  elsif tg_level <> 'ROW' or tg_when <> 'AFTER' or tg_op not in ('DELETE', 'UPDATE')
    -- Allow only built-in types: a cast of a user-defined type would run foreign code as our owner.
    or not exists (
      select from pg_catalog.pg_attribute as a where a.attrelid = tg_relid and a.attname = v_column
        and a.atttypid in ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype)
    ) then
    raise object_not_in_prerequisite_state using
      message = format('trigger %s on %s is attached wrongly', tg_name, tg_table_name),
      detail = 'The keys of a deleted workspace would stay active.',
      hint = 'Create the trigger "after delete or update of <id column> … for each row". If the id '
        || 'column is not "id", pass its name. The column must be uuid, text or varchar.';
  end if;
  execute format('select ($1).%I::text', v_column) into v_old using old;
  if tg_op = 'UPDATE' then
    execute format('select ($1).%I::text', v_column) into v_new using new;
  end if;
  if v_old is distinct from v_new then
    perform keylatch_internal.revoke_workspace(v_old::uuid);
  end if;
  return null;
end $$;
comment on function keylatch_internal.revoke_workspace_keys is
  'A trigger function for your table of workspaces. The trigger revokes all keys of a workspace when
the workspace is deleted or its id changes, and refuses TRUNCATE.

  create trigger workspaces_delete_revoke_keys after delete or update of id on public.workspaces
  for each row execute function keylatch_internal.revoke_workspace_keys();
  create trigger workspaces_truncate_keep before truncate on public.workspaces
  for each statement execute function keylatch_internal.revoke_workspace_keys();

If the id column is not named "id", pass its name as the argument of the first trigger.';

-- The grants of this file.
revoke all on table keylatch_internal.workspace_latches
from public, anon, authenticated, service_role;
revoke all on function keylatch.admin_workspace_ids, keylatch_internal.current_user_id,
keylatch_internal.share_workspaces, keylatch_internal.revoke_workspace,
keylatch_internal.revoke_workspace_keys from public, anon, authenticated, service_role;
grant execute on function keylatch.admin_workspace_ids, keylatch_internal.current_user_id
to authenticated, service_role;
