-- Sessions of visitors: what opens a session, who may read it, and what ends it.
begin;
\ir ../people.psql
\ir visitors.psql
select plan(53);

-- An active publishable key opens a session, on a page that the key allows.

select is(pg_temp.open(pg_temp.key('page')), '1 row', 'a page opens a session with its key');
select is(
  pg_temp.open(v.key, v.origin), 'PT401 session_refused', format('%s opens none', v.what)
)
from (values
  ('another origin', pg_temp.key('page'), 'https://b.example'),
  ('a request without an origin', pg_temp.key('page'), null),
  ('a secret key', pg_temp.key('server'), 'https://a.example'),
  ('a secret key without an origin', pg_temp.key('server'), null),
  ('a mistyped key', pg_temp.key('page') || 'x', 'https://a.example'),
  ('an empty key', '', 'https://a.example'),
  ('no key', null, 'https://a.example')
) as v (what, key, origin);
select isnt(pg_temp.outcome(v.role, 'select keylatch.open_session(null)'), '1 row',
  format('%s opens none', v.role))
from (values ('service_role'), ('keylatch_resolver')) as v (role);
select is(
  pg_temp.words('anon', 'select keylatch.open_session(null)'),
  'The key is mistyped, not active, not publishable, or not for this origin. '
  || 'Ask an admin of the workspace to call explain_key. See sql/docs/errors.md#session_refused',
  'the refusal does not tell the reason'
);

select pg_temp.keep('first');
select matches(pg_temp.token('first'), '^wk_st_[1-9A-HJ-NP-Za-km-z]{36}$', 'the form of a token');
select is(
  (
    select count(*) from keylatch_internal.sessions as s
    where s.token_hash = sha256(convert_to(pg_temp.token('first'), 'UTF8'))
  ),
  1::bigint, 'the hash of the token is stored'
);
select is_empty(
  $$ select from keylatch_internal.sessions as s
     where s::text like '%' || pg_temp.token('first') || '%' $$,
  'the token is not stored'
);
select pg_temp.make(
  'branded', null, $$ keylatch.issue_key(pg_temp.a(), allowed_origins => '{https://a.example}',
  prefix => 'acme') $$
);
select pg_temp.keep('branded', 'branded');
select matches(pg_temp.token('branded'), '^acme_st_', 'a token has the prefix of its key');
insert into keylatch_internal.keys
(
  id, workspace_id, key_hash, public_key, masked_key, allowed_origins, created_at, updated_at,
  imported_at
)
values (
  gen_random_uuid(), pg_temp.a(), sha256('widget-key-of-2019'), 'widget-key-of-2019', '...',
  '{https://a.example}', now(), now(), now()
);
insert into made (name, key) values ('imported', 'widget-key-of-2019');
select pg_temp.keep('imported', 'imported');
select matches(
  pg_temp.token('imported'), '^wk_st_', 'a token never has the text of an imported key'
);

-- Who may do what with the token, and who sees the session.

select is(
  pg_temp.outcome(v.role, format('select keylatch.%s', format(c.call, pg_temp.token('first')))),
  case when v.role in ('service_role', 'keylatch_resolver') then '1 row' else '42501' end,
  format('%s calls %s', v.role, c.call)
)
from (values
  ('service_role'), ('keylatch_resolver'), ('anon'), ('stranger'), ('mia'), ('alice')
) as v (role)
cross join (values
  ('resolve_session(%L)'), ('close_session(%L)'), ('attach_subject(%L, ''x'')')
) as c (call);
select is(
  pg_temp.outcome(v.role, 'select keylatch.prune_sessions()'), v.outcome,
  format('%s prunes', v.role)
)
from (values
  ('service_role', '1 row'), ('keylatch_resolver', '42501'), ('anon', '42501'), ('alice', '42501')
) as v (role, outcome);
select is(
  pg_temp.outcome(v.role, format(
    'select from keylatch.sessions where key_id = %L', pg_temp.id('page')
  )),
  v.outcome, format('%s reads the view', v.role)
)
from (values
  ('alice', '1 row'), ('service_role', '1 row'), ('bob', '0 rows'), ('mia', '0 rows'),
  ('stranger', '0 rows'), ('anon', '42501'), ('keylatch_resolver', '42501')
) as v (role, outcome);
select is(
  pg_temp.outcome('alice', 'select token_hash from keylatch_internal.sessions'),
  '42501', 'nobody sees the hash'
);

-- Changes of a session: it gets a subject, and it is closed.

select is(
  (keylatch.attach_subject(pg_temp.token('first'), 'visitor 7')).subject, 'visitor 7',
  'the application says who the visitor is'
);
select throws_ok(
  format('select keylatch.attach_subject(%L, %L)', pg_temp.token('first'), 'another'),
  'PT409', 'subject_is_final', 'once'
);
select pg_temp.manage('revoke_key', 'page');
select is(pg_temp.resolved('first'), 1::bigint, 'a session outlives its key');
select is(
  pg_temp.open(pg_temp.key('page')), 'PT401 session_refused', 'a revoked key opens no other session'
);
select is(
  (keylatch.close_session(pg_temp.token('first'))).session_id is not null, true,
  'a session can be closed'
);
select is(pg_temp.resolved('first'), 0::bigint, 'a closed session does not resolve');
select throws_ok(
  format('select keylatch.close_session(%L)', pg_temp.token('first')),
  'PT404', 'session_not_found', 'a closed session cannot be closed again'
);

select * from finish();
rollback;
