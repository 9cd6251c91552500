-- The latch: a revoked, expired or superseded key stays so, its identity never changes, and rows
-- are kept. For an admin, service_role, the owner, and the owner in replication mode.
begin;
\ir ../people.psql
select plan(326);

select pg_temp.make('active');
select pg_temp.make('suspended', '''secret'', expires_at => now() + ''1 day''');
select pg_temp.manage('suspend_key', 'suspended');
select pg_temp.make('revoked', '''publishable'', expires_at => now() + ''1 day''');
select pg_temp.manage('revoke_key', 'revoked', '''leaked''');
select pg_temp.make('superseded', '''secret'', expires_at => now() + ''2 days''');
select pg_temp.make(
  'successor', null, 'keylatch.rotate_key(pg_temp.id(''superseded''), ''1 day'')'
);
select pg_temp.make('expired', '''publishable'', expires_at => clock_timestamp() + ''0.8 s''');
select pg_temp.make(
  'expired and suspended', '''secret'', expires_at => clock_timestamp() + ''0.8 s'''
);
select pg_temp.manage('suspend_key', 'expired and suspended');
select pg_sleep(0.85);

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
  -- Active.
  ('active', 'expires_at = now() + interval ''1 day''', '1 row'),
  ('active', 'expires_at = now() - interval ''1 day''', 'invalid_argument'),
  ('active', 'expires_at = ''infinity''', 'invalid_argument'),
  ('active', 'superseded_at = now()', 'invalid_argument'),
  ('active', 'superseded_at = now(), expires_at = now() + interval ''1 day''', '1 row'),
  ('active', 'superseded_at = now(), expires_at = ''infinity''', 'invalid_argument'),
  ('active', 'suspended_at = now()', '1 row'),
  ('active', 'scopes = ''{a}''', '1 row'),
  ('active', 'revoked_by = gen_random_uuid()', 'invalid_argument'),
  ('active', 'revoke_reason = ''x''', 'invalid_argument'),
  ('active', 'revoked_at = now(), revoke_reason = repeat(''x'', 500)', '1 row'),
  ('active', 'revoked_at = now(), revoke_reason = repeat(''x'', 501)', 'invalid_argument'),
  ('active', 'revoked_at = now(), revoke_reason = e''\x01''', 'invalid_argument'),
  ('suspended', 'suspended_at = null', '1 row'),
  ('suspended', 'expires_at = null', '1 row'),
  -- Columns that never change, of active and inactive keys.
  ('active', 'id = gen_random_uuid()', 'column_is_immutable'),
  ('active', 'workspace_id = pg_temp.b()', 'column_is_immutable'),
  ('active', 'kind = ''publishable''', 'column_is_immutable'),
  ('active', 'environment = ''test''', 'column_is_immutable'),
  ('active', 'public_key = ''x''', 'column_is_immutable'),
  ('active', 'masked_key = ''x''', 'column_is_immutable'),
  ('active', 'rotated_from = pg_temp.id(''expired'')', 'column_is_immutable'),
  ('active', 'created_at = now()', 'column_is_immutable'),
  ('active', 'created_by = null', 'column_is_immutable'),
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
from tried as t, unnest(array['alice', 'service_role', 'owner', 'replica']) as w (who)
where w.who <> 'replica' or t.outcome <> 'invalid_argument';
-- A replica takes its publisher's values as they are, but enforces the constraints of a key.
select is(
  pg_temp.outcome('replica', format(
    'update keylatch.keys set %s where id = pg_temp.id(%L)', v.assignment, v.key
  )),
  v.outcome,
  format('replica, a %s key: %s', v.key, v.assignment)
)
from (values
  ('superseded', 'expires_at = clock_timestamp() - interval ''1 s''', '1 row'),
  ('superseded', 'expires_at = ''-infinity''', '23514'),
  ('active', 'expires_at = now() - interval ''1 day''', '1 row'),
  ('active', 'expires_at = ''infinity''', '23514'),
  ('active', 'superseded_at = now()', '23514'),
  ('active', 'superseded_at = now(), expires_at = ''infinity''', '23514'),
  ('active', 'revoked_by = gen_random_uuid()', '23514'),
  ('active', 'revoke_reason = ''x''', '23514'),
  ('active', 'label = ''wk_sk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V''', '1 row')
) as v (key, assignment, outcome);

select is(
  regexp_replace(pg_temp.outcome(w.who, v.statement), '^PT[0-9]+ ', ''),
  v.outcome,
  format('%s: %s', w.who, v.what)
)
from (values
  (
    'a hash cannot change',
    'update keylatch_internal.keys set key_hash = sha256(''x'') where id = pg_temp.id(''active'')',
    'column_is_immutable'
  ),
  (
    'a row cannot be deleted', 'delete from keylatch.keys where id = pg_temp.id(''revoked'')',
    'keys_are_kept'
  ),
  ('the table cannot be emptied by delete', 'delete from keylatch_internal.keys', 'keys_are_kept'),
  ('the table cannot be truncated', 'truncate keylatch_internal.keys', 'keys_are_kept'),
  (
    'an upsert with the hash does not reactivate a key',
    $$ insert into keylatch_internal.keys
        (id, workspace_id, kind, public_key, key_hash, masked_key, created_at, updated_at)
      select id, workspace_id, kind, public_key, key_hash, masked_key, created_at, now()
      from keylatch_internal.keys where id = pg_temp.id('revoked')
      on conflict (id) do update set revoked_at = null, revoked_by = null, revoke_reason = null $$,
    'revoked_is_final'
  ),
  (
    'an upsert on the hash does not reactivate a key',
    $$ insert into keylatch_internal.keys
        (id, workspace_id, kind, public_key, key_hash, masked_key, created_at, updated_at)
      select gen_random_uuid(), workspace_id, kind, public_key, key_hash, masked_key, now(), now()
      from keylatch_internal.keys where id = pg_temp.id('expired')
      on conflict (key_hash) do update set expires_at = null $$,
    'expired_is_final'
  ),
  (
    'a merge does not reactivate a key',
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
    'the same hash cannot be inserted a second time',
    $$ insert into keylatch_internal.keys
        (id, workspace_id, kind, public_key, key_hash, masked_key, created_at, updated_at)
      select gen_random_uuid(), workspace_id, kind, public_key, key_hash, masked_key, now(), now()
      from keylatch_internal.keys where id = pg_temp.id('revoked') $$,
    '23505'
  )
) as v (what, statement, outcome), unnest(array['owner', 'replica']) as w (who);

-- A client passes no hash, so its insert makes a new key with a new id.
select is(
  regexp_replace(pg_temp.outcome(w.who, v.statement), '^PT[0-9]+ ', ''),
  v.outcome,
  format('%s: %s', w.who, v.what)
)
from (values
  (
    'an upsert of a whole row does not reactivate a key',
    $$ insert into keylatch.keys as k (id, workspace_id, label)
      values (pg_temp.id('revoked'), pg_temp.a(), 'x')
      on conflict (id) do update set label = excluded.label, revoked_at = null $$,
    'invalid_argument'
  ),
  (
    'writing back all columns of a stale object does not reactivate a key',
    $$ update keylatch.keys as k set
        label = 'x', metadata = k.metadata, allowed_origins = k.allowed_origins,
        scopes = k.scopes, expires_at = k.expires_at, suspended_at = null, superseded_at = null,
        revoked_at = null, revoked_by = null, revoke_reason = null
      where id = pg_temp.id('revoked') $$,
    'revoked_is_final'
  )
) as v (what, statement, outcome), unnest(array['alice', 'service_role', 'owner']) as w (who);

-- Each promise is a trigger of its own, and its condition states the promise.

create function pg_temp.condition(p_trigger text) returns text language sql as $$
  select regexp_replace(
    substring(pg_get_triggerdef(t.oid, true) from 'WHEN [(](.*)[)] EXECUTE'),
    '(new|old)[.]([a-z_]+) IS DISTINCT FROM (new|old)[.]\2', 'changes(\2)', 'g'
  )
  from pg_trigger as t
  where t.tgrelid = 'keylatch_internal.keys'::regclass and t.tgname = p_trigger;
$$;
select is(pg_temp.condition(v.name), v.condition, format('the condition of %s', v.name))
from (values
  (
    'keys_update_immutable',
    'changes(id) OR changes(workspace_id) OR changes(kind) OR changes(environment) '
    || 'OR changes(key_hash) OR changes(public_key) OR changes(masked_key) '
    || 'OR changes(rotated_from) OR changes(created_at) OR changes(created_by) '
    || 'OR changes(imported_at)'
  ),
  (
    'keys_update_revoked_is_final',
    'old.revoked_at IS NOT NULL AND (changes(revoked_at) OR changes(revoked_by) '
    || 'OR changes(revoke_reason) OR changes(superseded_at) OR changes(expires_at) '
    || 'OR changes(suspended_at) OR changes(scopes))'
  ),
  (
    'keys_update_expired_is_final',
    'old.revoked_at IS NULL AND old.expires_at <= clock_timestamp() AND (changes(superseded_at) '
    || 'OR changes(expires_at) OR changes(suspended_at) OR changes(scopes)) '
    || 'AND NOT keylatch_internal.is_apply_worker()'
  ),
  (
    'keys_update_superseded_is_final',
    'old.superseded_at IS NOT NULL AND (changes(superseded_at) OR new.expires_at IS NULL '
    || 'OR new.expires_at > old.expires_at)'
  ),
  (
    'keys_update_hold_expiry',
    'old.expires_at IS NOT NULL AND (new.expires_at IS NULL OR new.expires_at > old.expires_at) '
    || 'AND NOT keylatch_internal.is_apply_worker()'
  ),
  (
    'keys_update_values',
    'changes(label) OR changes(metadata) OR changes(allowed_origins) OR changes(scopes) '
    || 'OR changes(expires_at) OR changes(superseded_at) OR new.revoked_at IS NULL AND '
    || 'num_nonnulls(new.revoked_by, new.revoke_reason) > 0 OR length(new.revoke_reason) > 100 '
    || 'OR new.revoke_reason !~ ''^[A-Za-z0-9 .,_-]*$''::text'
  ),
  ('keys_insert_mint', 'new.key_hash IS NULL'),
  ('keys_update_a_merge_revocation', 'keylatch_internal.is_apply_worker()')
) as v (name, condition);

-- Each trigger works alone: without the other triggers, it still refuses its own changes.
create function pg_temp.alone(p_trigger text, p_statement text) returns text language plpgsql as $$
declare
  v_other name;
  v_message text;
begin
  for v_other in
    select t.tgname from pg_trigger as t
    where t.tgrelid = 'keylatch_internal.keys'::regclass and not t.tgisinternal
      and t.tgname <> p_trigger
  loop
    execute format('alter table keylatch_internal.keys disable trigger %I', v_other);
  end loop;
  execute p_statement;
  raise sqlstate 'UNDO0' using message = 'it was not refused';
exception
  when sqlstate 'PT409' or sqlstate 'UNDO0' then
    get stacked diagnostics v_message = message_text;
    return v_message;
end
$$;
set constraints all immediate;
select is(
  pg_temp.alone(v.trigger_name, format(
    'update keylatch_internal.keys set %s where id = pg_temp.id(%L)', v.assignment, v.key
  )),
  v.slug,
  format('%s alone refuses %s of the %s key', v.trigger_name, v.assignment, v.key)
)
from (values
  ('keys_update_immutable', 'revoked', 'masked_key = ''x''', 'column_is_immutable'),
  ('keys_update_immutable', 'active', 'imported_at = now()', 'column_is_immutable'),
  ('keys_update_revoked_is_final', 'revoked', 'revoked_at = null, revoked_by = null, '
    'revoke_reason = null', 'revoked_is_final'),
  ('keys_update_expired_is_final', 'expired', 'expires_at = null', 'expired_is_final'),
  ('keys_update_superseded_is_final', 'superseded', 'superseded_at = null',
    'superseded_is_final'),
  ('keys_update_superseded_is_final', 'active', 'label = ''x''', 'it was not refused')
) as v (trigger_name, key, assignment, slug);
select is(
  pg_temp.alone(v.trigger_name, v.statement), 'keys_are_kept',
  format('%s alone refuses the truncate', v.trigger_name)
)
from (values
  ('keys_delete_keep', 'delete from keylatch_internal.keys where id = pg_temp.id(''active'')'),
  ('keys_truncate_keep', 'truncate keylatch_internal.keys cascade')
) as v (trigger_name, statement);
set constraints all deferred;

-- Checked again at the commit: an extension from before the expiry is refused if the transaction
-- stays open past the old expiry.
select pg_temp.make('extended late', '''secret'', expires_at => clock_timestamp() + ''2 s''');
select is(
  pg_temp.outcome(w.who, format(
    $$ with extended as (
        update keylatch.keys set expires_at = %s where id = pg_temp.id('extended late') returning id
      ) select count(*) from extended $$, v.expiry
  )),
  '1 row',
  format('%s may extend a key to %s while it is active', w.who, v.expiry)
)
from (values ('now() + interval ''1 hour'''), ('null')) as v (expiry),
unnest(array['alice', 'service_role', 'owner', 'replica']) as w (who);
select pg_temp.run('alice', $$ update keylatch.keys set expires_at = null
  where id = pg_temp.id('extended late') returning id $$);
select pg_sleep(2.05);
select is(
  pg_temp.outcome(w.who, 'set constraints all immediate'), 'PT409 expired_is_final',
  w.who || ' cannot commit the extension after the expiry'
)
from unnest(array['alice', 'service_role', 'owner', 'replica']) as w (who);

-- A row may have values that a newer rule refuses, or values of a publisher. Values are checked
-- only when they change, so a key with these values can be revoked and edited like any other key.

select pg_temp.make('old values', '''publishable''');
select pg_temp.run('replica', $$ update keylatch.keys set
    label = 'wk_sk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', scopes = '{A}', metadata = '[]',
    allowed_origins = '{https://A.example}'
  where id = pg_temp.id('old values') returning id $$);
select is(
  regexp_replace(pg_temp.outcome('alice', format(v.statement, 'pg_temp.id(''old values'')')),
    '^PT[0-9]+ ', ''),
  v.outcome,
  format('a key with old values: %s is %s', v.statement, v.outcome)
)
from (values
  ('select keylatch.revoke_key(%s)', '1 row'),
  ('select keylatch.revoke_key(%s, ''leaked'', true)', '1 row'),
  ('select keylatch.suspend_key(%s)', '1 row'),
  ('update keylatch.keys set revoked_at = now(), revoke_reason = ''x'' where id = %s', '1 row'),
  ('update keylatch.keys set expires_at = now() + interval ''1 day'' where id = %s', '1 row'),
  ('update keylatch.keys set label = ''good'', scopes = ''{a}'', metadata = ''{}'' where id = %s',
    '1 row'),
  ('update keylatch.keys set scopes = ''{B}'' where id = %s', 'invalid_argument'),
  ('update keylatch.keys set label = label || ''!'' where id = %s', 'invalid_argument'),
  ('update keylatch.keys set allowed_origins = ''{https://B.example}'' where id = %s',
    'invalid_argument')
) as v (statement, outcome);

-- The triggers do not fire for a table that inherits from the table of keys: none of its rows is a
-- key.
create table public.copies () inherits (keylatch_internal.keys);
insert into public.copies (id, workspace_id, kind, key_hash, masked_key, created_at, updated_at)
values (
  gen_random_uuid(), pg_temp.a(), 'secret', keylatch.hash_key('chosen'), 'chosen', now(), now()
);
select is_empty(
  $$ select from keylatch.resolve_key('chosen') $$, 'a row of a child table does not resolve'
);
select is_empty(
  $$ select from keylatch.keys where masked_key = 'chosen' $$, 'a child table has no keys'
);

select * from finish();
rollback;
