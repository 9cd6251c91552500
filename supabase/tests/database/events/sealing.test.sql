-- Sealing: the events go into a chain of checkpoints, which shows every later change.
begin;
\ir ../people.psql
select plan(32);

create function pg_temp.verified(p_statement text default 'select') returns text language plpgsql as
$$
declare
  v_found keylatch.event_verification;
begin
  alter table keylatch_internal.key_events disable trigger user;
  alter table keylatch_internal.key_event_checkpoints disable trigger user;
  execute p_statement;
  v_found := keylatch.verify_events();
  raise sqlstate 'UNDO0';
exception
  when sqlstate 'UNDO0' then
    return concat_ws(
      ' ', v_found.is_intact, v_found.checkpoints, v_found.events, v_found.unsealed,
      v_found.broken_checkpoint, v_found.problem
    );
end
$$;
select is(
  (select row(s.*)::text from keylatch.seal_events() as s), '(,0,t)',
  'an empty log has nothing to seal'
);
select is(pg_temp.verified(), 't 0 0 0', 'an empty log is intact');

select keylatch.issue_keys(pg_temp.a(), array(select 'label' from generate_series(1, 2400)));
select is(pg_temp.verified(), 't 0 0 2400', 'unsealed events are counted');
select is(
  (select row(s.*)::text from keylatch.seal_events(2100) as s), '(3,2100,f)',
  'a call seals as many events as its limit'
);
select is(
  (select row(s.*)::text from keylatch.seal_events() as s), '(4,300,t)',
  'the next call seals the rest'
);
select is(
  (select row(s.*)::text from keylatch.seal_events() as s), '(,0,t)',
  'a third call finds nothing to seal'
);
select results_eq(
  $$ select c.number, c.events
    from keylatch_internal.key_event_checkpoints as c order by c.number $$,
  $$ values (1::bigint, 1000::bigint), (2, 1000), (3, 100), (4, 300) $$,
  'a checkpoint seals up to 1000 events'
);
select ok(
  not exists (
    select from keylatch.key_events as a, keylatch.key_events as b
    where a.checkpoint = b.checkpoint - 1 and (a.occurred_at, a.id) > (b.occurred_at, b.id)
  ),
  'the oldest events are sealed first'
);
select is(pg_temp.verified(), 't 4 2400 0', 'all checkpoints are intact');
-- Bounded calls.
select is(
  (
    select concat_ws(' ', v.checkpoints, v.events, v.next_checkpoint)
    from keylatch.verify_events(1, 3) as v
  ),
  '3 2100 4', 'a call verifies as many checkpoints as it is told to, and says where to go on'
);
select is(
  (
    select concat_ws(' ', v.checkpoints, v.events, v.next_checkpoint is null)
    from keylatch.verify_events(4, 3) as v
  ),
  '1 300 t', 'the last call returns no next checkpoint'
);
select is(
  (select v.digest from keylatch.verify_events() as v),
  (
    select encode(c.digest, 'hex') from keylatch_internal.key_event_checkpoints as c
    where c.number = 4
  ),
  'the answer has the digest of the last checkpoint, to keep elsewhere'
);

-- The encoding, computed by hand, must not change.
select is(
  keylatch_internal.event_digest(row(
    '11111111-1111-4111-8111-111111111111', '22222222-2222-4222-8222-222222222222',
    '33333333-3333-4333-8333-333333333333', 'revoked', '2026-11-20 10:00:00.000001Z', null,
    'service_role', 'authenticator', '192.0.2.1', null, 'naïve', '{"a": 1}', null, null
  )::keylatch_internal.key_events),
  sha256(convert_to(
    '["keylatch event 1", "11111111-1111-4111-8111-111111111111", '
    || '"22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333", '
    || '"revoked", 1795168800000001, "service_role", "authenticator", "'
    || encode(sha256(convert_to(
      '["keylatch event 1", "11111111-1111-4111-8111-111111111111", null, "192.0.2.1", null, '
      || '"naïve", {"a": 1}]', 'UTF8'
    )), 'hex') || '"]', 'UTF8'
  )),
  'the digest of an event is computed from a documented text'
);

-- Every change of sealed events by the owner shows.
select is(pg_temp.verified(v.statement), v.outcome, v.what)
from (values
  (
    'a changed event', 'update keylatch_internal.key_events set role = ''x''
    where id = (select e.id from keylatch_internal.key_events as e where e.checkpoint = 2 limit 1)',
    'f 1 1000 0 2 An event, or the checkpoint, was changed.'
  ),
  (
    'an event whose time says infinity', 'update keylatch_internal.key_events
    set occurred_at = ''infinity''
    where id = (select e.id from keylatch_internal.key_events as e where e.checkpoint = 2 limit 1)',
    'f 1 1000 0 2 An event, or the checkpoint, was changed.'
  ),
  (
    'a deleted event', 'delete from keylatch_internal.key_events
    where id = (select e.id from keylatch_internal.key_events as e where e.checkpoint = 2 limit 1)',
    'f 1 1000 0 2 An event of the checkpoint is missing.'
  ),
  (
    'an event without its checkpoint', 'update keylatch_internal.key_events
    set checkpoint = null
    where id = (select e.id from keylatch_internal.key_events as e where e.checkpoint = 3 limit 1)',
    'f 2 2000 1 3 An event of the checkpoint is missing.'
  ),
  (
    'an event that exists twice', 'insert into keylatch_internal.key_events (
      id, workspace_id, key_id, event, occurred_at, user_id, role, login, changes, checkpoint
    ) select gen_random_uuid(), e.workspace_id, e.key_id, e.event, e.occurred_at, e.user_id, e.role,
      e.login, e.changes, e.checkpoint
    from keylatch_internal.key_events as e where e.checkpoint = 1 limit 1',
    'f 0 0 0 1 The checkpoint has an event that was not sealed.'
  ),
  (
    'an event replaced by another event', 'with gone as (
      delete from keylatch_internal.key_events where id = (
        select e.id from keylatch_internal.key_events as e where e.checkpoint = 4 limit 1
      ) returning *
    ) insert into keylatch_internal.key_events
    select gen_random_uuid(), g.workspace_id, g.key_id, g.event, g.occurred_at, g.user_id, g.role,
      g.login, g.address, g.agent, g.reason, g.changes, g.erased, g.checkpoint from gone as g',
    'f 3 2100 0 4 An event, or the checkpoint, was changed.'
  ),
  (
    'two exchanged events', 'update keylatch_internal.key_events
    set checkpoint = 5 - checkpoint where checkpoint between 1 and 4 and id in (
      (select e.id from keylatch_internal.key_events as e where e.checkpoint = 1 limit 1)
      union (select e.id from keylatch_internal.key_events as e where e.checkpoint = 4 limit 1)
    )',
    'f 0 0 0 1 An event, or the checkpoint, was changed.'
  ),
  (
    'a changed digest', 'update keylatch_internal.key_event_checkpoints set digest = sha256(''x'')
    where number = 4',
    'f 3 2100 0 4 An event, or the checkpoint, was changed.'
  ),
  (
    'a deleted checkpoint',
    'delete from keylatch_internal.key_event_checkpoints where number = 2',
    'f 1 1000 0 2 The checkpoint is missing.'
  ),
  (
    'a deleted chain end', 'delete from keylatch_internal.key_event_checkpoints where number = 4',
    'f 3 2100 0 4 The checkpoint of sealed events is missing.'
  ),
  (
    'a first checkpoint that was sealed again',
    'update keylatch_internal.key_events set role = ''x'' where checkpoint = 1;
    update keylatch_internal.key_event_checkpoints set digest = d.digest
    from keylatch_internal.digest_events(1, '''') as d where number = 1',
    'f 1 1000 0 2 The checkpoint does not contain the digest of the previous checkpoint.'
  ),
  (
    'an event in a checkpoint before the first',
    'update keylatch_internal.key_events set checkpoint = 0 where checkpoint = 4;
    delete from keylatch_internal.key_event_checkpoints where number = 4',
    'f 3 2100 0 4 The checkpoint of sealed events is missing.'
  ),
  (
    'a checkpoint marked as archived, with changed events',
    'update keylatch_internal.key_event_checkpoints set archived_at = now() where number = 1;
    update keylatch_internal.key_events set role = ''x'' where checkpoint = 1',
    'f 0 0 0 1 An event, or the checkpoint, was changed.'
  ),
  (
    'a checkpoint with archived events',
    'update keylatch_internal.key_event_checkpoints set archived_at = now() where number = 1;
    delete from keylatch_internal.key_events where checkpoint = 1',
    't 4 1400 0'
  )
) as v (what, statement, outcome);
select is(
  (
    select concat_ws(' ', v.is_intact, v.broken_checkpoint, v.next_checkpoint)
    from keylatch.verify_events(2, 1) as v
  ),
  't 3', 'verifying can continue after a broken checkpoint'
);

-- No setting of the caller changes a digest.
create function pg_temp.verified_with(p_setting text, p_value text) returns text language plpgsql as
$$
begin
  perform set_config(p_setting, p_value, true);
  return (select concat_ws(' ', v.is_intact, v.digest) from keylatch.verify_events() as v);
end
$$;
create temporary table digest as
select concat_ws(' ', v.is_intact, v.digest) as was from keylatch.verify_events() as v;
select is(
  pg_temp.verified_with(v.setting, v.value), (select d.was from digest as d),
  format('verified with %s = %s', v.setting, v.value)
)
from (values
  ('timezone', 'Asia/Kathmandu'), ('datestyle', 'Postgres, DMY'), ('extra_float_digits', '-15'),
  ('bytea_output', 'escape')
) as v (setting, value);

select * from finish();
rollback;
