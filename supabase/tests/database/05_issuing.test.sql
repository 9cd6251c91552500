-- Issuing and rotating, and every reason for which they refuse.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = public, extensions;
select plan(87);

-- alice administers workspace A, bob B; mia is a plain member of A.
insert into auth.users (id) values
('a11ce000-0000-4000-8000-00000000000a'),
('b0b00000-0000-4000-8000-00000000000b'),
('31a00000-0000-4000-8000-00000000000c');
insert into keylatch.workspaces (id, name) values
('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'A'), ('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb', 'B');
insert into keylatch.workspace_membership (workspace_id, user_id, role) values
('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'a11ce000-0000-4000-8000-00000000000a', 'admin'),
('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', '31a00000-0000-4000-8000-00000000000c', 'member'),
('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb', 'b0b00000-0000-4000-8000-00000000000b', 'admin');

-- Goes on as this role and user, the way PostgREST does.
create function pg_temp.go_on_as(p_role text, p_user text default null) returns void
language plpgsql as $$
begin
  perform set_config('role', p_role, true);
  perform set_config(
    'request.jwt.claims', json_build_object('role', p_role, 'sub', p_user)::text, true
  );
end;
$$;

create temporary table made (name text, id uuid, key text, hint text);
grant all on made to public;
create function pg_temp.id(p_name text) returns uuid language sql as $$
  select m.id from made as m where m.name = p_name;
$$;

select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
insert into made
select 'widget', i.id, i.key, i.hint
from keylatch.issue_key('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', allowed_origins => '{https://a.example}', label => 'shop') as i;
insert into made
select 'server', i.id, i.key, i.hint
from keylatch.issue_key(
  'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'secret', scopes => '{a:read,a:write}', environment => 'test', metadata => '{"plan": 1}',
  expires_at => now() + interval '1 day', prefix => 'acme'
) as i;

select matches((select key from made where name = 'widget'), '^wk_pk_live_', 'a publishable key');
select matches((select key from made where name = 'server'), '^acme_sk_test_', 'a secret key');
select is(
  (select k.public_key from keylatch.keys as k where k.id = pg_temp.id('widget')),
  (select key from made where name = 'widget'), 'a publishable key can be shown again'
);
select is(
  (select k.public_key from keylatch.keys as k where k.id = pg_temp.id('server')), null,
  'a secret key cannot'
);
select is(k.created_by, 'a11ce000-0000-4000-8000-00000000000a', 'who made it is kept')
from keylatch.keys as k where k.id = pg_temp.id('widget');
select is(current_setting('keylatch.handoff', true), '', 'no key is left in the session');
select pg_temp.go_on_as('postgres');
select is(k.key_hash, sha256(convert_to(m.key, 'UTF8')), format('the hash of the %s key', m.name))
from made as m inner join keylatch_internal.keys as k on m.id = k.id;
select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');

select throws_ok(
  format('select keylatch.issue_key(%L, %s)', 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', a.arguments), 'PT400', 'invalid_argument',
  format('issue_key refuses %s', left(a.arguments, 60))
)
from (values
  ('kind => ''public'''), ('kind => null'), ('environment => ''prod'''), ('environment => null'),
  ('prefix => ''Wk'''), ('prefix => null'), ('prefix => '''''), ('label => null'),
  ('label => repeat(''x'', 201)'), ('label => E''a\nb'''), ('metadata => ''[]'''),
  ('metadata => ''null'''), ('metadata => null'),
  ('metadata => jsonb_build_object(''a'', repeat(''x'', 8200))'),
  ('scopes => ''{a b}'''), ('scopes => ''{A}'''), ('scopes => ''{""}'''), ('scopes => null'),
  ('scopes => ''{a,a}'''), ('scopes => ''{a,null}'''), ('scopes => ''{{a},{b}}'''),
  ('scopes => array(select n::text from generate_series(1, 65) as n)'),
  ('scopes => array[repeat(''a'', 65)]'),
  ('expires_at => now()'), ('expires_at => ''infinity'''), ('expires_at => ''-infinity'''),
  ('expires_at => ''2000-01-01'''), ('expires_at => ''10000-01-01 00:00Z'''),
  ('allowed_origins => ''{https://a.example/}'''), ('allowed_origins => null'),
  ('allowed_origins => ''{https://a.example,https://a.example}'''),
  ('allowed_origins => ''{null}'''), ('allowed_origins => ''{*}'''),
  ('allowed_origins => ''{http://localhost:*}'''),
  ('allowed_origins => ''{{https://a.example},{https://b.example}}'''),
  ('allowed_origins => array(select ''https://a'' || n || ''.example'' from generate_series(1, 101) n)'),
  ('kind => ''secret'', allowed_origins => ''{https://a.example}''')
) as a (arguments);
select throws_ok(
  'select keylatch.issue_key(null)', 'PT400', 'invalid_argument', 'a key needs a workspace'
);
select throws_ok(
  format('insert into keylatch.keys (workspace_id, %I) values (%L, %s)', p.column_name, 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', p.value),
  'PT400', 'invalid_argument', format('%s of a new key is made by the database', p.column_name)
)
from (values
  ('id', 'gen_random_uuid()'), ('public_key', '''x'''), ('hint', '''x'''),
  ('suspended_at', 'now()'), ('superseded_at', 'now()'), ('revoked_at', 'now()'),
  ('revoked_by', 'gen_random_uuid()'), ('revoke_reason', '''x'''), ('created_at', 'now()'),
  ('created_by', 'gen_random_uuid()')
) as p (column_name, value);

-- Rotation with a grace: both live, the old one until then.
insert into made
select 'server 2', r.id, r.key, r.hint
from keylatch.rotate_key(pg_temp.id('server'), '1 hour') as r;
select is(
  (
    select (n.workspace_id, n.kind, n.environment, n.label, n.scopes, n.metadata, n.expires_at)
    from keylatch.keys as n where n.id = pg_temp.id('server 2')
  ),
  (
    select (o.workspace_id, o.kind, o.environment, o.label, o.scopes, o.metadata,
      now() + interval '1 day')
    from keylatch.keys as o where o.id = pg_temp.id('server')
  ),
  'the successor has what the old key had, and its expiry before the grace'
);
select matches(
  (select hint from made where name = 'server 2'), '^acme_sk_test_', 'and its prefix'
);
select is(
  (select n.rotated_from from keylatch.keys as n where n.id = pg_temp.id('server 2')),
  pg_temp.id('server'), 'and names it'
);
select is(
  (select o.status from keylatch.keys as o where o.id = pg_temp.id('server')), 'superseded',
  'the old key is superseded'
);
select ok(
  (select o.expires_at from keylatch.keys as o where o.id = pg_temp.id('server'))
  between now() + interval '59 minutes' and clock_timestamp() + interval '1 hour',
  'and ends with the grace'
);
select throws_ok(
  format('select keylatch.rotate_key(%L)', pg_temp.id('server')), 'PT409', 'key_already_rotated',
  'it has one successor'
);
select throws_ok(
  format(
    'insert into keylatch.keys (workspace_id, kind, environment, rotated_from)
     values (%L, ''secret'', ''test'', %L)', 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', pg_temp.id('server')
  ),
  'PT409', 'key_already_rotated', 'by a plain insert too'
);
select throws_ok(
  format(
    'insert into keylatch.keys (workspace_id, rotated_from) values (%L, %L)', 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', pg_temp.id('widget')
  ),
  'PT400', 'invalid_argument', 'a plain insert makes no successor of a key that was not rotated'
);

-- A grace is never longer than the old key's own life.
insert into made
select 'short', i.id, i.key, i.hint
from keylatch.issue_key('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'secret', expires_at => now() + interval '1 minute') as i;
select lives_ok(
  format('select keylatch.rotate_key(%L, ''1 day'', now() + interval ''9 days'')', pg_temp.id('short')),
  'the successor may be given another expiry'
);
select is(
  (select o.expires_at from keylatch.keys as o where o.id = pg_temp.id('short')),
  now() + interval '1 minute', 'the old key ends when it would have ended'
);

-- Without a grace the old key is revoked.
insert into made
select 'widget 2', r.id, r.key, r.hint from keylatch.rotate_key(pg_temp.id('widget')) as r;
select is((o.status, o.revoke_reason)::text, '(revoked,rotated)', 'the old key is revoked at once')
from keylatch.keys as o where o.id = pg_temp.id('widget');
select throws_ok(
  format('select keylatch.rotate_key(%L)', pg_temp.id('widget')), 'PT409', 'key_already_rotated',
  'a key that was rotated away says so'
);

select throws_ok(
  format('select keylatch.rotate_key(%L, %s)', pg_temp.id('widget 2'), g.grace),
  'PT400', 'invalid_argument', format('a grace of %s is refused', g.grace)
)
from (values
  ('''-1 second'''), ('''1 year'''), ('''30 days 1 second'''), ('''100000000 years'''), ('null'),
  ('''1 month 1 day''')
) as g (grace);
select throws_ok(
  format('select keylatch.rotate_key(%L, ''0'', ''2000-01-01'')', pg_temp.id('widget 2')),
  'PT400', 'invalid_argument', 'the successor''s expiry is in the future'
);
select lives_ok(
  format('select keylatch.rotate_key(%L, ''30 days'')', pg_temp.id('widget 2')),
  '30 days are the longest grace'
);

insert into made
select n.name, i.id, i.key, i.hint
from (values ('revoked'), ('suspended')) as n (name), keylatch.issue_key('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'secret', n.name) as i;
select keylatch.revoke_key(pg_temp.id('revoked'));
select keylatch.suspend_key(pg_temp.id('suspended'));
select throws_ok(
  format('select keylatch.rotate_key(%L)', pg_temp.id('revoked')), 'PT409', 'key_revoked',
  'a revoked key mints nothing'
);
select throws_ok(
  format(
    'insert into keylatch.keys (workspace_id, kind, rotated_from) values (%L, ''secret'', %L)',
    'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', pg_temp.id('revoked')
  ),
  'PT400', 'invalid_argument', 'by a plain insert neither'
);
select throws_ok(
  format('select keylatch.rotate_key(%L, ''1 hour'')', pg_temp.id('suspended')),
  'PT409', 'key_suspended', 'a suspended key has no grace'
);
select lives_ok(
  format('select keylatch.rotate_key(%L)', pg_temp.id('suspended')), 'but can be rotated without'
);
select throws_ok(
  'select keylatch.rotate_key(gen_random_uuid())', 'PT404', 'key_not_found', 'an unknown key'
);
select throws_ok('select keylatch.rotate_key(null)', 'PT404', 'key_not_found', 'no key at all');
select pg_temp.go_on_as('authenticated', 'b0b00000-0000-4000-8000-00000000000b');
select throws_ok(
  format('select keylatch.rotate_key(%L)', pg_temp.id('widget 2')), 'PT404', 'key_not_found',
  'a key of another workspace is not found'
);
select throws_ok(
  format(
    'insert into keylatch.keys (workspace_id, rotated_from) values (%L, %L)', 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb',
    pg_temp.id('widget 2')
  ),
  'PT404', 'key_not_found', 'by a plain insert neither'
);

-- The owner alone brings hashes.
select pg_temp.go_on_as('postgres');
select lives_ok(
  $$
    insert into keylatch_internal.keys (workspace_id, kind, key_hash, hint)
    values (gen_random_uuid(), 'secret', sha256('an old key'), 'old_…ey')
  $$,
  'the owner imports a hash'
);
select throws_ok(
  $$
    insert into keylatch_internal.keys (workspace_id, key_hash, public_key, hint)
    values (gen_random_uuid(), sha256('an old key'), 'another key', 'old_…ey')
  $$,
  '23514', null, 'but no publishable key whose hash is not its hash (report 000)'
);
select throws_ok(
  $$
    insert into keylatch_internal.keys (workspace_id, kind, key_hash, hint)
    values (gen_random_uuid(), 'secret', '\x00', 'old_…ey')
  $$,
  '23514', null, 'nor a hash of another length'
);

select * from finish();
rollback;
