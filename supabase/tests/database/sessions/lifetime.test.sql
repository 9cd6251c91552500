-- How long a session lasts: its lifetime, its absolute end, and who may set the lifetime.
begin;
\ir ../people.psql
\ir visitors.psql
select plan(69);

create function pg_temp.set_lifetime(p_lifetime text, p_who text default 'alice')
returns text language sql as
$$ select pg_temp.outcome(p_who, format(
  'insert into keylatch.session_settings (workspace_id, lifetime) values (%L, %L)',
  pg_temp.a(), p_lifetime
)) $$;

-- From 1 minute to 90 days, compared as time, not as an interval.

select is(pg_temp.set_lifetime(v.lifetime), v.outcome, format('a lifetime of %s', v.lifetime))
from (values
  ('1 minute', '1 row'),
  ('90 days', '1 row'),
  ('2160 hours', '1 row'),
  ('1 month -1 day', '1 row'),
  ('59.999 s', 'PT400 invalid_argument'),
  ('0', 'PT400 invalid_argument'),
  ('-1 day', 'PT400 invalid_argument'),
  ('90 days 1 s', 'PT400 invalid_argument'),
  ('4 months', 'PT400 invalid_argument'),
  ('120000 months -3599950 days', 'PT400 invalid_argument'),
  ('-12000 months 360050 days', 'PT400 invalid_argument'),
  ('178000000 years', 'PT400 invalid_argument'),
  ('-178000000 years', 'PT400 invalid_argument'),
  (null, 'PT400 invalid_argument')
) as v (lifetime, outcome);
insert into keylatch.session_settings (workspace_id) values (pg_temp.b());
select is(
  pg_temp.outcome('bob', format('update keylatch.session_settings set lifetime = %L', v.lifetime)),
  'PT400 invalid_argument', format('and by PATCH, of %s', v.lifetime)
)
from (values ('91 days'), ('120000 months -3599950 days'), (null)) as v (lifetime);
select is(
  pg_temp.words('alice', format(
    'insert into keylatch.session_settings values (%L, ''1 s'')', pg_temp.a()
  )),
  'lifetime must be from 1 minute to 90 days. Pass for example "8 hours".',
  'the words of the refusal'
);

-- No setting of the caller changes the stored value.

create function pg_temp.kept_in(p_zone text) returns numeric language plpgsql as
$$
begin
  perform set_config('timezone', p_zone, true);
  return pg_temp.run('alice', format(
    'insert into keylatch.session_settings values (%L, %L) on conflict (workspace_id) do update'
    || ' set lifetime = excluded.lifetime returning extract(epoch from lifetime) / 3600',
    pg_temp.a(), '89 days'
  ));
end
$$;
select is(pg_temp.kept_in(v.zone), 89 * 24.0, format('89 days in %s', v.zone))
from (values
  ('UTC'), ('Pacific/Apia'),
  -- The clocks of this time zone change in a few days, and again in half a year.
  (format(
    'AAA0BBB,J%s,J%s',
    (extract(doy from now())::integer + 2) % 365 + 1, (extract(doy from now())::integer + 180) % 365 + 1
  ))
) as v (zone);
set local timezone = 'UTC';
select is(
  (select extract(month from s.lifetime) + extract(day from s.lifetime) from keylatch.session_settings as s
    where s.workspace_id = pg_temp.a()),
  0::numeric, 'a lifetime is stored in hours'
);

-- Who may write and read the settings.

delete from keylatch.session_settings;
select is(pg_temp.set_lifetime('1 hour', v.who), v.outcome, format('%s sets it', v.who))
from (values
  ('alice', '1 row'), ('service_role', '1 row'), ('bob', '42501'), ('mia', '42501'),
  ('stranger', '42501'), ('anon', '42501'), ('keylatch_resolver', '42501')
) as v (who, outcome);
insert into keylatch.session_settings values (pg_temp.a(), '1 hour');
select is(
  pg_temp.outcome(v.who, v.statement), v.outcome, format('%s: %s', v.who, v.statement)
)
from (values
  ('alice', 'select from keylatch.session_settings', '1 row'),
  ('bob', 'select from keylatch.session_settings', '0 rows'),
  ('mia', 'select from keylatch.session_settings', '0 rows'),
  ('anon', 'select from keylatch.session_settings', '42501'),
  ('alice', 'update keylatch.session_settings set lifetime = ''2 hours''', '1 row'),
  ('bob', 'update keylatch.session_settings set lifetime = ''2 hours''', '0 rows'),
  ('mia', 'update keylatch.session_settings set lifetime = ''2 hours''', '0 rows'),
  ('alice', 'delete from keylatch.session_settings', '42501'),
  ('service_role', 'delete from keylatch.session_settings', '42501')
) as v (who, statement, outcome);
select is(
  pg_temp.outcome('alice', format(
    'update keylatch.session_settings set workspace_id = %L', pg_temp.b()
  )),
  '42501', 'alice cannot move settings to another workspace'
);

-- What the lifetime does.

create function pg_temp.lasts(p_name text) returns numeric language sql as
$$
  select round(extract(epoch from s.expires_at - clock_timestamp()) / 60)
  from keylatch_internal.sessions as s
  where s.token_hash = sha256(convert_to(pg_temp.token(p_name), 'UTF8'))
$$;
create function pg_temp.age(p_name text, p_age interval, p_left interval) returns void
language sql as
$$
  update keylatch_internal.sessions as s
  set created_at = clock_timestamp() - p_age, expires_at = clock_timestamp() + p_left
  where s.token_hash = sha256(convert_to(pg_temp.token(p_name), 'UTF8'))
$$;

select pg_temp.keep('an hour');
select is(pg_temp.lasts('an hour'), 60.0, 'a session lasts its lifetime');
delete from keylatch.session_settings;
select pg_temp.keep('a day');
select is(pg_temp.lasts('a day'), 24 * 60.0, 'the default lifetime is a day');
select pg_temp.age('a day', '23 hours', '1 hour');
select is(pg_temp.resolved('a day'), 1::bigint, 'a session that is about to expire');
select is(pg_temp.lasts('a day'), 60.0, 'resolving alone does not extend a session');
select is(
  (
    select round(extract(epoch from r.expires_at - clock_timestamp()) / 60)
    from keylatch.resolve_session(pg_temp.token('a day'), true) as r
  ),
  24 * 60.0, 'with extend, a session lasts a day again'
);
select is(pg_temp.lasts('a day'), 24 * 60.0, 'the table has the new expiry');
select pg_temp.age('a day', '1 hour', '30 days');
select is(
  (select count(*) from keylatch.resolve_session(pg_temp.token('a day'), true)), 1::bigint,
  'an extension'
);
select is(pg_temp.lasts('a day'), 30 * 24 * 60.0, 'shortens nothing');
select pg_temp.age('a day', '2159 hours', '10 minutes');
select is(
  (select count(*) from keylatch.resolve_session(pg_temp.token('a day'), true)), 1::bigint,
  'an hour before 90 days have passed'
);
select is(pg_temp.lasts('a day'), 60.0, 'an extension ends at 90 days');
select pg_temp.age('a day', '2160 hours', '-1 s');
select is(
  (select count(*) from keylatch.resolve_session(pg_temp.token('a day'), true)), 0::bigint,
  'an expired session is not extended'
);
select pg_temp.age('an hour', '1 hour', '500 ms');
select is(
  pg_temp.outcome('keylatch_resolver', format(
    'select keylatch.resolve_session(%L, true); %s; set constraints all immediate',
    pg_temp.token('an hour'), v.meanwhile
  )),
  v.outcome, format('an extension, then %s, then the commit', v.meanwhile)
)
from (values
  ('select', '0 rows'), ('select pg_sleep(0.5)', 'PT404 session_not_found')
) as v (meanwhile, outcome);
select pg_temp.age('an hour', '1 hour', '1 hour');

-- The check of a subject, and of a batch.

select is(
  pg_temp.outcome('keylatch_resolver', format(
    'select keylatch.attach_subject(%L, %L)', pg_temp.token('an hour'), v.subject
  )),
  v.outcome, format('a subject %L', replace(left(v.subject, 10), e'\n', 'n'))
)
from (values
  ('x', '1 row'), (repeat('x', 200), '1 row'), (repeat('x', 201), 'PT400 invalid_argument'),
  ('', 'PT400 invalid_argument'), (e'a\nb', 'PT400 invalid_argument'), (null, 'PT400 invalid_argument')
) as v (subject, outcome);
select is(
  pg_temp.outcome('service_role', format('select keylatch.prune_sessions(%L)', v.batch)),
  v.outcome, format('a batch of %L', v.batch)
)
from (values
  (1, '1 row'), (100000, '1 row'), (0, 'PT400 invalid_argument'), (100001, 'PT400 invalid_argument'),
  (null, 'PT400 invalid_argument')
) as v (batch, outcome);

-- The functions that the calls use have the same bounds, because SQL reaches them, too.
select is(
  pg_temp.outcome(v.who, replace(v.statement, '$1', quote_literal(pg_temp.token('an hour')))),
  'PT400 invalid_argument', v.statement
)
from (values
  ('keylatch_resolver', 'select keylatch_internal.change_session($1, ''attach'', repeat(''x'', 201))'),
  ('keylatch_resolver', 'select keylatch_internal.change_session($1, ''attach'', null)'),
  ('keylatch_resolver', 'select keylatch_internal.change_session($1, ''extend'', '''')'),
  ('keylatch_resolver', 'select keylatch_internal.change_session($1, ''close'', e''a\nb'')'),
  ('service_role', 'select keylatch_internal.delete_old_sessions(100001)'),
  ('service_role', 'select keylatch_internal.delete_old_sessions(null)')
) as v (who, statement);

select * from finish();
rollback;
