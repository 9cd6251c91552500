-- The keys of an older system: what an import takes, and the first use that makes a salted one
-- native.
begin;
\ir people.psql
select plan(32);

-- A line for workspace A, and what came of a batch: `imported`, `exists` or `refused` for each line.
create function pg_temp.line(p_fields jsonb) returns jsonb language sql as
$$ select jsonb_build_object('workspace_id', pg_temp.a()) || p_fields $$;
create function pg_temp.import(p_batch jsonb, p_dry_run boolean default false) returns text
language plpgsql as
$$
declare
  v_report keylatch.import_report;
begin
  perform pg_temp.act_as('service_role');
  v_report := keylatch.import_keys(p_batch, p_dry_run);
  perform pg_temp.act_as('owner');
  return (select string_agg(l.outcome, ' ' order by l."position") from unnest(v_report.lines) as l);
end
$$;
-- How many rows a key resolves to, or is claimed for.
create function pg_temp.resolves(p_key text) returns bigint language sql as
$$ select count(*) from keylatch.resolve_key(p_key) $$;
create function pg_temp.claims(p_key text, p_workspace uuid default pg_temp.a()) returns bigint
language sql as
$$ select count(*) from keylatch.claim_key(p_key, p_workspace) $$;

-- What has no salt is native at once.

select is(
  pg_temp.import(jsonb_build_array(pg_temp.line('{"key": "an old key in clear", "label": "x"}'))),
  'imported', 'a key in clear is taken'
);
select is(pg_temp.resolves('an old key in clear'), 1::bigint, 'and resolves at once');
select is(
  pg_temp.import(jsonb_build_array(pg_temp.line(jsonb_build_object(
    'alg', 'sha256', 'hash', encode(sha256('an old key in hex'), 'hex'), 'hash_encoding', 'hex'
  )))),
  'imported', 'so is its SHA-256 in hex'
);
select is(pg_temp.resolves('an old key in hex'), 1::bigint, 'which resolves as well');
select is(
  pg_temp.import(jsonb_build_array(pg_temp.line(jsonb_build_object(
    'alg', 'sha256', 'hash', encode(sha256('an old key in base64'), 'base64'),
    'hash_encoding', 'base64'
  )))),
  'imported', 'and in base64'
);
select is(pg_temp.resolves('an old key in base64'), 1::bigint, 'which resolves, too');
select is(
  pg_temp.resolves(encode(sha256('an old key in hex'), 'hex')), 0::bigint,
  'the hash itself is no key'
);

-- The same again is safe, and a bad line costs no other.

select is(
  pg_temp.import(jsonb_build_array(
    pg_temp.line('{"key": "an old key in clear"}'), pg_temp.line('{"key": "another old key"}')
  )),
  'exists imported', 'what is there is left as it is'
);
select is(
  pg_temp.import(jsonb_build_array(
    pg_temp.line('{"alg": "md5", "hash": "x"}'), pg_temp.line('{"key": "a third old key"}'), '"x"',
    pg_temp.line('{"key": "a third old key"}')
  )),
  'refused imported refused refused', 'each bad line is refused alone, a double one too'
);
select is(
  pg_temp.import(jsonb_build_array(
    jsonb_build_object('workspace_id', pg_temp.b(), 'key', 'an old key in clear')
  )),
  'refused', 'a key is of one workspace'
);
select is(
  pg_temp.import(jsonb_build_array(pg_temp.line('{"key": "a fourth old key"}')), true),
  'imported', 'a dry run says what would come of it'
);
select is(pg_temp.resolves('a fourth old key'), 0::bigint, 'and leaves nothing');
select is(pg_temp.import('[]'), null, 'an empty batch is a batch');
select is(
  pg_temp.outcome('service_role', format('select keylatch.import_keys(%L)', v.batch)),
  'PT400 invalid_argument', format('%s is none', left(v.batch, 20))
)
from (values
  ('{}'), ('null'), (array_to_json(array_fill('{}'::json, '{10001}'))::text)
) as v (batch);

-- What was dead stays dead.

select is(
  pg_temp.import(jsonb_build_array(pg_temp.line(
    '{"key": "a revoked old key", "revoked_at": "2024-01-31", "revoke_reason": "leaked"}'
  ))),
  'imported', 'a revoked key is taken as revoked'
);
select is(pg_temp.resolves('a revoked old key'), 0::bigint, 'and does not resolve');
select is(
  (
    select k.status || ' ' || k.revoke_reason || ' ' || k.revoked_at::date
    from keylatch.keys as k where k.revoke_reason is not null
  ),
  'revoked leaked 2024-01-31', 'with its reason and its time'
);

-- A salted one is native from its first use on.

select is(
  pg_temp.import(jsonb_build_array(pg_temp.line(jsonb_build_object(
    'alg', 'bcrypt', 'hash',
    extensions.crypt('a salted old key', extensions.gen_salt('bf', 4)), 'starts_with', 'a salted'
  )))),
  'imported', 'a salted hash is taken'
);
select is(pg_temp.resolves('a salted old key'), 0::bigint, 'resolving never tries it');
select is(pg_temp.claims('a salted old kex'), 0::bigint, 'a near miss claims nothing');
select is(pg_temp.claims('a salted old key', pg_temp.b()), 0::bigint, 'nor does another workspace');
select is(
  (select count(*) from keylatch.unclaimed_keys where workspace_id = pg_temp.a()), 1::bigint,
  'until then it is among the unclaimed'
);
select is(pg_temp.claims('a salted old key'), 1::bigint, 'its first use claims it');
select is(pg_temp.resolves('a salted old key'), 1::bigint, 'and then it resolves');
select is(
  (select count(*) from keylatch_internal.foreign_hashes), 0::bigint, 'of its old hash nothing is kept'
);
select is(pg_temp.claims('a salted old key'), 1::bigint, 'claiming it again is resolving it');

-- Who may.

select is(
  pg_temp.outcome(v.who, 'select keylatch.import_keys(''[]'')'), '42501',
  format('%s imports nothing', v.who)
)
from (values ('anon'), ('alice'), ('keylatch_resolver')) as v (who);
select is(
  pg_temp.outcome('alice', 'select keylatch.claim_key(''x'', pg_temp.a())'), '42501',
  'an admin claims nothing'
);

select * from finish();
rollback;
