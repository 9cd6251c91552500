-- Which rows may each role read or write, in words?
--
-- Any role may run the query. The answer has every row policy of keylatch's tables, and every table
-- without a policy. A role without a policy can read no row, unless the role owns the table or has
-- bypassrls, as service_role has on Supabase.
--
-- table_name  the table; with "row security is off", the policies of the table have no effect
-- role_name   the role that the policy applies to
-- command     the command that the policy allows
-- policy_name  the name of the policy
-- is_permissive  false: the policy refuses rows that other policies allow
-- in_words    what the policy does, from its comment
-- condition   the rows that the role may use
-- new_rows    the rows that the role may write, if the condition for writing differs
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
