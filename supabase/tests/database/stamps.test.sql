-- Times and users are put by the database: what a caller gives is replaced, and the clock counts,
-- not the start of the transaction. A logical replica keeps what its publisher put.
begin;
\ir people.psql
select plan(38);

select pg_sleep(0.05);
select pg_temp.make('first');
select ok(
  pg_temp.of(
    'first', 'created_at between now() + interval ''0.05 s'' and clock_timestamp()'
  )::boolean,
  'created_at is the clock''s, also in a transaction that began before'
);
select is(
  pg_temp.of('first', 'created_by'),
  pg_temp.user_id('alice')::text,
  'created_by is the user'
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
  v.what || ' is made by the database and cannot be given for a new key. '
  || 'Leave it out. To change a key that exists, PATCH it instead of an upsert.',
  format('%s gives no %s', w.who, v.what)
)
from (values
  ('id', 'gen_random_uuid()'),
  ('public_key', '''x'''),
  ('hint', '''x'''),
  ('suspended_at', 'now()'),
  ('superseded_at', 'now()'),
  ('revoked_at', 'now()'),
  ('revoked_by', 'gen_random_uuid()'),
  ('revoke_reason', '''x'''),
  ('created_at', 'now()'),
  ('created_by', 'gen_random_uuid()')
) as v (what, given), unnest(array['alice', 'service_role']) as w (who);

-- Setting one of the times by PATCH: any value stands for now.

select pg_temp.make(v.name)
from (values ('past'), ('future'), ('never'), ('suspended'), ('superseded')) as v (name);

select is(
  pg_temp.run('alice', format(
    $$ update keylatch.keys
      set revoked_at = %L, revoked_by = gen_random_uuid(), revoke_reason = 'x'
      where id = pg_temp.id(%L)
      returning revoked_at between now() + interval '0.05 s' and clock_timestamp()
        and revoked_by = auth.uid() and revoke_reason = 'x' $$,
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
  'suspended_at is replaced by the clock'
);
select is(
  pg_temp.run('alice', format(
    $$ update keylatch.keys set suspended_at = '2001-01-01' where id = pg_temp.id('suspended')
      returning suspended_at = %L $$, pg_temp.of('suspended', 'suspended_at')
  )),
  'true',
  'and stays what it was when it is set again'
);
select is(
  pg_temp.run('alice', $$ update keylatch.keys
    set superseded_at = '2001-01-01', expires_at = now() + interval '1 hour'
    where id = pg_temp.id('superseded')
    returning superseded_at between now() + interval '0.05 s' and clock_timestamp() $$),
  'true',
  'superseded_at is replaced by the clock'
);
select is(
  pg_temp.run('service_role', $$ update keylatch.keys set revoked_at = now()
    where id = pg_temp.id('superseded') returning revoked_by is null $$),
  'true',
  'revoked_by is null when it was not a user'
);

-- Who the user is does not depend on the identity provider writing uuids.
select set_config('request.jwt.claims', '{"sub": "user_2f9"}', true);
select is(keylatch_internal.current_user_id(), null, 'a subject that is no uuid is nobody');
select is(
  pg_temp.outcome('service_role', 'select keylatch.issue_key(pg_temp.a())'),
  '1 row',
  'and no error'
);
select set_config('request.jwt.claims', '', true);

-- Expiry by the clock, inside of one transaction.

select pg_temp.make('short', '''secret'', expires_at => clock_timestamp() + ''0.1 s''');
select is(pg_temp.of('short', 'status'), 'active', 'a key lives until it expires');
select pg_sleep(0.12);
select is(pg_temp.of('short', 'status'), 'expired', 'and is dead then, in the same transaction');

-- A replication-mode session keeps the publisher's times.

select is(
  pg_temp.run('replica', $$ update keylatch.keys
    set revoked_at = '2026-01-01', revoked_by = pg_temp.a(), revoke_reason = 'there'
    where id = pg_temp.id('first')
    returning (revoked_at, revoked_by) = ('2026-01-01', pg_temp.a()) $$),
  'true',
  'a replica keeps when and by whom a key was revoked'
);
select is(
  pg_temp.run('replica', $$ insert into keylatch_internal.keys
    (id, workspace_id, kind, key_hash, hint, created_at, revoked_at)
    values (pg_temp.b(), pg_temp.a(), 'secret', sha256('there'), 'h', '2026-01-01', '2026-01-02')
    returning (id, created_at, revoked_at) = (pg_temp.b(), '2026-01-01', '2026-01-02') $$),
  'true',
  'a replica takes a row as it was made'
);
select is(
  pg_temp.outcome('replica', 'insert into keylatch.keys (workspace_id) values (pg_temp.a())'),
  '23502',
  'and makes no key of its own'
);

select * from finish();
rollback;
