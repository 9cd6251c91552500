-- What is installed: one row for each object of keylatch's schemas, as `keylatch doctor` reads it.
--
-- The same install gives the same rows on every major version of PostgreSQL, whatever its owner is
-- called and whoever asks; that needs search_path '', TimeZone UTC and DateStyle ISO. Types have no
-- grants here: usage of a type lets nobody read or call anything, and projects differ in it.
with schemas as (
  select
    n.oid,
    n.nspowner,
    n.nspacl
  from pg_catalog.pg_namespace as n
  where n.nspname in ('keylatch', 'keylatch_internal')
),

relations as (
  select c.*
  from pg_catalog.pg_class as c
  inner join schemas as s on c.relnamespace = s.oid
  where c.relkind not in ('i', 'I', 'c')
),

view_queries as (
  select
    r.oid,
    pg_catalog.pg_get_viewdef(r.oid) as query
  from relations as r
  where r.relkind in ('v', 'm')
),

objects as (
  select
    'pg_catalog.pg_namespace'::pg_catalog.regclass as class_id,
    s.oid as id,
    0 as sub_id,
    null::pg_catalog.oid as relation_id,
    s.nspowner as owner_id,
    coalesce(s.nspacl, pg_catalog.acldefault('n', s.nspowner)) as acl,
    '{}'::pg_catalog.jsonb as definition
  from schemas as s

  union all
  select
    'pg_catalog.pg_class'::pg_catalog.regclass as class_id,
    r.oid as id,
    0 as sub_id,
    null as relation_id,
    r.relowner as owner_id,
    coalesce(r.relacl, case r.relkind
      when 'S' then pg_catalog.acldefault('s', r.relowner)
      else pg_catalog.acldefault('r', r.relowner)
    end) as acl,
    case
      when q.oid is null then pg_catalog.jsonb_build_object(
        'row level security', r.relrowsecurity,
        'forced row level security', r.relforcerowsecurity,
        'logged', r.relpersistence = 'p',
        -- As expose_table sets them. Estimates of other columns show rows that policies hide, if the
        -- columns are granted.
        'limited statistics', (
          select nullif(pg_catalog.bool_or(a.attstattarget >= 0) and not coalesce(
            pg_catalog.bool_or(
              coalesce(a.attstattarget, -1) <> (a.attname = 'workspace_id')::integer
              and (a.attacl is not null or r.relacl::text ~ 'authenticated=[a-zA-Z*]*r')
            ), false
          ), false)
          from pg_catalog.pg_attribute as a
          where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
        )
      )
      else pg_catalog.jsonb_build_object(
        'options', coalesce(r.reloptions, '{}'),
        -- From 16 on a view of one relation is shown without the relation's alias.
        'query', pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
          pg_catalog.regexp_replace(
            q.query,
            coalesce(
              '\m' || pg_catalog.substring(q.query, '\n   FROM (?:ONLY )?\S+ (\w+)') || '\.', '^$'
            ),
            '',
            'g'
          ),
          'UTF8'
        )), 'hex')
      )
    end as definition
  from relations as r
  left join view_queries as q on r.oid = q.oid

  union all
  select
    'pg_catalog.pg_type'::pg_catalog.regclass as class_id,
    c.reltype as id,
    0 as sub_id,
    null as relation_id,
    c.relowner as owner_id,
    null as acl,
    pg_catalog.jsonb_build_object('attributes', pg_catalog.jsonb_agg(
      pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod))
      order by a.attnum
    )) as definition
  from pg_catalog.pg_class as c
  inner join schemas as s on c.relnamespace = s.oid
  inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid
  where c.relkind = 'c' and a.attnum > 0 and not a.attisdropped
  group by c.reltype, c.relowner

  union all
  select
    'pg_catalog.pg_class'::pg_catalog.regclass as class_id,
    r.oid as id,
    a.attnum as sub_id,
    r.oid as relation_id,
    r.relowner as owner_id,
    a.attacl as acl,
    pg_catalog.jsonb_build_object(
      'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
      'not null', a.attnotnull,
      'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid),
      'generated', a.attgenerated <> '' or a.attidentity <> ''
    ) as definition
  from relations as r
  inner join pg_catalog.pg_attribute as a on r.oid = a.attrelid
  left join pg_catalog.pg_attrdef as d on r.oid = d.adrelid and a.attnum = d.adnum
  where r.relkind <> 'S' and a.attnum > 0 and not a.attisdropped

  union all
  select
    'pg_catalog.pg_constraint'::pg_catalog.regclass as class_id,
    k.oid as id,
    0 as sub_id,
    r.oid as relation_id,
    null as owner_id,
    null as acl,
    pg_catalog.jsonb_build_object(
      'definition', pg_catalog.pg_get_constraintdef(k.oid),
      -- A foreign key is held by triggers, which a superuser can disable.
      'enforced', not exists (
        select 1 from pg_catalog.pg_trigger as t
        where t.tgconstraint = k.oid and t.tgenabled not in ('O', 'A')
      )
    ) as definition
  from relations as r
  inner join pg_catalog.pg_constraint as k on r.oid = k.conrelid
  -- "Not null" is a constraint of its own from 18 on; here the columns tell it. And a constraint
  -- trigger is told as a trigger.
  where k.contype not in ('n', 't')

  union all
  select
    'pg_catalog.pg_class'::pg_catalog.regclass as class_id,
    i.indexrelid as id,
    0 as sub_id,
    r.oid as relation_id,
    null as owner_id,
    null as acl,
    pg_catalog.jsonb_build_object(
      'definition', pg_catalog.pg_get_indexdef(i.indexrelid), 'valid', i.indisvalid
    ) as definition
  from relations as r
  inner join pg_catalog.pg_index as i on r.oid = i.indrelid
  where not exists (
    select 1 from pg_catalog.pg_constraint as k
    where k.conindid = i.indexrelid and k.conrelid = i.indrelid and k.contype in ('p', 'u', 'x')
  )

  union all
  select
    'pg_catalog.pg_proc'::pg_catalog.regclass as class_id,
    p.oid as id,
    0 as sub_id,
    null as relation_id,
    p.proowner as owner_id,
    coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) as acl,
    pg_catalog.jsonb_build_object(
      'arguments', pg_catalog.pg_get_function_arguments(p.oid),
      'result', pg_catalog.pg_get_function_result(p.oid),
      'language', l.lanname,
      'volatility', case p.provolatile
        when 'i' then 'immutable' when 's' then 'stable' else 'volatile'
      end,
      'security', case when p.prosecdef then 'security definer' else 'security invoker' end,
      'parallel', case p.proparallel
        when 's' then 'parallel safe' when 'r' then 'parallel restricted' else 'parallel unsafe'
      end,
      'null input', case when p.proisstrict then 'strict' else 'called on null input' end,
      'leakproof', case when p.proleakproof then 'leakproof' else 'not leakproof' end,
      'settings', coalesce(p.proconfig, '{}'),
      -- A checkout on Windows may have given it other ends of lines.
      'body', pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
        pg_catalog.replace(
          coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc), E'\r\n', E'\n'
        ),
        'UTF8'
      )), 'hex')
    ) as definition
  from schemas as s
  inner join pg_catalog.pg_proc as p on s.oid = p.pronamespace
  inner join pg_catalog.pg_language as l on p.prolang = l.oid

  union all
  select
    'pg_catalog.pg_trigger'::pg_catalog.regclass as class_id,
    t.oid as id,
    0 as sub_id,
    r.oid as relation_id,
    null as owner_id,
    null as acl,
    pg_catalog.jsonb_build_object(
      'definition', pg_catalog.pg_get_triggerdef(t.oid),
      'fires', case t.tgenabled
        when 'A' then 'always' when 'R' then 'replica' when 'D' then 'never' else 'origin'
      end
    ) as definition
  from relations as r
  inner join pg_catalog.pg_trigger as t on r.oid = t.tgrelid
  where not t.tgisinternal

  union all
  select
    'pg_catalog.pg_policy'::pg_catalog.regclass as class_id,
    p.oid as id,
    0 as sub_id,
    r.oid as relation_id,
    null as owner_id,
    null as acl,
    pg_catalog.jsonb_build_object(
      'permissive', p.polpermissive,
      'command', case p.polcmd
        when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
        when 'd' then 'delete' else 'all'
      end,
      'roles', case
        when 0 = any(p.polroles) then '{public}'
        else array(
          select pg_catalog.quote_ident(a.rolname)
          from pg_catalog.pg_roles as a
          where a.oid = any(p.polroles)
          order by a.rolname
        )
      end,
      'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid),
      'with check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)
    ) as definition
  from relations as r
  inner join pg_catalog.pg_policy as p on r.oid = p.polrelid

  union all
  select
    'pg_catalog.pg_rewrite'::pg_catalog.regclass as class_id,
    w.oid as id,
    0 as sub_id,
    r.oid as relation_id,
    null as owner_id,
    null as acl,
    pg_catalog.jsonb_build_object(
      'definition', pg_catalog.pg_get_ruledef(w.oid)
    ) as definition
  from relations as r
  inner join pg_catalog.pg_rewrite as w on r.oid = w.ev_class
  where w.rulename <> '_RETURN'
)

select
  o.relation_id::pg_catalog.regclass::text as relation,
  coalesce(o.definition, '{}') as definition,
  case when o.sub_id > 0 then 'column' else pg_catalog.replace(i.kind_name, 'table con', 'con') end
    as kind,
  pg_catalog.replace(i.full_name, 'pg_catalog.', '') as full_name,
  pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(o.owner_id)) as owned_by,
  case
    when o.definition is null then null
    when o.sub_id > 0 then pg_catalog.col_description(o.id, o.sub_id)
    else pg_catalog.obj_description(o.id, o.class_id::text::name)
  end as remark,
  array(
    select
      case a.grantee
        when 0 then 'public'
        when o.owner_id then 'the owner'
        else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee))
      end
      || ': ' || pg_catalog.lower(a.privilege_type collate "C")
      || case when a.is_grantable and a.grantee <> o.owner_id then ' with grant option' else '' end
    from pg_catalog.aclexplode(o.acl) as a
    -- What an owner has by default grew in 17.
    where a.grantee <> o.owner_id or a.privilege_type <> 'MAINTAIN'
  ) as rights
from objects as o
cross join lateral pg_catalog.pg_identify_object(o.class_id, o.id, o.sub_id)
  as i (kind_name, schema_name, short_name, full_name);
