-- Events: each change of a key writes an event in its transaction, on every path, without a key, a
-- hash or a value of metadata.
begin;
\ir ../people.psql
select plan(63);

-- Each kind of change makes one event. An update that changes nothing makes no event.
select pg_temp.make('first', '''secret'', ''a label''');
select pg_temp.make('second');
select pg_temp.run('alice', $$
  update keylatch.keys set label = 'renamed', scopes = '{a}' where id = pg_temp.id('second')
  returning id $$);
select pg_temp.run('alice', $$
  update keylatch.keys set label = 'renamed' where id = pg_temp.id('second') returning id $$);
select pg_temp.manage('suspend_key', 'second');
select pg_temp.manage('suspend_key', 'second');
select pg_temp.manage('unsuspend_key', 'second');
select pg_temp.manage('unsuspend_key', 'second');
select pg_temp.make('third', null, 'keylatch.rotate_key(pg_temp.id(''second''), ''1 hour'')');
select pg_temp.make('fourth', null, 'keylatch.rotate_key(pg_temp.id(''third''))');
select pg_temp.manage('revoke_key', 'fourth', '''leaked''');
select pg_temp.manage('revoke_key', 'fourth', '''again''');
create function pg_temp.events_of(p_name text) returns text[] language sql as
$$
  select array_agg(e.event order by e.occurred_at)
  from keylatch.key_events as e
  where e.key_id = pg_temp.id(p_name)
$$;
select is(pg_temp.events_of(v.name), v.events::text[], 'what happened to the ' || v.name || ' key')
from (values
  ('first', '{issued}'),
  ('second', '{issued,changed,suspended,unsuspended,superseded}'),
  ('third', '{rotated,revoked}'),
  ('fourth', '{rotated,revoked}')
) as v (name, events);

-- What an event contains.
create function pg_temp.changes(p_name text, p_event text) returns jsonb language sql as
$$
  select e.changes
  from keylatch.key_events as e
  where e.key_id = pg_temp.id(p_name) and e.event = p_event
$$;
select is(
  pg_temp.changes('second', 'changed'),
  '{"label": {"old": "", "new": "renamed"}, "scopes": {"old": [], "new": ["a"]}}'::jsonb,
  'a change has the old and the new value of each field that changed'
);
select is(
  pg_temp.changes('first', 'issued') - 'masked_key',
  '{
    "kind": {"new": "secret"}, "environment": {"new": "live"}, "label": {"new": "a label"},
    "allowed_origins": {"new": []}, "scopes": {"new": []}
  }'::jsonb,
  'a new key has its public fields; a missing old value is null'
);
select is(
  pg_temp.changes('first', 'issued') #>> '{masked_key,new}', pg_temp.of('first', 'masked_key'),
  'an event of a new key has its masked key'
);
select is(
  pg_temp.changes('third', 'rotated') #>> '{rotated_from,new}', pg_temp.id('second')::text,
  'the event of a successor names the old key'
);
select is(
  pg_temp.changes('second', 'unsuspended') -> 'suspended_at' ? 'new', false,
  'a missing new value is null'
);
select is(
  (
    select array_agg(k.name order by k.name)
    from jsonb_object_keys(pg_temp.changes('second', 'superseded')) as k (name)
  ),
  '{expires_at,superseded_at}'::text[],
  'a rotation with a grace records the new expiry'
);
select is(
  (
    select array_agg(distinct e.reason)
    from keylatch.key_events as e
    where e.event = 'revoked'
  ),
  array['leaked', 'rotated'],
  'a revocation records its reason'
);
select is(
  (
    select array_agg(distinct row(e.user_id, e.role, e.login = session_user)::text)
    from keylatch.key_events as e
  ),
  array[format('(%s,authenticated,t)', pg_temp.user_id('alice'))],
  'an event has the user, the role that the session had set, and the login'
);
select ok(
  (
    select bool_and(e.occurred_at between now() and clock_timestamp())
    from keylatch.key_events as e
  ),
  'an event has the time of the clock'
);

-- For metadata: digests, and the names of the members that changed.
select pg_temp.make(
  'described', $$'secret', metadata => '{"plan": "gold", "seats": 3, "old": 1}'$$
);
select pg_temp.run('alice', $$
  update keylatch.keys set metadata = '{"plan": "silver", "seats": 3, "new": [1]}'
  where id = pg_temp.id('described') returning id $$);
select is(
  pg_temp.changes('described', 'changed'),
  jsonb_build_object('metadata', jsonb_build_object(
    'old', encode(sha256('{"old": 1, "plan": "gold", "seats": 3}'), 'hex'),
    'new', encode(sha256('{"new": [1], "plan": "silver", "seats": 3}'), 'hex'),
    'members', '["new", "old", "plan"]'::jsonb
  )),
  'changed metadata is recorded as digests and names of members'
);
select is(
  pg_temp.changes('described', 'issued') #> '{metadata,members}', '["old", "plan", "seats"]'::jsonb,
  'metadata of a new key is recorded as digests and names, too'
);
select is_empty(
  $$ select from keylatch.key_events as e where e::text ~ 'gold|silver' $$,
  'no event has a value of metadata'
);

-- No event has a key or a hash, wherever a caller writes them.
select pg_temp.make('page', '''publishable''');
select set_config('request.headers', json_build_object(
  'user-agent', e'bro\x07wser ' || pg_temp.key('first'),
  'x-forwarded-for', '203.0.113.7, ' || pg_temp.key('page'),
  'authorization', 'Bearer secret'
)::text, true);
select pg_temp.run('service_role', $$
  update keylatch.keys set label = 'by a request' where id = pg_temp.id('first') returning id $$);
select is(
  (
    select row(e.user_id, e.role, e.address, e.agent)::text
    from keylatch.key_events as e
    where e.changes #>> '{label,new}' = 'by a request'
  ),
  '(,service_role,"203.0.113.7, wk_pk_live_...","bro wser wk_sk_live_...")',
  'address and agent of a request have no control characters and no keys'
);
select set_config('request.headers', '{"x-real-ip": "192.0.2.1", "x-forwarded-for": "x"}', true);
select pg_temp.make('by header');
select is(
  (
    select e.address from keylatch.key_events as e
    where e.key_id = pg_temp.id('by header')
  ),
  '192.0.2.1', 'the header of the gateway comes before the header that a client may write'
);
select set_config('request.headers', '', true);
-- The owner writes what no call allows: a key in a label, in a name, in a reason.
insert into keylatch_internal.keys (
  id, workspace_id, kind, key_hash, masked_key, label, metadata, revoked_at, revoke_reason,
  created_at, updated_at, imported_at
)
values (
  '11111111-1111-4111-8111-111111111111', pg_temp.a(), 'secret', sha256('an old one'), '...',
  pg_temp.key('first'), jsonb_build_object(pg_temp.key('first'), true), now(),
  'leaked ' || pg_temp.key('first'), now(), now(), now()
);
select is(
  (
    select concat_ws(
      ' ', e.event, e.reason, e.changes #> '{label,new}', e.changes #> '{metadata,members}',
      e.changes ? 'revoked_at'
    )
    from keylatch.key_events as e
    where e.key_id = '11111111-1111-4111-8111-111111111111'
  ),
  'imported leaked wk_sk_live_... "wk_sk_live_..." ["wk_sk_live_..."] t',
  'an import has its own event, with the revocation, and keys in its texts are masked'
);
select is_empty(
  $$ select e.id
    from keylatch.key_events as e, made as m, keylatch_internal.keys as k
    where position(m.key in e::text) > 0
      or position(encode(k.key_hash, 'hex') in e::text) > 0
      or position(encode(k.key_hash, 'base64') in e::text) > 0 $$,
  'no event shows a key or a hash'
);

-- No path avoids the events.
select pg_temp.run(w.who, format(
  'update keylatch_internal.keys set label = %L where id = pg_temp.id(''first'') returning id',
  'by the ' || w.who
))
from (values ('service_role'), ('owner'), ('replica')) as w (who);
select ok(
  exists (
    select from keylatch.key_events as e where e.changes #>> '{label,new}' = 'by the ' || w.who
  ),
  format('a direct insert by the %s makes an event', w.who)
)
from (values ('service_role'), ('owner'), ('replica')) as w (who);
select pg_temp.run('replica', $$
  update keylatch_internal.keys set revoked_at = now() where id = pg_temp.id('by header')
  returning id $$);
select is(
  pg_temp.events_of('by header'), '{issued,revoked}',
  'a revocation by a session in replication mode makes an event'
);

-- Each change that another trigger makes has one event, too.
select pg_temp.make('inner 1');
select pg_temp.make('inner 2');
create temporary table jobs (assignment text);
create function pg_temp.run_job() returns trigger language plpgsql as
$$
begin
  execute format(
    'update keylatch_internal.keys set %s where id in (%L, %L)',
    new.assignment, pg_temp.id('inner 1'), pg_temp.id('inner 2')
  );
  return null;
end
$$;
create trigger jobs_insert_run after insert on jobs
for each row execute function pg_temp.run_job();
insert into jobs values
('label = ''before'''), ('label = ''before'''),
('label = ''with'', revoked_at = now(), revoke_reason = ''leaked wk_st_'' || repeat(''a'', 36)'),
('label = ''after''');
select is(
  pg_temp.events_of(v.name), '{issued,changed,revoked,changed}',
  'what another trigger did to the key ' || v.name
)
from (values ('inner 1'), ('inner 2')) as v (name);
select is(
  pg_temp.changes(v.name, 'revoked') - 'revoked_at', '{"label": {"old": "before", "new": "with"}}',
  'the event has all that changed together with the revocation of the key ' || v.name
)
from (values ('inner 1'), ('inner 2')) as v (name);
select is(
  (
    select array_agg(distinct e.reason) from keylatch.key_events as e
    where e.key_id in (pg_temp.id('inner 1'), pg_temp.id('inner 2')) and e.event = 'revoked'
  ),
  '{leaked wk_st_...}'::text[], 'a token in the reason is masked there, too'
);

-- So has a revocation that follows from a foreign key.
select pg_temp.make('of a customer');
create table public.customers (id integer primary key);
insert into public.customers values (1);
alter table keylatch_internal.keys add customer_id integer
references public.customers on delete set null;
create function pg_temp.revoke_orphan() returns trigger language plpgsql as
$$
begin
  new.revoked_at := now();
  return new;
end
$$;
create trigger keys_update_b_orphan before update of customer_id on keylatch_internal.keys
for each row when (new.customer_id is null) execute function pg_temp.revoke_orphan();
update keylatch_internal.keys set customer_id = 1 where id = pg_temp.id('of a customer');
delete from public.customers;
select is(
  pg_temp.events_of('of a customer'), '{issued,revoked}', 'a foreign key that revokes a key'
);
select pg_temp.run('service_role', 'delete from keylatch.workspaces where id = pg_temp.a()
  returning id');
select is(
  (
    select array[count(*), count(distinct e.key_id)]
    from keylatch.key_events as e
    where e.event = 'revoked' and e.reason = 'workspace deleted'
  ),
  '{4,4}'::bigint[],
  'deleting a workspace writes one event for each key that it revokes'
);

-- Nothing about the log makes a revocation fail.
select pg_temp.run('bob', $$ select id from keylatch.issue_key(pg_temp.b(), 'secret', 'bob''s') $$);
create function pg_temp.revocation(p_setting text, p_value text) returns text language sql as
$$
  select set_config(p_setting, p_value, true);
  select pg_temp.outcome('bob', 'update keylatch.keys set revoked_at = now()');
$$;
select is(
  pg_temp.revocation(v.setting, v.value), '1 row', format('%s = %s', v.setting, left(v.value, 60))
)
from (values
  ('request.headers', 'no json'), ('request.headers', '{'), ('request.headers', '"text"'),
  ('request.headers', '[]'), ('request.headers', '{"user-agent": {"a": 1}}'),
  ('request.headers', E'{"user-agent": "\\ud800"}'), ('request.headers', E'{"a": "\\u0000"}'),
  ('request.headers', repeat('[', 100000)), ('request.headers', '{"a": 1e999999}'),
  ('request.headers', json_build_object('user-agent', repeat('_pk_live_1', 100000))::text),
  ('request.headers', ''),
  ('application_name', 'é' || repeat('x', 60)), ('application_name', ''),
  ('timezone', 'Pacific/Kiritimati'), ('datestyle', 'SQL, DMY'), ('timezone', 'UTC'),
  ('standard_conforming_strings', 'off'), ('bytea_output', 'escape'), ('row_security', 'on'),
  ('array_nulls', 'off'), ('transform_null_equals', 'on'), ('datestyle', 'ISO'),
  ('intervalstyle', 'sql_standard'), ('extra_float_digits', '-15'), ('lock_timeout', '1'),
  ('enable_indexscan', 'off'), ('enable_seqscan', 'off'), ('plan_cache_mode', 'force_generic_plan')
) as v (setting, value);
select set_config('lock_timeout', '0', true);
-- A log with events of a wrong clock, without settings, and at the limit of changes.
alter table keylatch_internal.key_events disable trigger user;
update keylatch_internal.key_events set occurred_at = 'infinity';
alter table keylatch_internal.key_events enable trigger user;
update keylatch_internal.event_settings set changes_per_minute = 1, keys_per_workspace = 1;
select is(
  pg_temp.revocation('application_name', 'x'), '1 row', 'a wrong log makes no revocation fail'
);
delete from keylatch_internal.event_settings;
select is(
  pg_temp.revocation('application_name', 'x'), '1 row', 'missing settings make no revocation fail'
);

-- No setting changes what an event contains.
select set_config('timezone', 'Pacific/Kiritimati', true), set_config('datestyle', 'SQL', true);
select pg_temp.run('bob', $$
  update keylatch.keys set expires_at = '9998-12-31 23:30Z' returning id $$);
select is(
  (
    select e.changes #>> '{expires_at,new}' from keylatch.key_events as e
    where e.changes ? 'expires_at' and e.event = 'changed'
  ),
  '9998-12-31T23:30:00+00:00', 'a time is written in UTC'
);
select pg_temp.run('bob', $$
  select id from keylatch.issue_key(pg_temp.b(), 'secret', 'later', expires_at => '9998-12-31Z') $$);
select set_config('application_name', 'sent wk_sk_live_' || repeat('A', 36), true);
select pg_temp.run('bob', $$
  update keylatch.keys set revoked_at = now() where label = 'later' returning id $$);
select results_eq(
  $$ select e.event, e.agent, v.said like '%+00:00', v.said::timestamptz = v.at
    from keylatch.keys as k inner join keylatch.key_events as e on e.key_id = k.id
    cross join lateral (values
      ('issued', e.changes #>> '{expires_at,new}', k.expires_at),
      ('revoked', e.changes #>> '{revoked_at,new}', k.revoked_at)) as v (event, said, at)
    where k.label = 'later' and v.event = e.event order by e.occurred_at $$,
  $$ values ('issued', 'x', true, true), ('revoked', 'sent wk_sk_live_...', true, true) $$,
  'so are the times of a new key and of a revocation; and no key stands in an agent'
);

select * from finish();
rollback;
