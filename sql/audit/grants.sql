-- What is granted on keylatch's schemas, tables, columns and sequences, and to whom?
--
-- The owner may do everything and is left out. For functions, run executables.sql.
--
-- role_name     the role that has the grant; public is everybody
-- object_name   the schema, table or sequence
-- column_names  the columns, if the grant is not on the whole table
-- may           what the role may do
-- passed_on     whether the role may give the grant to other roles
select  -- noqa: ST06
  coalesce(g.rolname, 'public') as role_name,
  a.object_name,
  a.column_names,
  string_agg(distinct lower(a.privilege collate "C"), ', ') as may, -- noqa: RF02
  bool_or(a.passed_on) as passed_on
from (
  select
    'schema ' || n.nspname as object_name,
    null as column_names,
    x.grantee,
    x.privilege_type as privilege,
    x.is_grantable as passed_on,
    n.nspowner as owner_id
  from pg_catalog.pg_namespace as n
  cross join lateral aclexplode(n.nspacl) as x
  where n.nspname in ('keylatch', 'keylatch_internal')
  union all
  select
    c.oid::pg_catalog.regclass::text as object_name,
    null as column_names,
    x.grantee,
    x.privilege_type as privilege,
    x.is_grantable as passed_on,
    c.relowner as owner_id
  from pg_catalog.pg_class as c
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  cross join lateral aclexplode(c.relacl) as x
  where n.nspname in ('keylatch', 'keylatch_internal')
  union all
  select
    c.oid::pg_catalog.regclass::text as object_name,
    string_agg(t.attname, ', ' order by t.attnum) as column_names,
    x.grantee,
    x.privilege_type as privilege,
    bool_or(x.is_grantable) as passed_on,
    c.relowner as owner_id
  from pg_catalog.pg_class as c
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  inner join pg_catalog.pg_attribute as t on c.oid = t.attrelid
  cross join lateral aclexplode(t.attacl) as x
  where n.nspname in ('keylatch', 'keylatch_internal')
  group by c.oid, c.relowner, x.grantee, x.privilege_type
) as a
left join pg_catalog.pg_roles as g on a.grantee = g.oid
where a.grantee <> a.owner_id
group by role_name, a.object_name, a.column_names
order by role_name, a.object_name, a.column_names;
