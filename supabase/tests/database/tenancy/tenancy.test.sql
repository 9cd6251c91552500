-- The default tenancy: who sees and writes workspaces and memberships.
begin;
\ir ../people.psql
select plan(63);

-- One line for each action that a role may try, with the result for each role: the number of rows,
-- a slug of the contract, or 42501: permission denied.

select is(
  regexp_replace(pg_temp.outcome(w.who, v.statement), '^PT[0-9]+ | rows?$', ''),
  w.outcome,
  format('%s: %s', w.who, v.what)
)
from (values
  --                                   anon  stranger mia bob alice service_role keylatch_resolver
  (
    'reads the workspaces', 'select * from keylatch.workspaces',
    '42501 0 1 1 1 2 42501'
  ),
  (
    'reads the memberships', 'select * from keylatch.workspace_membership',
    '42501 0 1 1 1 3 42501'
  ),
  (
    'makes a workspace', 'insert into keylatch.workspaces (name) values (''C'')',
    '42501 42501 42501 42501 42501 1 42501'
  ),
  (
    'renames a workspace', 'update keylatch.workspaces set name = ''C'' where id = pg_temp.a()',
    '42501 42501 42501 42501 42501 1 42501'
  ),
  (
    'deletes a workspace', 'delete from keylatch.workspaces where id = pg_temp.a()',
    '42501 42501 42501 42501 42501 1 42501'
  ),
  (
    'empties the workspaces', 'truncate keylatch.workspaces cascade',
    '42501 42501 42501 42501 42501 42501 42501'
  ),
  (
    'joins a workspace',
    $$ insert into keylatch.workspace_membership (workspace_id, user_id, role)
      values (pg_temp.a(), pg_temp.user_id('stranger'), 'admin') $$,
    '42501 42501 42501 42501 42501 1 42501'
  ),
  (
    'becomes an admin', 'update keylatch.workspace_membership set role = ''admin''',
    '42501 42501 42501 42501 42501 3 42501'
  ),
  (
    'removes members', 'delete from keylatch.workspace_membership',
    '42501 42501 42501 42501 42501 3 42501'
  )
) as v (what, statement, outcomes)
cross join lateral unnest(
  array['anon', 'stranger', 'mia', 'bob', 'alice', 'service_role', 'keylatch_resolver'],
  string_to_array(v.outcomes, ' ')
) as w (who, outcome);

select * from finish();
rollback;
