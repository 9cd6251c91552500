-- Use of keys: services report sums, the admins of the workspace read them, and no report affects
-- another report or shows anything.
begin;
\ir ../people.psql
select plan(88);

select pg_temp.make('used'), pg_temp.make('other');

-- In a report, USED and OTHER stand for the keys, NOW and BEFORE for now and two days ago.
create function pg_temp.batch(p_report text) returns text language sql as $$
  select replace(replace(replace(replace(p_report,
    'USED', pg_temp.id('used')::text), 'OTHER', pg_temp.id('other')::text),
    'NOW', to_char(now(), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
    'BEFORE', to_char(now() - interval '2 days', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
$$;
create function pg_temp.report(p_report text) returns text language sql as $$
  select pg_temp.run('keylatch_resolver', format(
    'select again::text from keylatch.record_usage(%L)', pg_temp.batch(p_report)
  ))
$$;
create function pg_temp.tell(p_report text) returns void language plpgsql as
$$ begin perform pg_temp.report(p_report); end $$;
create function pg_temp.uses(p_name text) returns text language sql as $$
  select u.uses || ' ' || date_trunc('second', now() - u.last_used_at)
  from keylatch.key_usage as u where u.key_id = pg_temp.id(p_name)
$$;
create function pg_temp.days(p_name text) returns text language sql as $$
  select string_agg(d.uses || '@' || (now()::date - d.used_on), ' ' order by d.used_on desc)
  from keylatch.key_usage_days as d where d.key_id = pg_temp.id(p_name)
$$;
create function pg_temp.refusals(p_name text) returns text language sql as $$
  select string_agg(r.verdict || ' ' || r.refusals || '@' || (now()::date - r.refused_on), ', '
    order by r.refused_on desc, r.verdict)
  from keylatch.key_refusals as r where r.key_id = pg_temp.id(p_name)
$$;

-- Sums.

select is(
  pg_temp.report('{"USED": {"uses": 3, "last_used_at": "NOW"}}'), '{}', 'no key to report again'
);
select is(pg_temp.uses('used'), '3 00:00:00', 'a report is stored');
select is(pg_temp.report('{"USED": {"uses": 4, "last_used_at": "BEFORE"}}'), '{}', 'a late report');
select is(pg_temp.uses('used'), '7 00:00:00', 'a late report adds up, and no time moves back');
select is(pg_temp.days('used'), '3@0 4@2', 'each report counts for its own day');
select pg_temp.tell('{"USED": {"uses": 1, "last_used_at": "2999-12-31T00:00:00Z"}}');
select is(pg_temp.days('used'), '4@0 4@2', 'a time of tomorrow is stored as now');
select pg_temp.tell('{"USED": {"uses": 1}}');
select is(pg_temp.days('used'), '5@0 4@2', 'without a time, the uses are of now');
select is(
  pg_temp.uses('used')::text, '9 00:00:00', 'the last use is never in the future'
);
select is(
  pg_temp.report(
    '{"USED": {"uses": 10, "last_used_at": "NOW"}, "' || upper(pg_temp.id('used')::text)
    || '": {"uses": 100, "last_used_at": "BEFORE", "refusals": {"revoked": 1}}}'
  ),
  '{}', 'one id in two spellings is one key'
);
select is(pg_temp.uses('used'), '119 00:00:00', 'both spellings count as uses of the key');
select is(pg_temp.refusals('used'), 'revoked 1@2', 'both spellings count as refusals of the key');
select is(
  pg_temp.report('{"00000000-0000-4000-8000-000000000000": {"uses": 1}}'), '{}',
  'an unknown id is ignored'
);
select is((select count(*)::integer from keylatch_internal.key_usage), 1, 'an unknown id: no row');
select is(pg_temp.report('{}'), '{}', 'an empty report changes nothing');

-- Refusals.

select pg_temp.tell(
  '{"OTHER": {"refusals": {"origin_denied": 2, "expired": 1}, "last_used_at": "BEFORE"}}'
);
select pg_temp.tell('{"OTHER": {"refusals": {"origin_denied": 5}}}');
select pg_temp.tell('{"OTHER": {"refusals": {"origin_denied": 5}}}');
select is(
  pg_temp.refusals('other'), 'origin_denied 10@0, expired 1@2, origin_denied 2@2',
  'refusals add up by day and reason'
);
select is(pg_temp.uses('other'), null, 'refusals are not uses');
select is(pg_temp.days('other'), null, 'refusals make no day of use');
select pg_temp.tell('{"OTHER": {"uses": 2, "refusals": {"suspended": 1}, "last_used_at": "NOW"}}');
select is(pg_temp.uses('other') || ', ' || pg_temp.days('other'), '2 00:00:00, 2@0',
  'one entry may have uses');
select is(
  pg_temp.refusals('other'),
  'origin_denied 10@0, suspended 1@0, expired 1@2, origin_denied 2@2', 'and refusals'
);
select is(
  pg_temp.outcome('keylatch_resolver', format('select keylatch.record_usage(%L)', pg_temp.batch(
    '{"USED": {"refusals": {"' || v.verdict || '": 1}}}'
  ))),
  v.outcome, 'a refusal may be ' || v.verdict || ': ' || v.outcome
)
from (values
  ('revoked', '1 row'), ('expired', '1 row'), ('suspended', '1 row'),
  ('secret_in_browser', '1 row'), ('origin_required', '1 row'), ('origin_denied', '1 row'),
  ('valid', 'PT400 invalid_argument'), ('unknown', 'PT400 invalid_argument'),
  ('malformed', 'PT400 invalid_argument'), ('', 'PT400 invalid_argument')
) as v (verdict, outcome);

-- An invalid report is refused as a whole, with the same words for every fault.

create temporary table bad (report text) on commit drop;
insert into bad values
('null'), ('[]'), ('"USED"'), ('1'), ('{"x": {"uses": 1}}'), ('{"": {"uses": 1}}'),
('{"USED": null}'), ('{"USED": 1}'), ('{"USED": []}'), ('{"USED": {}}'),
('{"USED": {"uses": 0}}'), ('{"USED": {"uses": -1}}'), ('{"USED": {"uses": 1.5}}'),
('{"USED": {"uses": 1e30}}'), ('{"USED": {"uses": 1e5000}}'), ('{"USED": {"uses": "many"}}'),
('{"USED": {"uses": "1"}}'), ('{"USED": {"uses": null}}'), ('{"USED": {"uses": [1]}}'),
('{"USED": {"uses": 1000000001}}'), ('{"USED": {"refusals": {}}}'),
('{"USED": {"refusals": []}}'), ('{"USED": {"refusals": "revoked"}}'),
('{"USED": {"refusals": {"revoked": 0}}}'), ('{"USED": {"refusals": {"revoked": "1"}}}'),
('{"USED": {"uses": 1, "refusals": {"revoked": null}}}'),
('{"USED": {"uses": 1, "last_used_at": "now"}}'),
('{"USED": {"uses": 1, "last_used_at": "tomorrow"}}'),
('{"USED": {"uses": 1, "last_used_at": "allballs"}}'),
('{"USED": {"uses": 1, "last_used_at": "infinity"}}'),
('{"USED": {"uses": 1, "last_used_at": "-infinity"}}'),
('{"USED": {"uses": 1, "last_used_at": ""}}'),
('{"USED": {"uses": 1, "last_used_at": 1700000000}}'),
('{"USED": {"uses": 1, "last_used_at": "2001-01-01T00:00:00Z"}}'),
('{"USED": {"uses": 1, "last_used_at": "2999-02-31T00:00:00Z"}}'),
('{"USED": {"uses": 1, "last_used_at": "2999-01-01T25:00:00Z"}}'),
('{"USED": {"uses": 1, "last_used_at": "2999-01-01T00:00:00"}}'),
('{"USED": {"uses": 1, "last_used_at": "2999-01-01"}}'),
('{"USED": {"uses": 1, "last_used_at": "2999-01-01T00:00:00 Europe/Berlin"}}'),
('{"USED": {"uses": 1, "last_used_at": "2999-01-01T00:00:00+99"}}');
insert into bad select format('{%s}', string_agg(format('"%s": {"uses": 1}', gen_random_uuid()), ','))
from generate_series(1, 10001);

select is(
  pg_temp.outcome(
    'keylatch_resolver', format('select keylatch.record_usage(%L)', pg_temp.batch(b.report))
  ),
  'PT400 invalid_argument', 'refused: ' || left(b.report, 80)
)
from bad as b;
select is(
  pg_temp.outcome('keylatch_resolver', 'select keylatch.record_usage(null)'),
  'PT400 invalid_argument', 'refused: no report at all'
);
select is(
  (
    select count(distinct pg_temp.words(
      'keylatch_resolver', format('select keylatch.record_usage(%L)', pg_temp.batch(b.report))
    ))::integer
    from bad as b
  ),
  1, 'the words of a refusal quote no value'
);
select is(
  pg_temp.outcome('keylatch_resolver', format('select keylatch.record_usage(%L)', pg_temp.batch(
    '{"OTHER": {"uses": 7}, "USED": {"uses": 1, "last_used_at": "now"}}'
  ))) || ', ' || pg_temp.uses('other'),
  'PT400 invalid_argument, 2 00:00:00', 'the other entries beside a bad entry are not counted'
);

-- Who may do what.

select is(
  pg_temp.outcome(w.who, 'select keylatch.record_usage(''{}'')'), w.outcome,
  w.who || ' reports: ' || w.outcome
)
from (values
  ('anon', '42501'), ('stranger', '42501'), ('mia', '42501'), ('alice', '42501'),
  ('service_role', '1 row'), ('keylatch_resolver', '1 row')
) as w (who, outcome);
select is(
  (
    select string_agg(pg_temp.outcome(w.who, 'select * from keylatch.' || v.name), ' '
      order by v.name)
    from unnest(array['key_refusals', 'key_usage', 'key_usage_days']) as v (name)
  ),
  w.outcome, w.who || ' reads refusals, use and days: ' || w.outcome
)
from (values
  ('anon', '42501 42501 42501'), ('keylatch_resolver', '42501 42501 42501'),
  ('stranger', '0 rows 0 rows 0 rows'), ('mia', '0 rows 0 rows 0 rows'),
  ('bob', '0 rows 0 rows 0 rows'), ('alice', '5 rows 2 rows 3 rows')
) as w (who, outcome);
select is(
  pg_temp.outcome(w.who, 'update keylatch_internal.key_usage set uses = 0'), '42501',
  w.who || ' changes no sum'
)
from (values ('alice'), ('service_role'), ('keylatch_resolver')) as w (who);

select * from finish();
rollback;
