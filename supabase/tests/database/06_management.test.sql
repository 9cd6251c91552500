-- Revoking, suspending, resuming and listing.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = public, extensions;
select plan(34);

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

create temporary table made (name text, id uuid);
grant all on made to public;
create function pg_temp.id(p_name text) returns uuid language sql as $$
  select m.id from made as m where m.name = p_name;
$$;

select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
insert into made
select n.name, i.id
from (values ('one'), ('two'), ('first'), ('short')) as n (name),
  keylatch.issue_key('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'secret', n.name) as i;
update keylatch.keys set expires_at = clock_timestamp() + interval '0.2 seconds'
where id = pg_temp.id('short');

select ok(
  not r.already_revoked and r.revoked_at >= now() and r.also_revoked = '{}', 'a key is revoked'
)
from keylatch.revoke_key(pg_temp.id('one'), 'leaked') as r;
select is(k.revoke_reason, 'leaked', 'the reason is kept')
from keylatch.keys as k where k.id = pg_temp.id('one');
select ok(
  r.already_revoked and r.revoked_at = k.revoked_at, 'again is no error, and says since when'
)
from keylatch.keys as k, keylatch.revoke_key(k.id, 'again') as r where k.id = pg_temp.id('one');
select is(k.revoke_reason, 'leaked', 'and keeps the first reason')
from keylatch.keys as k where k.id = pg_temp.id('one');
select throws_ok(
  format('select keylatch.revoke_key(%L, %s)', pg_temp.id('two'), r.reason),
  'PT400', 'invalid_argument', 'a reason that is too long or has control characters is refused'
)
from (values ('repeat(''x'', 501)'), ('E''a\x07b''')) as r (reason);
select is(k.status, 'active', 'and the key lives on')
from keylatch.keys as k where k.id = pg_temp.id('two');

-- A family: first, second, third. Cascade takes all of it, from whichever member.
insert into made select 'second', r.id from keylatch.rotate_key(pg_temp.id('first'), '1 hour') as r;
insert into made select 'third', r.id from keylatch.rotate_key(pg_temp.id('second'), '1 hour') as r;
select set_eq(
  format('select unnest((keylatch.revoke_key(%L, ''leaked'', true)).also_revoked)',
    pg_temp.id('second')),
  format('values (%L::uuid), (%L::uuid)', pg_temp.id('first'), pg_temp.id('third')),
  'cascade revokes what a key was rotated from and to'
);
select is(
  (
    select count(*) from keylatch.keys as k
    where k.id in (pg_temp.id('first'), pg_temp.id('second'), pg_temp.id('third'))
      and k.status = 'revoked'
  ),
  3::bigint, 'none of the family lives'
);
select is(
  (select k.status from keylatch.keys as k where k.id = pg_temp.id('two')), 'active',
  'nobody else is touched'
);

select is((keylatch.suspend_key(pg_temp.id('two'))).status, 'suspended', 'a key is suspended');
select is((keylatch.suspend_key(pg_temp.id('two'))).status, 'suspended', 'again is no error');
select is((keylatch.resume_key(pg_temp.id('two'))).status, 'active', 'and resumed');
select is((keylatch.resume_key(pg_temp.id('two'))).status, 'active', 'again is no error either');
select pg_sleep(0.3);
select throws_ok(
  format('select keylatch.%I(%L)', c.call, pg_temp.id(c.key)), 'PT409', c.slug,
  format('%s of key %s: %s', c.call, c.key, c.slug)
)
from (values
  ('suspend_key', 'one', 'key_revoked'), ('resume_key', 'one', 'key_revoked'),
  ('rotate_key', 'one', 'key_revoked'), ('suspend_key', 'short', 'key_expired'),
  ('resume_key', 'short', 'key_expired'), ('rotate_key', 'short', 'key_expired')
) as c (call, key, slug);
select ok(not r.already_revoked, 'an expired key can still be revoked')
from keylatch.revoke_key(pg_temp.id('short')) as r;

select is(
  (select count(*) from keylatch.list_keys('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa')), 6::bigint, 'an admin lists the workspace'
);
select is_empty(
  $$ select * from keylatch.list_keys('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb') $$, 'another workspace gives an empty list'
);
select pg_temp.go_on_as('authenticated', 'b0b00000-0000-4000-8000-00000000000b');
select is_empty(
  $$ select * from keylatch.list_keys('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa') $$, 'to its admin this one is empty'
);
select throws_ok(
  format('select keylatch.%I(%L)', c.call, k.id), 'PT404', 'key_not_found',
  format('%s: %s key is not found', c.call, k.whose)
)
from (values ('revoke_key'), ('suspend_key'), ('resume_key')) as c (call),
  (values (pg_temp.id('two'), 'another''s'), (gen_random_uuid(), 'an unknown'), (null, 'no'))
    as k (id, whose);
select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
select is(
  (select k.status from keylatch.keys as k where k.id = pg_temp.id('two')), 'active',
  'and nothing of it has happened'
);

select * from finish();
rollback;
