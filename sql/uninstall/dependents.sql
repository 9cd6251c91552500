-- Which objects of the application still use keylatch, and would be lost or fail without it?
--
-- `keylatch uninstall` runs this before it writes the migration, and the migration runs it again.
-- No row means that keylatch can be removed.
--
-- kind   policy, trigger, default value, view, table constraint, function or setting
-- thing  the name of the object, with its schema
with homes as (
  select n.oid
  from pg_catalog.pg_namespace as n
  where n.nspname in ('keylatch', 'keylatch_internal')
),

ours as (
  select 'pg_catalog.pg_namespace'::pg_catalog.regclass::oid as classid, h.oid as objid
  from homes as h
  union all
  select 'pg_catalog.pg_class'::pg_catalog.regclass::oid as classid, c.oid as objid
  from pg_catalog.pg_class as c
  inner join homes as h on c.relnamespace = h.oid
  union all
  select 'pg_catalog.pg_proc'::pg_catalog.regclass::oid as classid, p.oid as objid
  from pg_catalog.pg_proc as p
  inner join homes as h on p.pronamespace = h.oid
  union all
  select 'pg_catalog.pg_type'::pg_catalog.regclass::oid as classid, t.oid as objid
  from pg_catalog.pg_type as t
  inner join homes as h on t.typnamespace = h.oid
),

-- The schema of each dependent object; null for an object without a schema, like a publication.
dependents as (
  select
    d.objsubid,
    -- For a view, its rule depends on keylatch. The answer has the view.
    case when w.oid is null then d.classid else 'pg_catalog.pg_class'::pg_catalog.regclass end
    as classid,
    coalesce(w.ev_class, d.objid) as objid,
    coalesce(c.relnamespace, p.pronamespace, t.typnamespace, o.connamespace) as home
  from ours as r
  inner join pg_catalog.pg_depend as d
    on r.classid = d.refclassid and r.objid = d.refobjid and d.deptype in ('n', 'a')
  left join pg_catalog.pg_rewrite as w
    on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and d.objid = w.oid
  left join pg_catalog.pg_attrdef as f
    on d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass and d.objid = f.oid
  left join pg_catalog.pg_trigger as g
    on d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass and d.objid = g.oid
  left join pg_catalog.pg_policy as y
    on d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass and d.objid = y.oid
  left join pg_catalog.pg_class as c
    on c.oid = coalesce(
      w.ev_class, f.adrelid, g.tgrelid, y.polrelid,
      case when d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass then d.objid end
    )
  left join pg_catalog.pg_proc as p
    on d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = p.oid
  left join pg_catalog.pg_type as t
    on d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass and d.objid = t.oid
  left join pg_catalog.pg_constraint as o
    on d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass and d.objid = o.oid
)

select i.type as kind, i.identity as thing
from dependents as d
cross join lateral pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) as i
where d.home is null or d.home not in (select h.oid from homes as h)
union
-- The body of a function is a text, so PostgreSQL does not know what it uses.
select i.type as kind, i.identity as thing
from pg_catalog.pg_proc as p
inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
cross join lateral pg_catalog.pg_identify_object(
  'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 0
) as i
where
  n.nspname not in ('keylatch', 'keylatch_internal', 'pg_catalog', 'information_schema')
  and p.prosrc ~* E'\\mkeylatch(_internal)?"?\\s*\\.\\s*["a-z_]|''keylatch(_internal)?'''
  and not exists (
    select from pg_catalog.pg_depend as e
    where
      e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
      and e.objid = p.oid
      and e.deptype = 'e'
  )
union
-- Settings of PostgREST: with a missing schema or function there, every request fails.
select
  'setting' as kind,
  pg_catalog.format('%s of role %s', s.entry, coalesce(r.rolname, 'every role')) as thing
from pg_catalog.pg_db_role_setting as g
cross join lateral pg_catalog.unnest(g.setconfig) as s (entry)
left join pg_catalog.pg_roles as r on g.setrole = r.oid
where
  (
    g.setdatabase = 0 or exists (
      select from pg_catalog.pg_database as b
      where g.setdatabase = b.oid and b.datname = current_database()
    )
  )
  and s.entry ~ E'=.*\\mkeylatch(_internal)?\\M'
order by kind, thing;
