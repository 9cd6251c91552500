-- What each role may do, written out and compared with the catalog, and what holds of every object.
begin;
\ir people.psql
select plan(32);

create temporary view schemas as
select n.oid, n.nspname as name
from pg_namespace as n
where n.nspname in ('keylatch', 'keylatch_internal', 'keylatch_hooks');
create temporary view routines as
select
  p.oid, p.proacl, p.prosecdef, p.proconfig, p.proowner,
  format('%s.%s', s.name, p.proname) as name
from pg_proc as p inner join schemas as s on p.pronamespace = s.oid;
create temporary view relations as
select
  c.oid, c.relacl, c.relkind, c.relrowsecurity, c.relowner,
  format('%s.%s', s.name, c.relname) as name
from pg_class as c inner join schemas as s on c.relnamespace = s.oid
where c.relkind not in ('i', 'I', 't');

-- Schemas.

select is(
  array(
    select s.name from schemas as s
    where has_schema_privilege(v.role, s.oid, 'usage')
    order by s.name
  ),
  v.schemas::name[],
  format('the schemas that %s may look into', v.role)
)
from (values
  ('anon', '{keylatch,keylatch_internal}'),
  ('authenticated', '{keylatch,keylatch_internal}'),
  ('service_role', '{keylatch,keylatch_internal}'),
  ('keylatch_resolver', '{keylatch,keylatch_internal}')
) as v (role, schemas);
select is_empty(
  $$ select s.name from schemas as s, unnest(
      array['anon', 'authenticated', 'service_role', 'keylatch_resolver']
    ) as role
    where has_schema_privilege(role, s.oid, 'create') $$,
  'nobody makes anything in them'
);

-- Routines: this list, and no other.

create temporary table allowed (role text, name text) on commit drop;
insert into allowed (role, name)
select r.role, v.name
from (values
  ('keylatch.admin_workspace_ids'),
  ('keylatch.check_request'),
  ('keylatch.current_key_id'),
  ('keylatch.current_session_id'),
  ('keylatch.current_workspace_id'),
  ('keylatch.explain_key'),
  ('keylatch.has_scope'),
  ('keylatch.hash_key'),
  ('keylatch.installation'),
  ('keylatch.issue_key'),
  ('keylatch.issue_keys'),
  ('keylatch.list_events'),
  ('keylatch.key_metadata'),
  ('keylatch.list_keys'),
  ('keylatch.log_position'),
  ('keylatch.resume_key'),
  ('keylatch.revoke_key'),
  ('keylatch.rotate_key'),
  ('keylatch.suspend_key'),
  ('keylatch.verify_events'),
  -- What those lean on, as they run with the rights of their caller.
  ('keylatch_internal.cache_mark'),
  ('keylatch_internal.canonical_origin'),
  ('keylatch_internal.check_key'),
  ('keylatch_internal.check_label'),
  ('keylatch_internal.check_metadata'),
  ('keylatch_internal.check_origins'),
  ('keylatch_internal.check_revoke_reason'),
  ('keylatch_internal.check_scopes'),
  ('keylatch_internal.complete_key'),
  ('keylatch_internal.current_user_id'),
  ('keylatch_internal.event_hash'),
  ('keylatch_internal.find_key'),
  ('keylatch_internal.generate_key'),
  ('keylatch_internal.hint_prefix'),
  ('keylatch_internal.insert_key'),
  ('keylatch_internal.is_apply_worker'),
  ('keylatch_internal.is_canonical_origin'),
  ('keylatch_internal.is_origin_entry'),
  ('keylatch_internal.key_alphabet'),
  ('keylatch_internal.key_check'),
  ('keylatch_internal.key_form'),
  ('keylatch_internal.key_hint'),
  ('keylatch_internal.lock_family'),
  ('keylatch_internal.origin_matches'),
  ('keylatch_internal.punycode'),
  ('keylatch_internal.request_identity'),
  ('keylatch_internal.require_living'),
  ('keylatch_internal.require_rotatable'),
  ('keylatch_internal.set_suspended'),
  ('keylatch_internal.workspace_lock')
) as v (name), (values ('authenticated'), ('service_role')) as r (role);
insert into allowed (role, name)
values
('service_role', 'keylatch.claim_key'),
('service_role', 'keylatch.import_keys'),
('anon', 'keylatch.check_request'),
('anon', 'keylatch.current_key_id'),
('anon', 'keylatch.current_session_id'),
('anon', 'keylatch.current_workspace_id'),
('anon', 'keylatch.has_scope'),
('anon', 'keylatch.key_metadata'),
('anon', 'keylatch.open_session'),
('anon', 'keylatch_internal.request_identity'),
('anon', 'keylatch_internal.start_session'),
('authenticated', 'keylatch.open_session'),
('authenticated', 'keylatch_internal.start_session'),
('service_role', 'keylatch.attach_subject'),
('service_role', 'keylatch.close_session'),
('service_role', 'keylatch.prune_sessions'),
('service_role', 'keylatch.adopted_rows'),
('service_role', 'keylatch_internal.adopted_column'),
('service_role', 'keylatch.resume_session'),
('service_role', 'keylatch_internal.change_session'),
('service_role', 'keylatch_internal.delete_expired_sessions'),
('service_role', 'keylatch_internal.find_session'),
('service_role', 'keylatch_internal.require_session'),
('keylatch_resolver', 'keylatch.attach_subject'),
('keylatch_resolver', 'keylatch.close_session'),
('keylatch_resolver', 'keylatch.resume_session'),
('keylatch_resolver', 'keylatch_internal.change_session'),
('keylatch_resolver', 'keylatch_internal.find_session'),
('keylatch_resolver', 'keylatch_internal.require_session'),
('service_role', 'keylatch.record_usage'),
('service_role', 'keylatch.resolve_key'),
('service_role', 'keylatch.resolve_keys'),
('service_role', 'keylatch_internal.add_usage'),
('service_role', 'keylatch_internal.claim_foreign_key'),
('service_role', 'keylatch_internal.take_import'),
('keylatch_resolver', 'keylatch.claim_key'),
('keylatch_resolver', 'keylatch.record_usage'),
('keylatch_resolver', 'keylatch.resolve_key'),
('keylatch_resolver', 'keylatch.resolve_keys'),
('keylatch_resolver', 'keylatch_internal.add_usage'),
('keylatch_resolver', 'keylatch_internal.claim_foreign_key'),
('keylatch_resolver', 'keylatch_internal.request_identity'),
('keylatch_resolver', 'keylatch.check_request'),
('keylatch_resolver', 'keylatch.installation'),
('keylatch_resolver', 'keylatch.log_position');

select set_eq(
  format(
    'select r.name from routines as r where has_function_privilege(%L, r.oid, ''execute'')', v.role
  ),
  format('select a.name from allowed as a where a.role = %L', v.role),
  format('the routines that %s may execute', v.role)
)
from (values ('anon'), ('authenticated'), ('service_role'), ('keylatch_resolver')) as v (role);
select is_empty(
  $$ select r.name, a.grantee::regrole
    from routines as r, aclexplode(coalesce(r.proacl, acldefault('f', r.proowner))) as a
    where a.grantee::regrole::text not in (
      'anon', 'authenticated', 'service_role', 'keylatch_resolver', r.proowner::regrole::text
    ) or a.is_grantable and a.grantee <> r.proowner $$,
  'no routine is granted to public, or to anybody who could pass it on'
);
select set_eq(
  'select r.name from routines as r where r.prosecdef',
  array[
    'keylatch.resolve_key',
    'keylatch.resolve_keys',
    'keylatch_internal.add_usage',
    'keylatch_internal.adopted_column',
    'keylatch_internal.call_first_key_hook',
    'keylatch_internal.change_session',
    'keylatch_internal.claim_foreign_key',
    'keylatch_internal.delete_expired_sessions',
    'keylatch_internal.find_key',
    'keylatch_internal.find_session',
    'keylatch_internal.link_key_events',
    'keylatch_internal.record_key_change',
    'keylatch_internal.record_new_keys',
    'keylatch_internal.request_identity',
    'keylatch_internal.revoke_workspace_keys',
    'keylatch_internal.start_session',
    'keylatch_internal.take_import'
  ],
  'these run with the rights of the owner, and no others'
);
select is_empty(
  $$
    select r.name from routines as r
    where r.proconfig is distinct from array['search_path=""']
      and r.name <> 'keylatch_internal.link_key_events'
  $$,
  'every routine has an empty search_path and no other setting'
);
select is(
  (select r.proconfig from routines as r where r.name = 'keylatch_internal.link_key_events'),
  array[
    'search_path=""', 'enable_seqscan=off', 'jit=off', 'plan_cache_mode=force_generic_plan'
  ],
  'but for the one that tells the planner how to read the end of the log'
);
select is_empty(
  'select r.name from routines as r group by r.name having count(*) > 1',
  'one name is one signature'
);

-- Tables and the view.

select is(
  (
    select string_agg(
      format('%s %s %s', r.name, a.grantee::regrole, a.privilege_type), e'\n'
      order by r.name, a.grantee::regrole::text, a.privilege_type
    )
    from relations as r, aclexplode(r.relacl) as a
    where a.grantee <> r.relowner
  ),
  'keylatch.key_events authenticated SELECT
keylatch.key_events service_role SELECT
keylatch.key_usage authenticated SELECT
keylatch.key_usage service_role SELECT
keylatch.key_usage_days authenticated SELECT
keylatch.key_usage_days service_role SELECT
keylatch.keys authenticated INSERT
keylatch.keys authenticated SELECT
keylatch.keys authenticated UPDATE
keylatch.keys service_role INSERT
keylatch.keys service_role SELECT
keylatch.keys service_role UPDATE
keylatch.session_settings authenticated DELETE
keylatch.session_settings authenticated INSERT
keylatch.session_settings authenticated SELECT
keylatch.session_settings authenticated UPDATE
keylatch.session_settings service_role DELETE
keylatch.session_settings service_role INSERT
keylatch.session_settings service_role SELECT
keylatch.session_settings service_role UPDATE
keylatch.sessions authenticated DELETE
keylatch.sessions authenticated SELECT
keylatch.sessions service_role DELETE
keylatch.sessions service_role SELECT
keylatch.unclaimed_keys authenticated SELECT
keylatch.unclaimed_keys service_role SELECT
keylatch.workspace_membership authenticated SELECT
keylatch.workspace_membership service_role DELETE
keylatch.workspace_membership service_role INSERT
keylatch.workspace_membership service_role SELECT
keylatch.workspace_membership service_role UPDATE
keylatch.workspaces authenticated SELECT
keylatch.workspaces service_role DELETE
keylatch.workspaces service_role INSERT
keylatch.workspaces service_role SELECT
keylatch.workspaces service_role UPDATE
keylatch_internal.installation authenticated SELECT
keylatch_internal.installation keylatch_resolver SELECT
keylatch_internal.installation service_role SELECT
keylatch_internal.key_event_heads authenticated SELECT
keylatch_internal.key_event_heads service_role SELECT
keylatch_internal.key_event_links authenticated SELECT
keylatch_internal.key_event_links service_role SELECT
keylatch_internal.key_events authenticated SELECT
keylatch_internal.key_events service_role SELECT
keylatch_internal.key_usage authenticated SELECT
keylatch_internal.key_usage service_role SELECT
keylatch_internal.key_usage_days authenticated SELECT
keylatch_internal.key_usage_days service_role SELECT
keylatch_internal.sessions authenticated DELETE
keylatch_internal.sessions service_role DELETE',
  'who may do what with which table'
);
select is(
  (
    select string_agg(distinct format('%s %s', a.grantee::regrole, a.privilege_type), ', ')
    from pg_attribute as t, aclexplode(t.attacl) as a
    where t.attrelid = 'keylatch_internal.keys'::regclass and t.attname = v.name
  ),
  case when v.name <> 'key_hash' then
    'authenticated INSERT, authenticated SELECT, authenticated UPDATE, '
    || 'service_role INSERT, service_role SELECT, service_role UPDATE'
  end,
  format('who may do what with the column %s', v.name)
)
from (
  select t.attname as name
  from pg_attribute as t
  where t.attrelid = 'keylatch_internal.keys'::regclass and t.attnum > 0 and t.attname in (
    'id', 'key_hash', 'revoked_at', 'created_by'
  )
) as v;
select is(
  (
    select array_agg(t.attname order by t.attnum) from pg_attribute as t
    where t.attrelid = 'keylatch.keys'::regclass and t.attnum > 0 and t.attname <> 'status'
  ),
  (
    select array_agg(t.attname order by t.attnum) from pg_attribute as t
    where t.attrelid = 'keylatch_internal.keys'::regclass and t.attnum > 0
      and t.attname <> 'key_hash' and t.attacl is not null
  ),
  'the view has every granted column and a status, and not the hash'
);
select is(
  (select c.reloptions from pg_class as c where c.oid = 'keylatch.keys'::regclass),
  array['security_invoker=true'],
  'the view is read with the rights of its reader'
);

-- Row security.

select is_empty(
  'select r.name from relations as r where r.relkind in (''r'', ''p'') and not r.relrowsecurity',
  'every table has row level security'
);
select is(
  (
    select string_agg(
      format(
        '%s: %s for %s to %s', p.polrelid::regclass, p.polname, p.polcmd, p.polroles::regrole[]
      ),
      e'\n' order by p.polrelid::regclass::text, p.polname
    )
    from pg_policy as p inner join relations as r on p.polrelid = r.oid
  ),
  'keylatch.session_settings: session_settings_delete_admin for d to {authenticated}
keylatch.session_settings: session_settings_insert_admin for a to {authenticated}
keylatch.session_settings: session_settings_select_admin for r to {authenticated}
keylatch.session_settings: session_settings_update_admin for w to {authenticated}
keylatch.workspace_membership: workspace_membership_select_own for r to {authenticated}
keylatch.workspaces: workspaces_select_member for r to {authenticated}
keylatch_internal.foreign_hashes: foreign_hashes_select_admin for r to {authenticated}
keylatch_internal.installation: installation_select_signed_in for r to '
  || '{authenticated,service_role,keylatch_resolver}
keylatch_internal.key_event_heads: key_event_heads_select_admin for r to {authenticated}
keylatch_internal.key_event_links: key_event_links_select_admin for r to {authenticated}
keylatch_internal.key_events: key_events_select_admin for r to {authenticated}
keylatch_internal.key_usage: key_usage_select_admin for r to {authenticated}
keylatch_internal.key_usage_days: key_usage_days_select_admin for r to {authenticated}
keylatch_internal.keys: keys_insert_admin for a to {authenticated}
keylatch_internal.keys: keys_select_admin for r to {authenticated}
keylatch_internal.keys: keys_update_admin for w to {authenticated}
keylatch_internal.sessions: sessions_delete_admin for d to {authenticated}
keylatch_internal.sessions: sessions_select_admin for r to {authenticated}',
  'these are the row policies: none for anon, none to delete a key'
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
  'all of those of the keys ask one function'
);

-- Triggers: A fires always, O not in replication mode.

select is(
  (
    select string_agg(
      format('%s: %s %s', t.tgrelid::regclass, t.tgname, t.tgenabled), e'\n'
      order by t.tgrelid::regclass::text, t.tgname
    )
    from pg_trigger as t inner join relations as r on t.tgrelid = r.oid
    where not t.tgisinternal
  ),
  'keylatch.workspaces: workspaces_delete_revoke_keys O
keylatch.workspaces: workspaces_truncate_keep A
keylatch_internal.key_event_heads: key_event_heads_change_keep A
keylatch_internal.key_event_heads: key_event_heads_truncate_keep A
keylatch_internal.key_event_links: key_event_links_change_keep A
keylatch_internal.key_event_links: key_event_links_truncate_keep A
keylatch_internal.key_events: key_events_change_keep A
keylatch_internal.key_events: key_events_insert_link A
keylatch_internal.key_events: key_events_truncate_keep A
keylatch_internal.keys: keys_delete_keep A
keylatch_internal.keys: keys_insert_add_event A
keylatch_internal.keys: keys_insert_first_key O
keylatch_internal.keys: keys_insert_mint O
keylatch_internal.keys: keys_truncate_keep A
keylatch_internal.keys: keys_update_add_event A
keylatch_internal.keys: keys_update_hold_expiry A
keylatch_internal.keys: keys_update_latch A
keylatch_internal.keys: keys_update_notify A',
  'the triggers, and when they fire'
);

-- Everything says what it is for.

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
    where r.relkind in (''r'', ''v'') and t.attnum > 0 and not t.attisdropped
      and col_description(r.oid, t.attnum) is null'
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
