-- What the benchmark adds to a database with keylatch: millions of keys, and the usual ways to
-- resolve keys without keylatch. :keys is how many. Run by tests/bench/resolving.py.

-- Filled like a restore: first the rows, then the constraints and indexes again.
create temporary table dropped as
select
  c.conname as name,
  pg_catalog.pg_get_constraintdef(c.oid) as definition,
  c.contype = 'f' as is_reference
from pg_catalog.pg_constraint as c
where c.conrelid = 'keylatch_internal.keys'::regclass and c.contype in ('c', 'f', 'p', 'u');

do $$
declare
  v_name name;
begin
  for v_name in select d.name from dropped as d order by d.is_reference desc loop
    execute format('alter table keylatch_internal.keys drop constraint %I cascade', v_name);
  end loop;
  drop index keylatch_internal.keys_workspace_id_created_at_idx;
end;
$$;

-- No trigger replaces these keys, and no event records them. The latch stays on: it is for update,
-- delete and truncate.
set local session_replication_role = replica;

-- A thousand workspaces. Every tenth key is publishable, as its number is divisible by ten.
insert into keylatch_internal.keys (
  id, workspace_id, kind, key_hash, public_key, masked_key, allowed_origins, scopes, created_at,
  updated_at
)
select
  gen_random_uuid(),
  ('00000000-0000-4000-8000-' || lpad((n % 1000)::text, 12, '0'))::uuid,
  case when n % 10 = 0 then 'publishable' else 'secret' end,
  sha256(('wk_bench_' || n)::bytea),
  case when n % 10 = 0 then 'wk_bench_' || n end,
  'wk_bench_...' || right(n::text, 4),
  case when n % 10 = 0 then '{https://shop.example}'::text[] else '{}' end,
  '{orders:read}',
  now(),
  now()
from generate_series(1, :keys) as n;

set local session_replication_role = origin;

do $$
declare
  v_dropped record;
begin
  for v_dropped in select d.name, d.definition from dropped as d order by d.is_reference loop
    execute format(
      'alter table keylatch_internal.keys add constraint %I %s', v_dropped.name,
      v_dropped.definition || case when v_dropped.definition like 'CHECK%' then ' not valid' else '' end
    );
  end loop;
  create index keys_workspace_id_created_at_idx
  on keylatch_internal.keys (workspace_id, created_at desc);
end;
$$;

-- The usual hand-written way.
create function keylatch.bench_by_hand(key text)
returns setof keylatch.resolved_key
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
  select k.id, k.workspace_id, k.kind, k.environment, k.scopes, k.metadata, k.expires_at
  from keylatch_internal.keys as k
  where k.key_hash = sha256(convert_to(bench_by_hand.key, 'UTF8')) and k.revoked_at is null;
$$;
revoke all on function keylatch.bench_by_hand(text) from public;
grant execute on function keylatch.bench_by_hand(text) to postgres;

-- The usual table of keys in plaintext, read through the Data API. Ten thousand rows are enough.
create table keylatch.bench_plaintext as
select k.public_key, k.id as key_id, k.workspace_id, k.kind, k.environment, k.scopes, k.metadata,
  k.expires_at
from keylatch_internal.keys as k
where k.public_key is not null
limit 10000;
create unique index on keylatch.bench_plaintext (public_key);
grant select on keylatch.bench_plaintext to service_role;

notify pgrst, 'reload schema';
