-- The format of a key, its hash and its checksum, and that key and hash are one row or none.
begin;
\ir people.psql
select plan(1);

select is(
  keylatch_internal.key_alphabet(),
  '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz',
  'the alphabet is the one of the contract: 58 characters, none of 0 O I l'
);
select * from finish();
rollback;
