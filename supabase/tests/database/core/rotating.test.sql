-- Rotation: one successor with the same settings, and the old key is revoked or expires soon.
begin;
\ir ../people.psql
select plan(54);

select pg_temp.make('old', $$ 'publishable', label => 'shop',
  allowed_origins => '{https://a.example}', scopes => '{a}', environment => 'test',
  expires_at => '2999-01-01', metadata => '{"a": 1}', prefix => 'acme' $$);
select pg_temp.make('new', null, 'keylatch.rotate_key(pg_temp.id(''old''))');

select is(
  (
    select row(k.workspace_id, k.kind, k.environment, k.label, k.allowed_origins, k.scopes,
      k.metadata, k.expires_at, split_part(k.masked_key, '...', 1))::text
    from keylatch.keys as k where k.id = pg_temp.id('new')
  ),
  (
    select row(k.workspace_id, k.kind, k.environment, k.label, k.allowed_origins, k.scopes,
      k.metadata, k.expires_at, split_part(k.masked_key, '...', 1))::text
    from keylatch.keys as k where k.id = pg_temp.id('old')
  ),
  'the successor has the same workspace, kind, environment, label, origins, scopes, metadata, '
  || 'expiry and prefix'
);
select isnt(pg_temp.key('new'), pg_temp.key('old'), 'the successor is another key');
select is(pg_temp.of('new', 'rotated_from'), pg_temp.id('old')::text, 'rotated_from is the old id');
select is(pg_temp.of('new', 'status'), 'active', 'the successor is active');
select is(
  pg_temp.of('new', 'created_by'), pg_temp.user_id('alice')::text, 'created_by is the caller'
);
select is(
  pg_temp.of('old', 'status || '' '' || revoke_reason'), 'revoked rotated',
  'without a grace, the old key is revoked with the reason "rotated"'
);
select is(current_setting('keylatch.handoff'), '', 'no setting of the session has the key');

-- A grace.

select pg_temp.make('graced');
select pg_temp.make('heir', null, 'keylatch.rotate_key(pg_temp.id(''graced''), ''1 hour'')');
select is(pg_temp.of('graced', 'status'), 'superseded', 'with a grace, the old key is superseded');
select ok(
  pg_temp.of('graced', 'expires_at between now() + interval ''1 hour''
    and clock_timestamp() + interval ''1 hour''')::boolean,
  'a superseded key expires when the grace is over'
);
select is(pg_temp.of('heir', 'expires_at'), null, 'the successor does not expire with the grace');
select pg_temp.make('short', '''secret'', expires_at => now() + ''10 minutes''');
select pg_temp.make('late', null, 'keylatch.rotate_key(pg_temp.id(''short''), ''1 hour'')');
select is(
  pg_temp.of('short', 'expires_at = now() + interval ''10 minutes'''), 'true',
  'a grace never extends a key: the old key''s own expiry comes first'
);
select is(
  pg_temp.of('late', 'expires_at = now() + interval ''10 minutes'''), 'true',
  'the successor has the expiry of the old key'
);
select pg_temp.make('other');
select pg_temp.make(
  'told', null, 'keylatch.rotate_key(pg_temp.id(''other''), expires_at => ''2999-01-01'')'
);
select is(
  pg_temp.of('told', 'expires_at'), '2999-01-01 00:00:00+00', 'the caller may pass another expiry'
);

select pg_temp.make('key');
select pg_temp.make('suspended');
select pg_temp.manage('suspend_key', 'suspended');
select pg_temp.make('revoked');
select pg_temp.manage('revoke_key', 'revoked');
select pg_temp.make('expired', '''secret'', expires_at => clock_timestamp() + ''0.6 s''');
select pg_sleep(0.62);

select pg_temp.make('by hand');
update keylatch.keys set superseded_at = now(), expires_at = now() + '1 hour'
where id = pg_temp.id('by hand');
select throws_like(
  'select keylatch.rotate_key(pg_temp.id(''by hand''))', 'key_already_rotated',
  'a key that was superseded by hand gets no successor'
);

select is(
  regexp_replace(pg_temp.outcome('alice', format(
    'select keylatch.rotate_key(pg_temp.id(%L), %s)', v.name, v.arguments
  )), '^PT4', '4'),
  v.outcome,
  format('rotate the %s key, %s', v.name, v.arguments)
)
from (values
  ('key', '''0''', '1 row'),
  ('key', '''30 days''', '1 row'),
  ('key', '''720 hours''', '1 row'),
  ('key', '''720 hours 1 second''', '400 invalid_argument'),
  ('key', '''31 days''', '400 invalid_argument'),
  -- As intervals, these equal 30 days and 1 day. As times, they are over 30 days, and negative.
  ('key', '''12 months -330 days''', '400 invalid_argument'),
  ('key', '''-12 months 361 days''', '400 invalid_argument'),
  ('key', '''1 year''', '400 invalid_argument'),
  ('key', '''178000000 years''', '400 invalid_argument'),
  ('key', '''-1 second''', '400 invalid_argument'),
  ('key', '''-1 year''', '400 invalid_argument'),
  ('key', 'null', '400 invalid_argument'),
  ('key', '''0'', now() - interval ''1 second''', '400 invalid_argument'),
  ('key', '''0'', ''infinity''', '400 invalid_argument'),
  ('suspended', '''0''', '1 row'),
  ('suspended', '''1 hour''', '409 key_suspended'),
  ('suspended', '''-1 hour''', '400 invalid_argument'),
  ('revoked', '''0''', '409 key_revoked'),
  ('revoked', '''1 hour''', '409 key_revoked'),
  ('expired', '''0''', '409 key_expired'),
  ('graced', '''0''', '409 key_already_rotated'),
  ('graced', '''1 hour''', '409 key_already_rotated'),
  ('old', '''0''', '409 key_already_rotated'),
  ('nobody''s', '''0''', '404 key_not_found')
) as v (name, arguments, outcome);

select pg_temp.make('heir of suspended', null, 'keylatch.rotate_key(pg_temp.id(''suspended''))');
select is(pg_temp.of('heir of suspended', 'status'), 'active', 'its successor is active');

-- A failed rotation changes nothing.

select is(
  pg_temp.outcome('alice', $$
    select keylatch.rotate_key(pg_temp.id('key'), '1 hour', '2001-01-01') $$),
  'PT400 invalid_argument',
  'a successor that cannot be made'
);
select is(pg_temp.of('key', 'status'), 'active', 'a failed rotation does not change the old key');

-- An insert cannot set rotated_from. Only rotate_key can.

select pg_temp.make('superseded');
select pg_temp.run('alice', $$ update keylatch.keys
  set superseded_at = now(), expires_at = now() + interval '1 hour'
  where id = pg_temp.id('superseded') returning id $$);

select is(
  pg_temp.outcome('alice', 'select keylatch.rotate_key(pg_temp.id(''superseded''))'),
  'PT409 key_already_rotated',
  'a key that was superseded by hand cannot be rotated'
);
select is(
  pg_temp.outcome(w.who, format(
    'insert into keylatch.keys (workspace_id, kind, environment, rotated_from) '
    || 'values (%s, %L, ''live'', pg_temp.id(%L))',
    v.workspace, v.kind, v.name
  )),
  v.outcome,
  format('%s inserts a %s successor of the %s key in %s', w.who, v.kind, v.name, v.workspace)
)
from (values
  ('key', 'secret', 'pg_temp.a()', 'PT400 invalid_argument'),
  ('expired', 'secret', 'pg_temp.a()', 'PT400 invalid_argument'),
  ('revoked', 'secret', 'pg_temp.a()', 'PT400 invalid_argument'),
  ('graced', 'secret', 'pg_temp.a()', 'PT400 invalid_argument'),
  ('superseded', 'secret', 'pg_temp.a()', 'PT400 invalid_argument'),
  ('superseded', 'publishable', 'pg_temp.a()', 'PT400 invalid_argument')
) as v (name, kind, workspace, outcome), unnest(array['alice', 'service_role']) as w (who);

select * from finish();
rollback;
