-- Deleting a workspace: the trigger on an application's own table of workspaces revokes the keys of
-- a deleted workspace, and retire_workspace revokes the keys of a large workspace in steps.
begin;
\ir ../people.psql
select plan(46);

create temporary table tenants (id uuid primary key, name text) on commit drop;
create trigger tenants_delete_revoke_keys after delete or update of id on tenants
for each row execute function keylatch_internal.revoke_workspace_keys();
create trigger tenants_truncate_keep before truncate on tenants
for each statement execute function keylatch_internal.revoke_workspace_keys();
insert into tenants values (pg_temp.a(), 'A'), (pg_temp.b(), 'B');

select pg_temp.make('active');
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

-- Statements that change no key.

update tenants set name = 'renamed';
update tenants set id = id;
select is(pg_temp.of('active', 'status'), 'active', 'renaming a workspace changes no key');

-- Deleting.

select is(
  pg_temp.outcome('owner', 'truncate pg_temp.tenants'), 'PT409 keys_are_kept',
  'workspaces cannot be truncated'
);
select is(
  (
    select count(*) from keylatch_internal.workspace_latches as w
    where w.workspace_id in (pg_temp.a(), pg_temp.b()) and w.deleted_at is null
  ),
  2::bigint,
  'a workspace with a key has a latch'
);
delete from tenants where id = pg_temp.a();
select is(
  pg_temp.of(v.name, 'row(status, revoke_reason)'), format('(%s,%s)', 'revoked', v.reason),
  format('the %s key is revoked, with the reason %s', v.name, v.reason)
)
from (values
  ('active', '"workspace deleted"'), ('superseded', '"workspace deleted"'),
  ('successor', '"workspace deleted"'), ('suspended', '"workspace deleted"'),
  ('expired', '"workspace deleted"'), ('revoked', 'leaked')
) as v (name, reason);
select is(pg_temp.of('of B', 'status'), 'active', 'a key of another workspace stays active');
select is(
  (
    select w.deleted_at between now() and clock_timestamp()
    from keylatch_internal.workspace_latches as w where w.workspace_id = pg_temp.a()
  ),
  true,
  'the latch of a deleted workspace says when it was deleted'
);

-- A deleted workspace never gets a key again, even if the application inserts the workspace again.

insert into tenants values (pg_temp.a(), 'A again');
select is(
  pg_temp.outcome(w.who, v.statement), 'PT409 workspace_deleted',
  format('%s, in a deleted workspace: %s', w.who, v.statement)
)
from (values
  ('select keylatch.issue_key(pg_temp.a())'),
  ('select keylatch.issue_keys(pg_temp.a(), ''{a,b}'')'),
  ('insert into keylatch.keys (workspace_id) values (pg_temp.b()), (pg_temp.a())')
) as v (statement), (values ('service_role'), ('owner')) as w (who);
select is(
  pg_temp.outcome('alice', 'select keylatch.issue_key(pg_temp.a())'), 'PT409 workspace_deleted',
  'an admin makes no key in a deleted workspace'
);
select is(
  pg_temp.words('alice', 'select keylatch.issue_key(pg_temp.a())'),
  'The workspace is deleted, so it cannot get a new key. '
  || 'Create a workspace with a new id, and issue the key there. '
  || 'See sql/docs/errors.md#workspace_deleted',
  'the refusal says that the workspace is deleted'
);
select is(
  pg_temp.outcome('owner', $$
    insert into keylatch_internal.keys (
      id, workspace_id, kind, masked_key, key_hash, created_at, updated_at
    )
    values (gen_random_uuid(), pg_temp.a(), 'secret', '...', sha256('x'), now(), now()) $$),
  'PT409 workspace_deleted',
  'no key is imported into a deleted workspace'
);
select is(
  pg_temp.outcome('bob', 'select keylatch.issue_key(pg_temp.b())'), '1 row',
  'another workspace still gets keys'
);
select is(
  pg_temp.outcome('alice', format('select keylatch.rotate_key(pg_temp.id(%L))', v.name)),
  'PT409 ' || v.slug,
  format('the %s key of a deleted workspace cannot be rotated', v.name)
)
from (values
  ('active', 'key_revoked'), ('suspended', 'key_revoked'), ('superseded', 'key_already_rotated')
) as v (name, slug);
delete from tenants where id = pg_temp.a();
select is(pg_temp.of('revoked', 'revoke_reason'), 'leaked', 'deleting it twice is no error');

-- Changing the id of a workspace is like deleting it.

update tenants set id = 'dddddddd-dddd-4ddd-8ddd-dddddddddddd' where id = pg_temp.b();
select is(pg_temp.of('of B', 'status'), 'revoked', 'a new id revokes the keys of the old id');

-- A table whose id column has another name and is not a uuid, and a trigger that is attached
-- wrongly.

create function pg_temp.make_in(p_workspace_id uuid) returns uuid language sql as $$
  select pg_temp.run('service_role', format(
    'select id from keylatch.issue_key(%L, ''secret'')', p_workspace_id
  ))::uuid;
$$;
create temporary table accounts (tenant text) on commit drop;
create trigger accounts_delete_revoke_keys after delete or update of tenant on accounts
for each row execute function keylatch_internal.revoke_workspace_keys('tenant');
insert into accounts
values ('EEEEEEEE-eeee-4eee-8eee-eeeeeeeeeeee'), ('ffffffff-ffff-4fff-8fff-ffffffffffff');
insert into made (name, id) values
('of E', pg_temp.make_in('eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee')),
('of F', pg_temp.make_in('ffffffff-ffff-4fff-8fff-ffffffffffff'));
delete from accounts where tenant like 'E%';
select is(pg_temp.of('of E', 'status'), 'revoked', 'deleting a tenant revokes its keys');
select is(pg_temp.of('of F', 'status'), 'active', 'another tenant keeps its keys');

create domain pg_temp.tenant_id as uuid;
create temporary table wrong (id uuid, of_domain pg_temp.tenant_id, number integer) on commit drop;
create function pg_temp.attached(p_how text, p_arguments text) returns text language plpgsql as $$
begin
  execute format(
    'create trigger wrong %s execute function keylatch_internal.revoke_workspace_keys(%s)',
    p_how, p_arguments
  );
  insert into wrong values (pg_temp.a(), pg_temp.a(), 1);
  delete from wrong;
  raise sqlstate 'UNDO0' using message = 'accepted';
exception
  when others then
    return case sqlstate when 'UNDO0' then 'accepted' else sqlstate end;
end
$$;
select is(
  pg_temp.attached(v.how, v.arguments), v.outcome,
  format('the trigger "%s" with the argument %s is %s', v.how, v.arguments, v.outcome)
)
from (values
  ('after delete on wrong for each row', '', 'accepted'),
  ('before delete on wrong for each row', '', '55000'),
  ('after delete on wrong for each statement', '', '55000'),
  ('after insert on wrong for each row', '', '55000'),
  ('after delete on wrong for each row', '''tenant_id''', '55000'),
  ('after delete on wrong for each row', '''number''', '55000'),
  ('after delete on wrong for each row', '''of_domain''', '55000')
) as v (how, arguments, outcome);

-- An older snapshot does not contain the newest keys, and these would stay active.

select is(
  (select array_agg(e.code || ' ' || e.hint) from keylatch_internal.errors as e
    where e.slug = 'read_committed_required'),
  array['0A000 Run "set transaction isolation level read committed" first.'],
  'a deletion needs READ COMMITTED, and the hint says how to set it'
);

-- Retiring: a call revokes up to limit keys of a workspace that the caller administers.

create temporary table fleet on commit drop as
select 'cccccccc-cccc-4ccc-8ccc-cccccccccccc'::uuid as workspace_id;
grant select on fleet to public;
select pg_temp.run('service_role', $$
  select count(*) from fleet as f, keylatch.issue_keys(
    f.workspace_id, array(select n::text from generate_series(1, 25) as n)
  ) $$);
select is(
  pg_temp.run('service_role', format(
    'select row(r.revoked, r.is_done)::text
    from fleet as f, keylatch.retire_workspace(f.workspace_id, %s) as r', v.take
  )),
  v.answer,
  format('retiring %s of %s keys answers %s', v.take, v.unrevoked, v.answer)
)
from (values
  (1, 10, 25, '(10,f)'), (2, 10, 15, '(10,f)'), (3, 5, 5, '(5,t)'), (4, 1, 0, '(0,t)')
) as v (place, take, unrevoked, answer)
order by v.place;
select is(
  (
    select array_agg(distinct k.revoke_reason) from keylatch.keys as k
    inner join fleet as f on k.workspace_id = f.workspace_id
  ),
  array['workspace retired'],
  'each key says why it is revoked'
);
select is(
  pg_temp.outcome('service_role', format(
    'select keylatch.retire_workspace(pg_temp.a(), %s)', v.take
  )),
  v.outcome,
  format('retire_workspace with the limit %s', v.take)
)
from (values
  ('0', 'PT400 invalid_argument'), ('-1', 'PT400 invalid_argument'),
  ('null', 'PT400 invalid_argument'), ('100001', 'PT400 invalid_argument'), ('100000', '1 row')
) as v (take, outcome);

select * from finish();
rollback;
