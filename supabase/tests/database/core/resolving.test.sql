-- Resolving returns one row or no row, and all refusals look alike. explain_key says why.
begin;
\ir ../people.psql
select plan(250);

select pg_temp.make(
  'page', $$ 'publishable', allowed_origins => '{https://a.example,https://*.b.example}' $$
);
select pg_temp.make('nowhere', '''publishable''');
select pg_temp.make('server');
select pg_temp.make('graced');
select pg_temp.make('heir', null, 'keylatch.rotate_key(pg_temp.id(''graced''), ''1 hour'')');
select pg_temp.make('suspended');
select pg_temp.manage('suspend_key', 'suspended');
select pg_temp.make('revoked');
select pg_temp.manage('revoke_key', 'revoked', '''leaked''');
select pg_temp.make('rotated');
select pg_temp.make('successor', null, 'keylatch.rotate_key(pg_temp.id(''rotated''))');
select pg_temp.make('expired', '''secret'', expires_at => clock_timestamp() + ''1 s''');
select pg_temp.make('short', '''secret''');
select pg_temp.make('short heir', null, 'keylatch.rotate_key(pg_temp.id(''short''), ''1 hour'')');
select pg_temp.run('alice', $$ update keylatch.keys set expires_at = clock_timestamp() + '1 s'
  where id = pg_temp.id('short') returning id $$);
select pg_temp.make(
  'suspended and expired', '''secret'', expires_at => clock_timestamp() + ''1 s'''
);
select pg_temp.manage('suspend_key', 'suspended and expired');
select pg_temp.make('all at once', '''secret'', expires_at => clock_timestamp() + ''1 s''');
select pg_temp.manage('suspend_key', 'all at once');
select pg_temp.manage('revoke_key', 'all at once');
select pg_sleep(1.05);

insert into made (name, key)
values
('mistyped', regexp_replace(
  pg_temp.key('server'), '.$', case when right(pg_temp.key('server'), 1) = '1' then '2' else '1' end
)),
('unknown', keylatch_internal.complete_key('wk_sk_live_')),
('hash', encode(keylatch.hash_key(pg_temp.key('server')), 'hex')),
('bytea', keylatch.hash_key(pg_temp.key('server'))::text),
('spaced', pg_temp.key('server') || ' '),
('longer', pg_temp.key('server') || '1'),
('cut', left(pg_temp.key('server'), -1)),
('capitals', upper(pg_temp.key('server'))),
('star', '%'),
('empty', ''),
('huge', repeat('x', 1000000)),
('right to left', chr(8238) || pg_temp.key('server')),
('nothing', null);

-- On each line: the key, the Origin, and the verdict. Only `valid` resolves.

create temporary table asked on commit drop as
select v.*
from (values
  ('server', null, 'valid'),
  ('server', '', 'secret_in_browser'),
  ('server', 'null', 'secret_in_browser'),
  ('server', 'https://a.example', 'secret_in_browser'),
  ('page', 'https://a.example', 'valid'),
  ('page', 'https://x.y.b.example', 'valid'),
  ('page', null, 'origin_required'),
  ('page', '', 'origin_denied'),
  ('page', 'null', 'origin_denied'),
  ('page', '*', 'origin_denied'),
  ('page', 'https://*.b.example', 'origin_denied'),
  ('page', 'https://b.example', 'origin_denied'),
  ('page', 'https://A.example', 'origin_denied'),
  ('page', 'https://a.example/', 'origin_denied'),
  ('page', 'https://a.example.evil.example', 'origin_denied'),
  ('nowhere', 'https://a.example', 'origin_denied'),
  ('nowhere', null, 'origin_required'),
  ('graced', null, 'valid'),
  ('heir', null, 'valid'),
  ('suspended', null, 'suspended'),
  ('suspended', 'https://a.example', 'suspended'),
  ('revoked', null, 'revoked'),
  ('revoked', 'https://a.example', 'revoked'),
  ('rotated', null, 'revoked'),
  ('expired', null, 'expired'),
  ('short', null, 'expired'),
  ('suspended and expired', null, 'expired'),
  ('all at once', 'https://a.example', 'revoked'),
  ('mistyped', null, 'checksum_failed'),
  ('unknown', null, 'unknown'),
  ('unknown', 'https://a.example', 'unknown'),
  ('hash', null, 'malformed'),
  ('bytea', null, 'malformed'),
  ('spaced', null, 'malformed'),
  ('longer', null, 'malformed'),
  ('cut', null, 'malformed'),
  ('capitals', null, 'malformed'),
  ('star', null, 'malformed'),
  ('empty', null, 'malformed'),
  ('huge', 'https://a.example', 'malformed'),
  ('right to left', null, 'malformed'),
  ('nothing', null, 'malformed')
) as v (name, origin, verdict);
grant select on table asked to public;

select is(
  pg_temp.run(w.who, format(
    'select coalesce(array_agg(r.key_id)::text, ''none'') '
    || 'from keylatch.resolve_key(pg_temp.key(%L), %L) as r', a.name, a.origin
  )),
  case a.verdict when 'valid' then format('{%s}', pg_temp.id(a.name)) else 'none' end,
  format(
    '%s: the key "%s" with %s %s', w.who, a.name, coalesce('Origin ' || a.origin, 'no Origin'),
    case a.verdict when 'valid' then 'resolves' else 'does not' end
  )
)
from asked as a, (values ('service_role'), ('keylatch_resolver')) as w (who);

select is(
  pg_temp.run(w.who, format(
    'select row(e.verdict, e.key_id)::text from keylatch.explain_key(pg_temp.key(%L), %L) as e',
    a.name, a.origin
  )),
  format('(%s,%s)', a.verdict, pg_temp.id(a.name)),
  format('%s: the key "%s" with %s is %s', w.who, a.name,
    coalesce('Origin ' || a.origin, 'no Origin'), a.verdict)
)
from asked as a, (values ('alice'), ('service_role'), ('keylatch_resolver')) as w (who);
select is(
  pg_temp.run('alice', format(
    'select fingerprint from keylatch.explain_key(%L)', m.key
  )),
  left(encode(sha256(convert_to(m.key, 'UTF8')), 'hex'), 8),
  format('the fingerprint is that of the presented text: %s', m.name)
)
from made as m where m.name in ('server', 'mistyped', 'spaced', 'nothing');

-- resolve_keys gives the same answer for each key as resolve_key.

select is(
  pg_temp.run(w.who, $$
    select array_agg((r.key_id is not null, r."position") order by r."position")::text
    from keylatch.resolve_keys(
      array(select pg_temp.key(a.name) from asked as a order by a.name, a.origin),
      array(select a.origin from asked as a order by a.name, a.origin)
    ) as r $$),
  (
    select array_agg((a.verdict = 'valid', a.place) order by a.place)::text
    from (
      select v.verdict, row_number() over (order by v.name, v.origin) as place from asked as v
    ) as a
  ),
  w.who || ': a batch resolves what resolves alone, each in its place'
)
from (values ('service_role'), ('keylatch_resolver')) as w (who);

-- What resolving returns.

select pg_temp.make('full', $$ 'secret', scopes => '{a,b}', environment => 'test',
  expires_at => '2999-01-01', metadata => '{"plan": "x"}' $$);
select is(
  pg_temp.run('keylatch_resolver', $$
    select (to_jsonb(r) - 'key_id')::text || (r.key_id = pg_temp.id('full'))::text
    from keylatch.resolve_key(pg_temp.key('full')) as r $$),
  '{"kind": "secret", "scopes": ["a", "b"], "metadata": {"plan": "x"}, '
  || '"expires_at": "2999-01-01T00:00:00+00:00", "environment": "test", '
  || '"workspace_id": "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"}true',
  'resolve_key returns the workspace and the rights of the key, and nothing else'
);
select is(
  (
    select array_agg(format('%s %s', p.proname, p.provolatile) order by p.proname)
    from pg_proc as p
    where p.oid in (
      'keylatch.resolve_key'::regproc, 'keylatch.explain_key'::regproc,
      'keylatch.installation'::regproc, 'keylatch.list_keys'::regproc
    )
  ),
  array['explain_key s', 'installation s', 'list_keys s', 'resolve_key s'],
  'functions that only read are stable, so that the API runs them read-only'
);

-- What explain_key says, and to whom.

select is(
  pg_temp.run(w.who, 'select verdict from keylatch.explain_key(pg_temp.key(''server''))'),
  w.verdict,
  'to ' || w.who || ' a key of workspace A is ' || w.verdict
)
from (values
  ('alice', 'valid'), ('service_role', 'valid'), ('bob', 'unknown'), ('mia', 'unknown'),
  ('stranger', 'unknown')
) as w (who, verdict);
select is(
  pg_temp.run('bob', 'select row(verdict, detail, hint, key_id, expires_at)::text
    from keylatch.explain_key(pg_temp.key(''revoked''))'),
  pg_temp.run('bob', 'select row(verdict, detail, hint, key_id, expires_at)::text
    from keylatch.explain_key(pg_temp.key(''unknown''))'),
  'a key of another workspace is explained in the same words as an unknown key'
);

select matches(
  pg_temp.run('alice', format(
    'select detail || ''|'' || hint from keylatch.explain_key(pg_temp.key(%L), %L)',
    v.name, v.origin
  )),
  v.words,
  format('explain_key says of the "%s" key: %s', v.name, v.words)
)
from (values
  ('server', null, '^The key resolves\.\|'),
  ('graced', null, 'superseded and resolves until 20[^|]*\.\|Use its successor before then'),
  ('page', null, 'needs the Origin.*\|Send the Origin header'),
  ('page', 'https://c.example', 'does not allow this origin\.\|Add the origin to allowed_origins'),
  ('nowhere', 'https://a.example', 'Its allowed_origins is empty'),
  ('nowhere', null, 'Its allowed_origins is empty'),
  ('revoked', null, '^The key was revoked at 20.* Reason: leaked\|.*Issue a new key'),
  ('rotated', null, 'Reason: rotated\|Use its successor'),
  ('expired', null, '^The key expired at 20.*\|.*Issue a new key'),
  ('short', null, '^The key expired at 20.*\|Use its successor'),
  ('suspended', null, 'suspended since 20.*\|Call unsuspend_key'),
  ('server', '', 'a web page sends it.*\|Call rotate_key with grace 0'),
  ('mistyped', null, 'mistyped or cut off\.\|Copy the whole key again'),
  ('cut', null, 'This text is not a key.*\|Copy the whole key again'),
  ('unknown', null, 'has this key\.\|Compare installation\(\)')
) as v (name, origin, words);

select is(
  (
    select count(*) from made as m, lateral keylatch.explain_key(m.key, 'https://a.example') as e
    where strpos(row(e.detail, e.hint)::text, right(m.key, 36)) > 0 and length(m.key) > 36
  ),
  0::bigint,
  'no explanation repeats the key'
);

-- A service gets the verdict, the id and the times of keys of all workspaces, but nothing that an
-- admin wrote.

select is(
  pg_temp.run('keylatch_resolver', format(
    'select row(verdict, detail, hint, key_id, expires_at)::text
    from keylatch.explain_key(pg_temp.key(%L))', v.name
  )),
  row(
    v.verdict, format(v.detail, pg_temp.of('revoked', 'revoked_at')), v.hint, pg_temp.id(v.name),
    pg_temp.of(v.name, 'expires_at')
  )::text,
  format('keylatch_resolver is told of the "%s" key: %s', v.name, v.verdict)
)
from (values
  (
    'revoked', 'revoked', 'The key was revoked at %s.',
    'A revoked key stays revoked. Issue a new key.'
  ),
  ('server', 'valid', 'The key resolves.', 'There is nothing to do.')
) as v (name, verdict, detail, hint);
select matches(
  pg_temp.run('keylatch_resolver', 'select hint from keylatch.explain_key(pg_temp.key(''rotated''))'),
  '^Use its successor', 'keylatch_resolver is told that a rotated key has a successor'
);

-- An imported key may have any form.
insert into keylatch_internal.keys (
  id, workspace_id, kind, masked_key, key_hash, created_at, updated_at
)
values (
  gen_random_uuid(), pg_temp.a(), 'secret', '...', keylatch.hash_key('old secret 7'), now(), now()
);
select is(
  pg_temp.run('alice', 'select verdict from keylatch.explain_key(''old secret 7'')'), 'valid',
  'an imported key is not malformed'
);
select is(
  pg_temp.run('service_role', 'select count(*) from keylatch.resolve_key(''old secret 7'')'), '1',
  'an imported key resolves'
);

-- Which installation answers.

select is(
  pg_temp.run(w.who, $$
    select row(id is not null, schema_version, installed_at < now(), system_identifier ~ '^[0-9]+$',
      database_name = current_database(), database_oid > 0, is_replica, replica_lag_seconds)::text
    from keylatch.installation() $$),
  (select format('(t,%s,t,t,t,t,f,0)', i.schema_version) from keylatch_internal.installation as i),
  'installation() tells ' || w.who || ' id, release, age, server and database, and that this is the primary'
)
from (values ('stranger'), ('alice'), ('service_role'), ('keylatch_resolver')) as w (who);
select is(
  (select array_agg(outcome) from (values
    (pg_temp.outcome('owner', 'delete from keylatch_internal.installation')),
    (pg_temp.outcome('owner', $$ insert into keylatch_internal.installation (schema_version)
      values ('x') $$)),
    (pg_temp.outcome('owner', $$ insert into keylatch_internal.installation
      (only_row, schema_version) values (false, 'x') $$))
  ) as v (outcome)),
  array['1 row', '23505', '23514'],
  'a database has one installation'
);

select * from finish();
rollback;
