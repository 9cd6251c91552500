-- Example: an application whose tokens carry the tenant and the role, as identity providers with
-- organizations write them: {"org_id": "…", "org_role": "admin"}.
--
-- Install keylatch without its tables of workspaces (keylatch install --tenancy own) and put this
-- into a migration of yours. A token is valid until it expires: a removed admin can administer the
-- keys until then, so let tokens expire soon.

-- Your application probably has this table already. It is here so that the example runs.
create table if not exists public.tenants (
  tenant_id uuid primary key default gen_random_uuid(),
  name text not null
);
alter table public.tenants enable row level security;

create or replace function keylatch.admin_workspace_ids()
returns setof uuid language sql stable security invoker
set search_path = pg_catalog, pg_temp as $$
  select (t.claims ->> 'org_id')::uuid
  from (select auth.jwt() as claims) as t
  where t.claims ->> 'org_role' = 'admin' and t.claims ->> 'org_id' is not null;
$$;

-- The argument of the first trigger is the name of the id column.
create trigger tenants_delete_revoke_keys
after delete or update of tenant_id on public.tenants
for each row execute function keylatch_internal.revoke_workspace_keys('tenant_id');
create trigger tenants_truncate_keep
before truncate on public.tenants
for each statement execute function keylatch_internal.revoke_workspace_keys();
alter table public.tenants enable always trigger tenants_truncate_keep;
