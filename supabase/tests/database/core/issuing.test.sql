-- Making keys: issue_key and an insert, what they answer, and which values they refuse.
begin;
\ir ../people.psql
select plan(191);

-- issue_key.

select pg_temp.make('plain', null, 'keylatch.issue_key(pg_temp.a())');
select is(
  (
    select row(
      k.workspace_id, k.kind, k.environment, k.label, k.allowed_origins, k.scopes, k.metadata,
      k.expires_at, k.suspended_at, k.superseded_at, k.revoked_at, k.rotated_from, k.status
    )::text
    from keylatch.keys as k
  ),
  row(
    pg_temp.a(), 'publishable', 'live', '', '{}'::text[], '{}'::text[], '{}'::jsonb,
    null, null, null, null, null, 'active'
  )::text,
  'by default a key is publishable and live, without origins, scopes and expiry'
);
select matches(pg_temp.key('plain'), '^wk_pk_live_[1-9A-HJ-NP-Za-km-z]{36}$', 'the prefix is wk');

select is(
  pg_temp.run('alice', $$
    select row(
      key ~ '^acme_sk_test_', id is not null, workspace_id = pg_temp.a(), kind, environment,
      masked_key = 'acme_sk_test_...' || right(key, 4), label, allowed_origins, scopes, metadata,
      expires_at, rotated_from, created_at between now() and clock_timestamp(),
      created_by = pg_temp.user_id('alice')
    )::text
    from keylatch.issue_key(
      pg_temp.a(), kind => 'secret', label => 'Büro "1"', scopes => '{orders:read,*}',
      environment => 'test', expires_at => '2999-01-01', metadata => '{"plan": "x"}',
      prefix => 'acme'
    ) $$),
  '(t,t,t,secret,test,t,"Büro ""1""",{},"{orders:read,*}","{""plan"": ""x""}",'
  || '"2999-01-01 00:00:00+00",,t,t)',
  'issue_key returns the key and all its public fields'
);
select is(
  pg_temp.run('alice', $$ select array_agg(key order by key)::text from json_object_keys(
    (select row_to_json(i) from keylatch.issue_key(pg_temp.a()) as i)) as key $$),
  '{allowed_origins,created_at,created_by,environment,expires_at,fingerprint,id,key,kind,label,'
  || 'masked_key,metadata,rotated_from,scopes,workspace_id}',
  'issue_key returns no hash'
);
select is(current_setting('keylatch.handoff'), '', 'after a call, no setting contains the key');

-- metadata with this number of nested objects, the innermost with this value.
create function pg_temp.nested(p_levels integer, p_value text) returns jsonb language sql as $$
  select (repeat('{"a":', p_levels) || p_value || repeat('}', p_levels))::jsonb;
$$;

-- Which values are allowed, by every path: a refusal has the same slug, and changes no row.

select pg_temp.make('patched', '''publishable''');
create temporary table before_patches on commit drop as
select * from keylatch.keys where id = pg_temp.id('patched');

select is(
  regexp_replace(pg_temp.outcome('alice', format(w.statement, v.what, v.given)), '^PT400 ', ''),
  v.outcome,
  format('%s: %s is %s', w.how, v.what, left(v.given, 60))
)
from (values
  ('label', '''''', '1 row'),
  ('label', 'repeat(''ü'', 200)', '1 row'),
  ('label', 'repeat(''a'', 201)', 'invalid_argument'),
  ('label', 'e''a\x07''', 'invalid_argument'),
  ('label', 'e''a\n''', 'invalid_argument'),
  ('label', 'null', 'invalid_argument'),
  ('metadata', '''{"a": {"b": [1]}}''', '1 row'),
  ('metadata', '''[]''', 'invalid_argument'),
  ('metadata', '''null''', 'invalid_argument'),
  ('metadata', 'null', 'invalid_argument'),
  ('metadata', 'jsonb_build_object(''a'', repeat(''x'', 8183))', '1 row'),
  ('metadata', 'jsonb_build_object(''a'', repeat(''x'', 8184))', 'invalid_argument'),
  ('metadata', 'pg_temp.nested(16, ''1'')', '1 row'),
  ('metadata', 'pg_temp.nested(16, ''"x"'')', '1 row'),
  ('metadata', 'pg_temp.nested(17, ''1'')', 'invalid_argument'),
  ('metadata', 'pg_temp.nested(16, ''[1]'')', 'invalid_argument'),
  ('metadata', 'pg_temp.nested(1, repeat(''['', 1500) || repeat('']'', 1500))',
    'invalid_argument'),
  ('metadata', '''{"n": 9223372036854775807}''', '1 row'),
  ('metadata', '''{"n": [-1.7976931348623157e308]}''', '1 row'),
  ('metadata', '''{"n": 1e-300}''', '1 row'),
  ('metadata', '''{"n": 1e309}''', 'invalid_argument'),
  ('metadata', '''{"n": [{"m": -1e309}]}''', 'invalid_argument'),
  ('metadata', '''{"n": 1e5000}''', 'invalid_argument'),
  ('metadata', '''{"n": 1e-5000}''', 'invalid_argument'),
  ('metadata', '(''{"n": '' || repeat(''9'', 5000) || ''}'')::jsonb', 'invalid_argument'),
  ('metadata', 'jsonb_build_object(''a'', pg_temp.key(''plain''))', 'invalid_argument'),
  ('metadata', 'jsonb_build_object(pg_temp.key(''plain''), 1)', 'invalid_argument'),
  ('label', '''x'' || pg_temp.key(''plain'')', 'invalid_argument'),
  ('label', '''acme_sk_test_'' || repeat(''a'', 36)', 'invalid_argument'),
  ('label', '''acme_sk_test_'' || repeat(''a'', 35)', '1 row'),
  ('label', 'e''a\u202eb''', 'invalid_argument'),
  ('scopes', '''{a,b.c:d_e-*,9}''', '1 row'),
  ('scopes', 'array(select ''s'' || n from generate_series(1, 64) as n)', '1 row'),
  ('scopes', 'array(select ''s'' || n from generate_series(1, 65) as n)', 'invalid_argument'),
  ('scopes', 'array[repeat(''a'', 64)]', '1 row'),
  ('scopes', 'array[repeat(''a'', 65)]', 'invalid_argument'),
  ('scopes', '''{""}''', 'invalid_argument'),
  ('scopes', '''{"a b"}''', 'invalid_argument'),
  ('scopes', '''{A}''', 'invalid_argument'),
  ('scopes', '''{a,a}''', 'invalid_argument'),
  ('scopes', '''{{a},{b}}''', 'invalid_argument'),
  ('scopes', 'array[null]::text[]', 'invalid_argument'),
  ('scopes', 'null', 'invalid_argument'),
  ('allowed_origins', '''{https://a.example}''', '1 row'),
  ('allowed_origins', '''{https://a.example/}''', 'invalid_argument'),
  ('expires_at', 'null', '1 row'),
  ('expires_at', 'now() + interval ''1 hour''', '1 row'),
  ('expires_at', 'now() - interval ''1 s''', 'invalid_argument'),
  ('expires_at', '''infinity''', 'invalid_argument'),
  ('expires_at', '''-infinity''', 'invalid_argument'),
  ('expires_at', '''9998-12-31 23:59Z''', '1 row'),
  ('expires_at', '''9999-01-01 00:00Z''', 'invalid_argument'),
  ('expires_at', '''294276-12-31''', 'invalid_argument'),
  ('expires_at', '''4713-01-01 BC''', 'invalid_argument')
) as v (what, given, outcome),
(values
  ('issue_key', 'select keylatch.issue_key(pg_temp.a(), %s => %s)'),
  ('insert', 'insert into keylatch.keys (workspace_id, %s) values (pg_temp.a(), %s)'),
  ('update', 'update keylatch.keys set %s = %s where id = pg_temp.id(''patched'')')
) as w (how, statement);
select is(
  (select k::text from keylatch.keys as k where k.id = pg_temp.id('patched')),
  (select p::text from before_patches as p),
  'a refused value changes no row'
);

select is(
  regexp_replace(pg_temp.outcome('alice', format(w.statement, v.what, v.given)), '^PT400 ', ''),
  'invalid_argument',
  format('%s: %s is %s', w.how, v.what, v.given)
)
from (values
  ('kind', '''public'''), ('kind', 'null'), ('environment', '''prod'''), ('environment', 'null')
) as v (what, given),
(values
  ('issue_key', 'select keylatch.issue_key(pg_temp.a(), %s => %s)'),
  ('insert', 'insert into keylatch.keys (workspace_id, %s) values (pg_temp.a(), %s)')
) as w (how, statement);
select is(
  pg_temp.outcome('alice', 'select keylatch.issue_key(null)'),
  'PT400 invalid_argument',
  'issue_key: workspace_id is null'
);
select matches(
  pg_temp.words('alice', format('select keylatch.issue_key(pg_temp.a(), %s)', v.arguments)),
  '^' || v.named || ' ',
  'the refusal names ' || v.named
)
from (values
  ('label', 'label => null'), ('metadata', 'metadata => ''1'''), ('scopes', 'scopes => ''{A}'''),
  ('expires_at', 'expires_at => ''2001-01-01'''), ('kind', 'kind => '''''),
  ('environment', 'environment => ''''')
) as v (named, arguments);

-- An insert.

select is(
  pg_temp.run('alice', $$ insert into keylatch.keys (workspace_id, label)
    values (pg_temp.a(), 'by hand') returning public_key ~ '^wk_pk_live_' $$),
  'true',
  'the database makes the key of an inserted row'
);
select is(current_setting('keylatch.handoff'), '', 'an inserted key is only in its row');

-- issue_keys makes all keys of a fleet, or none.

select is(
  pg_temp.run('alice', $$
    select string_agg(
      concat_ws(' ', k.label, k.kind, k.metadata, right(k.masked_key, 4) = right(k.key, 4)), ', '
      order by k.ordinality
    )
    from keylatch.issue_keys(pg_temp.a(), '{b,a,b}', metadata => '{"fleet": 1}') as i,
      unnest(i.keys) with ordinality as k $$),
  'b secret {"fleet": 1} t, a secret {"fleet": 1} t, b secret {"fleet": 1} t',
  'issue_keys returns a key for each label, in the order of the labels'
);
select is(
  pg_temp.outcome('alice', format('select keylatch.issue_keys(pg_temp.a(), %s)', v.labels)),
  v.outcome,
  'issue_keys of ' || v.labels
)
from (values
  ('''{}''', '1 row'),
  ('null', 'PT400 invalid_argument'),
  ('array[''a'', null]', 'PT400 invalid_argument'),
  ('array[''a'', repeat(''a'', 201)]', 'PT400 invalid_argument'),
  ('array_fill(''a''::text, array[100001])', 'PT400 invalid_argument')
) as v (labels, outcome);

select * from finish();
rollback;
