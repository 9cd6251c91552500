-- Which rows may each role read or write, in words?
--
-- Every row policy of keylatch's tables. A role without a policy here gets no row, unless it owns
-- the table or has bypassrls, as service_role does on Supabase.
--
-- table_name  the table; "row security is off" beside it means that its policies count for nothing
-- role_name   to whom the policy applies
-- command     what it allows
-- in_words    what it is for, as its comment says
-- condition   which rows; a new row has to meet it too
select
  p.polrelid::pg_catalog.regclass::text
  || case when c.relrowsecurity then '' else ': row security is off' end as table_name,
  array_to_string(
    array(
      select coalesce(r.rolname, 'public')
      from unnest(p.polroles) as o (role_oid)
      left join pg_catalog.pg_roles as r on o.role_oid = r.oid
      order by r.rolname
    ),
    ', '
  ) as role_name,
  case p.polcmd
    when 'r' then 'select'
    when 'a' then 'insert'
    when 'w' then 'update'
    when 'd' then 'delete'
    else 'all'
  end as command,
  pg_catalog.obj_description(p.oid, 'pg_policy') as in_words,
  coalesce(
    pg_catalog.pg_get_expr(p.polqual, p.polrelid),
    pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)
  ) as condition
from pg_catalog.pg_policy as p
inner join pg_catalog.pg_class as c on p.polrelid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where n.nspname in ('keylatch', 'keylatch_internal')
order by table_name, role_name, command;
