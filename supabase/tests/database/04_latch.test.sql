-- The latch: what is dead stays dead, for every role and in replication mode.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = public, extensions;
select plan(137);

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

create temporary table keys_of_test (name text, id uuid);
grant all on keys_of_test to public;

select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
insert into keys_of_test
select n.name, (keylatch.issue_key('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'secret', n.name)).id
from (values ('revoked'), ('superseded'), ('suspended'), ('living'), ('expired')) as n (name);
create function pg_temp.id(p_name text) returns uuid language sql as $$
  select t.id from keys_of_test as t where t.name = p_name;
$$;
update keylatch.keys set expires_at = clock_timestamp() + interval '0.3 seconds'
where id = pg_temp.id('expired');

-- What the database stamps, whatever the caller says.
update keylatch.keys
set revoked_at = '2000-01-01', revoked_by = gen_random_uuid(), revoke_reason = 'leaked'
where id = pg_temp.id('revoked');
select ok(
  k.revoked_at between now() and clock_timestamp(), 'revoked_at is the server''s clock'
)
from keylatch.keys as k where k.id = pg_temp.id('revoked');
select is(
  (select k.revoked_by from keylatch.keys as k where k.id = pg_temp.id('revoked')),
  'a11ce000-0000-4000-8000-00000000000a', 'revoked_by is the user who did it'
);
update keylatch.keys set superseded_at = '2000-01-01', expires_at = now() + interval '1 hour'
where id = pg_temp.id('superseded');
update keylatch.keys set suspended_at = '2000-01-01' where id = pg_temp.id('suspended');
select ok(
  k.superseded_at > now() - interval '1 minute' or k.suspended_at > now() - interval '1 minute',
  format('the time of a %s key is the server''s clock', k.label)
)
from keylatch.keys as k where k.label in ('superseded', 'suspended') order by k.label;
select pg_sleep(0.4);

-- Each attempt to turn it back, as everybody who can write rows.
create temporary table attempts (key text, change text, slug text);
grant all on attempts to public;
insert into attempts values
('revoked', 'revoked_at = null', 'revoked_is_final'),
('revoked', 'revoked_at = now()', 'revoked_is_final'),
('revoked', 'revoked_by = gen_random_uuid()', 'revoked_is_final'),
('revoked', 'revoke_reason = ''another''', 'revoked_is_final'),
('revoked', 'revoke_reason = null', 'revoked_is_final'),
('revoked', 'expires_at = now() + interval ''1 day''', 'revoked_is_final'),
('revoked', 'scopes = ''{all}''', 'revoked_is_final'),
('revoked', 'suspended_at = now()', 'revoked_is_final'),
('revoked', 'superseded_at = now()', 'revoked_is_final'),
('revoked', 'label = ''x'', revoked_at = null, revoked_by = null, revoke_reason = null',
  'revoked_is_final'),
('expired', 'expires_at = null', 'expired_is_final'),
('expired', 'expires_at = now() + interval ''1 day''', 'expired_is_final'),
('expired', 'scopes = ''{all}''', 'expired_is_final'),
('expired', 'suspended_at = now()', 'expired_is_final'),
('expired', 'superseded_at = now()', 'expired_is_final'),
('superseded', 'superseded_at = null', 'superseded_is_final'),
('superseded', 'superseded_at = now() - interval ''1 hour''', 'superseded_is_final'),
('superseded', 'expires_at = null', 'superseded_is_final'),
('superseded', 'expires_at = now() + interval ''2 hours''', 'superseded_is_final'),
('living', 'id = gen_random_uuid()', 'column_is_immutable'),
('living', $$workspace_id = 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb'$$, 'column_is_immutable'),
('living', 'kind = ''publishable''', 'column_is_immutable'),
('living', 'environment = ''test''', 'column_is_immutable'),
('living', 'public_key = ''x''', 'column_is_immutable'),
('living', 'hint = ''x''', 'column_is_immutable'),
('living', 'rotated_from = gen_random_uuid()', 'column_is_immutable'),
('living', 'created_at = now()', 'column_is_immutable'),
('living', 'created_by = gen_random_uuid()', 'column_is_immutable');

create function pg_temp.refused(p_who text, p_relation text) returns setof text
language sql as $$
  select throws_ok(
    format('update %s set %s where id = %L', p_relation, a.change, pg_temp.id(a.key)),
    'PT409', a.slug, format('%s: %s key: %s', p_who, a.key, a.change)
  )
  from attempts as a;
$$;
select * from pg_temp.refused('an admin', 'keylatch.keys');
select pg_temp.go_on_as('service_role');
select * from pg_temp.refused('service_role', 'keylatch.keys');
select pg_temp.go_on_as('postgres');
select * from pg_temp.refused('the owner', 'keylatch_internal.keys');
select throws_ok(
  format('update keylatch_internal.keys set key_hash = sha256(''x'') where id = %L', k.id),
  'PT409', 'column_is_immutable', 'not even the owner changes a hash'
)
from keys_of_test as k where k.name = 'living';
set local session_replication_role = replica;
select * from pg_temp.refused('replication mode', 'keylatch_internal.keys');
select throws_ok(
  'delete from keylatch_internal.keys', 'PT409', 'keys_are_kept', 'nor are rows deleted in that mode'
);
select throws_ok(
  'truncate keylatch_internal.keys cascade', 'PT409', 'keys_are_kept', 'nor the table emptied'
);
select throws_ok(
  'truncate keylatch.workspaces cascade', 'PT409', 'keys_are_kept', 'nor the workspaces'
);
update keylatch_internal.keys set revoked_at = '2020-01-01 00:00Z' where id = pg_temp.id('living');
select is(
  (select k.revoked_at from keylatch.keys as k where k.label = 'living'),
  '2020-01-01 00:00Z', 'a replica keeps the publisher''s time'
);
set local session_replication_role = origin;
select throws_ok(
  'delete from keylatch_internal.keys', 'PT409', 'keys_are_kept', 'the owner deletes no row'
);
select throws_ok(
  'truncate keylatch_internal.keys cascade', 'PT409', 'keys_are_kept', 'the owner empties no table'
);
select throws_ok(
  'truncate keylatch.workspaces cascade', 'PT409', 'keys_are_kept', 'nor the workspaces'
);
select throws_ok(
  format(
    'insert into keylatch_internal.keys select * from keylatch_internal.keys where id = %L
     on conflict (id) do update set revoked_at = null', pg_temp.id('revoked')
  ),
  'PT409', 'revoked_is_final', 'on conflict do update revives nothing'
);
select throws_ok(
  format(
    'merge into keylatch_internal.keys as k using (values (%L::uuid)) as v (id) on k.id = v.id
     when matched then update set revoked_at = null', pg_temp.id('revoked')
  ),
  'PT409', 'revoked_is_final', 'merge revives nothing'
);

-- What may still change.
select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
select lives_ok(
  format(
    'update keylatch.keys set label = ''old'', metadata = ''{"a": 1}'' where id = %L',
    pg_temp.id(n.name)
  ),
  format('a %s key may be renamed', n.name)
)
from (values ('revoked'), ('expired'), ('superseded')) as n (name);
select is(
  (select k.status from keylatch.keys as k where k.id = pg_temp.id('revoked')), 'revoked',
  'which changes nothing about its death'
);
select lives_ok(
  format(
    'update keylatch.keys set expires_at = now() + interval ''30 minutes'' where id = %L',
    pg_temp.id('superseded')
  ),
  'the end of a superseded key may come nearer'
);
select lives_ok(
  format('update keylatch.keys set suspended_at = null where id = %L', pg_temp.id('suspended')),
  'a suspension may be lifted'
);
select lives_ok(
  format('update keylatch.keys set revoked_at = now() where id = %L', pg_temp.id('expired')),
  'an expired key may be revoked'
);
select is(
  (select k.status from keylatch.keys as k where k.id = pg_temp.id('expired')), 'revoked',
  'and is revoked then'
);

-- A deleted workspace takes its keys along, and its return does not bring them back.
select pg_temp.go_on_as('postgres');
delete from keylatch.workspaces where id = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa';
select is_empty(
  $$ select * from keylatch.keys where workspace_id = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa' and revoked_at is null $$,
  'no living key is left in a deleted workspace'
);
insert into keylatch.workspaces (id, name) values ('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'A again');
select is_empty(
  $$ select * from keylatch.keys where workspace_id = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa' and revoked_at is null $$,
  'and none lives again when the workspace is restored'
);
delete from keylatch.workspace_membership where workspace_id = 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb';
update keylatch.workspaces set id = gen_random_uuid() where id = 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb';
select is_empty(
  $$ select * from keylatch.keys where workspace_id = 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb' and revoked_at is null $$,
  'a workspace that changes its id leaves none behind either'
);

select * from finish();
rollback;
