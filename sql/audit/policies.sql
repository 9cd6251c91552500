-- Which rows may each role read or write, in words?
--
-- Any role may ask. Every row policy of keylatch's tables, and every table without one. A role
-- without a policy here gets no row, unless it owns the table or has bypassrls, as service_role
-- does on Supabase.
--
-- table_name  the table; "row security is off" beside it means that its policies count for nothing
-- role_name   to whom the policy applies
-- command     what it allows
-- policy_name  its name
-- is_permissive  false: it takes rows away from what the others show
-- in_words    what it is for, as its comment says
-- condition   which rows are there for the role
-- new_rows    which rows it may write, where another condition is given for that
select  -- noqa: ST06
  c.oid::pg_catalog.regclass::text
  || case when c.relrowsecurity then '' else ': row security is off' end as table_name,
  case
    when p.oid is null and c.relrowsecurity then 'nobody but its owner and bypassrls'
    when p.oid is null then 'everybody with a grant'
    else array_to_string(
      array(
        select coalesce(r.rolname, 'public')
        from unnest(p.polroles) as o (role_oid)
        left join pg_catalog.pg_roles as r on o.role_oid = r.oid
        order by r.rolname
      ),
      ', '
    )
  end as role_name,
  case p.polcmd
    when 'r' then 'select'
    when 'a' then 'insert'
    when 'w' then 'update'
    when 'd' then 'delete'
    when '*' then 'all'
  end as command,
  p.polname as policy_name,
  p.polpermissive as is_permissive,
  pg_catalog.obj_description(p.oid, 'pg_policy') as in_words,
  pg_catalog.pg_get_expr(p.polqual, p.polrelid) as condition,
  pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) as new_rows
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
left join pg_catalog.pg_policy as p on c.oid = p.polrelid
where n.nspname in ('keylatch', 'keylatch_internal') and c.relkind in ('r', 'p')
order by table_name, role_name, command, policy_name;
