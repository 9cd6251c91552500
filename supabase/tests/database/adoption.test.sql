-- Moving a column of keys in clear to hashes: the phases, what holds in each, and the way back.
begin;
\ir people.psql
select plan(24);

create table public.parlours (id integer primary key, api_key varchar(80) not null, town text);
insert into public.parlours
select n, 'key-' || n, 'Rome' from generate_series(1, 500) as n;
create function pg_temp.step(p_name text, p_more text default '') returns text language sql as
$$ select pg_temp.outcome('owner', format(
  'select keylatch.%I(''public.parlours'', ''api_key''%s)', p_name, p_more
)) $$;
create function pg_temp.hash_of(p_id integer) returns text language plpgsql as
$$ begin return (select p.api_key_hash from public.parlours as p where p.id = p_id); end $$;
create function pg_temp.hex(p_key text) returns text language sql as
$$ select encode(sha256(p_key::bytea), 'hex') $$;
create function pg_temp.found(p_key text) returns integer[] language sql as
$$ select array(
  select r.id from keylatch.adopted_rows(null::public.parlours, 'api_key', p_key) as r
) $$;

-- Phase 1: both columns, in step.

select is(pg_temp.step(v.name), 'PT409 adoption_not_ready', format('%s is not the first step', v.name))
from (values ('hash_rows'), ('prove_column'), ('read_by_hash'), ('revert_column')) as v (name);
select is(
  (keylatch.adopt_column('public.parlours', 'api_key')).phase, 'hashing', 'adopt_column is'
);
select is(pg_temp.step('adopt_column'), '1 row', 'again it changes nothing');
insert into public.parlours values (501, 'key-501');
update public.parlours set town = 'Pisa' where id = 2;
update public.parlours set api_key_hash = 'forged' where id = 3;
select is(pg_temp.hash_of(v.id), pg_temp.hex('key-' || v.id), format('a row that was %s is hashed', v.what))
from (values (501, 'inserted'), (2, 'changed elsewhere'), (3, 'given another hash')) as v (id, what);
select is(pg_temp.hash_of(1), null, 'an old row is not, yet');
select is(pg_temp.step('read_by_hash'), 'PT409 adoption_not_ready', 'so nobody reads by hash, yet');
select is(pg_temp.found('key-1'), '{1}', 'but finds it, by the key in clear');
select is(
  (keylatch.prove_column('public.parlours', 'api_key')).fallback_reads, 1::bigint, 'which is counted'
);
select is((keylatch.hash_rows('public.parlours', 'api_key', 60000)).is_done, true, 'the old rows');
create index on public.parlours (api_key_hash);
select is(
  (select row(p.rows, p.keys, p.hashed, p.missing, p.wrong)::text
    from keylatch.prove_column('public.parlours', 'api_key') as p),
  '(501,501,501,0,0)', 'the proof'
);

-- Phase 2: reads by the hash.

select is((keylatch.read_by_hash('public.parlours', 'api_key')).phase, 'reading', 'read_by_hash');
select is(pg_temp.found('key-7'), '{7}', 'a key finds its rows');
select is(pg_temp.found(pg_temp.hex('key-7')), '{}', 'its hash finds none');
select is(
  (keylatch.prove_column('public.parlours', 'api_key')).fallback_reads, 0::bigint,
  'and nothing was read in clear'
);

-- Phase 3: only in these words, and then for good.

select is(pg_temp.step('drop_plaintext', ', ''yes'''), 'PT400 invalid_argument', 'yes is not enough');
select keylatch.drop_plaintext('public.parlours', 'api_key', 'drop plaintext');
insert into public.parlours values (502, 'key-502');
select is(
  (select p.api_key is null and p.api_key_hash = pg_temp.hex('key-502')
    from public.parlours as p where p.id = 502),
  true, 'what is still written in clear is kept as its hash alone'
);
select is(pg_temp.step('revert_column'), 'PT409 adoption_not_ready', 'there is no way back');
select keylatch.hash_rows('public.parlours', 'api_key', 60000);
-- It warns of older copies.
set local client_min_messages = error;
select keylatch.drop_plaintext('public.parlours', 'api_key', 'drop plaintext');
select hasnt_column('public', 'parlours', 'api_key', 'the column is gone');
select is(pg_temp.found('key-7'), '{7}', 'and a key finds its rows');

select * from finish();
rollback;
