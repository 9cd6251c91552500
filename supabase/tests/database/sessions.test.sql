-- Visitors' sessions: what opens one, who may ask about it, and what ends it.
begin;
\ir people.psql
select plan(26);

select pg_temp.make('page', $$ 'publishable', allowed_origins => '{https://a.example}' $$);
select pg_temp.make('server', $$ 'secret' $$);

create temporary table opened (name text primary key, token text) on commit drop;
grant select, insert on table opened to public;
create function pg_temp.token(p_name text) returns text language sql as
$$ select o.token from pg_temp.opened as o where o.name = p_name $$;
-- What anon gets for this key on a page of this origin.
create function pg_temp.open(p_key text, p_origin text default 'https://a.example')
returns text language plpgsql as
$$
begin
  perform set_config(
    'request.headers', json_strip_nulls(json_build_object('origin', p_origin))::text, true
  );
  return pg_temp.outcome('anon', format('select keylatch.open_session(%L)', p_key));
end
$$;
create function pg_temp.keep(p_name text, p_key text) returns void language plpgsql as
$$
begin
  perform set_config('request.headers', '{"origin": "https://a.example"}', true);
  perform pg_temp.act_as('anon');
  insert into opened (name, token) select p_name, s.token from keylatch.open_session(p_key) as s;
  perform pg_temp.act_as('owner');
end
$$;
create function pg_temp.resumed(p_name text) returns bigint language sql as
$$ select count(*) from keylatch.resume_session(pg_temp.token(p_name)) $$;

-- What opens one: a living publishable key, on a page that it is for.

select is(pg_temp.open(pg_temp.key('page')), '1 row', 'a page opens a session with its key');
select is(
  pg_temp.open(v.key, v.origin), 'PT401 session_refused', format('%s opens none', v.what)
)
from (values
  ('another origin', pg_temp.key('page'), 'https://b.example'),
  ('a request without an origin', pg_temp.key('page'), null),
  ('a secret key', pg_temp.key('server'), 'https://a.example'),
  ('a mistyped key', pg_temp.key('page') || 'x', 'https://a.example'),
  ('an empty key', '', 'https://a.example'),
  ('no key', null, 'https://a.example')
) as v (what, key, origin);
select isnt(pg_temp.outcome(v.role, 'select keylatch.open_session(null)'), '1 row',
  format('%s opens none', v.role))
from (values ('service_role'), ('keylatch_resolver')) as v (role);

select pg_temp.keep('first', pg_temp.key('page'));
select matches(pg_temp.token('first'), '^wk_st_[1-9A-HJ-NP-Za-km-z]{36}$', 'the form of a token');
select is(
  (select count(*) from keylatch_internal.sessions as s
    where s.token_hash = sha256(convert_to(pg_temp.token('first'), 'UTF8'))),
  1::bigint, 'its hash is kept'
);
select is_empty(
  $$ select from keylatch_internal.sessions as s where s::text like '%' || pg_temp.token('first') || '%' $$,
  'and the token is not'
);

-- Who may ask about it.

select is(
  pg_temp.outcome(v.role, format('select keylatch.resume_session(%L)', pg_temp.token('first'))),
  v.outcome, format('what %s hears of a token', v.role)
)
from (values
  ('service_role', '1 row'),
  ('keylatch_resolver', '1 row'),
  ('anon', '42501'),
  ('alice', '42501')
) as v (role, outcome);
select is(pg_temp.outcome('alice', 'select id from keylatch.sessions'), '1 row', 'its admin sees it');
select is(pg_temp.outcome('bob', 'select id from keylatch.sessions'), '0 rows', 'another one does not');
select is(
  pg_temp.outcome('alice', 'select token_hash from keylatch_internal.sessions'),
  '42501', 'nobody sees the hash'
);

-- What ends it: its time, a call, and a revocation that says so; not the end of its key.

select is(
  (keylatch.attach_subject(pg_temp.token('first'), 'visitor 7')).subject, 'visitor 7',
  'the application says who the visitor is'
);
select throws_ok(
  format('select keylatch.attach_subject(%L, %L)', pg_temp.token('first'), 'another'),
  'PT409', 'subject_is_final', 'once'
);
select pg_temp.manage('revoke_key', 'page');
select is(pg_temp.resumed('first'), 1::bigint, 'a session outlives its key');
select is(pg_temp.open(pg_temp.key('page')), 'PT401 session_refused', 'which opens no other one');
select is(
  (keylatch.close_session(pg_temp.token('first'))).session_id is not null, true, 'it is closed'
);
select is(pg_temp.resumed('first'), 0::bigint, 'and then there is none');
select throws_ok(
  format('select keylatch.close_session(%L)', pg_temp.token('first')),
  'PT404', 'session_not_found', 'so that it cannot be closed again'
);

select * from finish();
rollback;
