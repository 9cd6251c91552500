-- Who can become which role, and who else gets around the guards of keylatch?
--
-- Any role may run the query. Some rows are normal: the owner, superusers and, on Supabase, the
-- roles of the platform. Look for people and services that you do not expect. A function that reads
-- keylatch in dynamic SQL, without the word in its text, is not in the answer.
--
-- what       what the role can do
-- role_name  the role; public is everybody
-- through    the memberships that lead to the right, or the object that gives the right
-- why        why the right matters
with recursive schemas as (
  select
    n.oid,
    n.nspowner
  from pg_catalog.pg_namespace as n
  where n.nspname in ('keylatch', 'keylatch_internal')
),

relations as (
  select
    c.oid,
    c.relowner
  from pg_catalog.pg_class as c
  inner join schemas as s on c.relnamespace = s.oid
),

owners as (
  select s.nspowner as owner_id
  from schemas as s
  union
  select x.relowner as owner_id
  from relations as x
),

targets as (
  select
    r.oid,
    'can become the owner ' || r.rolname as what,
    'The owner reads hashes, and can disable all triggers and policies.' as why
  from pg_catalog.pg_roles as r
  inner join owners as o on r.oid = o.owner_id
  union all
  select
    r.oid,
    'can become ' || r.rolname as what,
    w.why
  from pg_catalog.pg_roles as r
  inner join (
    values
    ('service_role', 'The role manages the keys of all workspaces, and can import keys.'),
    ('keylatch_resolver', 'The role can try keys, and reports the use of keys.'),
    ('pg_read_all_data', 'With bypassrls, the role reads all hashes and events.'),
    ('pg_write_all_data', 'With bypassrls, the role changes keys of all workspaces.'),
    ('pg_read_server_files', 'The role can read the files of all tables.'),
    ('pg_write_server_files', 'The role can write files of the server, and become a superuser.'),
    ('pg_execute_server_program', 'The role runs programs as the server, and reads all files.')
  ) as w (role_name, why) on r.rolname = w.role_name
  where r.oid not in (select o.owner_id from owners as o)
),

members as (
  select
    t.oid as target_id,
    t.oid as member_id,
    0 as steps,
    array[]::name[] as way
  from targets as t
  union all
  select
    m.target_id,
    a.member as member_id,
    m.steps + 1 as steps,
    pg_catalog.pg_get_userbyid(a.roleid) || m.way as way
  from members as m
  inner join pg_catalog.pg_auth_members as a on m.member_id = a.roleid
),

nearest as (
  select distinct on (m.target_id, m.member_id) m.*
  from members as m
  order by m.target_id, m.member_id, m.steps, m.way
),

readers as (
  -- Views and functions that run with the rights of their owner.
  select
    'view ' || c.oid::pg_catalog.regclass::text as through,
    c.relowner as owner_id,
    coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner)) as acl
  from pg_catalog.pg_class as c
  where c.relkind in ('v', 'm')
    and c.relnamespace not in (select s.oid from schemas as s)
    and not coalesce(c.reloptions && '{security_invoker=true,security_invoker=on}', false)
    and exists (
      select 1
      from pg_catalog.pg_rewrite as w
      inner join pg_catalog.pg_depend as d
        on w.oid = d.objid and d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      where w.ev_class = c.oid
        and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        and d.refobjid in (select x.oid from relations as x)
    )
  union all
  select
    'function ' || p.oid::pg_catalog.regprocedure::text as through,
    p.proowner as owner_id,
    coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) as acl
  from pg_catalog.pg_proc as p
  where p.prosecdef
    and p.pronamespace not in (select s.oid from schemas as s)
    and (
      p.prosrc ~* 'keylatch'
      or exists (
        select 1
        from pg_catalog.pg_depend as d
        where d.objid = p.oid and d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
          and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
          and d.refobjid in (select x.oid from relations as x)
      )
    )
)

select
  t.what,
  pg_catalog.pg_get_userbyid(m.member_id) as role_name,
  case m.steps
    when 0 then 'its own login'
    else 'member of ' || array_to_string(m.way, ', member of ')
  end as through,
  t.why
from nearest as m
inner join targets as t on m.target_id = t.oid
inner join pg_catalog.pg_roles as r on m.member_id = r.oid
where m.steps > 0 or r.rolcanlogin
union all
select
  f.what,
  r.rolname as role_name,
  'its own attribute' as through,
  f.why
from pg_catalog.pg_roles as r
inner join (
  values
  (1, 'is a superuser', 'A superuser can become every role.'),
  (2, 'has bypassrls', 'Row policies do not apply to the role.'),
  (3, 'has createrole', 'The role can become other roles; before PostgreSQL 16, most roles.')
) as f (attribute, what, why)
  on (f.attribute = 1 and r.rolsuper)
  or (f.attribute = 2 and r.rolbypassrls and not r.rolsuper)
  or (f.attribute = 3 and r.rolcreaterole and not r.rolsuper)
union all
select
  'can set session_replication_role' as what,
  coalesce(r.rolname, 'public') as role_name,
  'grant on the parameter' as through,
  'In replication mode, triggers that do not always fire are off.' as why
from pg_catalog.pg_parameter_acl as p
cross join lateral aclexplode(p.paracl) as x
left join pg_catalog.pg_roles as r on x.grantee = r.oid
where p.parname = 'session_replication_role' and not coalesce(r.rolsuper, false)
group by r.rolname
union all
select
  'gets ' || string_agg(distinct lower(x.privilege_type collate "C"), ', ') -- noqa: RF02
  || ' on new ' || case d.defaclobjtype
    when 'r' then 'tables and views' when 'S' then 'sequences' when 'f' then 'functions'
    when 'T' then 'types' else 'schemas'
  end as what,
  coalesce(r.rolname, 'public') as role_name,
  'default privileges of ' || pg_catalog.pg_get_userbyid(d.defaclrole)
  || coalesce(' in schema ' || n.nspname, '') as through,
  'A copy, a view or a definer function that this owner adds is open at once.' as why
from pg_catalog.pg_default_acl as d
cross join lateral aclexplode(d.defaclacl) as x
left join pg_catalog.pg_namespace as n on d.defaclnamespace = n.oid
left join pg_catalog.pg_roles as r on x.grantee = r.oid
where x.grantee = 0 or r.rolname in ('anon', 'authenticated')
group by r.rolname, d.oid, d.defaclobjtype, d.defaclrole, n.nspname
union all
select
  'reads with the rights of ' || pg_catalog.pg_get_userbyid(v.owner_id) as what,
  coalesce(r.rolname, 'public') as role_name,
  v.through,
  'A view or function outside keylatch''s schemas can show rows that policies hide.' as why
from readers as v
cross join lateral aclexplode(v.acl) as x
left join pg_catalog.pg_roles as r on x.grantee = r.oid
where x.privilege_type in ('SELECT', 'EXECUTE')
group by v.owner_id, v.through, r.rolname
order by what, role_name, through;
