-- Recipe: do something when a workspace gets its first key, for example create rows in your tables.
--
-- keylatch keeps one row in keylatch_internal.workspace_latches for each workspace that ever had a
-- key. The first key of a workspace inserts the row, and only once, even if several keys are made
-- at once. A trigger on the table sees no key and no hash. Put this SQL into a migration of yours.

-- The table provisioned is an example of the rows that your application needs for a workspace.
create table if not exists public.provisioned (
  workspace_id uuid not null,
  provisioned_at timestamptz not null default now(),
  constraint provisioned_pkey primary key (workspace_id)
);
alter table public.provisioned enable row level security;

-- The function runs in the transaction that makes the key, with the rights of keylatch's owner.
create or replace function public.provision_workspace()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  insert into public.provisioned (workspace_id) values (new.workspace_id);
  return null;
exception
  -- If the insert fails, the key is still made. Without this block, the key would not be made.
  when others then
    raise warning 'provisioning of workspace % failed', new.workspace_id
      using detail = sqlstate || ': ' || sqlerrm;
    return null;
end $$;
revoke all on function public.provision_workspace() from public, anon, authenticated, service_role;

create trigger workspace_latches_insert_provision
after insert on keylatch_internal.workspace_latches
for each row
-- A workspace that is deleted before its first key gets a row, too, with a deleted_at.
when (new.deleted_at is null) execute function public.provision_workspace();
