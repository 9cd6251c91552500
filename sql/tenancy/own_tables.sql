-- Example: an application with workspaces and memberships of its own, in public.
--
-- Install keylatch without its tables of workspaces (keylatch install --tenancy own) and put this
-- into a migration of yours, with the names of your tables.

-- Your application probably has these tables already. They are here so that the example runs.
create table if not exists public.workspaces (
  id uuid primary key default gen_random_uuid(),
  name text not null
);
create table if not exists public.workspace_membership (
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  role text not null,
  primary key (workspace_id, user_id)
);
alter table public.workspaces enable row level security;
alter table public.workspace_membership enable row level security;
grant select on public.workspace_membership to authenticated;
create policy membership_select_own on public.workspace_membership
for select to authenticated
using (user_id = (select auth.uid()));

-- Which workspaces a user administers. The function runs as the caller, who needs SELECT on these
-- tables, and whose row policies apply. These policies must not call keylatch themselves. A user
-- who may write to the table of memberships can become an admin.
create or replace function keylatch.admin_workspace_ids()
returns setof uuid language sql stable security invoker
set search_path = pg_catalog, pg_temp as $$
  select m.workspace_id
  from public.workspace_membership as m
  where m.user_id = (select auth.uid()) and m.role in ('owner', 'admin');
$$;

-- Deleting a workspace revokes its keys.
create trigger workspaces_delete_revoke_keys
after delete or update of id on public.workspaces
for each row execute function keylatch_internal.revoke_workspace_keys();

-- Truncating would leave active keys in deleted workspaces, so it is refused.
create trigger workspaces_truncate_keep
before truncate on public.workspaces
for each statement execute function keylatch_internal.revoke_workspace_keys();
alter table public.workspaces enable always trigger workspaces_truncate_keep;
