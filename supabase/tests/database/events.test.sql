-- Events: what happened to a key is written down, is not changed afterwards, and shows if it was.
begin;
\ir people.psql
select plan(111);

select pg_temp.make('first', '''secret'', ''a label''');
select is(
  (select count(*) from keylatch.key_events), 0::bigint,
  'an event gets its place at the commit, not before'
);
set constraints all immediate;
select is(
  (
    select array_agg(format('%s %s', e.number, e.event) order by e.number)
    from keylatch.key_events as e
    where e.workspace_id = pg_temp.a()
  ),
  array['1 first_key', '2 issued'],
  'the first key of a workspace is told by an event of its own'
);

-- Each kind of change is one event; what does not change is none.
select pg_temp.make('second');
select pg_temp.run('alice', $$
  update keylatch.keys set label = 'renamed', scopes = '{a}' where id = pg_temp.id('second')
  returning id $$);
select pg_temp.run('alice', $$
  update keylatch.keys set label = 'renamed' where id = pg_temp.id('second') returning id $$);
select pg_temp.manage('suspend_key', 'second');
select pg_temp.manage('suspend_key', 'second');
select pg_temp.manage('resume_key', 'second');
select pg_temp.manage('resume_key', 'second');
select pg_temp.make('third', null, 'keylatch.rotate_key(pg_temp.id(''second''), ''1 hour'')');
select pg_temp.make('fourth', null, 'keylatch.rotate_key(pg_temp.id(''third''))');
select pg_temp.manage('revoke_key', 'fourth', '''leaked''');
select pg_temp.manage('revoke_key', 'fourth', '''again''');
create function pg_temp.events_of(p_name text) returns text[] language sql as
$$
  select array_agg(e.event order by e.number)
  from keylatch.key_events as e
  where e.key_id = pg_temp.id(p_name)
$$;
select is(pg_temp.events_of(v.name), v.events::text[], 'what happened to the ' || v.name || ' key')
from (values
  ('second', '{issued,changed,suspended,resumed,superseded}'),
  ('third', '{rotated,revoked}'),
  ('fourth', '{rotated,revoked}')
) as v (name, events);
select is(
  (select array_agg(e.number order by e.number) from keylatch.key_events as e),
  (select array_agg(n.n) from generate_series(1::bigint, 11) as n (n)),
  'the numbers have no gaps'
);

-- What an event says.
select is(
  (
    select e.changes
    from keylatch.key_events as e
    where e.key_id = pg_temp.id('second') and e.event = 'changed'
  ),
  '{"label": {"old": "", "new": "renamed"}, "scopes": {"old": [], "new": ["a"]}}'::jsonb,
  'a change has the old and the new values of what changed'
);
select is(
  (
    select array_agg(c.name order by c.name)
    from keylatch.key_events as e, jsonb_object_keys(e.changes) as c (name)
    where e.key_id = pg_temp.id('third') and e.event = 'rotated'
  ),
  '{allowed_origins,environment,hint,kind,label,metadata,rotated_from,scopes}'::text[],
  'a new key has its public fields, and the key that it succeeds'
);
select is(
  (
    select array_agg(distinct e.reason)
    from keylatch.key_events as e
    where e.event = 'revoked'
  ),
  array['leaked', 'rotated'],
  'a revocation has its reason'
);
select is(
  (
    select array_agg(distinct row(e.user_id, e.role, e.login = session_user)::text)
    from keylatch.key_events as e
  ),
  array[format('(%s,authenticated,t)', pg_temp.user_id('alice'))],
  'an event names the user, the role that the session had taken, and its login'
);
select ok(
  (
    select bool_and(e.occurred_at between now() and clock_timestamp())
    from keylatch.key_events as e
  ),
  'and the time by the clock'
);
select pg_temp.make('page', '''publishable''');
select is_empty(
  $$ select e.number
    from keylatch.key_events as e, made as m, keylatch_internal.keys as k
    where position(m.key in e::text) > 0
      or position(encode(k.key_hash, 'hex') in e::text) > 0
      or position(encode(k.key_hash, 'base64') in e::text) > 0 $$,
  'no event shows a key or a hash'
);

-- The request, as PostgREST hands its headers on.
select set_config('request.headers', json_build_object(
  'user-agent', e'bro\x07wser ' || pg_temp.key('first'),
  'x-forwarded-for', '203.0.113.7, 198.51.100.1',
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
  '(,service_role,"203.0.113.7, 198.51.100.1","bro wser …")',
  'an event names address and agent of the request, without control characters and keys'
);
select set_config('request.headers', '', true);

-- No path around.
select pg_temp.run(w.who, format(
  'update keylatch_internal.keys set label = %L where id = pg_temp.id(''first'') returning id',
  'by the ' || w.who
))
from (values ('service_role'), ('owner'), ('replica')) as w (who);
select ok(
  exists (
    select from keylatch.key_events as e where e.changes #>> '{label,new}' = 'by the ' || w.who
  ),
  format('what the %s writes into the table itself is written down', w.who)
)
from (values ('service_role'), ('owner'), ('replica')) as w (who);
select pg_temp.run('service_role', 'delete from keylatch.workspaces where id = pg_temp.a()
  returning id');
select ok(
  exists (
    select from keylatch.key_events as e
    where e.key_id = pg_temp.id('page') and e.event = 'revoked' and e.reason = 'workspace deleted'
  ),
  'and what a deleted workspace does to its keys'
);
select pg_temp.run('service_role', format(
  $$ select (keylatch.import_keys('[{"workspace_id": "%s", "key": "an old one"}]')).imported $$,
  pg_temp.b()
));
select is(
  (
    select array_agg(e.event order by e.number)
    from keylatch.key_events as e
    where e.workspace_id = pg_temp.b()
  ),
  '{first_key,imported}',
  'an imported key is told from an issued one'
);

-- Who sees them.
insert into keylatch.workspaces (id, name) values (pg_temp.a(), 'A');
insert into keylatch.workspace_membership (workspace_id, user_id, role)
values
(pg_temp.a(), pg_temp.user_id('alice'), 'admin'),
(pg_temp.a(), pg_temp.user_id('mia'), 'member');
select is(
  pg_temp.outcome(w.who, format('select from %s limit 1', r.relation)),
  case when w.who in ('anon', 'keylatch_resolver') then '42501' else w.outcome end,
  format('%s reads from %s: %s', w.who, r.relation, w.outcome)
)
from
  (values
    ('alice', '1 row'), ('bob', '1 row'), ('mia', '0 rows'), ('stranger', '0 rows'),
    ('service_role', '1 row'), ('anon', 'no'), ('keylatch_resolver', 'no')
  ) as w (who, outcome),
  (values
    ('keylatch.key_events'), ('keylatch_internal.key_events'),
    ('keylatch_internal.key_event_links'), ('keylatch_internal.key_event_heads')
  ) as r (relation);
select is(
  pg_temp.run(w.who, 'select count(distinct workspace_id)::text from keylatch.key_events'),
  w.workspaces,
  format('%s sees the events of %s workspaces', w.who, w.workspaces)
)
from (values ('alice', '1'), ('bob', '1'), ('mia', '0'), ('service_role', '2')) as w (
  who, workspaces
);
select is(
  pg_temp.run(w.who, 'select count(*)::text from keylatch.list_events(pg_temp.a())'),
  w.events,
  format('list_events gives %s %s events', w.who, w.events)
)
from (values ('alice', '19'), ('bob', '0'), ('mia', '0'), ('service_role', '19')) as w (
  who, events
);

-- Who changes them: nobody.
select is(
  pg_temp.outcome(w.who, v.statement),
  case when w.who in ('owner', 'replica') then 'PT409 events_are_kept' else '42501' end,
  format('%s: %s', w.who, v.statement)
)
from
  (values ('alice'), ('service_role'), ('owner'), ('replica')) as w (who),
  (values
    ('update keylatch_internal.key_events set reason = ''x'''),
    ('update keylatch_internal.key_event_links set hash = sha256(''x'')'),
    ('update keylatch_internal.key_event_heads set hash = sha256(''x'')'),
    ('update keylatch_internal.key_event_heads set number = number - 1'),
    ('delete from keylatch_internal.key_events'),
    ('delete from keylatch_internal.key_event_links'),
    ('delete from keylatch_internal.key_event_heads'),
    ('truncate keylatch_internal.key_events'),
    ('truncate keylatch_internal.key_event_links'),
    ('truncate keylatch_internal.key_event_heads')
  ) as v (statement);
select is(
  pg_temp.outcome(w.who, $$
    insert into keylatch_internal.key_events (
      workspace_id, key_id, event, occurred_at, role, login, changes
    ) values (pg_temp.a(), gen_random_uuid(), 'issued', now(), '', '', '{}') $$),
  '42501',
  w.who || ' invents no event'
)
from (values ('anon'), ('alice'), ('service_role'), ('keylatch_resolver')) as w (who);

-- Whether they were changed all the same, by who may alter the tables.
create function pg_temp.verified(p_statement text) returns text language plpgsql as
$$
declare
  v_found keylatch.event_verification;
begin
  alter table keylatch_internal.key_events disable trigger user;
  alter table keylatch_internal.key_event_links disable trigger user;
  alter table keylatch_internal.key_event_heads disable trigger user;
  execute p_statement;
  v_found := keylatch.verify_events(pg_temp.a());
  raise sqlstate 'UNDO0';
exception
  when sqlstate 'UNDO0' then
    return concat_ws(' ', v_found.is_intact, v_found.events, v_found.broken_number);
end
$$;
select is(pg_temp.verified(v.statement), v.outcome, v.what)
from (values
  ('as it was written', 'select', 't 19'),
  (
    'an event that was changed',
    'update keylatch_internal.key_events set changes = ''{}''
    where id = (
      select event_id from keylatch_internal.key_event_links
      where workspace_id = pg_temp.a() and number = 4
    )',
    'f 3 4'
  ),
  (
    'an event that is gone',
    'delete from keylatch_internal.key_events where id = (
      select event_id from keylatch_internal.key_event_links
      where workspace_id = pg_temp.a() and number = 5
    )',
    'f 4 5'
  ),
  (
    'a link that is gone',
    'delete from keylatch_internal.key_event_links
    where workspace_id = pg_temp.a() and number = 6',
    'f 5 6'
  ),
  (
    'another hash',
    'update keylatch_internal.key_event_links set hash = sha256(''x'')
    where workspace_id = pg_temp.a() and number = 19',
    'f 18 19'
  ),
  (
    'an end that is gone',
    'delete from keylatch_internal.key_event_links
    where workspace_id = pg_temp.a() and number = 19',
    'f 18 19'
  ),
  (
    'a head that was turned back',
    'update keylatch_internal.key_event_heads set number = 18 where workspace_id = pg_temp.a()',
    'f 19 20'
  ),
  (
    'a head that is gone',
    'delete from keylatch_internal.key_event_heads where workspace_id = pg_temp.a()',
    'f 19 20'
  ),
  (
    'an event of another workspace',
    'update keylatch_internal.key_events set workspace_id = pg_temp.b()
    where id = (
      select event_id from keylatch_internal.key_event_links
      where workspace_id = pg_temp.a() and number = 1
    )',
    'f 0 1'
  ),
  (
    'nothing left',
    'truncate keylatch_internal.key_events, keylatch_internal.key_event_links,
      keylatch_internal.key_event_heads',
    'f 0 1'
  )
) as v (what, statement, outcome);

select is(
  pg_temp.run(w.who, $$
    select concat_ws(' ', v.is_intact, v.events) from keylatch.verify_events(pg_temp.a()) as v $$),
  w.outcome,
  format('verify_events tells %s: %s', w.who, w.outcome)
)
from (values ('alice', 't 19'), ('bob', 't 0'), ('service_role', 't 19')) as w (who, outcome);

select * from finish();
rollback;
