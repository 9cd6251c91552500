-- Who may see, make and edit keys: everybody else's attempts show and change nothing.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = public, extensions;
select plan(38);

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

select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
select lives_ok(
  $$ insert into keylatch.keys (workspace_id, label) values ('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'made by alice') $$,
  'an admin makes a key in their workspace'
);
select is((select count(*) from keylatch.keys), 1::bigint, 'an admin sees it');
select throws_ok(
  $$ insert into keylatch.keys (workspace_id) values ('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb') $$, '42501', null,
  'an admin makes no key in another workspace'
);
select lives_ok(
  $$ update keylatch.keys set label = 'renamed' where workspace_id = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa' $$,
  'an admin edits it'
);
select is((select label from keylatch.keys), 'renamed', 'and the edit is there');
select throws_ok(
  $$ delete from keylatch.keys $$, '42501', null, 'an admin may not delete'
);
select throws_ok(
  $$ select key_hash from keylatch_internal.keys $$, '42501', null, 'an admin reads no hash'
);
select throws_ok(
  $$ select k from keylatch_internal.keys as k $$, '42501', null, 'nor a whole row with the hash in it'
);
select throws_ok(
  $$ insert into keylatch_internal.keys (workspace_id, key_hash) values ('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', sha256('x')) $$,
  '42501', null, 'no client brings a hash'
);
select throws_ok(
  $$ update keylatch_internal.keys set key_hash = sha256('x') $$, '42501', null,
  'no client sets a hash'
);

select pg_temp.go_on_as('authenticated', 'b0b00000-0000-4000-8000-00000000000b');
select is_empty('select * from keylatch.keys', 'the admin of another workspace sees nothing');
select is_empty(
  $$ update keylatch.keys set label = 'taken' returning id $$, 'and edits nothing'
);
select throws_ok(
  $$ insert into keylatch.keys (workspace_id) values ('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa') $$, '42501', null, 'and makes nothing there'
);
select is_empty(
  $$ select * from keylatch.workspaces where id = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa' $$, 'nor do they see the workspace'
);

select pg_temp.go_on_as('authenticated', '31a00000-0000-4000-8000-00000000000c');
select is_empty('select * from keylatch.keys', 'a plain member sees no keys');
select is_empty(
  $$ update keylatch.keys set label = 'taken' returning id $$, 'and edits none'
);
select throws_ok(
  $$ insert into keylatch.keys (workspace_id) values ('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa') $$, '42501', null, 'and makes none'
);
select results_eq(
  'select name from keylatch.workspaces', array['A'], 'a member sees their workspace'
);
select results_eq(
  'select role from keylatch.workspace_membership', array['member'],
  'and of the memberships only their own'
);
select throws_ok(
  $$ update keylatch.workspace_membership set role = 'admin' $$, '42501', null,
  'nobody signed in writes memberships'
);
select throws_ok(
  $$ insert into keylatch.workspaces (name) values ('mine') $$, '42501', null, 'nor workspaces'
);

select pg_temp.go_on_as('authenticated', null);
select is_empty('select * from keylatch.keys', 'a token without a user sees nothing');
select is_empty('select * from keylatch.admin_workspace_ids()', 'and administers nothing');

select pg_temp.go_on_as('authenticated', '57a63e00-0000-4000-8000-00000000000d');
select is_empty('select * from keylatch.keys', 'a stranger sees nothing');
select is_empty('select * from keylatch.workspaces', 'not even a workspace');

select pg_temp.go_on_as('anon');
select throws_ok('select * from keylatch.keys', '42501', null, 'anon reads nothing');
select throws_ok($$ select keylatch.issue_key('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa') $$, '42501', null, 'anon makes nothing');
select throws_ok('select * from keylatch.resolve_key(''x'')', '42501', null, 'anon resolves nothing');
select throws_ok('select keylatch.installation()', '42501', null, 'anon learns nothing');

select pg_temp.go_on_as('service_role');
select is(
  (select label from keylatch.keys), 'renamed',
  'service_role sees every key, and nobody else''s attempt has changed it'
);
select lives_ok(
  $$ insert into keylatch.keys (workspace_id) values (gen_random_uuid()) $$,
  'service_role is trusted with any workspace'
);
select throws_ok(
  $$ select key_hash from keylatch_internal.keys $$, '42501', null, 'service_role reads no hash'
);

select pg_temp.go_on_as('postgres');
grant keylatch_resolver to postgres;
grant usage on schema extensions to keylatch_resolver; -- for pgTAP itself
select pg_temp.go_on_as('keylatch_resolver');
select is_empty('select * from keylatch.resolve_key(''x'')', 'keylatch_resolver may resolve');
select isnt((keylatch.installation()).id, null, 'and ask which installation answers');
select throws_ok('select * from keylatch.keys', '42501', null, 'it reads no keys');
select throws_ok($$ select keylatch.issue_key('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa') $$, '42501', null, 'it makes none');
select throws_ok('select keylatch.explain_key(''x'')', '42501', null, 'and gets no explanations');

select pg_temp.go_on_as('postgres');
delete from auth.users where id = 'a11ce000-0000-4000-8000-00000000000a';
select pg_temp.go_on_as('authenticated', 'a11ce000-0000-4000-8000-00000000000a');
select is_empty(
  'select * from keylatch.keys', 'a user who was deleted sees nothing, whatever their token says'
);

select * from finish();
rollback;
