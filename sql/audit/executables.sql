-- Who can execute which functions of keylatch?
--
-- Any role may run the query. The answer has the roles of a Supabase project, keylatch_resolver and
-- all other roles with a grant. anon may appear only if the module "request" is installed. public
-- must not appear. Clients call the schema keylatch. The functions of keylatch_internal are helpers
-- of the functions of keylatch.
--
-- role_name    the role; public is everybody
-- schema_name  the schema; only keylatch is for clients
-- how_many     how many functions the role may call
-- which        the names of the functions
with functions as (
  select
    p.oid,
    p.proname,
    p.proowner,
    n.oid as schema_id,
    n.nspname,
    coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) as acl
  from pg_catalog.pg_proc as p
  inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
  where n.nspname in ('keylatch', 'keylatch_internal')
),

granted as (
  select
    f.oid,
    x.grantee,
    f.proowner
  from functions as f
  cross join lateral aclexplode(f.acl) as x
),

roles as (
  select
    r.oid,
    r.rolname
  from pg_catalog.pg_roles as r
  where r.rolname in ('anon', 'authenticated', 'service_role', 'keylatch_resolver')
    or r.oid in (
      select g.grantee
      from granted as g
      where g.grantee <> g.proowner
    )
),

executable as (
  select
    r.rolname as role_name,
    f.nspname as schema_name,
    f.proname
  from roles as r
  cross join functions as f
  where pg_catalog.has_schema_privilege(r.oid, f.schema_id, 'usage')
    and pg_catalog.has_function_privilege(r.oid, f.oid, 'execute')
  union all
  select
    'public' as role_name,
    f.nspname as schema_name,
    f.proname
  from functions as f
  where f.oid in (
    select g.oid
    from granted as g
    where g.grantee = 0
  )
)

select
  e.role_name,
  e.schema_name,
  count(*) as how_many,
  string_agg(e.proname, ', ' order by e.proname) as which
from executable as e
group by e.role_name, e.schema_name
order by e.role_name, e.schema_name;
