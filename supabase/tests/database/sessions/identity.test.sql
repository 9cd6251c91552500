-- The session of a request as an identity: only on the page that opened it.
begin;
\ir ../people.psql
\ir visitors.psql
select plan(36);

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
  'page of all',
  $$ 'publishable', allowed_origins => '{https://a.example,https://*.b.example}',
  scopes => '{orders:read}', metadata => '{"plan": "pro"}' $$
);
delete from made where name = 'page';
update made set name = 'page' where name = 'page of all';
select pg_temp.make('revoked');
select pg_temp.manage('revoke_key', 'revoked');
insert into made (name, key)
values
('mistyped', left(pg_temp.key('server'), -1) || '!'), ('empty', ''), ('huge', repeat('x', 100000));
select pg_temp.keep(v.name) from (values ('visit'), ('other visit')) as v (name);
insert into made (name, key) select o.name, o.token from opened as o;
create function pg_temp.visit(p_name text, p_origin text, p_key text default null)
returns text language sql as
$$ select json_strip_nulls(json_build_object(
  'x-session-token', pg_temp.key(p_name), 'origin', p_origin, 'x-api-key', pg_temp.key(p_key)
))::text $$;
create function pg_temp.session_of(p_name text) returns text language sql as
$$ select pg_temp.run(
  'anon', 'select keylatch.current_session_id()'
) from pg_temp.send(pg_temp.visit(p_name, 'https://a.example')) $$;

select is(
  pg_temp.identity('anon', pg_temp.visit(v.name, v.origin, v.key)),
  case v.who
    when 'page' then format('%s %s t {"plan": "pro"} t', pg_temp.a(), pg_temp.id('page'))
    when 'two' then 'PT400 invalid_argument'
    else 'PT401 invalid_session'
  end,
  format('%s from %s and the key %s is %s', v.name, coalesce(v.origin, 'no origin'), v.key, v.who)
)
from (values
  ('visit', 'https://a.example', null, 'page'),
  -- The key allows this origin, but the session was not opened there.
  ('visit', 'https://x.b.example', null, 'refused'),
  ('visit', null, null, 'refused'),
  ('visit', '', null, 'refused'),
  ('visit', 'null', null, 'refused'),
  ('mistyped', 'https://a.example', null, 'refused'),
  ('empty', 'https://a.example', null, 'refused'),
  ('huge', 'https://a.example', null, 'refused'),
  -- A key is not a token, and a token is not a key.
  ('page', 'https://a.example', null, 'refused'),
  ('server', null, null, 'refused'),
  ('visit', 'https://a.example', 'page', 'two'),
  ('visit', 'https://a.example', 'revoked', 'two'),
  ('mistyped', 'https://a.example', 'page', 'two')
) as v (name, origin, key, who);
select is(
  pg_temp.identity('anon', pg_temp.headers('visit', v.origin)), 'PT401 invalid_api_key',
  format('a token as a key, from %s', coalesce(v.origin, 'no origin'))
)
from (values ('https://a.example'), (null)) as v (origin);
select is(
  pg_temp.identity(v.role, pg_temp.visit('visit', 'https://a.example')), v.who,
  format('%s with a session', v.role)
)
from (values
  ('service_role', format('%s %s t {"plan": "pro"} t', pg_temp.a(), pg_temp.id('page'))),
  ('alice', 'PT400 invalid_argument'),
  ('stranger', 'PT400 invalid_argument')
) as v (role, who);
create function pg_temp.claiming(p_claims text) returns text language plpgsql as
$$
begin
  perform pg_temp.send(pg_temp.visit('visit', 'https://a.example'));
  perform set_config('request.jwt.claims', p_claims, true);
  return pg_temp.outcome('anon', 'select keylatch.check_request()');
end
$$;
select is(pg_temp.claiming(v.claims), v.outcome, format('a session beside the claims %s', v.claims))
from (values
  ('{"role": "anon", "sub": "a11ce000-0000-4000-8000-000000000001"}', 'PT400 invalid_argument'),
  ('{"role": "anon"}', '1 row')
) as v (claims, outcome);
select set_config('request.jwt.claims', '', true);
select pg_temp.send(pg_temp.visit('mistyped', 'https://a.example'));
select is(
  pg_temp.outcome('anon', format('select keylatch.%s', v.call)), 'PT401 invalid_session',
  format('%s refuses an invalid token', v.call)
)
from (values
  ('current_workspace_id()'), ('current_key_id()'), ('current_session_id()'), ('has_scope(''x'')'),
  ('key_metadata()'), ('check_request()')
) as v (call);
select is(
  pg_temp.words('anon', 'select keylatch.check_request()'),
  'The x-session-token of this request is mistyped, expired, ended, or of another origin. '
  || 'Let the page open a new session. See sql/docs/errors.md#invalid_session',
  'the refusal does not tell the reason'
);
select is(
  pg_temp.outcome('keylatch_resolver', 'select keylatch.current_session_id()'), '42501',
  'the resolver has no use for current_session_id'
);
select is(
  (
    select concat_ws(' ', p.provolatile, p.proparallel, p.prosecdef) from pg_proc as p
    where p.oid = 'keylatch.current_session_id'::regproc
  ),
  's s f',
  'current_session_id is stable, parallel safe, and runs with the caller''s rights'
);
select isnt(pg_temp.session_of('visit'), null, 'a session has an id');
select isnt(
  pg_temp.session_of('visit'), pg_temp.session_of('other visit'),
  'current_session_id is the id of the session'
);
select is(
  pg_temp.run('anon', 'select keylatch.current_session_id()'), null,
  'a request with a key has no session id'
)
from pg_temp.send(pg_temp.headers('page', 'https://a.example'));

-- A session outlives the key that it was opened with, with the scopes that the key has now.

select pg_temp.manage('revoke_key', 'page');
select is(
  pg_temp.identity('anon', pg_temp.headers('page', 'https://a.example')), 'PT401 invalid_api_key',
  'the key is revoked'
);
select is(
  pg_temp.identity('anon', pg_temp.visit('visit', 'https://a.example')),
  format('%s %s t {"plan": "pro"} t', pg_temp.a(), pg_temp.id('page')),
  'the session of a revoked key goes on'
);

-- A session ends with end_sessions, and when it expires.

select is(pg_temp.outcome('alice', format(
  'select keylatch.end_sessions(%L)', pg_temp.id('page')
)), '1 row', 'end_sessions');
select pg_temp.run('alice', format('select id from keylatch.end_sessions(%L)', pg_temp.id('page')));
select is(
  pg_temp.identity('anon', pg_temp.visit('visit', 'https://a.example')), 'PT401 invalid_session',
  'the identity ends, too'
);

select * from finish();
rollback;
