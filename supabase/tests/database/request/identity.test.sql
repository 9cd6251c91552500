-- The key of a request as an identity: its workspace, or an error, but never another identity.
begin;
\ir ../people.psql
select plan(87);

create function pg_temp.send(p_headers text) returns text language sql as
$$ select set_config('request.headers', p_headers, true) $$;
create function pg_temp.headers(p_name text, p_origin text) returns text language sql as
$$ select json_strip_nulls(json_build_object(
  'host', 'db.example', 'x-api-key', pg_temp.key(p_name), 'origin', p_origin
))::text $$;
-- What each function returns to this role, or the first error.
create function pg_temp.identity(p_role text, p_headers text default null)
returns text language plpgsql as
$$
declare
  v_outcome text;
begin
  perform pg_temp.send(p_headers) where p_headers is not null;
  v_outcome := pg_temp.outcome(p_role, 'select keylatch.current_workspace_id()');
  return case
    when v_outcome <> '1 row' then v_outcome
    else pg_temp.run(p_role, $i$ select concat_ws(' ',
      coalesce(keylatch.current_workspace_id()::text, 'nobody'), keylatch.current_key_id(),
      keylatch.has_scope('orders:read'), keylatch.key_metadata(), keylatch.check_request()
    ) $i$)
  end;
end
$$;

select pg_temp.make(
  'page',
  $$ 'publishable', allowed_origins => '{https://a.example,https://*.b.example}',
  scopes => '{orders:read}', metadata => '{"plan": "pro"}' $$
);
select pg_temp.make('server', $$ 'secret', scopes => '{orders:*,a_b}' $$);
select pg_temp.make('suspended');
select pg_temp.manage('suspend_key', 'suspended');
select pg_temp.make('revoked');
select pg_temp.manage('revoke_key', 'revoked');
select pg_temp.make('graced');
select pg_temp.make('heir', null, 'keylatch.rotate_key(pg_temp.id(''graced''), ''1 hour'')');
select pg_temp.make('expiring', '''secret'', expires_at => clock_timestamp() + ''3 s''');
insert into made (name, key)
values
('mistyped', left(pg_temp.key('server'), -1) || '!'),
('unknown', keylatch_internal.complete_key('wk_sk_live_')),
('hash', encode(keylatch.hash_key(pg_temp.key('server')), 'hex')),
('spaced', pg_temp.key('server') || ' '),
('empty', ''),
('huge', repeat('x', 100000)),
('joined', pg_temp.key('server') || ', ' || pg_temp.key('server')),
('listed', pg_temp.key('server') || ',' || pg_temp.key('page')),
('none', null);

-- Without a header there is no identity and no error. After a transaction the setting is empty.

select is(
  pg_temp.identity(v.role), 'nobody f t', format('%s without headers has no identity', v.role)
)
from (values ('anon'), ('authenticated'), ('service_role'), ('alice')) as v (role);
select is(
  pg_temp.identity('anon', v.headers), 'nobody f t', format('no identity with %L', v.headers)
)
from (values (''), ('{}'), ('{"host": "db.example"}'), ('[]'), ('null')) as v (headers);

-- On each line: the key, the Origin, and the identity.

select is(
  pg_temp.identity('anon', pg_temp.headers(v.name, v.origin)),
  case v.who
    when 'page' then format('%s %s t {"plan": "pro"} t', pg_temp.a(), pg_temp.id('page'))
    when 'refused' then 'PT401 invalid_api_key'
    when 'nobody' then 'nobody f t'
    else format('%s %s f {} t', pg_temp.a(), pg_temp.id(v.who))
  end,
  format('%s from %s is %s', v.name, coalesce(v.origin, 'no origin'), v.who)
)
from (values
  ('server', null, 'server'),
  ('server', 'https://a.example', 'refused'),
  ('server', '', 'refused'),
  ('server', 'null', 'refused'),
  ('page', 'https://a.example', 'page'),
  ('page', 'https://x.b.example', 'page'),
  ('page', null, 'refused'),
  ('page', '', 'refused'),
  ('page', 'null', 'refused'),
  ('page', 'https://b.example', 'refused'),
  ('page', 'https://a.example.evil.example', 'refused'),
  ('graced', null, 'graced'),
  ('heir', null, 'heir'),
  ('suspended', null, 'refused'),
  ('revoked', null, 'refused'),
  ('mistyped', null, 'refused'),
  ('unknown', null, 'refused'),
  ('hash', null, 'refused'),
  ('spaced', null, 'refused'),
  ('empty', null, 'refused'),
  ('huge', null, 'refused'),
  ('joined', null, 'refused'),
  ('listed', null, 'refused'),
  ('listed', 'https://a.example', 'refused'),
  ('none', null, 'nobody'),
  ('none', 'https://a.example', 'nobody')
) as v (name, origin, who);

-- The other roles. A user's token and a key are two identities. The backend's token is none.

select pg_temp.send(pg_temp.headers('server', null));
select is(pg_temp.identity(v.role), v.who, format('%s with a key', v.role))
from (values
  ('authenticated', format('%s %s f {} t', pg_temp.a(), pg_temp.id('server'))),
  ('service_role', format('%s %s f {} t', pg_temp.a(), pg_temp.id('server'))),
  ('alice', 'PT400 invalid_argument'),
  ('bob', 'PT400 invalid_argument'),
  ('stranger', 'PT400 invalid_argument')
) as v (role, who);
select pg_temp.send(pg_temp.headers('revoked', null));
select is(pg_temp.identity(v.role), v.who, format('%s with an inactive key', v.role))
from (values
  ('authenticated', 'PT401 invalid_api_key'),
  ('service_role', 'PT401 invalid_api_key'),
  ('alice', 'PT400 invalid_argument')
) as v (role, who);
select is(
  pg_temp.outcome('keylatch_resolver', 'select keylatch.check_request()'), 'PT401 invalid_api_key',
  'check_request works for the resolver, too, as a db-pre-request'
);
select is(
  pg_temp.outcome('keylatch_resolver', format('select keylatch.%s', v.call)), '42501',
  format('the resolver has no use for %s', v.call)
)
from (values
  ('current_workspace_id()'), ('current_key_id()'), ('has_scope(''x'')'), ('key_metadata()')
) as v (call);

-- A token with a subject is a user, whatever role it has.

select pg_temp.send(pg_temp.headers('server', null));
create function pg_temp.claiming(p_claims text) returns text language plpgsql as
$$
begin
  perform set_config('request.jwt.claims', p_claims, true);
  return pg_temp.outcome('anon', 'select keylatch.check_request()');
end
$$;
select is(pg_temp.claiming(v.claims), v.outcome, format('a key beside the claims %s', v.claims))
from (values
  ('{"role": "anon", "sub": "a11ce000-0000-4000-8000-000000000001"}', 'PT400 invalid_argument'),
  ('{"role": "anon", "sub": "somebody"}', 'PT400 invalid_argument'),
  ('{"sub": ""}', 'PT400 invalid_argument'),
  ('{"role": "service_role", "sub": "somebody"}', 'PT400 invalid_argument'),
  ('{"role": "anon", "sub": null}', '1 row'),
  ('{"role": "anon"}', '1 row'),
  ('', '1 row')
) as v (claims, outcome);
select set_config('request.jwt.claims', '', true);
select is(
  pg_temp.outcome('anon', 'select keylatch.check_request()'), 'PT400 invalid_argument',
  'a key beside a subject in the setting of older PostgREST releases'
)
from set_config('request.jwt.claim.sub', 'somebody', true);
select set_config('request.jwt.claim.sub', '', true);
select pg_temp.send(pg_temp.headers('revoked', null));

-- Every function refuses, not only the first.

select is(
  pg_temp.outcome('anon', format('select keylatch.%s', v.call)), 'PT401 invalid_api_key',
  format('%s refuses an inactive key', v.call)
)
from (values
  ('current_workspace_id()'), ('current_key_id()'), ('has_scope(''x'')'), ('has_scope(null)'),
  ('key_metadata()'), ('check_request()')
) as v (call);
select is(
  pg_temp.words('anon', 'select keylatch.check_request()'),
  'The x-api-key of this request is mistyped, not active, or not for this origin. '
  || 'Ask an admin of the workspace to call explain_key. See sql/docs/errors.md#invalid_api_key',
  'the refusal does not tell the reason'
);

-- Scopes are words, compared letter for letter.

select pg_temp.send(pg_temp.headers('server', null));
select is(
  pg_temp.run('anon', format('select keylatch.has_scope(%L)', v.scope)), v.has,
  format('has_scope(%L) is %s', v.scope, v.has)
)
from (values
  ('orders:*', 'true'), ('orders:read', 'false'), ('orders:', 'false'), ('*', 'false'),
  ('', 'false'), ('ORDERS:*', 'false'), ('a_b', 'true'), ('axb', 'false'), (null, 'false')
) as v (scope, has);

-- The clock decides: the key expires in the middle of a transaction.

select pg_temp.send(pg_temp.headers('expiring', null));
select is(
  pg_temp.identity('anon'), format('%s %s f {} t', pg_temp.a(), pg_temp.id('expiring')),
  'a key before its expiry'
);
select pg_sleep(3.05);
select is(pg_temp.identity('anon'), 'PT401 invalid_api_key', 'a key after its expiry');

-- A revocation or suspension is seen by the next statement.

select pg_temp.send(pg_temp.headers('server', null));
select pg_temp.manage('suspend_key', 'server');
select is(pg_temp.identity('anon'), 'PT401 invalid_api_key', 'a suspended key');
select pg_temp.manage('unsuspend_key', 'server');
select matches(pg_temp.identity('anon'), pg_temp.id('server')::text, 'an unsuspended key');

-- In a policy, each function runs once per statement, and allows a parallel plan.

create table public.parcels (workspace_id uuid not null);
insert into public.parcels
select case n % 2 when 0 then pg_temp.a() else pg_temp.b() end from generate_series(1, 1000) as n;
alter table public.parcels enable row level security;
grant select on table public.parcels to anon;
create policy parcels_select_key on public.parcels for select to anon
using (workspace_id = (select keylatch.current_workspace_id()));

create function pg_temp.plan_of(p_statement text) returns text language plpgsql as
$$
declare
  v_line text;
  v_plan text := '';
begin
  perform pg_temp.act_as('anon');
  for v_line in execute 'explain (costs off) ' || p_statement loop
    v_plan := v_plan || v_line || e'\n';
  end loop;
  perform set_config('role', 'none', true);
  return v_plan;
end
$$;

select is(
  pg_temp.run('anon', 'select count(*) from public.parcels'), '500',
  'anon with a key of A reads the rows of A'
);
select matches(
  pg_temp.plan_of('select * from public.parcels'), 'InitPlan',
  'the policy asks in an InitPlan'
);
select is(
  array(
    select p.proname from pg_proc as p
    where p.pronamespace = 'keylatch'::regnamespace and p.proname in (
      'current_workspace_id', 'current_key_id', 'has_scope', 'key_metadata', 'check_request'
    ) and (p.provolatile, p.proparallel, p.prosecdef) <> ('s', 's', false)
  ),
  '{}'::name[],
  'the functions are stable, parallel safe, and run with the rights of the caller'
);
-- A subtransaction fails in a parallel plan before version 17.
select is(
  array(
    select p.proname from pg_proc as p
    where p.pronamespace in ('keylatch'::regnamespace, 'keylatch_internal'::regnamespace)
      and p.proparallel = 's' and p.prosrc ~* '\mexception\s+when\M'
  ),
  '{}'::name[],
  'no parallel safe function has an exception block'
);
set local parallel_setup_cost = 0;
set local parallel_tuple_cost = 0;
set local min_parallel_table_scan_size = 0;
select matches(
  pg_temp.plan_of('select count(*) from public.parcels'), 'Gather',
  'a table with the policy can be read in parallel'
);
select is(
  pg_temp.run('anon', 'select count(*) from public.parcels'), '500', 'in parallel: the same answer'
);
-- A key with a star in its list needs the most work for each origin.
create function pg_temp.read_from(p_origin text) returns text language plpgsql as
$$
begin
  perform pg_temp.send(pg_temp.headers('page', p_origin));
  return pg_temp.outcome('anon', 'select from public.parcels where workspace_id::text = ''''');
end
$$;
select is(pg_temp.read_from(v.origin), v.outcome, format('and from %s', v.origin))
from (values
  ('https://x.b.example', '0 rows'),
  ('https://b.example', 'PT401 invalid_api_key'),
  ('https://[::1]', 'PT401 invalid_api_key'),
  ('https://[::ffff:1.2.3.4]', 'PT401 invalid_api_key'),
  ('https://[1:2', 'PT401 invalid_api_key')
) as v (origin, outcome);

select * from finish();
rollback;
