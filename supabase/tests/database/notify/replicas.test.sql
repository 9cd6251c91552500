-- Replicas: the position of a server, and what is refused without a replica to wait for.
begin;
\ir ../people.psql
select plan(18);

select is(
  pg_temp.run(w.who, $$
    select row(p.system_identifier = i.system_identifier, p.timeline, p.is_replica, p.position > 0)
      ::text
    from keylatch.replay_position() as p, keylatch.installation() as i $$),
  '(t,1,f,t)',
  'replay_position() tells ' || w.who || ' the server, its timeline and how far it is'
)
from (values ('stranger'), ('alice'), ('service_role'), ('keylatch_resolver')) as w (who);
select is(
  pg_temp.outcome('anon', 'select keylatch.replay_position()'), '42501', 'and tells anon nothing'
);
select is(
  (select p.timeline from keylatch.replay_position() as p),
  (select c.timeline_id from pg_control_checkpoint() as c), 'the timeline is the server''s timeline'
);

select is(
  pg_temp.outcome(w.who, 'select keylatch.wait_for_replicas()'), w.outcome,
  'there is no synchronous standby to wait for: ' || w.who
)
from (values
  ('anon', '42501'), ('alice', 'PT400 invalid_argument'),
  ('service_role', 'PT400 invalid_argument'), ('keylatch_resolver', 'PT400 invalid_argument')
) as w (who, outcome);
select matches(
  pg_temp.words('alice', 'select keylatch.wait_for_replicas()'), 'synchronous_standby_names',
  'the hint names the setting'
);
select matches(
  pg_temp.words('alice', format('select keylatch.wait_for_replicas(%L)', t.timeout)),
  '^timeout must be', 'a timeout is from 0 to 1 minute, not ' || coalesce(t.timeout, 'null')
)
from (values
  (null), ('-1 second'), ('61 seconds'), ('1 month'), ('120000 months -3599950 days'),
  ('178000000 years'), ('-178000000 years')
) as t (timeout);

select * from finish();
rollback;
