-- A wrong import is taken back before its keys are used, and nothing becomes active again.
begin;
\ir ../people.psql
\ir importing.psql
select plan(17);

-- The import that brought the key of a text.
create function pg_temp.import_of(p_text text) returns uuid language sql as
$$
  select g.import_id from keylatch_internal.legacy_keys as g
  where g.key_id = keylatch_internal.find_key(p_text)
$$;
select is(
  pg_temp.import(pg_temp.line('{"key": "a key of the wrong workspace"}')), 'imported',
  'a key is imported'
);
select is(
  (select t.revoked from keylatch.take_back_import(
    pg_temp.import_of('a key of the wrong workspace')
  ) as t),
  1, 'the import is taken back'
);
select is(
  pg_temp.state('a key of the wrong workspace'), 'revoked the import was taken back',
  'the key is revoked'
);
select is(pg_temp.resolves('a key of the wrong workspace'), 0::bigint, 'it does not resolve');
select is(
  pg_temp.import(jsonb_build_object(
    'workspace_id', pg_temp.b(), 'key', 'a key of the wrong workspace'
  )),
  'imported', 'another workspace gets the key'
);
select is(pg_temp.resolves('a key of the wrong workspace'), 1::bigint, 'it resolves there');
select is(
  pg_temp.import(jsonb_build_object(
    'workspace_id', pg_temp.b(), 'key', 'a key of the wrong workspace',
    'revoked_at', '2024-01-01'
  )),
  'moved', 'the old system revokes it'
);
select is(
  (select t.revoked from keylatch.take_back_import(
    pg_temp.import_of('a key of the wrong workspace')
  ) as t),
  1, 'that import is taken back as well'
);
select is(
  pg_temp.import(pg_temp.line('{"key": "a key of the wrong workspace"}')), 'imported',
  'the key comes a third time'
);
select is(
  pg_temp.resolves('a key of the wrong workspace'), 0::bigint, 'what was revoked stays revoked'
);

-- What is known of a key is kept.
select throws_ok(
  'update keylatch_internal.legacy_keys set taken_back = null where taken_back is not null',
  'PT409', 'column_is_immutable', 'a taken-back import stays taken back'
);
select throws_ok(
  'update keylatch_internal.legacy_keys set taken_back = ''expired'' where taken_back is null',
  '23514', null, 'there are three ways to be taken back'
);

select throws_ok(
  'update keylatch_internal.legacy_keys set taken_back = ''active'' where taken_back is null',
  'PT409', 'column_is_immutable', 'a key that was revoked otherwise is not marked as taken back'
);
select keylatch.issue_key(pg_temp.a(), 'secret');
select throws_ok(
  'insert into keylatch_internal.legacy_keys
    (key_id, workspace_id, scheme, import_id, seen_by, taken_back)
    select k.id, k.workspace_id, ''sha256'', k.id, k.id, ''active'' from keylatch.keys as k
    where k.imported_at is null limit 1',
  'PT409', 'column_is_immutable', 'nor is one that no import brought'
);

-- Who may.
select is(
  pg_temp.outcome(v.who, 'select keylatch.take_back_import(gen_random_uuid())'), '42501',
  format('%s takes nothing back', v.who)
)
from (values ('anon'), ('alice'), ('keylatch_resolver')) as v (who);

select * from finish();
rollback;
