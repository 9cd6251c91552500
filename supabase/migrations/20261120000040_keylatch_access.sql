-- Who administers a workspace: one function, the row policies that call it, and what happens to
-- the keys when a workspace is deleted.

create function keylatch.admin_workspace_ids()
returns setof uuid language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return;
end $$;
comment on function keylatch.admin_workspace_ids is
  'The workspaces that the current user administers. Only this function decides about tenancy.

This version returns no workspace. An application with its own tenancy replaces the function.';

create policy keys_select_admin on keylatch_internal.keys
for select to authenticated using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy keys_select_admin on keylatch_internal.keys is
  'A signed-in user sees the keys of the workspaces that they administer.';

create policy keys_insert_admin on keylatch_internal.keys
for insert to authenticated with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy keys_insert_admin on keylatch_internal.keys is
  'A signed-in user makes keys in the workspaces that they administer.';

create policy keys_update_admin on keylatch_internal.keys
for update to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()))
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy keys_update_admin on keylatch_internal.keys is
  'A signed-in user edits the keys of the workspaces that they administer, as the latch allows.';

create function keylatch_internal.current_user_id()
returns uuid language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- Not auth.uid(): that fails for an identity provider whose subjects are not UUIDs. Not
  -- auth.jwt(): its cast to a bare "jsonb" would find a temporary type of the caller first.
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
comment on function keylatch_internal.current_user_id is
  'The signed-in user, for created_by and revoked_by; null if nobody is signed in.';

insert into keylatch_internal.errors (slug, code, hint) values
('workspace_deleted', 'PT409', 'Create a workspace with a new id, and issue the key there.'),
('keys_are_kept', 'PT409', 'Call revoke_key instead.');

create table keylatch_internal.workspace_latches (
  workspace_id uuid not null,
  deleted_at timestamptz,
  constraint workspace_latches_pkey primary key (workspace_id)
);
comment on table keylatch_internal.workspace_latches is
  'One row for each workspace that ever had a key. Making a key locks the row for share. Deleting
the workspace locks it exclusively, so no active key is left in a deleted workspace. Only the owner
can lock a row. For a caller that happens only after the policies accepted the key.';
comment on column keylatch_internal.workspace_latches.workspace_id is 'The workspace.';
comment on column keylatch_internal.workspace_latches.deleted_at is
  'When the workspace was deleted, after which it gets no new key. Null: it was not deleted.';

alter table keylatch_internal.workspace_latches enable row level security;

create function keylatch_internal.share_workspaces()
returns trigger language plpgsql volatile security definer
-- definer because: a role that could lock these rows itself could keep others from making keys.
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.require_grants('keylatch_internal.share_workspaces')
  where tg_relid <> 'keylatch_internal.keys'::regclass;
  insert into keylatch_internal.workspace_latches (workspace_id)
  select distinct n.workspace_id from new_keys as n where not exists (
    select from keylatch_internal.workspace_latches as w where w.workspace_id = n.workspace_id
  )
  order by 1
  on conflict do nothing;
  -- No waiting here, because of deadlocks: a transaction that deletes the workspace has locked its
  -- row, and may wait for a key that this transaction has locked, as a rotation locks its key.
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
  'Prevents the deletion of the workspaces of new keys until the keys are committed, and refuses
keys for a workspace that is deleted, or is being deleted.';

create trigger keys_insert_share_workspaces after insert on keylatch_internal.keys
referencing new table as new_keys
for each statement execute function keylatch_internal.share_workspaces();
comment on trigger keys_insert_share_workspaces on keylatch_internal.keys is
  'No key is made in a deleted workspace. Origin sessions only: a logical replica takes the
publisher''s rows as they are.';

create function keylatch_internal.revoke_workspace(p_workspace_id uuid)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- An older snapshot does not contain the newest keys, and these would stay active.
    perform keylatch_internal.refuse(
      'read_committed_required', 'Deleting a workspace needs isolation level READ COMMITTED.'
    );
  elsif exists (
    select from keylatch_internal.keys as k
    where k.workspace_id = p_workspace_id and k.revoked_at is null offset 100000
  ) then
    perform keylatch_internal.refuse(
      'keys_are_kept',
      'The workspace has more than 100000 keys that are not revoked: too many for one statement.',
      'Call retire_workspace(workspace_id) until is_done is true, then delete the workspace.'
    );
  end if;
  for v_try in 1 .. 3 loop
    begin
      insert into keylatch_internal.workspace_latches as w (workspace_id, deleted_at)
      values (p_workspace_id, clock_timestamp())
      on conflict (workspace_id) do update
      set deleted_at = coalesce(w.deleted_at, excluded.deleted_at);
      -- From here on no other transaction makes a key in the workspace.
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
      -- An update of several keys may lock them in another order. Let it finish first.
      if v_try = 3 then raise; end if;
      perform pg_sleep(0.1);
    end;
  end loop;
end $$;
comment on function keylatch_internal.revoke_workspace is
  'Marks a workspace as deleted, for good, and revokes its keys.';

create function keylatch_internal.revoke_workspace_keys()
returns trigger language plpgsql volatile security definer
-- definer because: a role that may delete a workspace may have no right to edit its keys.
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
      'Delete the workspaces instead: that revokes their keys.'
    );
  elsif tg_level <> 'ROW' or tg_when <> 'AFTER' or tg_op not in ('DELETE', 'UPDATE')
    -- Known types only: the cast of another type would run its owner's code with our rights.
    or not exists (
      select from pg_catalog.pg_attribute as a where a.attrelid = tg_relid and a.attname = v_column
        and a.atttypid in ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype)
    )
  then
    raise object_not_in_prerequisite_state using
      message = format('trigger %s on %s is attached wrongly', tg_name, tg_table_name),
      detail = 'The keys of a deleted workspace would stay active.',
      hint = 'Create it "after delete or update of <id column> … for each row". Pass the name of '
        || 'the id column if that is not "id". The column must be uuid, text or varchar.';
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
  'Trigger for a table of workspaces: revokes the keys of a workspace that is deleted or whose id
changes, and refuses to truncate.

  create trigger workspaces_delete_revoke_keys after delete or update of id on public.workspaces
  for each row execute function keylatch_internal.revoke_workspace_keys();
  create trigger workspaces_truncate_keep before truncate on public.workspaces
  for each statement execute function keylatch_internal.revoke_workspace_keys();

If the id column has another name, pass the name as the argument of the first trigger.';

-- Who may do what.
revoke all on table keylatch_internal.workspace_latches
from public, anon, authenticated, service_role;
revoke all on function keylatch.admin_workspace_ids, keylatch_internal.current_user_id,
keylatch_internal.share_workspaces, keylatch_internal.revoke_workspace,
keylatch_internal.revoke_workspace_keys from public, anon, authenticated, service_role;
grant execute on function keylatch.admin_workspace_ids, keylatch_internal.current_user_id
to authenticated, service_role;
