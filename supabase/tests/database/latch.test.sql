-- The latch: what has been revoked, expired or superseded stays so, what a key is never changes,
-- and rows are kept. For an admin, service_role, the owner, and the owner in replication mode.
begin;
\ir people.psql
select plan(289);

select pg_temp.make('living');
select pg_temp.make('suspended', '''secret'', expires_at => now() + ''1 day''');
select pg_temp.manage('suspend_key', 'suspended');
select pg_temp.make('revoked', '''publishable'', expires_at => now() + ''1 day''');
select pg_temp.manage('revoke_key', 'revoked', '''leaked''');
select pg_temp.make('superseded', '''secret'', expires_at => now() + ''2 days''');
select pg_temp.make(
  'successor', null, 'keylatch.rotate_key(pg_temp.id(''superseded''), ''1 day'')'
);
select pg_temp.make('expired', '''publishable'', expires_at => clock_timestamp() + ''0.2 s''');
select pg_temp.make(
  'expired and suspended', '''secret'', expires_at => clock_timestamp() + ''0.2 s'''
);
select pg_temp.manage('suspend_key', 'expired and suspended');
select pg_sleep(0.25);

create temporary table tried on commit drop as
select v.*
from (values
  -- Revoked.
  ('revoked', 'revoked_at = null', 'revoked_is_final'),
  ('revoked', 'revoked_at = revoked_at - interval ''1 s''', 'revoked_is_final'),
  ('revoked', 'revoked_at = now() + interval ''1 day''', 'revoked_is_final'),
  ('revoked', 'revoked_at = ''infinity''', 'revoked_is_final'),
  ('revoked', 'revoked_by = null', 'revoked_is_final'),
  ('revoked', 'revoked_by = gen_random_uuid()', 'revoked_is_final'),
  ('revoked', 'revoke_reason = null', 'revoked_is_final'),
  ('revoked', 'revoke_reason = ''other''', 'revoked_is_final'),
  ('revoked', 'revoked_at = null, revoked_by = null, revoke_reason = null', 'revoked_is_final'),
  ('revoked', 'scopes = ''{a}''', 'revoked_is_final'),
  ('revoked', 'expires_at = null', 'revoked_is_final'),
  ('revoked', 'expires_at = now() + interval ''1 hour''', 'revoked_is_final'),
  ('revoked', 'suspended_at = now()', 'revoked_is_final'),
  ('revoked', 'superseded_at = now()', 'revoked_is_final'),
  ('revoked', 'label = ''x'', metadata = ''{"a": 1}'', allowed_origins = ''{}''', '1 row'),
  ('revoked', 'revoked_at = revoked_at, revoke_reason = ''leaked'', label = ''x''', '1 row'),
  -- Expired.
  ('expired', 'expires_at = null', 'expired_is_final'),
  ('expired', 'expires_at = now() + interval ''1 day''', 'expired_is_final'),
  ('expired', 'expires_at = expires_at - interval ''1 s''', 'expired_is_final'),
  ('expired', 'expires_at = ''infinity''', 'expired_is_final'),
  ('expired', 'superseded_at = now()', 'expired_is_final'),
  ('expired', 'scopes = ''{a}''', 'expired_is_final'),
  ('expired', 'suspended_at = now()', 'expired_is_final'),
  ('expired', 'revoked_at = now(), expires_at = null', 'expired_is_final'),
  ('expired', 'label = ''x'', metadata = ''{"a": 1}'', allowed_origins = ''{}''', '1 row'),
  ('expired', 'revoked_at = now(), revoke_reason = ''to be sure''', '1 row'),
  ('expired and suspended', 'suspended_at = null', 'expired_is_final'),
  -- Superseded.
  ('superseded', 'superseded_at = null', 'superseded_is_final'),
  ('superseded', 'superseded_at = superseded_at + interval ''1 s''', 'superseded_is_final'),
  ('superseded', 'superseded_at = null, expires_at = null', 'superseded_is_final'),
  ('superseded', 'expires_at = null', 'superseded_is_final'),
  ('superseded', 'expires_at = expires_at + interval ''1 us''', 'superseded_is_final'),
  ('superseded', 'expires_at = ''infinity''', 'superseded_is_final'),
  ('superseded', 'expires_at = expires_at - interval ''1 us''', '1 row'),
  ('superseded', 'expires_at = clock_timestamp() - interval ''1 s''', 'invalid_argument'),
  ('superseded', 'expires_at = ''-infinity''', 'invalid_argument'),
  ('superseded', 'suspended_at = now()', '1 row'),
  ('superseded', 'scopes = ''{a}'', label = ''x''', '1 row'),
  ('superseded', 'revoked_at = now()', '1 row'),
  -- While it lives.
  ('living', 'expires_at = now() + interval ''1 day''', '1 row'),
  ('living', 'expires_at = now() - interval ''1 day''', 'invalid_argument'),
  ('living', 'expires_at = ''infinity''', 'invalid_argument'),
  ('living', 'superseded_at = now()', 'invalid_argument'),
  ('living', 'superseded_at = now(), expires_at = now() + interval ''1 day''', '1 row'),
  ('living', 'superseded_at = now(), expires_at = ''infinity''', 'invalid_argument'),
  ('living', 'suspended_at = now()', '1 row'),
  ('living', 'scopes = ''{a}''', '1 row'),
  ('living', 'revoked_by = gen_random_uuid()', 'invalid_argument'),
  ('living', 'revoke_reason = ''x''', 'invalid_argument'),
  ('suspended', 'suspended_at = null', '1 row'),
  ('suspended', 'expires_at = null', '1 row'),
  -- What a key is, living or dead.
  ('living', 'id = gen_random_uuid()', 'column_is_immutable'),
  ('living', 'workspace_id = pg_temp.b()', 'column_is_immutable'),
  ('living', 'kind = ''publishable''', 'column_is_immutable'),
  ('living', 'environment = ''test''', 'column_is_immutable'),
  ('living', 'public_key = ''x''', 'column_is_immutable'),
  ('living', 'hint = ''x''', 'column_is_immutable'),
  ('living', 'rotated_from = pg_temp.id(''expired'')', 'column_is_immutable'),
  ('living', 'created_at = now()', 'column_is_immutable'),
  ('living', 'created_by = null', 'column_is_immutable'),
  ('successor', 'rotated_from = null', 'column_is_immutable'),
  ('revoked', 'public_key = ''x''', 'column_is_immutable'),
  ('expired', 'workspace_id = pg_temp.b()', 'column_is_immutable')
) as v (key, assignment, outcome);

select is(
  regexp_replace(
    pg_temp.outcome(w.who, format(
      'update keylatch.keys set %s where id = pg_temp.id(%L)', t.assignment, t.key
    )),
    '^PT[0-9]+ ', ''
  ),
  t.outcome,
  format('%s, a %s key: %s', w.who, t.key, t.assignment)
)
from tried as t, unnest(array['alice', 'service_role', 'owner', 'replica']) as w (who);

select is(
  regexp_replace(pg_temp.outcome(w.who, v.statement), '^PT[0-9]+ ', ''),
  v.outcome,
  format('%s: %s', w.who, v.what)
)
from (values
  (
    'a hash does not change',
    'update keylatch_internal.keys set key_hash = sha256(''x'') where id = pg_temp.id(''living'')',
    'column_is_immutable'
  ),
  (
    'a row is not deleted', 'delete from keylatch.keys where id = pg_temp.id(''revoked'')',
    'keys_are_kept'
  ),
  ('the table is not emptied', 'delete from keylatch_internal.keys', 'keys_are_kept'),
  ('nor truncated', 'truncate keylatch_internal.keys', 'keys_are_kept'),
  (
    'an upsert that brings the hash does not revive',
    $$ insert into keylatch_internal.keys
        (id, workspace_id, kind, public_key, key_hash, hint, created_at)
      select id, workspace_id, kind, public_key, key_hash, hint, created_at
      from keylatch_internal.keys where id = pg_temp.id('revoked')
      on conflict (id) do update set revoked_at = null, revoked_by = null, revoke_reason = null $$,
    'revoked_is_final'
  ),
  (
    'an upsert by its hash does not revive',
    $$ insert into keylatch_internal.keys
        (id, workspace_id, kind, public_key, key_hash, hint, created_at)
      select gen_random_uuid(), workspace_id, kind, public_key, key_hash, hint, created_at
      from keylatch_internal.keys where id = pg_temp.id('expired')
      on conflict (key_hash) do update set expires_at = null $$,
    'expired_is_final'
  ),
  (
    'a merge does not revive',
    $$ merge into keylatch_internal.keys as k using (values (pg_temp.id('revoked'))) as v (id)
      on k.id = v.id when matched then update set revoked_at = null $$,
    'revoked_is_final'
  ),
  (
    'a merge does not delete',
    $$ merge into keylatch_internal.keys as k using (values (pg_temp.id('revoked'))) as v (id)
      on k.id = v.id when matched then delete $$,
    'keys_are_kept'
  ),
  (
    'the same hash is not inserted a second time',
    $$ insert into keylatch_internal.keys
        (id, workspace_id, kind, public_key, key_hash, hint, created_at)
      select gen_random_uuid(), workspace_id, kind, public_key, key_hash, hint, now()
      from keylatch_internal.keys where id = pg_temp.id('revoked') $$,
    '23505'
  )
) as v (what, statement, outcome), unnest(array['owner', 'replica']) as w (who);

-- A client names no hash, and what it inserts is a new key with a new id.
select is(
  regexp_replace(pg_temp.outcome(w.who, v.statement), '^PT[0-9]+ ', ''),
  v.outcome,
  format('%s: %s', w.who, v.what)
)
from (values
  (
    'an upsert of a whole row does not revive',
    $$ insert into keylatch.keys as k (id, workspace_id, label)
      values (pg_temp.id('revoked'), pg_temp.a(), 'x')
      on conflict (id) do update set label = excluded.label, revoked_at = null $$,
    'invalid_argument'
  ),
  (
    'a stale object that writes back every column does not revive',
    $$ update keylatch.keys as k set
        label = 'x', metadata = k.metadata, allowed_origins = k.allowed_origins,
        scopes = k.scopes, expires_at = k.expires_at, suspended_at = null, superseded_at = null,
        revoked_at = null, revoked_by = null, revoke_reason = null
      where id = pg_temp.id('revoked') $$,
    'revoked_is_final'
  )
) as v (what, statement, outcome), unnest(array['alice', 'service_role', 'owner']) as w (who);

-- Asked again at the commit: an extension that was written while the key lived comes too late when
-- the transaction stays open past the old expiry.
select pg_temp.make('extended late', '''secret'', expires_at => clock_timestamp() + ''0.2 s''');
select is(
  pg_temp.outcome(w.who, format(
    $$ with extended as (
        update keylatch.keys set expires_at = %s where id = pg_temp.id('extended late') returning id
      ) select count(*) from extended $$, v.expiry
  )),
  '1 row',
  format('%s may extend a key to %s while it lives', w.who, v.expiry)
)
from (values ('now() + interval ''1 hour'''), ('null')) as v (expiry),
unnest(array['alice', 'service_role', 'owner', 'replica']) as w (who);
select pg_temp.run('alice', $$ update keylatch.keys set expires_at = null
  where id = pg_temp.id('extended late') returning id $$);
select pg_sleep(0.25);
select is(
  pg_temp.outcome(w.who, 'set constraints all immediate'), 'PT409 expired_is_final',
  w.who || ' cannot commit it after the key had expired'
)
from unnest(array['alice', 'service_role', 'owner', 'replica']) as w (who);

-- A workspace that is deleted and comes back brings no key back.
delete from keylatch.workspaces where id = pg_temp.a();
insert into keylatch.workspaces (id, name) values (pg_temp.a(), 'A again');
select is(
  (select count(*) from keylatch.keys where workspace_id = pg_temp.a() and status <> 'revoked'),
  0::bigint,
  'a workspace that was deleted and made again has no living key'
);

select * from finish();
rollback;
