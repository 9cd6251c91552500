-- What an admin does with an existing key: revoke, suspend, unsuspend, list; answers and refusals.
begin;
\ir ../people.psql
select plan(52);

-- Revoking.

select pg_temp.make('key');
select is(
  pg_temp.run('alice', $$
    select row(id = pg_temp.id('key'), revoked_at between now() and clock_timestamp(),
      already_revoked, also_revoked)::text
    from keylatch.revoke_key(pg_temp.id('key'), 'leaked') $$),
  '(t,t,f,{})',
  'revoke_key returns when the key was revoked, and that it was not revoked before'
);
select is(
  pg_temp.of('key', 'row(status, revoke_reason, revoked_by is not null)'), '(revoked,leaked,t)',
  'the row has the reason and the user'
);
select is(
  pg_temp.run('alice', format($$
    select row(id = pg_temp.id('key'), revoked_at = %L, already_revoked, also_revoked)::text
    from keylatch.revoke_key(pg_temp.id('key'), 'again') $$, pg_temp.of('key', 'revoked_at'))),
  '(t,t,t,{})',
  'revoking again is no error, and returns the first time'
);
select is(pg_temp.of('key', 'revoke_reason'), 'leaked', 'revoking again keeps the first reason');

select pg_temp.make('unsaid');
select pg_temp.manage('revoke_key', 'unsaid');
select is(pg_temp.of('unsaid', 'row(status, revoke_reason)'), '(revoked,)', 'a reason is optional');

select pg_temp.make('other');
select is(
  pg_temp.outcome('alice', format(
    'select keylatch.revoke_key(pg_temp.id(''other''), %s)', v.reason
  )),
  v.outcome,
  v.what
)
from (values
  ('repeat(''ü'', 500)', '1 row', 'a reason has up to 500 characters'),
  ('repeat(''a'', 501)', 'PT400 invalid_argument', 'a reason of 501 characters is refused'),
  ('e''a\n\tb''', '1 row', 'a reason may have several lines'),
  ('e''a\x07''', 'PT400 invalid_argument', 'a reason may have no other control characters'),
  ('''''', '1 row', 'a reason may be empty')
) as v (reason, outcome, what);

-- A family: all keys that a key was rotated from or to.

select pg_temp.make('one');
select pg_temp.make('two', null, 'keylatch.rotate_key(pg_temp.id(''one''), ''1 hour'')');
select pg_temp.make('three', null, 'keylatch.rotate_key(pg_temp.id(''two''), ''1 hour'')');
select pg_temp.make('four', null, 'keylatch.rotate_key(pg_temp.id(''three''))');
select pg_temp.make('five', null, 'keylatch.rotate_key(pg_temp.id(''four''), ''1 hour'')');
create temporary table family on commit drop as
select m.name, m.id from made as m where m.name in ('one', 'two', 'three', 'four', 'five');

select pg_temp.manage('revoke_key', 'two');
select is(
  (
    select string_agg(f.name || ' ' || k.status, ', ' order by k.created_at)
    from family as f inner join keylatch.keys as k on f.id = k.id
  ),
  'one superseded, two revoked, three revoked, four superseded, five active',
  'revoking one key of a family changes no other key (three was rotated without a grace)'
);
select is(
  pg_temp.run('alice', $$
    select row(already_revoked, (
      select array_agg(m.name order by m.name) from made as m where m.id = any(also_revoked)
    ))::text
    from keylatch.revoke_key(pg_temp.id('two'), 'leaked', cascade => true) $$),
  '(t,"{five,four,one}")',
  'cascade revokes all active keys before and after the key, and returns their ids'
);
select is(
  (
    select count(*) from family as f inner join keylatch.keys as k on f.id = k.id
    where k.status = 'revoked'
  ),
  5::bigint,
  'no key of the family is active'
);
select is(
  pg_temp.of('one', 'revoke_reason') || ' ' || pg_temp.of('three', 'revoke_reason'),
  'leaked rotated',
  'each key has the reason of the cascade, or the reason of its own earlier revocation'
);
select is(pg_temp.of('other', 'status'), 'active', 'a key outside the family stays active');

-- Suspending and unsuspending.

select pg_temp.make('pausing');
select is(
  pg_temp.run('alice', $$
    select row(id = pg_temp.id('pausing'), status, suspended_at is not null)::text
    from keylatch.suspend_key(pg_temp.id('pausing')) $$),
  '(t,suspended,t)',
  'suspend_key returns the row'
);
select is(
  pg_temp.run('alice', format($$ select suspended_at = %L
    from keylatch.suspend_key(pg_temp.id('pausing')) $$, pg_temp.of('pausing', 'suspended_at'))),
  'true',
  'suspending again is no error, and keeps the first time'
);
select is(
  pg_temp.run('alice', $$ select row(id = pg_temp.id('pausing'), status, suspended_at)::text
    from keylatch.unsuspend_key(pg_temp.id('pausing')) $$),
  '(t,active,)',
  'unsuspend_key returns the row'
);
select is(
  pg_temp.run('alice', $$ select status from keylatch.unsuspend_key(pg_temp.id('pausing')) $$),
  'active',
  'unsuspending again is no error'
);

select pg_temp.make('graced');
select pg_temp.make('heir', null, 'keylatch.rotate_key(pg_temp.id(''graced''), ''1 hour'')');
select pg_temp.make('expired', '''secret'', expires_at => clock_timestamp() + ''0.6 s''');
select pg_sleep(0.62);

-- Each refusal.

select is(
  pg_temp.outcome('alice', format('select keylatch.%I(pg_temp.id(%L))', v.call, v.name)),
  v.outcome,
  format('%s on the %s key', v.call, v.name)
)
from (values
  ('revoke_key', 'expired', '1 row'),
  ('revoke_key', 'graced', '1 row'),
  ('suspend_key', 'graced', '1 row'),
  ('suspend_key', 'key', 'PT409 key_revoked'),
  ('unsuspend_key', 'key', 'PT409 key_revoked'),
  ('suspend_key', 'expired', 'PT409 key_expired'),
  ('unsuspend_key', 'expired', 'PT409 key_expired')
) as v (call, name, outcome);

select is(
  pg_temp.words(v.who, format('select keylatch.%I(%s)', c.call, v.id)),
  'You administer no key with this id. List the keys of the workspace with list_keys. '
  || 'See sql/docs/errors.md#key_not_found',
  format('%s on %s key, by %s: the same words', c.call, v.what, v.who)
)
from (values ('revoke_key'), ('suspend_key'), ('unsuspend_key'), ('rotate_key')) as c (call),
(values
  ('gen_random_uuid()', 'no', 'alice'),
  ('null', 'no', 'alice'),
  ('pg_temp.id(''other'')', 'another workspace''s', 'bob'),
  ('pg_temp.id(''other'')', 'their own workspace''s', 'mia')
) as v (id, what, who);

-- Listing.

select is(
  pg_temp.run('alice', $$
    select array_agg(l.created_at order by l.n) = array_agg(l.created_at order by l.created_at desc)
    from (
      select k.created_at, row_number() over () as n from keylatch.list_keys(pg_temp.a()) as k
    ) as l $$),
  'true',
  'list_keys gives the newest first'
);
select is(
  pg_temp.run('alice', 'select count(*) from keylatch.list_keys(pg_temp.a())'),
  (select count(*)::text from made),
  'list_keys returns all keys of the workspace, also inactive keys'
);
select is(
  pg_temp.run('alice', 'select count(*) from keylatch.list_keys(pg_temp.b())'), '0',
  'list_keys returns no key of another workspace'
);

-- With a limit, list_keys reads the first rows of an index, not the whole workspace.

select pg_temp.run('service_role', $$
  select count(*) from keylatch.issue_keys(
    pg_temp.a(), array(select n::text from generate_series(1, 2000) as n)
  ) $$);
analyze keylatch_internal.keys;
create function pg_temp.rows_read(p_statement text) returns bigint language plpgsql as $$
declare
  v_plan jsonb;
begin
  execute 'explain (analyze, costs off, timing off, summary off, format json) ' || p_statement
  into v_plan;
  return (
    select max((n.node ->> 'Actual Rows')::numeric * (n.node ->> 'Actual Loops')::numeric)
    from jsonb_path_query(v_plan, '$.** ? (@."Relation Name" == "keys")') as n (node)
  );
end
$$;
select cmp_ok(
  pg_temp.run(w.who, format('select pg_temp.rows_read(%L)', v.statement))::integer, '<', 50,
  format('%s reads no more than it needs: %s', w.who, v.statement)
)
from (values
  ('select * from keylatch.list_keys(pg_temp.a()) limit 20'),
  ('select * from keylatch.keys where workspace_id = pg_temp.a() order by created_at desc limit 20')
) as v (statement), (values ('alice'), ('service_role')) as w (who);

-- A family with keys that the caller may not edit, by a policy of the application: the answer has
-- only revoked keys, and the call returns.

select pg_temp.make('mine');
select pg_temp.make('heir of mine', null, 'keylatch.rotate_key(pg_temp.id(''mine''), ''1 hour'')');
create policy keep_labelled on keylatch_internal.keys as restrictive for update to authenticated
using (label <> 'kept');
update keylatch.keys set label = 'kept' where id = pg_temp.id('heir of mine');
select is(
  pg_temp.run('alice', $$
    select row(already_revoked, also_revoked)::text
    from keylatch.revoke_key(pg_temp.id('mine'), 'leaked', true) $$),
  '(f,{})',
  'a cascade returns the keys that it revoked'
);
select is(
  pg_temp.outcome('alice', format(
    'select keylatch.revoke_key(pg_temp.id(''heir of mine''), cascade => %s)', v.cascade
  )),
  'PT404 key_not_found',
  'a key that stays active is never answered as revoked: cascade ' || v.cascade
)
from (values ('true'), ('false')) as v (cascade);

select * from finish();
rollback;
