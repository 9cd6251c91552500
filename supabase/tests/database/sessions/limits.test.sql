-- How many sessions a key opens in a minute, and what counts as one address.
begin;
\ir ../people.psql
\ir visitors.psql
select plan(59);

create function pg_temp.limit_to(p_assignment text) returns void language plpgsql as
$$ begin execute 'update keylatch_internal.session_limits set ' || p_assignment; end $$;
-- Makes this number of sessions of the page's key at this distance, and deletes all others.
create function pg_temp.taken(p_count integer, p_age interval) returns void language sql as
$$
  delete from keylatch_internal.sessions;
  insert into keylatch_internal.sessions (
    token_hash, workspace_id, key_id, origin, created_at, expires_at
  )
  select sha256(convert_to(n::text, 'UTF8')), pg_temp.a(), pg_temp.id('page'), 'https://a.example',
    clock_timestamp() - p_age, clock_timestamp() + interval '1 day'
  from generate_series(1, p_count) as n;
$$;

-- The limit of a key, over the last minute.

select pg_temp.limit_to('sessions_per_minute = 3');
create function pg_temp.open_after(p_count integer, p_age interval) returns text
language plpgsql as
$$
begin
  perform pg_temp.taken(p_count, p_age);
  return pg_temp.open(pg_temp.key('page'));
end
$$;
select is(
  pg_temp.open_after(v.n, v.age::interval), v.outcome,
  format('after %s sessions, %s ago', v.n, v.age)
)
from (values
  (0, '0 s', '1 row'),
  (2, '1 s', '1 row'),
  (3, '1 s', 'PT429 too_many_requests'),
  (900, '1 s', 'PT429 too_many_requests'),
  (3, '30 s', 'PT429 too_many_requests'),
  (3, '60 s', '1 row'),
  (900, '61 s', '1 row'),
  -- Rows of a wrong clock.
  (900, '-1 minute', '1 row'),
  (900, '-365 days', '1 row')
) as v (n, age, outcome);
select pg_temp.taken(3, '20 s');
select matches(
  pg_temp.words('anon', format('select keylatch.open_session(%L)', pg_temp.key('page'))),
  '^The key opened 3 sessions in the last minute. Try again in (3[0-9]|40) s. '
  || 'Wait for the number of seconds in Retry-After.*#too_many_requests$',
  'the refusal says when the next session is allowed'
);
select pg_temp.make('other page', $$ 'publishable', allowed_origins => '{https://a.example}' $$);
select is(pg_temp.open(pg_temp.key('other page')), '1 row', 'another key has its own limit');
select is(
  pg_temp.open(pg_temp.key('page') || 'x'), 'PT401 session_refused', 'a wrong key is not counted'
);
select pg_temp.taken(2, '1 s');
select pg_temp.keep('last');
select is(
  pg_temp.open(pg_temp.key('page')), 'PT429 too_many_requests',
  'sessions of the same transaction count'
);

-- Without the row, the default limits apply.

delete from keylatch_internal.session_limits;
select pg_temp.taken(599, '1 s');
select is(pg_temp.open(pg_temp.key('page')), '1 row', 'the 600th session is allowed');
select pg_temp.taken(600, '1 s');
select is(
  pg_temp.open(pg_temp.key('page')), 'PT429 too_many_requests', 'the 601st session is refused'
);
insert into keylatch_internal.session_limits default values;
select results_eq(
  'select sessions_per_minute, sessions_per_address, trusted_address_header
   from keylatch_internal.session_limits',
  $$ values (600::bigint, 30::bigint, null::text) $$, 'the row of a new installation says the same'
);

-- The limit of an address, by the trusted header.

select pg_temp.taken(0, '0 s');
select is(
  pg_temp.open(pg_temp.key('page'), 'https://a.example', '203.0.113.7'), '1 row',
  'without a trusted header, addresses do not count'
)
from generate_series(1, 2);
select pg_temp.limit_to($$ sessions_per_address = 2, trusted_address_header = 'x-real-ip' $$);
select pg_temp.keep(a.name, 'page', a.address)
from (values
  ('v4', '203.0.113.7'), ('v4 with its port', '203.0.113.7:5678'),
  ('v6', '2001:db8::1'), ('v6 with its port', '[2001:db8::2]:443'),
  ('nonsense', 'nonsense'), ('none', null)
) as a (name, address);
select is(
  pg_temp.open(pg_temp.key('page'), 'https://a.example', a.address),
  case when a.is_full then 'PT429 too_many_requests' else '1 row' end,
  format('from %s', a.address)
)
from (values
  ('203.0.113.7', true),
  ('::ffff:203.0.113.7', true),
  ('64:ff9b::203.0.113.7', true),
  ('[::ffff:203.0.113.7]:443', true),
  ('198.51.100.1, 203.0.113.7', true),
  ('203.0.113.7, 198.51.100.1', false),
  ('::ffff:203.0.113.8', false),
  ('2001:db8::ffff:1', true),
  ('2001:db8:0:1::1', false),
  ('1.2', true)
) as a (address, is_full);
select is(
  pg_temp.open(pg_temp.key('other page'), 'https://a.example', '203.0.113.7'), '1 row',
  'the same address has its own limit for another key'
);
select pg_temp.send('{"origin": "https://a.example", "x-real-ip": "203.0.113.7"}');
select matches(
  pg_temp.words('anon', format('select keylatch.open_session(%L)', pg_temp.key('page'))),
  '^The key opened 2 sessions for this address in the last minute. Try again in ([45][0-9]|60) s. ',
  'the refusal names the address limit'
);

select is(keylatch_internal.limited_address(a.given), a.counted, format('%L counts as %s', a.given, a.counted))
from (values
  ('203.0.113.7', '203.0.113.7'),
  ('203.0.113.7:80', '203.0.113.7'),
  ('::ffff:203.0.113.7', '203.0.113.7'),
  ('::FFFF:CB00:7107', '203.0.113.7'),
  ('64:ff9b::cb00:7107', '203.0.113.7'),
  ('64:ff9b:1::1', '64:ff9b:1::/64'),
  ('::1', '::/64'),
  ('2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'),
  ('[2001:db8:1:2::1]', '2001:db8:1:2::/64'),
  ('[2001:db8:1:2::1]:65535', '2001:db8:1:2::/64'),
  ('203.0.113.7/8', '203.0.113.7'),
  ('203.0.113', 'unknown'),
  ('203.0.113.256', 'unknown'),
  ('203.0.113.7:', 'unknown'),
  (':::', 'unknown'),
  ('[::1', 'unknown'),
  (''' or 1', 'unknown'),
  ('', 'unknown'),
  (null, 'unknown')
) as a (given, counted);

-- Only the owner may read or change the limits.

select is(
  array(
    select r.rolname || ' ' || p.privilege
    from (values
      ('anon'), ('authenticated'), ('service_role'), ('keylatch_resolver')
    ) as r (rolname)
    cross join (values
      ('select'), ('insert'), ('update'), ('delete'), ('truncate'), ('references'), ('trigger')
    ) as p (privilege)
    where has_table_privilege(r.rolname, 'keylatch_internal.session_limits', p.privilege)
  ),
  '{}'::text[], 'no role has a privilege on the limits'
);
select is(
  pg_temp.outcome(v.role, format(
    'select keylatch_internal.count_session(%L, now())', pg_temp.id('page')
  )),
  '42501', format('%s cannot call the functions that count', v.role)
)
from (values ('anon'), ('alice'), ('service_role'), ('keylatch_resolver')) as v (role);

-- A closed or ended session still counts for a minute, and is pruned afterwards.

select pg_temp.limit_to('sessions_per_minute = 2, trusted_address_header = null');
select pg_temp.taken(0, '0 s');
select pg_temp.keep(v.name) from (values ('closed'), ('ended')) as v (name);
select keylatch.close_session(pg_temp.token('closed'));
select pg_temp.run('alice', 'delete from keylatch.sessions returning ''deleted''');
select is(
  pg_temp.resolved('closed') + pg_temp.resolved('ended'), 0::bigint, 'two sessions have ended'
);
select is((keylatch.prune_sessions()).pruned, 0, 'ended sessions are kept for a minute');
select is(
  pg_temp.open(pg_temp.key('page')), 'PT429 too_many_requests', 'ended sessions count for a minute'
);
update keylatch_internal.sessions set created_at = created_at - interval '1 minute';
select is((keylatch.prune_sessions()).pruned, 2, 'after a minute, ended sessions are pruned');
select is(
  pg_temp.open(pg_temp.key('page')), '1 row', 'after a minute, the key opens sessions again'
);

select * from finish();
rollback;
