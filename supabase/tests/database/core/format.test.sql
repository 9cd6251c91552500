-- The format of a key, its hash and its checksum, and that key and hash are one row or none.
begin;
\ir ../people.psql
select plan(63);

select is(keylatch_internal.key_characters(v.bytes), v.characters, v.what)
from (values
  (
    decode('000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324'
      || '25262728292a2b2c2d2e2f30313233343536373839', 'hex'),
    '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz',
    'the alphabet has the 58 characters of the contract, without 0 O I l'
  ),
  (decode('3aff', 'hex'), '1Q', 'a byte selects the character at its value modulo 58'),
  (''::bytea, '', 'no bytes make no characters')
) as v (bytes, characters, what);

-- The hash.

select is(
  encode(keylatch.hash_key(v.key), 'hex'), v.hash, 'the hash of ' || v.what || ' is SHA-256'
)
from (values
  (
    'a publishable key', 'wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V',
    '4e66768ccfd37365b199b729ee6fee0c0c920a7922152850177c9c1905b2bd59'
  ),
  (
    'a secret key', 'abcdefghijkl_sk_test_rNuxk9tMqGmauShKHjG3FhGA6d6VoVr5KsZE',
    '44e10635dfabb17a54ee0d3a515fc9f440ee229dc1d12e27ebe21e4b1e9c6499'
  ),
  (
    'an empty text', '',
    'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
  ),
  (
    'a letter outside ASCII, as UTF-8', 'wк_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V',
    'c8b0e9f591dd0876ecf1b39ef6b17a174385c1739b0911cffbb6b4a260c72c63'
  )
) as v (what, key, hash);

select is(keylatch.hash_key(null), null, 'the hash of null is null');

-- Form and checksum.

select is(keylatch_internal.key_form(v.key), v.form, v.what)
from (values
  ('wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'valid', 'a key is valid'),
  ('a1_sk_test_p7phVNaYRz23sLfsBtdJDm9Kj9eB3ZpTor8y', 'valid', 'a prefix of two is valid'),
  ('abcdefghijkl_sk_live_gTwMTMmnHhvmUS7quMUpGerzrLSJyju1Z5At', 'valid', 'a prefix of 12 is valid'),
  ('wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s31', 'checksum_failed', 'another check character'),
  ('wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4pc7s3V', 'checksum_failed', 'two neighbours swapped'),
  ('xk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'checksum_failed', 'another prefix'),
  ('wk_sk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'checksum_failed', 'another kind'),
  ('wk_pk_test_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'checksum_failed', 'another environment'),
  (null, 'malformed', 'null is malformed'),
  ('', 'malformed', 'an empty text'),
  ('wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3', 'malformed', 'a character too few'),
  ('wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V1', 'malformed', 'a character too many'),
  ('wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s30', 'malformed', 'a zero'),
  ('wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3l', 'malformed', 'a small L'),
  ('w_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'malformed', 'a prefix of one'),
  ('abcdefghijklm_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'malformed', 'a prefix of 13'),
  ('1wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'malformed', 'a prefix with a digit first'),
  ('WK_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'malformed', 'a prefix in capitals'),
  ('wk_ak_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'malformed', 'an unknown kind'),
  ('wk_pk_prod_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'malformed', 'an unknown environment'),
  (' wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'malformed', 'a space before it'),
  (e'wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V\n', 'malformed', 'a newline behind it'),
  ('wk_pk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s３V', 'malformed', 'a wide digit')
) as v (key, form, what);

-- Making a key.

create temporary table generated on commit drop as
select
  kind, environment, prefix,
  keylatch_internal.complete_key(
    prefix || case kind when 'secret' then '_sk_' else '_pk_' end || environment || '_'
  ) as key
from
  unnest(array['publishable', 'secret']) as kind,
  unnest(array['live', 'test']) as environment,
  unnest(array['wk', 'acme', 'z999999999z9']) as prefix,
  generate_series(1, 150);

select is(
  (select count(*) from generated where keylatch_internal.key_form(key) <> 'valid'),
  0::bigint,
  'every new key is valid, for each prefix, kind and environment'
);
select is(
  (
    select count(*) from generated
    where not starts_with(
      key, prefix || case kind when 'secret' then '_sk_' else '_pk_' end || environment || '_'
    )
  ),
  0::bigint,
  'a new key begins with its prefix, kind and environment'
);
select is((select count(distinct key) from generated), 1800::bigint, 'all new keys are different');

-- Chi-square with 57 degrees of freedom: above 150 in one of 1000000000 runs. A modulo without
-- rejection would give about 700.
select cmp_ok(
  (
    select sum((c.times - 54000 / 58.0) ^ 2 / (54000 / 58.0))
    from (
      select count(b.letter) as times
      from regexp_split_to_table(
        '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz', ''
      ) as a (letter)
      left join (
        select regexp_split_to_table(substr(right(key, 36), 1, 30), '') as letter from generated
      ) as b on a.letter = b.letter
      group by a.letter
    ) as c
  ),
  '<',
  150::numeric,
  'the characters of the bodies are uniform'
);

select is(
  pg_temp.words('alice', format('select keylatch.issue_key(pg_temp.a(), prefix => %L)', v.prefix)),
  'prefix must be 2 to 12 lower-case letters and digits and begin with a letter. '
  || 'Pass a short name of your product, for example "acme".',
  format('the prefix %s is refused', coalesce(v.prefix, 'null'))
)
from (values
  (''), ('w'), ('abcdefghijklm'), ('1wk'), ('WK'), ('w_k'), ('wk '), ('wк'), (null)
) as v (prefix);

-- Key and hash are one row or none.

select pg_temp.make('public', '''publishable'', prefix => ''acme''');
select pg_temp.make('secret', '''secret'', environment => ''test''');

select is(pg_temp.of('public', 'public_key'), pg_temp.key('public'), 'a publishable key is stored');
select is(pg_temp.of('secret', 'public_key'), null, 'a secret key is not stored');
select is(
  (
    select count(*) from keylatch_internal.keys as k
    inner join made as m on k.id = m.id
    where k.key_hash = sha256(convert_to(m.key, 'UTF8'))
  ),
  2::bigint,
  'the hash of both keys is stored'
);
select is(
  (
    select count(*) from keylatch_internal.keys as k
    where strpos(k::text, right(pg_temp.key('secret'), 36)) > 0
  ),
  0::bigint,
  'no column contains the secret key'
);
select is(
  pg_temp.of(v.name, 'masked_key'),
  v.start || '...' || right(pg_temp.key(v.name), 4),
  format('the masked %s key is the part before the body and the last four characters', v.name)
)
from (values ('public', 'acme_pk_live_'), ('secret', 'wk_sk_test_')) as v (name, start);

select is(
  pg_temp.of(v.name, 'fingerprint'),
  left(encode(sha256(convert_to(pg_temp.key(v.name), 'UTF8')), 'hex'), 8),
  format('the fingerprint of a %s key is the first 8 hex characters of its hash', v.name)
)
from (values ('public'), ('secret')) as v (name);
select is(
  pg_temp.outcome('owner', $$ update keylatch_internal.keys set fingerprint = '00000000' $$),
  '428C9',
  'nobody can write a fingerprint'
);

-- Only the owner can try this: a row with a hash is stored as it is, if it follows these rules.
create function pg_temp.import(
  p_kind text, p_public_key text, p_hash bytea
) returns text language sql as $$
  select pg_temp.outcome('owner', format(
    'insert into keylatch_internal.keys (
      id, workspace_id, masked_key, kind, public_key, key_hash, created_at, updated_at
    ) values (gen_random_uuid(), pg_temp.a(), ''m'', %L, %L, %L, now(), now())',
    p_kind, p_public_key, p_hash
  ));
$$;
select is(pg_temp.import(v.kind, v.public_key, v.key_hash), v.outcome, v.what)
from (values
  (
    '1 row', 'a publishable key with its hash is saved', 'publishable', 'p', keylatch.hash_key('p')
  ),
  ('23514', 'refused: a publishable key, wrong hash', 'publishable', 'p', keylatch.hash_key('q')),
  ('23514', 'refused: a publishable key without text', 'publishable', null, keylatch.hash_key('p')),
  ('23514', 'refused: a secret key with its text', 'secret', 'p', keylatch.hash_key('p')),
  ('1 row', 'a secret key with its hash is saved', 'secret', null, keylatch.hash_key('p')),
  (
    '23514', 'refused: a hash of 31 bytes', 'secret', null, substr(keylatch.hash_key('p'), 2)
  ),
  (
    '23505', 'refused: a hash that exists already', 'secret', null,
    keylatch.hash_key(pg_temp.key('secret'))
  )
) as v (outcome, what, kind, public_key, key_hash);

select is(
  pg_temp.outcome('owner', v.statement),
  'PT409 column_is_immutable',
  format('the %s of an existing key cannot change', v.what)
)
from (values
  ('hash', $$ update keylatch_internal.keys set key_hash = sha256('x') $$),
  ('text', $$ update keylatch_internal.keys set public_key = 'x' $$),
  ('masked key', $$ update keylatch_internal.keys set masked_key = 'x' $$)
) as v (what, statement);

select * from finish();
rollback;
