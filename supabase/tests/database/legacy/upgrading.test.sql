-- Waiting keys: their first use, their list, their end.
begin;
\ir ../people.psql
\ir importing.psql
select plan(69);

select is(
  pg_temp.import(pg_temp.line(jsonb_build_object(
    'alg', 'bcrypt', 'hash', extensions.crypt('a salted old key', extensions.gen_salt('bf', 4)),
    'starts_with', 'a salted', 'label', 'shop', 'expires_at', '2030-01-01'
  ))),
  'waiting', 'a key under bcrypt waits'
);
select is(
  pg_temp.resolves('a salted old key'), 0::bigint, 'resolve_key does not find a waiting key'
);
select is(pg_temp.upgrades('a salted old kex'), 0::bigint, 'a similar text upgrades nothing');
select is(
  pg_temp.upgrades('a salted old key', pg_temp.b()), 0::bigint, 'another workspace upgrades nothing'
);
select is(
  pg_temp.run(
    'alice', 'select concat_ws('' '', status, scheme, label, masked_key) from keylatch.legacy_keys'
  ),
  'waiting bcrypt shop ...', 'an admin sees the waiting key'
);
select is(
  pg_temp.run(v.who, 'select count(*) from keylatch.legacy_keys'), '0', format('%s does not', v.who)
)
from (values ('bob'), ('mia'), ('stranger')) as v (who);
select is(
  pg_temp.outcome(v.who, 'select verifier from keylatch_internal.legacy_keys'), '42501',
  format('%s reads no salted hash', v.who)
)
from (values ('anon'), ('alice'), ('service_role'), ('keylatch_resolver')) as v (who);
select is(
  (select count(*) from keylatch.upgrade_key('a salted old key')), 1::bigint,
  'its first use upgrades it, without a workspace if its beginning is known'
);
select is(pg_temp.resolves('a salted old key'), 1::bigint, 'an upgraded key resolves');
select is(
  (
    select row(k.id = g.id, k.id = g.key_id, k.label, k.expires_at, k.masked_key, g.status)::text
    from keylatch.keys as k cross join keylatch.legacy_keys as g
  ),
  '(t,t,shop,"2030-01-01 00:00:00+00",...,upgraded)', 'under the same id, as the row that waited'
);
select is(pg_temp.upgrades('a salted old key'), 1::bigint, 'upgrading a key again resolves it');
select is(
  pg_temp.import(pg_temp.line(pg_temp.salted('another salted old key', 'monday'))), 'waiting',
  'a key under PBKDF2 waits, too'
);
select is(
  (select count(*) from keylatch.upgrade_key('another salted old key')), 0::bigint,
  'without a known beginning, a key needs its workspace'
);
select is(
  pg_temp.upgrades('another salted old key'), 1::bigint, 'with the workspace, the key is found'
);
select is(
  pg_temp.import(pg_temp.line(pg_temp.salted('another salted old key', 'monday'))), 'exists',
  'a second import recognises the upgraded key'
);
select is(
  pg_temp.import(pg_temp.line(
    pg_temp.salted('another salted old key', 'monday') || '{"revoked_at": "2024-01-31"}'
  )),
  'moved', 'a second import revokes the upgraded key'
);
select is(
  pg_temp.state('another salted old key'), 'revoked', 'the revoked key does not resolve again'
);

-- One text, several salts: a text that is inactive under one salt is inactive under all.

select is(
  pg_temp.import(
    pg_temp.line(pg_temp.salted('a key under two salts', 'monday')
      || '{"revoked_at": "2024-01-31", "revoke_reason": "leaked"}'),
    pg_temp.line(pg_temp.salted('a key under two salts', 'wednesday'))
  ),
  'waiting waiting', 'one key under two salts is imported as two waiting keys'
);
select is(pg_temp.upgrades('a key under two salts'), 0::bigint,
  'the first use of a revoked key returns nothing');
select is(
  pg_temp.state('a key under two salts'), 'revoked leaked', 'the first use finds the revoked key'
);
select is(
  (
    select count(*)
    from keylatch.legacy_keys as g
    where g.status = 'upgraded' and g.imported_at is not null
  ),
  4::bigint, 'the first use recognises both keys'
);
select is(
  pg_temp.import(
    pg_temp.line(pg_temp.salted('a key in plaintext later', 'monday')
      || '{"expires_at": "2024-01-31"}'),
    pg_temp.line(pg_temp.salted('a hash that comes later', 'monday')
      || '{"suspended_at": "2024-01-31"}')
  ),
  'waiting waiting', 'an expired and a suspended key wait'
);
select is(
  pg_temp.import(pg_temp.line('{"key": "a key in plaintext later"}')), 'waiting',
  'a plaintext key that may be a waiting key waits, too'
);
select is(pg_temp.upgrades('a key in plaintext later'), 0::bigint, 'and does not resolve');
select is(pg_temp.state('a key in plaintext later'), 'expired', 'because it is expired');
select is(
  pg_temp.import(pg_temp.line(jsonb_build_object(
    'alg', 'sha256', 'hash_encoding', 'hex', 'hash', encode(sha256('a hash that comes later'),
      'hex')
  ))),
  'waiting', 'a SHA-256 that may be a suspended key waits for its text'
);
select is(pg_temp.upgrades('a hash that comes later'), 0::bigint, 'and does not resolve');
select is(pg_temp.state('a hash that comes later'), 'suspended', 'because it is suspended');
select is(
  pg_temp.import(jsonb_build_object(
    'workspace_id', gen_random_uuid(), 'alg', 'sha256', 'hash_encoding', 'hex', 'hash',
    encode(sha256('a publishable old key'), 'hex'), 'kind', 'publishable',
    'allowed_origins', '["https://a.example"]'::jsonb
  )),
  'imported', 'a publishable key with only its hash resolves at once'
);
select is(
  (select count(*) from keylatch.resolve_key('a publishable old key', 'https://a.example')),
  1::bigint, 'a publishable key resolves from its origins'
);
select is(
  pg_temp.resolves('a publishable old key'), 0::bigint,
  'a publishable key does not resolve from other origins'
);
select is(
  (select k.public_key from keylatch.keys as k where k.kind = 'publishable'), null,
  'its text is not known'
);

select is(
  pg_temp.import(
    pg_temp.line(pg_temp.salted('a key with two ends', 'monday')
      || '{"suspended_at": "2024-01-31"}'),
    pg_temp.line(pg_temp.salted('a key with two ends', 'friday') || '{"expires_at": "2030-01-31"}'),
    jsonb_build_object('workspace_id', pg_temp.b()) || pg_temp.salted('a key with two ends',
      'friday')
  ),
  'waiting waiting refused', 'a waiting key belongs to one workspace'
);
select is(pg_temp.upgrades('a key with two ends'), 0::bigint, 'one text may have two rows');
update keylatch.keys set suspended_at = null where id = keylatch_internal.find_key(
  'a key with two ends'
);
select is(
  (
    select concat_ws(' ', k.status, k.expires_at::date)
    from keylatch.keys as k where k.id = keylatch_internal.find_key('a key with two ends')
  ),
  'active 2030-01-31', 'the key with the earlier expiry answers first, then the other key'
);

-- A key that one call could not find in its rounds is not imported.

select is(
  pg_temp.import(
    pg_temp.line(pg_temp.salted('x', 'a') || '{"iter": 700000}'),
    pg_temp.line(pg_temp.salted('x', 'b') || '{"iter": 600000}'),
    pg_temp.line(pg_temp.salted('x', 'b') || '{"iter": 600001, "starts_with": "sk_"}'),
    pg_temp.line(pg_temp.salted('x', 'c') || '{"iter": 1200001}'),
    jsonb_build_object('workspace_id', pg_temp.b()) || pg_temp.salted('x', 'd')
      || '{"iter": 600000}'
  ),
  'waiting refused refused refused waiting',
  'the keys that may have one text need no more rounds than one call computes'
);
select is(
  pg_temp.import(
    jsonb_build_object('workspace_id', pg_temp.b(), 'key', 'a key in plaintext beside them')
  ),
  'waiting', 'a key in plaintext waits beside them'
);
select is(
  pg_temp.import(
    jsonb_build_object('workspace_id', gen_random_uuid(), 'key', 'a key in plaintext elsewhere')
  ),
  'imported', 'without waiting keys, a plaintext key is imported'
);

-- Revoked while it waits.

select is(
  pg_temp.import(pg_temp.line(pg_temp.salted('a leaked old key', 'monday')
    || '{"starts_with": "a leaked"}')),
  'waiting', 'a key waits'
);
insert into pg_temp.made (name, id)
select 'leaked', g.id from keylatch.legacy_keys as g
where g.status = 'waiting'
order by g.imported_at desc
limit 1;
select is(
  pg_temp.outcome(v.who, 'select keylatch.revoke_legacy_key(pg_temp.id(''leaked''))'), v.outcome,
  format('%s cannot revoke a waiting key', v.who)
)
from (values
  ('anon', '42501'), ('stranger', 'PT404 key_not_found'), ('mia', 'PT404 key_not_found'),
  ('bob', 'PT404 key_not_found'), ('keylatch_resolver', '42501')
) as v (who, outcome);
select is(
  pg_temp.run('alice',
    'select already_revoked from keylatch.revoke_legacy_key(pg_temp.id(''leaked''), ''leaked'')'),
  'false', 'an admin revokes a waiting key'
);
select is(
  pg_temp.run('alice',
    'select already_revoked from keylatch.revoke_legacy_key(pg_temp.id(''leaked''))'),
  'true', 'revoking it again is no error'
);
select is(
  (
    select concat_ws(' ', g.status, g.revoke_reason, g.revoked_by)
    from keylatch.legacy_keys as g
    where g.id = pg_temp.id('leaked')
  ),
  'revoked leaked ' || pg_temp.user_id('alice'), 'the user and the reason are stored'
);
select is(
  pg_temp.outcome(v.who, format('%s where key_id = pg_temp.id(''leaked'')', v.statement)), v.outcome,
  format('%s as %s is refused', v.statement, v.who)
)
from (values
  ('owner', 'update keylatch_internal.legacy_keys set rounds = 1', 'PT409 column_is_immutable'),
  ('owner', 'update keylatch_internal.legacy_keys set import_id = gen_random_uuid()',
    'PT409 column_is_immutable'),
  ('owner', 'update keylatch_internal.legacy_keys set clear_part = ''''', 'PT409 column_is_immutable'),
  ('replica', 'update keylatch_internal.legacy_keys set verifier = ''x''',
    'PT409 column_is_immutable'),
  ('replica', 'delete from keylatch_internal.legacy_keys', 'PT409 keys_are_kept'),
  ('alice', 'update keylatch_internal.legacy_keys set scheme = ''x''', '42501')
) as v (who, statement, outcome);
select is(
  pg_temp.outcome('replica', v.statement), 'PT409 keys_are_kept', v.statement || ' is refused'
)
from (values
  ('truncate keylatch_internal.legacy_keys'), ('truncate keylatch_internal.legacy_texts'),
  ('update keylatch_internal.legacy_texts set key_hash = ''x'''),
  ('delete from keylatch_internal.legacy_texts')
) as v (statement);
select is(pg_temp.upgrades('a leaked old key'), 0::bigint,
  'a revoked key is not upgraded to an active one');
select is(
  pg_temp.import(pg_temp.line(pg_temp.salted('an old key of A', 'monday')
    || '{"starts_with": "an old"}')), 'waiting',
  'another key waits'
);
delete from keylatch.workspaces where id = pg_temp.a();
select is(
  (select count(*) from keylatch.legacy_keys as g
    where g.workspace_id = pg_temp.a() and g.status = 'waiting'),
  0::bigint, 'no key waits in a deleted workspace'
);
select is(
  pg_temp.upgrades('an old key of A'), 0::bigint, 'no key is upgraded in a deleted workspace'
);
select is(
  pg_temp.import(pg_temp.line('{"key": "an old key for a deleted workspace"}')), 'refused',
  'no key is imported into a deleted workspace'
);

-- Who may.

select is(
  pg_temp.outcome(v.who, 'select keylatch.upgrade_key(''x'', pg_temp.a())'), '42501',
  format('%s upgrades nothing', v.who)
)
from (values ('anon'), ('alice')) as v (who);

select * from finish();
rollback;
