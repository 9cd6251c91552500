-- Limits for what signed-in users add to the tables. Revoking and suspending have no limit. The
-- owner, a service and a restore have no limit.
begin;
\ir ../people.psql
select plan(36);

select is(
  (select concat_ws(' ', s.keys_per_workspace, s.changes_per_minute)
  from keylatch_internal.event_settings as s),
  '200000 20000', 'the limits are generous'
);
select is(pg_temp.outcome(w.who, v.statement), '42501', format('%s: %s', w.who, v.statement))
from
  (values ('anon'), ('alice'), ('service_role'), ('keylatch_resolver')) as w (who),
  (values
    ('select from keylatch_internal.event_settings'),
    ('update keylatch_internal.event_settings set changes_per_minute = 2000000')
  ) as v (statement);
select is(
  pg_temp.outcome('owner', v.statement), v.state, v.statement
)
from (values
  ('update keylatch_internal.event_settings set changes_per_minute = 0', '23514'),
  ('update keylatch_internal.event_settings set keys_per_workspace = 0', '23514'),
  ('insert into keylatch_internal.event_settings (only_row) values (false)', '23514'),
  ('insert into keylatch_internal.event_settings default values', '23505')
) as v (statement, state);

-- Changes per minute, of one user in one workspace. A limit of up to 20 is exact.
update keylatch_internal.event_settings set changes_per_minute = 6;
insert into made (name, id)
select 'key ' || n, (keylatch.issue_key(pg_temp.a(), 'secret')).id from generate_series(1, 7) as n;
select pg_temp.make('spare');
create function pg_temp.relabel(p_keys integer, p_label text default 'new') returns text
language sql as
$$
  select format(
    'update keylatch.keys set label = %L where id in (
      select m.id from pg_temp.made as m where m.name like ''key %%'' limit %s
    ) returning id', p_label, p_keys
  )
$$;
select is(
  pg_temp.outcome('alice', pg_temp.relabel(5)), '5 rows',
  'a statement with as many changes as the limit'
);
select is(
  pg_temp.outcome('alice', pg_temp.relabel(6)), 'PT429 too_many_requests',
  'one change more than the limit'
);
select pg_temp.run('alice', pg_temp.relabel(5));
-- PostgREST takes a role from the token: a role of the application's own inherits the limits, too.
create role staff in role authenticated;
grant staff to postgres;
select is(
  pg_temp.outcome('staff', format('set local request.jwt.claims = %L; %s',
    json_build_object('sub', pg_temp.user_id('alice')), v.statement)),
  'PT429 too_many_requests', format('staff: %s', v.statement)
)
from (values
  ('update keylatch.keys set label = ''x'' where id = pg_temp.id(''spare'')'),
  ('select keylatch.issue_key(pg_temp.a())')
) as v (statement);
select is(pg_temp.outcome(w.who, w.statement), w.outcome, format('then %s: %s', w.who, w.statement))
from (values
  ('alice', 'update keylatch.keys set label = ''x'' where id = pg_temp.id(''spare'')',
    'PT429 too_many_requests'),
  ('alice', 'select keylatch.issue_key(pg_temp.a())', 'PT429 too_many_requests'),
  ('alice', 'select keylatch.rotate_key(pg_temp.id(''spare''))', 'PT429 too_many_requests'),
  ('alice', 'select keylatch.suspend_key(pg_temp.id(''spare''))', '1 row'),
  ('alice', 'select keylatch.revoke_key(pg_temp.id(''spare''))', '1 row'),
  ('alice', 'select keylatch.retire_workspace(pg_temp.a())', '1 row'),
  ('alice', 'update keylatch.keys set revoked_at = now()', '8 rows'),
  ('bob', 'select keylatch.issue_key(pg_temp.b())', '1 row'),
  ('service_role', 'update keylatch.keys set label = ''by a service''', '8 rows'),
  ('owner', 'update keylatch.keys set label = ''by the owner''', '8 rows'),
  ('replica', 'update keylatch.keys set label = ''by a replica''', '8 rows')
) as w (who, statement, outcome);
select matches(
  pg_temp.words('alice', 'select keylatch.issue_key(pg_temp.a())'),
  '^You made more than 6 changes in the workspace in the last minute. Try again in [1-6]?[0-9] s. '
  'Wait for the number of seconds in Retry-After.*#too_many_requests$',
  'the refusal says how many seconds to wait'
);
-- Only the last minute counts: not older events, and not events in the future of a wrong clock.
create function pg_temp.issued_when(p_shift interval) returns text language plpgsql as
$$
begin
  alter table keylatch_internal.key_events disable trigger user;
  update keylatch_internal.key_events set occurred_at = occurred_at + p_shift;
  alter table keylatch_internal.key_events enable trigger user;
  return pg_temp.outcome('alice', 'select keylatch.issue_key(pg_temp.a())');
end
$$;
select is(pg_temp.issued_when('-61 s'), '1 row', 'after a minute, alice may make changes again');
select is(pg_temp.issued_when('1 year'), '1 row', 'events of a wrong clock do not stop alice');
update keylatch_internal.event_settings set changes_per_minute = 20000;

-- Keys in a workspace, revoked keys included. The workspace has seven keys and a spare key.
update keylatch_internal.event_settings set keys_per_workspace = 8;
select pg_temp.manage('revoke_key', 'spare');
select is(
  pg_temp.outcome(w.who, w.statement), w.outcome,
  format('with 8 keys %s: %s', w.who, w.statement)
)
from (values
  ('alice', 'select keylatch.issue_key(pg_temp.a())', 'PT409 too_many_keys'),
  ('alice', 'select keylatch.rotate_key(pg_temp.id(''key 1''))', 'PT409 too_many_keys'),
  ('service_role', 'select keylatch.issue_key(pg_temp.a())', '1 row'),
  ('bob', 'select keylatch.issue_key(pg_temp.b())', '1 row')
) as w (who, statement, outcome);

-- Without the row, as in a schema-only copy, the default limits apply.
delete from keylatch_internal.event_settings;
select is(
  pg_temp.outcome('alice', 'select keylatch.issue_key(pg_temp.a())'), '1 row',
  'without settings, alice issues keys'
);

select * from finish();
rollback;
