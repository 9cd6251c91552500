-- The default tenancy: workspaces, and who administers them.
--
-- An application with its own tables leaves this file out (keylatch install --tenancy own) and
-- replaces keylatch.admin_workspace_ids() in a migration of its own.

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
  'The owners of keys. You see the workspaces that you are a member of; service_role writes them.
Deleting a workspace revokes its keys.';
comment on column keylatch.workspaces.id is 'The workspace_id of its keys.';
comment on column keylatch.workspaces.name is 'For people; up to 200 characters.';
comment on column keylatch.workspaces.external_id is
  'The id of the workspace in another system, for imports; null if there is none.';
comment on column keylatch.workspaces.created_at is 'When it was made.';

create table keylatch.workspace_membership (
  workspace_id uuid not null,
  user_id uuid not null,
  role text not null,
  created_at timestamptz not null default pg_catalog.now(),

  constraint workspace_membership_pkey primary key (workspace_id, user_id),
  constraint workspace_membership_workspace_id_fkey
  foreign key (workspace_id) references keylatch.workspaces (id) on delete cascade,
  -- A deleted user administers nothing from that moment on, even with a valid token.
  constraint workspace_membership_user_id_fkey
  foreign key (user_id) references auth.users (id) on delete cascade,
  constraint workspace_membership_role_check check (role in ('admin', 'member'))
);

create index workspace_membership_user_id_idx on keylatch.workspace_membership (user_id);
comment on table keylatch.workspace_membership is
  'Who belongs to which workspace. You see your own memberships; service_role writes them.';
comment on column keylatch.workspace_membership.workspace_id is 'The workspace.';
comment on column keylatch.workspace_membership.user_id is 'The user.';
comment on column keylatch.workspace_membership.role is
  'admin administers the keys of the workspace; member does not see them.';
comment on column keylatch.workspace_membership.created_at is 'When the user was added.';
comment on index keylatch.workspace_membership_user_id_idx is
  'Finds the workspaces that a user administers, at every call.';

alter table keylatch.workspaces enable row level security;
alter table keylatch.workspace_membership enable row level security;

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
  'A signed-in user sees the workspaces that they belong to.';

create policy workspace_membership_select_own on keylatch.workspace_membership
for select to authenticated
using (user_id = (select auth.uid()));
comment on policy workspace_membership_select_own on keylatch.workspace_membership is
  'A signed-in user sees only their own memberships.';

create trigger workspaces_delete_revoke_keys
after delete or update of id on keylatch.workspaces
for each row execute function keylatch_internal.revoke_workspace_keys();
comment on trigger workspaces_delete_revoke_keys on keylatch.workspaces is
  'No active key is left in a deleted workspace.

Origin sessions only: a logical replica gets the publisher''s revocations as replicated rows.';

create trigger workspaces_truncate_keep
before truncate on keylatch.workspaces
for each statement execute function keylatch_internal.revoke_workspace_keys();
alter table keylatch.workspaces enable always trigger workspaces_truncate_keep;
comment on trigger workspaces_truncate_keep on keylatch.workspaces is
  'Truncating would leave active keys in deleted workspaces.';

create or replace function keylatch.admin_workspace_ids()
returns setof uuid language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Not language sql: an SQL function would be planned at each call, at three times the cost.
  return query
  select m.workspace_id
  from keylatch.workspace_membership as m
  where m.user_id = (select auth.uid()) and m.role = 'admin';
end $$;
comment on function keylatch.admin_workspace_ids is
  'The workspaces that the current user administers. Only this function decides about tenancy.

It reads keylatch.workspace_membership. An application with its own tenancy replaces it.';

revoke all on table keylatch.workspaces, keylatch.workspace_membership
from public, anon, authenticated, service_role;
grant select on table keylatch.workspaces, keylatch.workspace_membership to authenticated;
grant select, insert, update, delete
on table keylatch.workspaces, keylatch.workspace_membership to service_role;
