-- Access: which role may do what in which workspace. The row policies are the authorization, and
-- one function decides for all of them.
begin;
\ir ../people.psql
select plan(278);

select pg_temp.make('key');
select pg_temp.make('other');
select pg_temp.run('bob', 'select id from keylatch.issue_key(pg_temp.b(), ''secret'')');

-- One line for each action that a role may try in workspace A, with the result for each role: the
-- number of rows, a slug of the contract, or 42501: permission denied.

select is(
  regexp_replace(pg_temp.outcome(w.who, v.statement), '^PT[0-9]+ | rows?$', ''),
  w.outcome,
  format('%s: %s', w.who, v.what)
)
from (values
  --                                   anon  stranger mia bob alice service_role keylatch_resolver
  (
    'reads the keys', 'select * from keylatch.keys where workspace_id = pg_temp.a()',
    '42501 0 0 0 2 2 42501'
  ),
  (
    'reads the keys of all workspaces', 'select * from keylatch.keys',
    '42501 0 0 1 2 3 42501'
  ),
  (
    'reads the table of keys', 'select id, masked_key from keylatch_internal.keys',
    '42501 0 0 1 2 3 42501'
  ),
  (
    'reads the hashes', 'select key_hash from keylatch_internal.keys',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'compares with a hash', 'select id from keylatch_internal.keys where key_hash = ''''',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'inserts a key', 'insert into keylatch.keys (workspace_id) values (pg_temp.a())',
    '42501 42501 42501 42501 1 1 42501'
  ),
  (
    'inserts into the table',
    'insert into keylatch_internal.keys (workspace_id) values (pg_temp.a())',
    '42501 42501 42501 42501 1 1 42501'
  ),
  (
    'inserts a hash',
    'insert into keylatch_internal.keys (workspace_id, key_hash) values (pg_temp.a(), ''x'')',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'issues a key in no workspace', 'select keylatch.issue_key(null)',
    '42501 ' || repeat('invalid_argument ', 5) || '42501'
  ),
  (
    'labels a key', 'update keylatch.keys set label = ''x'' where id = pg_temp.id(''key'')',
    '42501 0 0 0 1 1 42501'
  ),
  (
    'labels all keys', 'update keylatch.keys set label = ''x''',
    '42501 0 0 1 2 3 42501'
  ),
  (
    'labels a key in the table',
    'update keylatch_internal.keys set label = ''x'' where id = pg_temp.id(''key'')',
    '42501 0 0 0 1 1 42501'
  ),
  (
    'sets a hash', 'update keylatch_internal.keys set key_hash = sha256('''')',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'moves a key to B',
    'update keylatch.keys set workspace_id = pg_temp.b() where id = pg_temp.id(''key'')',
    '42501 0 0 0 column_is_immutable column_is_immutable 42501'
  ),
  (
    'locks a key', 'select id from keylatch.keys where id = pg_temp.id(''key'') for update',
    '42501 0 0 0 1 1 42501'
  ),
  (
    'deletes a key', 'delete from keylatch.keys where id = pg_temp.id(''key'')',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'deletes from the table', 'delete from keylatch_internal.keys',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'truncates the table', 'truncate keylatch_internal.keys',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'issues a key', 'select keylatch.issue_key(pg_temp.a())',
    '42501 42501 42501 42501 1 1 42501'
  ),
  (
    'calls what issue_key calls',
    $$ select keylatch_internal.insert_key(
      pg_temp.a(), 'secret', '', '{}', '{}', 'live', null, '{}', 'wk', null) $$,
    '42501 42501 42501 42501 1 1 42501'
  ),
  (
    'rotates a key', 'select keylatch.rotate_key(pg_temp.id(''key''))',
    '42501 key_not_found key_not_found key_not_found 1 1 42501'
  ),
  (
    'revokes a key', 'select keylatch.revoke_key(pg_temp.id(''key''))',
    '42501 key_not_found key_not_found key_not_found 1 1 42501'
  ),
  (
    'suspends a key', 'select keylatch.suspend_key(pg_temp.id(''key''))',
    '42501 key_not_found key_not_found key_not_found 1 1 42501'
  ),
  (
    'unsuspends a key', 'select keylatch.unsuspend_key(pg_temp.id(''key''))',
    '42501 key_not_found key_not_found key_not_found 1 1 42501'
  ),
  (
    'lists the keys', 'select * from keylatch.list_keys(pg_temp.a())',
    '42501 0 0 0 2 2 42501'
  ),
  (
    'resolves a key', 'select * from keylatch.resolve_key(pg_temp.key(''key''))',
    '42501 42501 42501 42501 42501 1 1'
  ),
  (
    'has a key explained',
    'select from keylatch.explain_key(pg_temp.key(''key'')) where verdict = ''valid''',
    '42501 0 0 0 1 1 1'
  ),
  (
    'issues keys', 'select keylatch.issue_keys(pg_temp.a(), ''{a,b}'')',
    '42501 42501 42501 42501 1 1 42501'
  ),
  (
    'resolves keys', 'select * from keylatch.resolve_keys(array[pg_temp.key(''key''), ''x''])',
    '42501 42501 42501 42501 42501 2 2'
  ),
  (
    'retires the workspace',
    'select from keylatch.retire_workspace(pg_temp.a()) where revoked = 2 and is_done',
    '42501 0 0 0 1 1 42501'
  ),
  (
    'explains a key as a service',
    'select keylatch_internal.explain_for_resolver(pg_temp.key(''key''), null)',
    '42501 42501 42501 42501 42501 42501 1'
  ),
  (
    'locks the table', 'lock table keylatch.keys in share mode',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'locks the latch of a workspace',
    'select from keylatch_internal.workspace_latches for share',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'reads the errors', 'select from keylatch_internal.errors',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'reads the active keys with their hashes', 'select from keylatch_internal.active_keys',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'hashes a text', 'select keylatch.hash_key(''x'')',
    '42501 1 1 1 1 1 42501'
  ),
  (
    'asks which installation this is', 'select keylatch.installation()',
    '42501 1 1 1 1 1 1'
  ),
  (
    'asks what it administers', 'select keylatch.admin_workspace_ids()',
    '42501 0 0 1 1 0 42501'
  ),
  (
    'writes to the installation', 'update keylatch_internal.installation set id = default',
    '42501 42501 42501 42501 42501 42501 42501'
  )
) as v (what, statement, outcomes)
cross join lateral unnest(
  array['anon', 'stranger', 'mia', 'bob', 'alice', 'service_role', 'keylatch_resolver'],
  string_to_array(v.outcomes, ' ')
) as w (who, outcome);

-- One function decides about all policies.

select is(
  pg_temp.run('alice', $$
    select array_agg(id) = array[pg_temp.a()] from keylatch.admin_workspace_ids() as id $$),
  'true',
  'alice administers A'
);
create or replace function keylatch.admin_workspace_ids() returns setof uuid
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb'::uuid; $$;
select is(
  pg_temp.outcome('mia', v.statement), v.outcome, format('replaced, it lets mia %s', v.what)
)
from (values
  ('read B', 'select * from keylatch.keys where workspace_id = pg_temp.b()', '1 row'),
  ('issue in B', 'select keylatch.issue_key(pg_temp.b())', '1 row'),
  ('label in B', 'update keylatch.keys set label = ''x''', '1 row'),
  ('not issue in A', 'select keylatch.issue_key(pg_temp.a())', '42501')
) as v (what, statement, outcome);

select * from finish();
rollback;
