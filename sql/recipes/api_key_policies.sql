-- Recipe: a table of your own that API keys read and write through the Data API, each key the rows
-- of its workspace, as far as its scopes go. The names are examples.
--
--   curl $SUPABASE_URL/rest/v1/orders -H "apikey: $SUPABASE_ANON_KEY" -H "x-api-key: wk_sk_live_…"
--
-- Such a request has the role anon. A key that is dead or mistyped, a secret key that a page sends,
-- a publishable one from a foreign page: each is answered with 401 where a policy asks for it. A
-- table without rows asks nothing; PostgREST's db-pre-request = keylatch.check_request always does.

-- The table is yours and most likely exists; it is here so that the example runs.
create table if not exists public.orders (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null,
  item text not null,
  created_by_key uuid
);
create index if not exists orders_workspace_id_idx on public.orders (workspace_id);
alter table public.orders enable row level security;

-- A caller knows its key, and need not know the rest. Trust is in the policies, not in this.
alter table public.orders
alter column workspace_id set default keylatch.current_workspace_id(),
alter column created_by_key set default keylatch.current_key_id();

-- A project gives anon all rights on a new table, truncate too, which no row policy stops.
revoke all on table public.orders from anon;
grant select, insert, update, delete on table public.orders to anon;

-- Every call in a select of its own: so it runs once a statement and not once a row.
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
  -- Nobody writes in another key's name.
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

-- Policies for your signed-in users stand beside these. They do not ask for a key, so one that is
-- sent along would pass unseen. This refuses it, whatever the other policies say.
create policy orders_all_check_request on public.orders
as restrictive
for all to anon, authenticated
using ((select keylatch.check_request()))
with check ((select keylatch.check_request()));
