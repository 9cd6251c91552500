-- Who may read the events, and that no role may insert, change or delete them.
begin;
\ir ../people.psql
select plan(126);

select pg_temp.make('first');
select pg_temp.manage('suspend_key', 'first');
select pg_temp.manage('revoke_key', 'first');
select pg_temp.run('bob', 'select id from keylatch.issue_key(pg_temp.b(), ''secret'')');
select (keylatch.seal_events(2)).events;

-- Reading.
select is(
  pg_temp.run(w.who, 'select count(*)::text from keylatch.key_events'), w.events,
  format('%s sees %s events', w.who, w.events)
)
from (values
  ('alice', '3'), ('bob', '1'), ('mia', '0'), ('stranger', '0'), ('service_role', '4')
) as w (who, events);
select is(
  pg_temp.run(w.who, 'select count(*)::text from keylatch.list_events(pg_temp.a())'), w.events,
  format('list_events gives %s %s events', w.who, w.events)
)
from (values
  ('alice', '3'), ('bob', '0'), ('mia', '0'), ('stranger', '0'), ('service_role', '3')
) as w (who, events);
select is(
  pg_temp.outcome(w.who, v.statement), '42501', format('%s: %s', w.who, v.statement)
)
from
  (values ('anon'), ('keylatch_resolver')) as w (who),
  (values
    ('select from keylatch.key_events'), ('select from keylatch_internal.key_events'),
    ('select from keylatch_internal.key_event_checkpoints'),
    ('select keylatch.list_events(pg_temp.a())'), ('select keylatch.seal_events()'),
    ('select keylatch.verify_events()'),
    ('select keylatch_internal.verify_checkpoints(1, 1)'),
    ('select keylatch_internal.seal_key_events(1)')
  ) as v (statement);
select is(
  pg_temp.outcome(w.who, 'select from keylatch_internal.key_event_checkpoints'), w.outcome,
  format('%s reads the checkpoints: %s', w.who, w.outcome)
)
from (values ('alice', '42501'), ('service_role', '1 row'), ('owner', '1 row')) as w (who, outcome);

-- Pages.
select results_eq(
  $$ select event from keylatch.list_events(pg_temp.a(), null, 2) $$,
  array['revoked', 'suspended'], 'the newest events come first'
);
select results_eq(
  $$ select n.event from keylatch.list_events(pg_temp.a(), (
    select e.id from keylatch.key_events as e where e.event = 'suspended'
  )) as n $$,
  array['issued'], 'after names the last event of the page before'
);
select is(pg_temp.outcome('alice', v.statement), v.outcome, v.statement)
from (values
  ('select keylatch.list_events(pg_temp.a(), null, 10000)', '3 rows'),
  ('select keylatch.list_events(pg_temp.a(), null, 10001)', 'PT400 invalid_argument'),
  ('select keylatch.list_events(pg_temp.a(), null, 0)', 'PT400 invalid_argument'),
  ('select keylatch.list_events(pg_temp.a(), null, null)', 'PT400 invalid_argument'),
  ('select keylatch.list_events(pg_temp.a(), gen_random_uuid())', 'PT400 invalid_argument')
) as v (statement, outcome);
select is(
  pg_temp.outcome('alice', format(
    'select keylatch.list_events(pg_temp.a(), %L)',
    (select e.id from keylatch.key_events as e where e.workspace_id = pg_temp.b())
  )),
  'PT400 invalid_argument', 'after cannot be an event of another workspace'
);

-- Sealing and verifying.
select is(pg_temp.outcome(w.who, 'select keylatch.seal_events()'), w.outcome, w.who || ' seals')
from (values
  ('alice', '42501'), ('stranger', '42501'), ('service_role', '1 row'), ('owner', '1 row')
) as w (who, outcome);
select is(
  pg_temp.outcome(w.who, 'select keylatch.verify_events()'), w.outcome,
  format('%s verifies: %s', w.who, w.outcome)
)
from (values
  ('alice', '1 row'), ('bob', '1 row'), ('mia', '42501'), ('stranger', '42501'),
  ('service_role', '1 row'), ('owner', '1 row')
) as w (who, outcome);
select is(pg_temp.outcome('owner', v.statement), 'PT400 invalid_argument', v.statement)
from (values
  ('select keylatch.seal_events(0)'), ('select keylatch.seal_events(100001)'),
  ('select keylatch.seal_events(null)'), ('select keylatch.verify_events(0)'),
  ('select keylatch.verify_events(null)'), ('select keylatch.verify_events(1, 0)'),
  ('select keylatch.verify_events(1, 1001)'), ('select keylatch.verify_events(1, null)')
) as v (statement);
-- The functions that the calls use have the same bounds, because SQL reaches them, too.
select is(pg_temp.outcome(v.who, v.statement), 'PT400 invalid_argument', v.statement)
from (values
  ('alice', 'select keylatch_internal.verify_checkpoints(1, 1001)'),
  ('alice', 'select keylatch_internal.verify_checkpoints(1, null)'),
  ('stranger', 'select keylatch_internal.verify_checkpoints(-9223372036854775807, 1)'),
  ('stranger', 'select keylatch_internal.verify_checkpoints(null, 1)'),
  ('service_role', 'select keylatch_internal.seal_key_events(100001)'),
  ('service_role', 'select keylatch_internal.seal_key_events(null)')
) as v (who, statement);
select is(
  (select v.is_intact from keylatch.verify_events(9223372036854775807, 1000) as v), true,
  'verify_events may begin at any checkpoint'
);

-- No role can insert an event.
create function pg_temp.invention(p_who text) returns text language sql as
$$
  select pg_temp.outcome(p_who, $i$
    insert into keylatch_internal.key_events (
      workspace_id, key_id, event, occurred_at, role, login, changes
    ) values (pg_temp.a(), gen_random_uuid(), 'issued', now(), '', '', '{}') $i$)
$$;
select is(pg_temp.invention(w.who), w.outcome, w.who || ' cannot insert an event')
from (values
  ('anon', '42501'), ('alice', '42501'), ('service_role', '42501'), ('keylatch_resolver', '42501'),
  ('owner', 'PT409 events_are_kept')
) as w (who, outcome);
select alike(
  pg_temp.words(
    'owner', 'insert into keylatch_internal.key_events select from pg_class where false'
  ),
  '%set session_replication_role = replica;', 'the hint says how to restore the data of a dump'
);
select is(
  pg_temp.outcome(w.who, format('select keylatch_internal.%s()', f.name)), w.state,
  format('%s cannot call %s, which writes events', w.who, f.name)
)
from
  (values ('alice', '42501'), ('owner', '0A000')) as w (who, state),
  unnest('{record_new_key,record_change,record_revocations}'::text[]) as f (name);

-- No role can change or delete an event.
select is(
  pg_temp.outcome(w.who, v.statement),
  case when w.who in ('owner', 'replica') then 'PT409 events_are_kept' else '42501' end,
  format('%s: %s', w.who, v.statement)
)
from
  (values ('alice'), ('service_role'), ('owner'), ('replica')) as w (who),
  (values
    ('update keylatch_internal.key_events set reason = ''x'' where checkpoint is null'),
    ('update keylatch_internal.key_events set checkpoint = null where checkpoint = 1'),
    ('update keylatch_internal.key_events set checkpoint = 2 where checkpoint = 1'),
    ('delete from keylatch_internal.key_events'),
    ('truncate keylatch_internal.key_events'),
    ('update keylatch_internal.key_event_checkpoints set digest = sha256(''x'')'),
    ('update keylatch_internal.key_event_checkpoints set archived_at = now(), events = 0'),
    ('delete from keylatch_internal.key_event_checkpoints'),
    ('truncate keylatch_internal.key_event_checkpoints')
  ) as v (statement);
select is(
  pg_temp.outcome('owner', format(
    'update keylatch_internal.key_events set %I = %s where checkpoint is null',
    a.attname,
    case
      when a.atttypid = 'uuid'::regtype then 'gen_random_uuid()'
      when a.atttypid = 'jsonb'::regtype then '''[]'''
      when a.atttypid = 'timestamptz'::regtype then '''-infinity'''
      else '''forged'''
    end
  )),
  'PT409 events_are_kept', format('%s of an unsealed event cannot change, either', a.attname)
)
from pg_attribute as a
where a.attrelid = 'keylatch_internal.key_events'::regclass and a.attnum > 0
  and a.attname <> 'checkpoint';

-- Only the owner may archive, and the mark stays.
update keylatch_internal.key_event_checkpoints set archived_at = now() where number = 1;
select is(pg_temp.outcome(w.who, v.statement), v.outcome, v.what)
from (values ('owner')) as w (who), (values
  (
    'delete from keylatch_internal.key_events where checkpoint = 1', '2 rows',
    'archived events can be deleted'
  ),
  (
    'delete from keylatch_internal.key_events', 'PT409 events_are_kept',
    'other events cannot be deleted'
  ),
  (
    'update keylatch_internal.key_event_checkpoints set archived_at = null',
    'PT409 events_are_kept', 'the mark cannot be removed'
  )
) as v (statement, outcome, what);

select * from finish();
rollback;
