-- What a key looks like, and the one hash of it.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = public, extensions;
select plan(22);

select matches(
  keylatch_internal.generate_key('wk', 'publishable', 'live'),
  '^wk_pk_live_[1-9A-HJ-NP-Za-km-z]{36}$',
  'a publishable key is <prefix>_pk_<environment>_ and 36 characters'
);
select matches(
  keylatch_internal.generate_key('acme', 'secret', 'test'),
  '^acme_sk_test_[1-9A-HJ-NP-Za-km-z]{36}$',
  'a secret key is <prefix>_sk_<environment>_ and 36 characters'
);
select is(
  (
    select count(distinct keylatch_internal.generate_key('wk', 'secret', 'live'))
    from generate_series(1, 500)
  ),
  500::bigint,
  'no two keys are alike'
);
select results_eq(
  $$
    select distinct c.letter collate "C"
    from (
        select keylatch_internal.generate_key('wk', 'secret', 'live') as key
        from generate_series(1, 500)
      ) as k,
      regexp_split_to_table(substr(k.key, 12), '') as c (letter)
    order by 1
  $$,
  $$
    select c.letter collate "C"
    from regexp_split_to_table(keylatch_internal.key_alphabet(), '') as c (letter)
    order by 1
  $$,
  'every character of the alphabet occurs, and no other'
);
select is(length(keylatch_internal.key_alphabet()), 58, 'the alphabet has 58 characters');
select is(
  (
    select count(*) from generate_series(1, 500) as n
    where keylatch_internal.key_form(keylatch_internal.generate_key('wk', 'secret', 'live'))
      <> 'valid'
  ),
  0::bigint,
  'what is generated has a valid check'
);

select is(
  keylatch.hash_key('abc'),
  '\xba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'::bytea,
  'the hash is SHA-256 of the text'
);
select is(
  keylatch.hash_key('ü…'), sha256('\xc3bce280a6'::bytea), 'the hash is of the text as UTF-8'
);
-- Two keys that anybody can compute again: 30 times "1" and 30 times "z".
select is(
  keylatch_internal.key_check('wk_pk_live_' || repeat('1', 30)),
  (
    select string_agg(
      substr(keylatch_internal.key_alphabet(), get_byte(h.digest, i) % 58 + 1, 1), '' order by i
    )
    from (select sha256(convert_to('wk_pk_live_' || repeat('1', 30), 'UTF8')) as digest) as h,
      generate_series(0, 5) as i
  ),
  'character i of the check is alphabet[h[i] mod 58]'
);

select is(keylatch_internal.key_form(null), 'malformed', 'null is malformed');
select is(keylatch_internal.key_form(''), 'malformed', 'the empty text is malformed');
select is(
  keylatch_internal.key_form('wk_pk_live_' || repeat('0', 36)),
  'malformed',
  'a character outside of the alphabet is malformed'
);
select is(
  keylatch_internal.key_form(keylatch_internal.generate_key('wk', 'secret', 'live') || E'\n'),
  'malformed',
  'a line end behind the key is malformed'
);
select is(
  keylatch_internal.key_form('wk_pk_live_' || repeat('1', 36)),
  'checksum_failed',
  'six characters that do not fit are a failed checksum'
);
select is(
  keylatch_internal.key_hint('wk_sk_live_' || repeat('1', 32) || 'abcd'),
  'wk_sk_live_…abcd',
  'the hint is all before the body and the last four characters'
);

select throws_ok(
  format('select keylatch_internal.generate_key(%L, ''secret'', ''live'')', p.prefix),
  'PT400', 'invalid_argument', format('%L is no prefix', p.prefix)
)
from (values (null), (''), ('a'), ('Ab'), ('1a'), ('a_b'), ('abcdefghijklm')) as p (prefix);

select * from finish();
rollback;
