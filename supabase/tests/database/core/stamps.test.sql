-- The database sets times and users: it replaces what a caller passes, and uses the clock, not the
-- start of the transaction. A logical replica keeps the values of its publisher.
begin;
\ir ../people.psql
select plan(52);

select pg_sleep(0.05);
select pg_temp.make('first');
select ok(
  pg_temp.of(
    'first', 'created_at between now() + interval ''0.05 s'' and clock_timestamp()'
  )::boolean,
  'created_at is the time of the clock, not the start of the transaction'
);
select is(
  pg_temp.of('first', 'created_by'),
  pg_temp.user_id('alice')::text,
  'created_by is the signed-in user'
);
select is(
  pg_temp.run(
    w.who, 'insert into keylatch.keys (workspace_id) values (pg_temp.a()) returning created_by'
  ),
  null,
  'created_by is null for ' || w.who
)
from (values ('service_role'), ('owner')) as w (who);

select is(
  pg_temp.words(w.who, format(
    'insert into keylatch.keys (workspace_id, %s) values (pg_temp.a(), %s)', v.what, v.given
  )),
  v.what || ' of a new key cannot be passed, because the database sets this column. '
  || 'Leave this column out. To change an existing key, send a PATCH, not an upsert.',
  format('%s gives no %s', w.who, v.what)
)
from (values
  ('id', 'gen_random_uuid()'),
  ('public_key', '''x'''),
  ('masked_key', '''x'''),
  ('suspended_at', 'now()'),
  ('superseded_at', 'now()'),
  ('revoked_at', 'now()'),
  ('revoked_by', 'gen_random_uuid()'),
  ('revoke_reason', '''x'''),
  ('created_at', 'now()'),
  ('created_by', 'gen_random_uuid()'),
  ('updated_at', 'now()'),
  ('imported_at', 'now()')
) as v (what, given), unnest(array['alice', 'service_role']) as w (who);

-- For jsonb, 0 equals a 0 with 16000 decimal places, which check_metadata refuses.

select pg_temp.make('numbers', '''secret'', metadata => ''{"a": [0, 1]}''');
select is(
  pg_temp.run('alice', format(
    'update keylatch.keys set metadata = %L where id = %L returning metadata::text', m.new,
    pg_temp.id('numbers'))),
  m.stored, m.about
)
from (values
  ('{"a": [0e-16383, 1.0]}', '{"a": [0, 1]}', 'metadata that is equal stays as it was'),
  ('{"a": [1.0]}', '{"a": [1.0]}', 'metadata that is not equal is stored')
) as m (new, stored, about);

-- Setting a time by PATCH: any value means now.

select pg_temp.make(v.name)
from (values ('past'), ('future'), ('never'), ('suspended'), ('superseded')) as v (name);

select is(
  pg_temp.run('alice', format(
    $$ update keylatch.keys
      set revoked_at = %L, revoked_by = gen_random_uuid(), revoke_reason = 'x'
      where id = pg_temp.id(%L)
      returning revoked_at between now() + interval '0.05 s' and clock_timestamp()
        and revoked_by = pg_temp.user_id('alice') and revoke_reason = 'x' $$,
    v.given, v.name
  )),
  'true',
  format('revoked_at = %s is replaced by the clock, revoked_by by the user', v.given)
)
from (values
  ('past', '2001-01-01'), ('future', '2999-01-01'), ('never', 'infinity')
) as v (name, given);

select is(
  pg_temp.run('alice', $$ update keylatch.keys set suspended_at = '2001-01-01'
    where id = pg_temp.id('suspended')
    returning suspended_at between now() + interval '0.05 s' and clock_timestamp() $$),
  'true',
  'a PATCH of suspended_at sets the time of the clock'
);
select is(
  pg_temp.run('alice', format(
    $$ update keylatch.keys set suspended_at = '2001-01-01' where id = pg_temp.id('suspended')
      returning suspended_at = %L $$, pg_temp.of('suspended', 'suspended_at')
  )),
  'true',
  'a second PATCH of suspended_at changes nothing'
);
select is(
  pg_temp.run('alice', $$ update keylatch.keys
    set superseded_at = '2001-01-01', expires_at = now() + interval '1 hour'
    where id = pg_temp.id('superseded')
    returning superseded_at between now() + interval '0.05 s' and clock_timestamp() $$),
  'true',
  'a PATCH of superseded_at sets the time of the clock'
);
select is(
  pg_temp.run('service_role', $$ update keylatch.keys set revoked_at = now()
    where id = pg_temp.id('superseded') returning revoked_by is null $$),
  'true',
  'revoked_by is null if no user revoked the key'
);

-- updated_at is the time of each change, whatever the caller passes.

select pg_temp.make('changing');
select is(
  pg_temp.of('changing', 'updated_at = created_at'), 'true', 'updated_at of a new key is created_at'
);
select pg_sleep(0.01);
select is(
  pg_temp.run(v.who, format(
    $$ update keylatch.keys set %s where id = pg_temp.id('changing')
      returning updated_at between created_at + interval '0.01 s' and clock_timestamp() $$,
    v.assignment
  )),
  'true',
  format('%s: after a change of %s updated_at is the clock''s', v.who, v.assignment)
)
from (values
  ('alice', 'label = ''x'''),
  ('service_role', 'updated_at = ''2001-01-01'''),
  ('owner', 'updated_at = ''2999-01-01'''),
  ('alice', 'revoked_at = now()')
) as v (who, assignment);
select is(
  pg_temp.run('replica', $$ update keylatch.keys set updated_at = '2026-01-01'
    where id = pg_temp.id('changing') returning updated_at = '2026-01-01' $$),
  'true',
  'a replica keeps the updated_at of its publisher'
);

-- A key in a reason is masked, so that the revocation does not fail.

select pg_temp.make('leaked');
select pg_temp.run('alice', format(
  'select id from keylatch.revoke_key(pg_temp.id(''leaked''), %L)',
  format('%s in a log, twice: "%s", and acme_pk_test_%s.', pg_temp.key('leaked'),
    pg_temp.key('leaked'), repeat('a', 36))
));
select is(
  pg_temp.of('leaked', 'revoke_reason'),
  'wk_sk_live_... in a log, twice: "wk_sk_live_...", and acme_pk_test_....',
  'every key in a reason is masked'
);
select pg_temp.make('patched');
select is(
  pg_temp.run('alice', format(
    $$ update keylatch.keys set revoked_at = now(), revoke_reason = %L
      where id = pg_temp.id('patched') returning revoke_reason $$,
    'x' || pg_temp.key('patched')
  )),
  'xwk_sk_live_...',
  'a PATCH masks every key in a reason, too'
);

-- Subjects that are not uuids are allowed.
select set_config('request.jwt.claims', '{"sub": "user_2f9"}', true);
select is(keylatch_internal.current_user_id(), null, 'a subject that is not a uuid gives no user');
select is(
  pg_temp.outcome('service_role', 'select keylatch.issue_key(pg_temp.a())'),
  '1 row',
  'a subject that is not a uuid is no error'
);
select set_config('request.jwt.claims', '', true);

-- The clock decides about the expiry, also within one transaction.

select pg_temp.make('short', '''secret'', expires_at => clock_timestamp() + ''0.6 s''');
select is(pg_temp.of('short', 'status'), 'active', 'a key is active until it expires');
select pg_sleep(0.62);
select is(pg_temp.of('short', 'status'), 'expired', 'a key expires within a transaction');

-- A replication-mode session keeps the publisher's times.

select is(
  pg_temp.run('replica', $$ update keylatch.keys
    set revoked_at = '2026-01-01', revoked_by = pg_temp.a(), revoke_reason = 'there'
    where id = pg_temp.id('first')
    returning (revoked_at, revoked_by) = ('2026-01-01', pg_temp.a()) $$),
  'true',
  'a replica keeps revoked_at and revoked_by of its publisher'
);
select is(
  pg_temp.run('replica', $$ insert into keylatch_internal.keys
    (id, workspace_id, kind, key_hash, masked_key, created_at, updated_at, revoked_at)
    values (pg_temp.b(), pg_temp.a(), 'secret', sha256('there'), 'm', '2026-01-01', '2026-01-03',
      '2026-01-02')
    returning (id, created_at, updated_at, revoked_at)
      = (pg_temp.b(), '2026-01-01', '2026-01-03', '2026-01-02') $$),
  'true',
  'a replica takes a row as its publisher made it'
);
select is(
  pg_temp.outcome('replica', 'insert into keylatch.keys (workspace_id) values (pg_temp.a())'),
  '23502',
  'a replica makes no key of its own'
);

select * from finish();
rollback;
