-- What an import accepts, what it refuses, and what it changes on an existing key.
begin;
\ir ../people.psql
\ir importing.psql
select plan(58);

-- A key without a salt resolves at once.

select is(
  pg_temp.import(pg_temp.line('{"key": "an old key in plaintext", "label": "x"}')),
  'imported', 'a key in plaintext is imported'
);
select is(
  pg_temp.resolves('an old key in plaintext'), 1::bigint, 'a key in plaintext resolves at once'
);
select is(
  pg_temp.import(pg_temp.line(jsonb_build_object(
    'alg', 'sha256', 'hash', encode(sha256('an old key in hex'), f.form), 'hash_encoding', f.form
  ))),
  f.outcome, format('a SHA-256 in %s is imported', f.form)
)
from (values ('hex', 'imported'), ('base64', 'exists')) as f (form, outcome);
select is(pg_temp.resolves('an old key in hex'), 1::bigint, 'a key under SHA-256 resolves at once');
select is(
  pg_temp.resolves(encode(sha256('an old key in hex'), 'hex')), 0::bigint,
  'the hash itself does not resolve'
);
select is(
  pg_temp.import(
    pg_temp.line('{"key": "an old key in plaintext"}'), pg_temp.line('{"key": "another old key"}'),
    pg_temp.line('{"key": "another old key, the second"}')
  ),
  'exists refused imported', 'an existing key does not change, and a bad line affects no other line'
);
select is(
  pg_temp.import(
    pg_temp.line('{"key": "a third old key of ours"}'),
      pg_temp.line('{"key": "a third old key of ours"}'),
    jsonb_build_object('workspace_id', pg_temp.b(), 'key', 'an old key in plaintext')
  ),
  'imported exists refused', 'a double line changes nothing, a key of another workspace is refused'
);
select is(
  (
    select array[r.imported, r.existing, r.moved, r.waiting, r.refused]
    from keylatch.import_keys(jsonb_build_array(
      pg_temp.line('{"key": "a fourth old key of ours"}'), '"x"',
        pg_temp.line('{"key": "an old key in plaintext"}'),
      pg_temp.line('{"key": "a third old key of ours", "revoked_at": "2024-01-31"}'),
      pg_temp.line(pg_temp.salted('a salted old key', 'monday') || '{"starts_with": "a salted"}')
    ), true) as r
  ),
  '{1,1,1,1,1}', 'the report of a dry run counts each outcome'
);
select is(pg_temp.resolves('a fourth old key of ours'), 0::bigint, 'a dry run leaves no key');
select is(pg_temp.resolves('a third old key of ours'), 1::bigint, 'a dry run changes no key');
select is(
  (select count(*) from keylatch.legacy_keys), 0::bigint, 'a dry run leaves no waiting key'
);
select is(
  pg_temp.words('service_role', $$ select keylatch.import_keys(
    jsonb_build_array(pg_temp.line('{"key": "a fourth old key of ours"}'), '"x"'), strict => true
  ) $$),
  'Line 2: The line is not a JSON object. '
  || 'Write {"workspace_id": …, "key": …}.',
  'strict refuses the batch and names the line'
);
select is(
  pg_temp.outcome('service_role', format('select keylatch.import_keys(%L)', v.batch)),
  'PT400 invalid_argument', format('%s is no batch', left(v.batch, 20))
)
from (values
  ('{}'), ('null'), (array_to_json(array_fill('{}'::json, '{10001}'))::text)
) as v (batch);
select is(pg_temp.import(variadic '{}'), null, 'an empty batch is allowed');

-- Weak keys.

select is(
  pg_temp.refusal(pg_temp.line(jsonb_build_object('key', v.key))), 'refused: key ' || v.detail
    || '.',
  format('%s is not imported', left(v.key, 20))
)
from (values
  ('undefined', 'is a placeholder'), ('null', 'is a placeholder'), ('[REDACTED]',
    'is a placeholder'),
  ('your-api-key-goes-here', 'is a placeholder'), ('changeme', 'is a placeholder'),
  ('true', 'is a placeholder'), ('1.23E+19', 'is a number of a spreadsheet'),
  ('x', 'is shorter than 16 characters'), ('a-key-of-15-let', 'is shorter than 16 characters'),
  ('xxxxxxxxxxxxxxxxxxxxxxxx', 'has fewer than 6 different characters'),
  ('abcdeabcdeabcdeabcde', 'has fewer than 6 different characters'),
  ('$2b$12$abcdefghijklmnopqrstuv', 'has the form of a hash'),
  ('pbkdf2_sha256$100$salt$abcdefghijk', 'has the form of a hash'),
  (E'a key with a zero\u200bwidth space', 'has characters that are not printable ASCII')
) as v (key, detail);
select is(
  (pg_temp.refusal(pg_temp.line('{"key": "a-key-of-15-let", "force": "a device in the field"}'))),
  'imported: Imported by force: a device in the field', 'force with a reason imports a weak key'
);
select is(
  pg_temp.refusal(pg_temp.line('{"key": "a-key-of-15-let", "force": ""}')),
  'refused: force must be a reason of 1 to 200 characters.', 'force needs a reason'
);
select is(
  pg_temp.refusal(pg_temp.line('{"key": true}')),
    'refused: key must be a text of 1 to 1000 characters, without control characters and spaces '
    || 'around it.',
  'true is not a text'
);
select is(
  pg_temp.refusal(pg_temp.line(jsonb_build_object('key', repeat('0123456789abcdef', 4)))),
  'imported: The key looks like a SHA-256. If key is a hash, import it as hash with alg sha256.',
  '64 hex digits are imported, and the outcome warns that they may be a hash'
);

-- A bad line never makes the batch fail.

select is(
  pg_temp.import(
    pg_temp.line('{"key": "an old key with a far end"}' || v.fields),
    pg_temp.line(jsonb_build_object('key', 'an old key beside ' || left(v.fields::text, 40)))
  ),
  'refused imported', format('%s costs that line alone', left(v.fields::text, 40))
)
from (values
  ('{"expires_at": "9999-12-31T23:59:59-15:59"}'::jsonb), ('{"created_at": "0001-01-01"}'),
  ('{"expires_at": "2024-02-30"}'), ('{"expires_at": "tomorrow"}'), ('{"metadata": {"n": 1e5000}}'),
  ('{"scopes": [["a"], ["b", "c"]]}'), ('{"scopes": "{a,b}"}'), ('{"created_by": "alice"}')
) as v (fields);

-- An import can end or shorten a key, but never extend it.

select is(
  pg_temp.import(pg_temp.line(jsonb_build_object('key', 'an old key that moves', 'expires_at',
    v.first))),
  v.outcome, v.said
)
from (values
  ('2030-01-01', 'imported', 'a key comes with its expiry'), ('2031-01-01', 'exists',
    'an import does not extend a key'),
  (null, 'exists', 'an expiry is kept'), ('2029-01-01', 'moved', 'an expiry gets earlier')
) as v (first, outcome, said);
select is(
  (
    select k.expires_at
    from keylatch.keys as k
    where k.expires_at is not null), '2029-01-01 00:00Z',
  'a replica keeps the earlier expiry'
);
select is(
  pg_temp.import(pg_temp.line('{"key": "an old key that moves", "suspended_at": "2024-01-01"}')),
  'moved', 'an import suspends a key'
);
select is(
  pg_temp.import(pg_temp.line('{"key": "an old key that moves"}')), 'exists',
  'an import does not unsuspend a key'
);
select is(pg_temp.state('an old key that moves'), 'suspended', 'the key stays suspended');
select is(
  pg_temp.import(pg_temp.line(
    '{"key": "an old key that moves", "revoked_at": "2024-01-31", "revoke_reason": "leaked"}'
  )),
  'moved', 'an import revokes a key'
);
select is(
  pg_temp.state('an old key that moves'), 'revoked leaked', 'an imported revocation has its reason'
);
select is(
  pg_temp.import(pg_temp.line(
    '{"key": "another old key, the second", "expires_at": "2024-01-31"}'
  )),
  'moved', 'a key that expired in the old system is revoked'
);
select is(
  pg_temp.state('another old key, the second'), 'revoked expired in the imported system',
  'an expired key is imported as revoked'
);

-- Who may.

select is(
  pg_temp.outcome(v.who, 'select keylatch.import_keys(''[]'')'), '42501',
  format('%s imports nothing', v.who)
)
from (values ('anon'), ('alice'), ('keylatch_resolver')) as v (who);

select * from finish();
rollback;
