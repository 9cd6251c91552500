-- The default tenancy: the tables workspaces and workspace_membership.
--
-- An application with its own tables of workspaces omits this file (keylatch install --tenancy own)
-- and replaces the function keylatch.admin_workspace_ids() in its own migration.

create table keylatch.workspaces (
  id uuid not null default pg_catalog.gen_random_uuid(),
  name text not null,
  external_id text,
  created_at timestamptz not null default pg_catalog.now(),

  constraint workspaces_pkey primary key (id),
  constraint workspaces_external_id_key unique (external_id),
  constraint workspaces_name_check check (length(name) between 1 and 200)
);
comment on table keylatch.workspaces is
  'The workspaces that own keys. A user sees a workspace only as a member of the workspace. The
role service_role inserts, updates and deletes workspaces. Deleting a workspace revokes its keys.';
comment on column keylatch.workspaces.id is 'The id of the workspace.';
comment on column keylatch.workspaces.name is 'The name of the workspace, up to 200 characters.';
comment on column keylatch.workspaces.external_id is
  'The id of the workspace in the system from which you import keys. Null if there is no such id.';
comment on column keylatch.workspaces.created_at is 'When the workspace was created.';

create table keylatch.workspace_membership (
  workspace_id uuid not null,
  user_id uuid not null,
  role text not null,
  created_at timestamptz not null default pg_catalog.now(),

  constraint workspace_membership_pkey primary key (workspace_id, user_id),
  constraint workspace_membership_workspace_id_fkey
  foreign key (workspace_id) references keylatch.workspaces (id) on delete cascade,
  -- A deleted user loses the admin rights at once, even if the user's JWT is still valid.
  constraint workspace_membership_user_id_fkey
  foreign key (user_id) references auth.users (id) on delete cascade,
  constraint workspace_membership_role_check check (role in ('admin', 'member'))
);

create index workspace_membership_user_id_idx on keylatch.workspace_membership (user_id);
comment on table keylatch.workspace_membership is
  'The members of workspaces. A user sees only their own rows. service_role writes this table.';
comment on column keylatch.workspace_membership.workspace_id is 'The id of the workspace.';
comment on column keylatch.workspace_membership.user_id is 'The id of the user.';
comment on column keylatch.workspace_membership.role is
  'An admin may read and change the keys of the workspace. A member may not read the keys.';
comment on column keylatch.workspace_membership.created_at is
  'When the user became a member of the workspace.';
comment on index keylatch.workspace_membership_user_id_idx is
  'Serves admin_workspace_ids, which looks up the workspaces of the current user.';

alter table keylatch.workspaces enable row level security;
alter table keylatch.workspace_membership enable row level security;
select keylatch_internal.expose_table('keylatch.workspaces');
select keylatch_internal.expose_table('keylatch.workspace_membership');

create policy workspaces_select_member on keylatch.workspaces
for select to authenticated
using (
  id in (
    select m.workspace_id
    from keylatch.workspace_membership as m
    where m.user_id = (select auth.uid())
  )
);
comment on policy workspaces_select_member on keylatch.workspaces is
  'A signed-in user may read the workspaces that the user belongs to.';

create policy workspace_membership_select_own on keylatch.workspace_membership
for select to authenticated
using (user_id = (select auth.uid()));
comment on policy workspace_membership_select_own on keylatch.workspace_membership is
  'A signed-in user may read only the memberships of this user.';

create trigger workspaces_delete_revoke_keys after delete or update of id on keylatch.workspaces
for each row execute function keylatch_internal.revoke_workspace_keys();
comment on trigger workspaces_delete_revoke_keys on keylatch.workspaces is
  'Revokes the keys of a deleted workspace.
The trigger does not fire for rows that a publisher sends: the keys arrive revoked.';

create trigger workspaces_truncate_keep before truncate on keylatch.workspaces
for each statement execute function keylatch_internal.revoke_workspace_keys();
alter table keylatch.workspaces enable always trigger workspaces_truncate_keep;
comment on trigger workspaces_truncate_keep on keylatch.workspaces is
  'Refuses TRUNCATE, because TRUNCATE would not revoke the keys of the workspaces.';

create or replace function keylatch.admin_workspace_ids()
returns setof uuid language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- In language sql, each call would plan the query again, which costs three times as much.
  return query
  select m.workspace_id
  from keylatch.workspace_membership as m
  where m.user_id = (select auth.uid()) and m.role = 'admin';
end $$;
comment on function keylatch.admin_workspace_ids is
  'Returns the ids of the workspaces whose keys the current user may read and change.

This version reads keylatch.workspace_membership. An application with its own tenancy replaces it.';

revoke all on table keylatch.workspaces, keylatch.workspace_membership
from public, anon, authenticated, service_role;
grant select on table keylatch.workspaces, keylatch.workspace_membership to authenticated;
grant select, insert, update, delete
on table keylatch.workspaces, keylatch.workspace_membership to service_role;
