-- What can anon, authenticated, service_role and keylatch_resolver execute?
--
-- anon must not appear unless the module "request" is installed. The schema keylatch is for
-- clients. The functions of keylatch_internal are helpers, which the calls run with their caller's
-- rights.
--
-- role_name    who
-- schema_name  where; only keylatch is for clients
-- how_many     how many functions
-- which        their names
select
  r.rolname as role_name,
  n.nspname as schema_name,
  count(*) as how_many,
  string_agg(p.proname, ', ' order by p.proname) as which
from pg_catalog.pg_roles as r
cross join pg_catalog.pg_proc as p
inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
where r.rolname in ('anon', 'authenticated', 'service_role', 'keylatch_resolver')
  and n.nspname in ('keylatch', 'keylatch_internal')
  and pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage')
  and pg_catalog.has_function_privilege(r.oid, p.oid, 'execute')
group by r.rolname, n.nspname
order by r.rolname, n.nspname;
