-- What each role may do with the core, written out and compared with the catalog, and rules for
-- every object, also of the modules.
begin;
\ir ../people.psql
select plan(105);

create temporary view schemas as
select n.oid, n.nspname as name
from pg_namespace as n
where n.nspname in ('keylatch', 'keylatch_internal');
create temporary view routines as
select
  p.oid, p.proacl, p.prosecdef, p.proconfig, p.proowner, p.prosrc, p.proparallel,
  pg_get_functiondef(p.oid) as definition,
  format('%s.%s', s.name, p.proname) as name
from pg_proc as p inner join schemas as s on p.pronamespace = s.oid;
create temporary view relations as
select
  c.oid, c.relacl, c.relkind, c.relrowsecurity, c.relowner,
  format('%s.%s', s.name, c.relname) as name
from pg_class as c inner join schemas as s on c.relnamespace = s.oid
where c.relkind not in ('i', 'I', 't');

-- Schemas. The core gives anon no access. A module for anonymous visitors does.

select is(
  array(
    select s.name from schemas as s
    where has_schema_privilege(v.role, s.oid, 'usage')
    order by s.name
  ),
  v.schemas::name[],
  format('the schemas that %s may use', v.role)
)
from (values
  ('authenticated', '{keylatch,keylatch_internal}'),
  ('service_role', '{keylatch,keylatch_internal}'),
  ('keylatch_resolver', '{keylatch,keylatch_internal}')
) as v (role, schemas);
select ok(
  not :'core_alone'::boolean or not exists (
    select from schemas as s where has_schema_privilege('anon', s.oid, 'usage')
  ),
  'with the core alone, anon may use no schema'
);
select is_empty(
  $$ select s.name from schemas as s, unnest(
      array['anon', 'authenticated', 'service_role', 'keylatch_resolver']
    ) as role
    where has_schema_privilege(role, s.oid, 'create') $$,
  'nobody may create objects in these schemas'
);

-- Routines of the core, and who may execute them. The core alone has no other routines.

create temporary table allowed (name text, roles text) on commit drop;
insert into allowed (name, roles)
values
('keylatch.admin_workspace_ids', 'authenticated service_role'),
('keylatch.explain_key', 'authenticated keylatch_resolver service_role'),
('keylatch.hash_key', 'authenticated service_role'),
('keylatch.installation', 'authenticated keylatch_resolver service_role'),
('keylatch.issue_key', 'authenticated service_role'),
('keylatch.issue_keys', 'authenticated service_role'),
('keylatch.list_keys', 'authenticated service_role'),
('keylatch.resolve_key', 'keylatch_resolver service_role'),
('keylatch.resolve_keys', 'keylatch_resolver service_role'),
('keylatch.retire_workspace', 'authenticated service_role'),
('keylatch.revoke_key', 'authenticated service_role'),
('keylatch.rotate_key', 'authenticated service_role'),
('keylatch.suspend_key', 'authenticated service_role'),
('keylatch.unsuspend_key', 'authenticated service_role'),
-- Helpers of the calls. The calls run with the rights of their caller.
('keylatch_internal.check_key', 'authenticated service_role'),
('keylatch_internal.check_metadata', 'authenticated service_role'),
('keylatch_internal.check_origins', 'authenticated service_role'),
('keylatch_internal.complete_key', 'authenticated service_role'),
('keylatch_internal.current_user_id', 'authenticated service_role'),
('keylatch_internal.describe_installation', 'authenticated keylatch_resolver service_role'),
('keylatch_internal.explain', 'authenticated service_role'),
('keylatch_internal.explain_for_resolver', 'keylatch_resolver'),
('keylatch_internal.find_key', 'authenticated service_role'),
('keylatch_internal.hold_expiry', null),
('keylatch_internal.hold_latch', null),
('keylatch_internal.insert_key', 'authenticated service_role'),
('keylatch_internal.is_apply_worker', 'authenticated service_role'),
('keylatch_internal.is_canonical_origin', 'authenticated service_role'),
('keylatch_internal.is_origin_entry', 'authenticated service_role'),
('keylatch_internal.judge_update', null),
('keylatch_internal.key_characters', 'authenticated service_role'),
('keylatch_internal.key_form', 'authenticated service_role'),
('keylatch_internal.key_verdict', 'authenticated service_role'),
('keylatch_internal.merge_revocation', null),
('keylatch_internal.mint_key', null),
('keylatch_internal.origin_matches', 'authenticated service_role'),
('keylatch_internal.other_hash', null),
('keylatch_internal.refuse', 'authenticated keylatch_resolver service_role'),
('keylatch_internal.current_place', null), ('keylatch_internal.expose_table', null),
('keylatch_internal.require_grants', null),
('keylatch_internal.require_read_committed', 'service_role'),
('keylatch_internal.require_rotatable', 'authenticated service_role'),
('keylatch_internal.require_unrevoked', 'authenticated service_role'),
('keylatch_internal.revoke_workspace', null),
('keylatch_internal.revoke_workspace_keys', null),
('keylatch_internal.set_suspended', 'authenticated service_role'),
('keylatch_internal.share_workspaces', null),
('keylatch_internal.stamp_update', null);

select is(
  (
    select string_agg(v.role, ' ' order by v.role)
    from unnest(array['anon', 'authenticated', 'keylatch_resolver', 'service_role']) as v (role)
    where has_function_privilege(v.role, r.oid, 'execute')
  ),
  a.roles,
  format('who may execute %s', a.name)
)
from allowed as a inner join routines as r on a.name = r.name
order by a.name;
select is_empty(
  'select a.name from allowed as a where a.name not in (select r.name from routines as r)',
  'all of these routines exist'
);
select ok(
  not :'core_alone'::boolean or not exists (
    select from routines as r where r.name not in (select a.name from allowed as a)
  ),
  'with the core alone, there are no other routines'
);
-- Row policies do not hide the estimates of the planner, which come from statistics of all rows.
select is_empty(
  $$ select a.attrelid::regclass, a.attname
    from pg_attribute as a inner join pg_class as c on a.attrelid = c.oid
    where c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
      and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
      and (
        has_any_column_privilege('authenticated', c.oid, 'select')
        or has_any_column_privilege('anon', c.oid, 'select')
      )
      and coalesce(a.attstattarget, -1) <> (a.attname = 'workspace_id')::integer $$,
  'the planner has no statistics of tables that clients read, but for the largest workspace'
);
select is_empty(
  $$ select r.name, a.grantee::regrole
    from routines as r, aclexplode(coalesce(r.proacl, acldefault('f', r.proowner))) as a
    where a.grantee::regrole::text not in (
      'anon', 'authenticated', 'service_role', 'keylatch_resolver', r.proowner::regrole::text
    ) or a.is_grantable and a.grantee <> r.proowner $$,
  'no routine is granted to public, or with grant option'
);

-- Properties of routines.

select set_eq(
  $$ select r.name from routines as r
    where r.prosecdef and r.name in (select a.name from allowed as a) $$,
  array[
    'keylatch.resolve_key',
    'keylatch.resolve_keys',
    'keylatch_internal.describe_installation',
    'keylatch_internal.explain_for_resolver',
    'keylatch_internal.find_key',
    'keylatch_internal.hold_expiry',
    'keylatch_internal.refuse',
    'keylatch_internal.revoke_workspace_keys',
    'keylatch_internal.share_workspaces'
  ],
  'only these routines of the core run with the rights of the owner'
);
select is_empty(
  $$ select r.name from routines as r
    where r.prosecdef and r.name like 'keylatch.%'
      and r.name not in ('keylatch.resolve_key', 'keylatch.resolve_keys') $$,
  'exposed calls run with the rights of their caller, except the two calls that resolve keys'
);
select is_empty(
  $$
    select r.name from routines as r
    where (r.proconfig @> array['search_path=pg_catalog, pg_temp']) is not true
      and r.name <> 'keylatch.list_keys'
  $$,
  'every routine has the search_path pg_catalog, pg_temp'
);
select is(
  (select r.proconfig from routines as r where r.name = 'keylatch.list_keys'), null,
  'list_keys has no search_path, so that the planner can inline it'
);
select is_empty(
  $$
    select r.name from routines as r
    where r.proparallel = 's' and r.prosrc ~* '\mexception\M[[:space:]]+when\M'
  $$,
  'no parallel safe routine has an exception block, which fails in a parallel plan before 17'
);
select is_empty(
  'select r.name from routines as r group by r.name having count(*) > 1',
  'each name has one signature'
);

-- Tables and views of the core.

select is(
  (
    select string_agg(
      format('%s %s %s', r.name, a.grantee::regrole, a.privilege_type), e'\n'
      order by r.name, a.grantee::regrole::text, a.privilege_type
    )
    from relations as r, aclexplode(r.relacl) as a
    where a.grantee <> r.relowner and r.name in (
      'keylatch.keys', 'keylatch_internal.keys', 'keylatch_internal.active_keys',
      'keylatch_internal.errors', 'keylatch_internal.installation',
      'keylatch_internal.workspace_latches'
    )
  ),
  'keylatch.keys authenticated SELECT
keylatch.keys service_role SELECT',
  'who may do what with which table'
);
select is(
  (
    select string_agg(format('%s %s', r.name, a.grantee::regrole), ', ' order by 1)
    from relations as r, aclexplode(r.relacl) as a
    where a.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'MAINTAIN')
      and a.grantee not in (r.relowner, 'service_role'::regrole) and r.relkind <> 'S'
  ),
  case when to_regclass('keylatch.sessions') is not null
    then 'keylatch.sessions authenticated' end,
  'nobody may lock a whole table or view, but for the view whose rows users delete'
);
select is_empty(
  $$ select r.name from relations as r
    where r.relkind in ('r', 'v', 'm', 'S', 'p') and (
      has_table_privilege('keylatch_resolver', r.oid, 'select')
      or has_any_column_privilege('keylatch_resolver', r.oid, 'select, insert, update')
    ) $$,
  'keylatch_resolver reads and writes no table'
);
select is(
  (
    select string_agg(distinct format('%s %s', a.grantee::regrole, a.privilege_type), ', ')
    from aclexplode(t.attacl) as a
  ),
  case t.attname
    when 'key_hash' then null
    when 'fingerprint' then 'authenticated SELECT, service_role SELECT'
    else 'authenticated INSERT, authenticated SELECT, authenticated UPDATE, '
      || 'service_role INSERT, service_role SELECT, service_role UPDATE'
  end,
  format('who may do what with the column %s', t.attname)
)
from pg_attribute as t
where t.attrelid = 'keylatch_internal.keys'::regclass and t.attnum > 0 and not t.attisdropped
order by t.attnum;
select is(
  (
    select array_agg(t.attname order by t.attname) from pg_attribute as t
    where t.attrelid = 'keylatch.keys'::regclass and t.attnum > 0 and t.attname <> 'status'
  ),
  (
    select array_agg(t.attname order by t.attname) from pg_attribute as t
    where t.attrelid = 'keylatch_internal.keys'::regclass and t.attnum > 0
      and t.attname <> 'key_hash' and t.attacl is not null
  ),
  'the view has all granted columns and a status, but not the hash'
);
select is_empty(
  $$ select v.attname from pg_attribute as v inner join pg_attribute as t
      on v.attname = t.attname and t.attrelid = 'keylatch_internal.keys'::regclass
    where v.attrelid = 'keylatch.keys'::regclass and v.attacl is distinct from t.attacl $$,
  'who may do what with a column of the view is the same as with the column of the table'
);
select is_empty(
  $$ select c.oid::regclass from pg_class as c inner join relations as r on c.oid = r.oid
    where c.relkind = 'v' and r.name like 'keylatch.%'
      and c.reloptions is distinct from array['security_invoker=true'] $$,
  'every exposed view runs with the rights of its reader'
);

-- Row security.

select is_empty(
  'select r.name from relations as r where r.relkind in (''r'', ''p'') and not r.relrowsecurity',
  'every table has row level security'
);
select is(
  (
    select string_agg(
      format('%s for %s to %s', p.polname, p.polcmd, p.polroles::regrole[]), e'\n'
      order by p.polname
    )
    from pg_policy as p where p.polrelid = 'keylatch_internal.keys'::regclass
  ),
  'keys_insert_admin for a to {authenticated}
keys_select_admin for r to {authenticated}
keys_update_admin for w to {authenticated}',
  'these are all row policies of the keys: none for anon, none for delete'
);
select is(
  (
    select array_agg(distinct v.expression)
    from pg_policy as p, lateral (values
      (pg_get_expr(p.polqual, p.polrelid)), (pg_get_expr(p.polwithcheck, p.polrelid))
    ) as v (expression)
    where p.polrelid = 'keylatch_internal.keys'::regclass and v.expression is not null
  ),
  array['(workspace_id IN ( SELECT keylatch.admin_workspace_ids() AS admin_workspace_ids))'],
  'all policies call one function'
);
select is_empty(
  $$ select p.polname from pg_policy as p inner join relations as r on p.polrelid = r.oid
    where p.polroles && array[0, 'anon'::regrole]::oid[] $$,
  'no policy applies to anon or to public'
);

-- Triggers of the core on the keys: A fires always, R only in replication mode, O in all other
-- sessions.

select is(
  (
    select string_agg(format('%s %s', t.tgname, t.tgenabled), e'\n' order by t.tgname)
    from pg_trigger as t
    where t.tgrelid = 'keylatch_internal.keys'::regclass and not t.tgisinternal
      and t.tgfoid::regproc::text in (
        'keylatch_internal.hold_expiry', 'keylatch_internal.hold_latch',
        'keylatch_internal.judge_update', 'keylatch_internal.merge_revocation',
        'keylatch_internal.mint_key',
        'keylatch_internal.share_workspaces', 'keylatch_internal.stamp_update'
      )
  ),
  'keys_delete_keep A
keys_insert_mint O
keys_insert_share_workspaces O
keys_truncate_keep A
keys_update_a_merge_revocation R
keys_update_expired_is_final A
keys_update_hold_expiry A
keys_update_immutable A
keys_update_revoked_is_final A
keys_update_stamp O
keys_update_superseded_is_final A
keys_update_values O',
  'the triggers, and when they fire'
);

-- Every object has a comment.

select is_empty(v.query, format('every %s has a comment', v.what))
from (values
  (
    'schema',
    'select s.name from schemas as s where obj_description(s.oid, ''pg_namespace'') is null'
  ),
  ('routine', 'select r.name from routines as r where obj_description(r.oid, ''pg_proc'') is null'),
  (
    'table, view and type',
    'select r.name from relations as r
    where coalesce(obj_description(r.oid, ''pg_class''), obj_description(
      (select t.oid from pg_type as t where t.typrelid = r.oid), ''pg_type'')) is null'
  ),
  (
    'column',
    'select r.name, t.attname from relations as r inner join pg_attribute as t on t.attrelid = r.oid
    where (r.relkind = ''r'' or r.relkind = ''v'' and r.name like ''keylatch.%'')
      and t.attnum > 0 and not t.attisdropped and col_description(r.oid, t.attnum) is null'
  ),
  (
    'policy',
    'select p.polname from pg_policy as p inner join relations as r on p.polrelid = r.oid
    where obj_description(p.oid, ''pg_policy'') is null'
  ),
  (
    'trigger',
    'select t.tgname from pg_trigger as t inner join relations as r on t.tgrelid = r.oid
    where not t.tgisinternal and obj_description(t.oid, ''pg_trigger'') is null'
  ),
  (
    'index that is no constraint',
    'select i.indexrelid::regclass
    from pg_index as i inner join relations as r on i.indrelid = r.oid
    where obj_description(i.indexrelid, ''pg_class'') is null and not exists (
      select from pg_constraint as c where c.conindid = i.indexrelid)'
  )
) as v (what, query);

select * from finish();
rollback;
