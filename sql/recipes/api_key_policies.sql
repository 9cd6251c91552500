-- Recipe: a table of your own that API keys read and write through the Data API. Each key reads and
-- writes the rows of its workspace, as its scopes allow. All names of tables are examples.
--
--   curl $SUPABASE_URL/rest/v1/orders -H "apikey: $SUPABASE_ANON_KEY" -H "x-api-key: wk_sk_live_…"
--
-- The recipe needs the module request: keylatch install . --with request.
--
-- A request with a key has the role anon. A policy refuses the request with 401 if the key is not
-- active or mistyped, if a page sends a secret key, or if a foreign page sends a publishable key.
-- Policies of an empty table do not run. db-pre-request = keylatch.check_request always runs.

-- Replace orders by a table of your application. The recipe creates orders so that it can run.
create table if not exists public.orders (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null,
  item text not null,
  created_by_key uuid
);
create index if not exists orders_workspace_id_idx on public.orders (workspace_id);
alter table public.orders enable row level security;

-- The defaults are only a convenience for callers, because the policies below check both columns.
alter table public.orders
alter column workspace_id set default keylatch.current_workspace_id(),
alter column created_by_key set default keylatch.current_key_id();

-- A Supabase project may grant anon all rights on a new table, and no row policy stops TRUNCATE.
revoke all on table public.orders from anon;
grant select, insert, update, delete on table public.orders to anon;

-- "(select …)" around a call makes the call run once per statement, and not once per row.
create policy orders_select_key on public.orders
for select to anon
using (
  workspace_id = (select keylatch.current_workspace_id())
  and (select keylatch.has_scope('orders:read'))
);

create policy orders_insert_key on public.orders
for insert to anon
with check (
  workspace_id = (select keylatch.current_workspace_id())
  and (select keylatch.has_scope('orders:write'))
  -- A key cannot insert a row in the name of another key.
  and created_by_key = (select keylatch.current_key_id())
);

-- To update or delete, a key must see the row too, so it needs both scopes.
create policy orders_update_key on public.orders
for update to anon
using (
  workspace_id = (select keylatch.current_workspace_id())
  and (select keylatch.has_scope('orders:write'))
)
with check (
  workspace_id = (select keylatch.current_workspace_id())
  and (select keylatch.has_scope('orders:write'))
);

create policy orders_delete_key on public.orders
for delete to anon
using (
  workspace_id = (select keylatch.current_workspace_id())
  and (select keylatch.has_scope('orders:write'))
);

-- The policies for your signed-in users do not check keys. The restrictive policy below refuses a
-- request with an invalid key, or with a key and a user, whatever the other policies allow.
create policy orders_all_check_request on public.orders
as restrictive
for all to anon, authenticated
using ((select keylatch.check_request()))
with check ((select keylatch.check_request()));
