-- Who may do what, read from the catalog: these lists are the whole of it.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = public, extensions;
select plan(15);

create temporary view routines as
select
  p.oid, p.pronamespace::regnamespace || '.' || p.proname as name, p.prosecdef, p.proconfig,
  p.proacl, p.proowner
from pg_proc as p
where p.pronamespace in (
  'keylatch'::regnamespace, 'keylatch_internal'::regnamespace, 'keylatch_hooks'::regnamespace
);
create temporary view relations as
select
  c.relnamespace::regnamespace || '.' || c.relname as name, c.oid, c.relkind, c.relowner, c.relacl,
  c.relrowsecurity, c.reloptions
from pg_class as c
where c.relnamespace in ('keylatch'::regnamespace, 'keylatch_internal'::regnamespace)
  and c.relkind in ('r', 'v', 'm', 'S', 'p', 'f');

-- Execute, by role. What is not in a list may not be called.
select set_eq(
  format(
    $$
      select r.name from routines as r, aclexplode(coalesce(r.proacl, acldefault('f', r.proowner)))
        as a
      where a.grantee in (0, %L::regrole)
    $$,
    e.role
  ),
  e.calls, format('%s executes this and no more', e.role)
)
from (values
  ('anon', '{}'::text[]),
  ('keylatch_resolver', '{keylatch.installation,keylatch.resolve_key}'),
  ('authenticated', array[
    'keylatch.admin_workspace_ids', 'keylatch.explain_key', 'keylatch.hash_key',
    'keylatch.installation', 'keylatch.issue_key', 'keylatch.list_keys', 'keylatch.resume_key',
    'keylatch.revoke_key', 'keylatch.rotate_key', 'keylatch.suspend_key',
    'keylatch_internal.canonical_origin', 'keylatch_internal.check_key',
    'keylatch_internal.check_label', 'keylatch_internal.check_metadata',
    'keylatch_internal.check_origins', 'keylatch_internal.check_revoke_reason',
    'keylatch_internal.check_scopes', 'keylatch_internal.current_user_id',
    'keylatch_internal.find_key', 'keylatch_internal.generate_key', 'keylatch_internal.insert_key',
    'keylatch_internal.is_canonical_origin', 'keylatch_internal.is_origin_entry',
    'keylatch_internal.key_alphabet', 'keylatch_internal.key_check', 'keylatch_internal.key_form',
    'keylatch_internal.key_hint', 'keylatch_internal.origin_matches', 'keylatch_internal.punycode',
    'keylatch_internal.require_living', 'keylatch_internal.set_suspended',
    'keylatch_internal.workspace_lock'
  ])
) as e (role, calls);
select set_eq(
  $$
    select r.name from routines as r, aclexplode(r.proacl) as a
    where a.grantee = 'service_role'::regrole
  $$,
  $$
    select r.name from routines as r, aclexplode(r.proacl) as a
    where a.grantee = 'authenticated'::regrole
    union all select 'keylatch.resolve_key'
  $$,
  'service_role executes what a signed-in user does, and resolve_key'
);

-- Tables and views, by role.
select set_eq(
  $$
    select r.name || ' ' || a.grantee::regrole || ' ' || lower(a.privilege_type)
    from relations as r, aclexplode(r.relacl) as a
    where a.grantee <> r.relowner
  $$,
  array[
    'keylatch.keys authenticated insert', 'keylatch.keys authenticated select',
    'keylatch.keys authenticated update', 'keylatch.keys service_role insert',
    'keylatch.keys service_role select', 'keylatch.keys service_role update',
    'keylatch.workspace_membership authenticated select',
    'keylatch.workspace_membership service_role delete',
    'keylatch.workspace_membership service_role insert',
    'keylatch.workspace_membership service_role select',
    'keylatch.workspace_membership service_role update',
    'keylatch.workspaces authenticated select', 'keylatch.workspaces service_role delete',
    'keylatch.workspaces service_role insert', 'keylatch.workspaces service_role select',
    'keylatch.workspaces service_role update',
    'keylatch_internal.installation authenticated select',
    'keylatch_internal.installation keylatch_resolver select',
    'keylatch_internal.installation service_role select'
  ],
  'the grants on tables and views are these'
);
select set_eq(
  $$
    select distinct t.attname::text || ' ' || a.grantee::regrole
      || ' ' || lower(a.privilege_type)
    from pg_attribute as t, aclexplode(t.attacl) as a
    where t.attrelid = 'keylatch_internal.keys'::regclass
  $$,
  $$
    select t.attname::text || ' ' || r.role || ' ' || p.privilege
    from pg_attribute as t,
      (values ('authenticated'), ('service_role')) as r (role),
      (values ('select'), ('insert'), ('update')) as p (privilege)
    where t.attrelid = 'keylatch_internal.keys'::regclass and t.attnum > 0
      and t.attname <> 'key_hash'
  $$,
  'of the table itself clients have every column but the hash'
);
select set_eq(
  $$
    select n.nspname || ' ' || a.grantee::regrole || ' ' || lower(a.privilege_type)
    from pg_namespace as n, aclexplode(n.nspacl) as a
    where n.nspname like 'keylatch%' and a.grantee <> n.nspowner
  $$,
  array[
    'keylatch authenticated usage', 'keylatch service_role usage',
    'keylatch keylatch_resolver usage', 'keylatch_internal authenticated usage',
    'keylatch_internal service_role usage', 'keylatch_internal keylatch_resolver usage'
  ],
  'the grants on schemas are these'
);

select set_eq(
  'select name from routines where prosecdef',
  array[
    'keylatch.resolve_key', 'keylatch_internal.find_key',
    'keylatch_internal.revoke_workspace_keys', 'keylatch_internal.call_first_key_hook'
  ],
  'these run with the owner''s rights, and no others'
);
select is_empty(
  $$ select name from routines where proconfig is distinct from '{"search_path=\"\""}' $$,
  'every function has an empty search_path'
);
select is_empty(
  $$ select name from routines group by name having count(*) > 1 $$,
  'no name has two functions, which PostgREST could not tell apart'
);
select is_empty(
  $$ select name from relations where relkind = 'r' and not relrowsecurity $$,
  'row level security is on for every table'
);
select is_empty(
  $$
    select name from relations
    where relkind = 'v' and not coalesce('security_invoker=true' = any (reloptions), false)
  $$,
  'every view reads with its reader''s rights'
);
select set_eq(
  $$
    select c.relname::text || ' ' || p.polname || ' ' || p.polcmd::text
    from pg_policy as p inner join pg_class as c on p.polrelid = c.oid
    where c.oid in (select oid from relations)
  $$,
  array[
    'keys keys_select_admin r', 'keys keys_insert_admin a', 'keys keys_update_admin w',
    'installation installation_select_signed_in r', 'workspaces workspaces_select_member r',
    'workspace_membership workspace_membership_select_own r'
  ],
  'the row policies are these: none of them deletes'
);
select set_eq(
  $$
    select t.tgrelid::regclass::text || ' ' || t.tgname || ' ' || t.tgenabled::text
    from pg_trigger as t
    where t.tgrelid in (select oid from relations) and not t.tgisinternal
  $$,
  array[
    'keylatch_internal.keys keys_insert_mint O', 'keylatch_internal.keys keys_insert_first_key O',
    'keylatch_internal.keys keys_update_latch A', 'keylatch_internal.keys keys_delete_keep A',
    'keylatch_internal.keys keys_truncate_keep A',
    'keylatch.workspaces workspaces_delete_revoke_keys O',
    'keylatch.workspaces workspaces_truncate_keep A'
  ],
  'the triggers are these, and the latch fires always'
);

select is_empty(
  $$
    select name from routines where coalesce(obj_description(oid, 'pg_proc'), '') = ''
    union all
    select name from relations where coalesce(obj_description(oid, 'pg_class'), '') = ''
    union all
    select r.name || '.' || a.attname
    from relations as r inner join pg_attribute as a on r.oid = a.attrelid
    where a.attnum > 0 and not a.attisdropped
      and coalesce(col_description(r.oid, a.attnum), '') = ''
    union all
    select t.typname from pg_type as t inner join pg_class as c on t.typrelid = c.oid
    where t.typnamespace::regnamespace::text like 'keylatch%' and c.relkind = 'c'
      and coalesce(obj_description(t.oid, 'pg_type'), '') = ''
    union all
    select p.polname from pg_policy as p
    where p.polrelid in (select oid from relations)
      and coalesce(obj_description(p.oid, 'pg_policy'), '') = ''
    union all
    select t.tgname from pg_trigger as t
    where t.tgrelid in (select oid from relations) and not t.tgisinternal
      and coalesce(obj_description(t.oid, 'pg_trigger'), '') = ''
    union all
    select n.nspname from pg_namespace as n
    where n.nspname like 'keylatch%' and coalesce(obj_description(n.oid, 'pg_namespace'), '') = ''
  $$,
  'every object has a comment'
);

select * from finish();
rollback;
