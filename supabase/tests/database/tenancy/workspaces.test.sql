-- Deleting a workspace revokes its keys, for every role. Truncating the table of workspaces is
-- refused. The same trigger works on an application's own table.
begin;
\ir ../people.psql
select plan(19);

select pg_temp.make('living');
select pg_temp.make('superseded');
select pg_temp.make(
  'successor', null, 'keylatch.rotate_key(pg_temp.id(''superseded''), ''1 hour'')'
);
select pg_temp.make('suspended');
select pg_temp.manage('suspend_key', 'suspended');
select pg_temp.make('revoked');
select pg_temp.manage('revoke_key', 'revoked', '''leaked''');
select pg_temp.make('expired', '''secret'', expires_at => clock_timestamp() + ''0.6 s''');
insert into made (name, id) values (
  'of B',
  pg_temp.run('bob', 'select id from keylatch.issue_key(pg_temp.b(), ''secret'')')::uuid
);
select pg_sleep(0.62);

select pg_temp.run('service_role', $$
  delete from keylatch.workspaces where id = pg_temp.a() returning id $$);

select is(
  pg_temp.of(v.name, 'row(status, revoke_reason)'), format('(%s,%s)', 'revoked', v.reason),
  format('the %s key is revoked, with the reason %s', v.name, v.reason)
)
from (values
  ('living', '"workspace deleted"'), ('superseded', '"workspace deleted"'),
  ('successor', '"workspace deleted"'), ('suspended', '"workspace deleted"'),
  ('expired', '"workspace deleted"'), ('revoked', 'leaked')
) as v (name, reason);
select is(pg_temp.of('of B', 'status'), 'active', 'a key of another workspace stays active');
select is(
  (select count(*) from keylatch.workspace_membership where workspace_id = pg_temp.a()), 0::bigint,
  'the memberships are deleted with the workspace'
);
select is(
  pg_temp.outcome('alice', 'select keylatch.issue_key(pg_temp.a())'), '42501',
  'nobody can make a key in a deleted workspace'
);
select is(
  pg_temp.outcome('alice', 'select * from keylatch.keys'), '0 rows', 'its keys are not visible'
);

-- Changing the id of a workspace is like deleting it.

insert into keylatch.workspaces (id, name)
values ('cccccccc-cccc-4ccc-8ccc-cccccccccccc', 'C');
insert into made (name, id) values ('of C', pg_temp.run(
  'service_role',
  'select id from keylatch.issue_key(''cccccccc-cccc-4ccc-8ccc-cccccccccccc'', ''secret'')'
)::uuid);
update keylatch.workspaces set name = 'renamed' where name = 'C';
update keylatch.workspaces set id = id where name = 'renamed';
select is(pg_temp.of('of C', 'status'), 'active', 'renaming a workspace changes no key');
update keylatch.workspaces set id = 'dddddddd-dddd-4ddd-8ddd-dddddddddddd' where name = 'renamed';
select is(
  pg_temp.of('of C', 'status'), 'revoked', 'a new id revokes the keys of the old id'
);

-- Truncating.

select is(
  pg_temp.outcome(w.who, 'truncate keylatch.workspaces cascade'), 'PT409 keys_are_kept',
  w.who || ' does not truncate the workspaces'
)
from (values ('owner'), ('replica')) as w (who);

-- A deleted user.

select is(
  pg_temp.outcome('bob', 'select keylatch.issue_key(pg_temp.b())'), '1 row', 'bob administers B'
);
select set_config(
  'request.jwt.claims', json_build_object('sub', pg_temp.user_id('bob'))::text, true
);
delete from auth.users where id = pg_temp.user_id('bob');
select is(
  pg_temp.outcome('authenticated', 'select keylatch.issue_key(pg_temp.b())'), '42501',
  'a deleted user administers nothing, even with a valid token'
);
select is(
  pg_temp.outcome('authenticated', 'select * from keylatch.keys'), '0 rows', 'this user sees no key'
);

-- An application's own table, with another name of the id column.

create temporary table tenants (tenant_id uuid primary key);
create trigger tenants_delete_revoke_keys after delete or update of tenant_id on tenants
for each row execute function keylatch_internal.revoke_workspace_keys('tenant_id');
insert into tenants (tenant_id)
values ('eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee'), ('ffffffff-ffff-4fff-8fff-ffffffffffff');
insert into made (name, id)
select v.name, pg_temp.run('service_role', format(
  'select id from keylatch.issue_key(%L, ''secret'')', v.workspace
))::uuid
from (values
  ('of E', 'eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee'), ('of F', 'ffffffff-ffff-4fff-8fff-ffffffffffff')
) as v (name, workspace);
delete from tenants where tenant_id = 'eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee';
select is(pg_temp.of('of E', 'status'), 'revoked', 'deleting a tenant revokes its keys');
select is(pg_temp.of('of F', 'status'), 'active', 'another tenant keeps its keys');

select * from finish();
rollback;
