-- Module legacy: taking back an import that was wrong, before any of its keys was used.
--
-- Rows are never deleted, and nothing becomes active again. The keys are revoked and marked, and
-- look-ups pass over them: a later import brings the same keys as new rows (see current_hash).

insert into keylatch_internal.errors (slug, code, hint) values
(
  'import_was_used', 'PT409',
  'Revoke the wrong keys with revoke_key, and issue new ones in the right workspace.'
);

create function keylatch_internal.import_use(p_import_id uuid)
returns text language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_module record;
  v_found boolean;
begin
  if exists (
    select from keylatch_internal.legacy_keys as g
    where g.import_id = p_import_id and g.taken_back is null and g.upgraded_at is not null
  ) then
    return 'A waiting key of the import had its first use.';
  elsif exists (
    select from keylatch_internal.legacy_keys as g
    inner join keylatch_internal.keys as s on g.key_id = s.rotated_from
    where g.import_id = p_import_id and g.taken_back is null
  ) then
    return 'A key of the import was rotated.';
  end if;
  -- What other modules know, where they are installed. This one needs none of them.
  for v_module in
    select m.relation, m.condition, m.use
    from (values
      ('key_usage', 'u.uses > 0', 'A key of the import was used, as a service reported.'),
      ('sessions', 'true', 'A key of the import opened a session.')
    ) as m (relation, condition, use)
    where to_regclass('keylatch_internal.' || m.relation) is not null
  loop
    execute format(
      'select exists (select from keylatch_internal.%I as u '
      'inner join keylatch_internal.legacy_keys as g on u.key_id = g.key_id '
      'where g.import_id = $1 and g.taken_back is null and %s)',
      v_module.relation, v_module.condition
    ) into v_found using p_import_id;
    if v_found then
      return v_module.use;
    end if;
  end loop;
  return null;
end $$;
comment on function keylatch_internal.import_use is
  'How a key of an import was used, in a sentence; null as far as the database knows of no use.';

create function keylatch_internal.taken_back_state(p_key keylatch_internal.keys)
returns text language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when p_key.revoked_at is null then null
    when p_key.revoke_reason is distinct from 'the import was taken back'
      or p_key.imported_at is null or p_key.superseded_at is not null then 'revoked'
    -- A key that expired here was active here. An expiry in the past came with the import, and may
    -- be wrong.
    when p_key.expires_at <= p_key.revoked_at and p_key.expires_at > p_key.imported_at
      then 'revoked'
    when p_key.suspended_at is not null then 'suspended'
    else 'active'
  end;
end $$;
comment on function keylatch_internal.taken_back_state is
  'What a revoked key was before its import was taken back, by the columns that never change any
more; null for a key that is not revoked.';

create function keylatch_internal.hold_taken_back()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_key keylatch_internal.keys;
begin
  select k.* into v_key from keylatch_internal.keys as k where k.id = new.key_id;
  -- A restore may insert this row before the key.
  if found and (
    v_key.revoked_at is null or new.taken_back in ('active', 'suspended')
    and new.taken_back <> keylatch_internal.taken_back_state(v_key)
  ) then
    perform keylatch_internal.refuse(
      'column_is_immutable', 'taken_back must say what the key was: only its import is taken back.',
      'Call take_back_import.'
    );
  end if;
  return new;
end $$;
comment on function keylatch_internal.hold_taken_back is
  'Refuses to mark a key as taken back that was not, or as more active than it was.';

create trigger legacy_keys_insert_taken_back
before insert on keylatch_internal.legacy_keys for each row when (
  new.taken_back is not null and not keylatch_internal.is_apply_worker()
) execute function keylatch_internal.hold_taken_back();
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_insert_taken_back;
comment on trigger legacy_keys_insert_taken_back on keylatch_internal.legacy_keys is
  'A key that was revoked otherwise is not marked as taken back: an import could bring it again.';

create trigger legacy_keys_update_taken_back
before update on keylatch_internal.legacy_keys for each row when (
  old.taken_back is null and new.taken_back is not null and not keylatch_internal.is_apply_worker()
) execute function keylatch_internal.hold_taken_back();
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_update_taken_back;
comment on trigger legacy_keys_update_taken_back on keylatch_internal.legacy_keys is
  'A key that was revoked otherwise is not marked as taken back: an import could bring it again.';

create function keylatch_internal.merge_legacy()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_key keylatch_internal.keys;
begin
  -- What the replica itself recorded stays. Refusing the row would stop the worker for good.
  new.upgraded_at := coalesce(old.upgraded_at, new.upgraded_at);
  select k.* into v_key from keylatch_internal.keys as k where k.id = new.key_id;
  new.taken_back := case
    when old.taken_back is not null then old.taken_back
    when new.taken_back is not null and keylatch_internal.taken_back_state(v_key) = 'revoked'
      then 'revoked'
    else new.taken_back
  end;
  return new;
end $$;
comment on function keylatch_internal.merge_legacy is
  'On a logical replica: keeps what the replica itself recorded of a key, and its own revocation.';

create trigger legacy_keys_update_a_merge before update on keylatch_internal.legacy_keys
for each row
when (keylatch_internal.is_apply_worker()) execute function keylatch_internal.merge_legacy();
alter table keylatch_internal.legacy_keys enable replica trigger legacy_keys_update_a_merge;
comment on trigger legacy_keys_update_a_merge on keylatch_internal.legacy_keys is
  'On a logical replica, before all other triggers: of two states, the more final one wins.';

create function keylatch_internal.take_back(p_import_id uuid, p_limit integer)
returns keylatch.retirement language plpgsql volatile security definer
-- definer because: what is known of imported keys is written by the owner alone.
set search_path = pg_catalog, pg_temp as $$
declare
  v_result keylatch.retirement;
  v_use text;
  v_ids uuid[];
  v_revoked uuid[];
begin
  perform keylatch_internal.require_grants('keylatch_internal.take_back');
  -- No import looks for keys meanwhile.
  lock table keylatch_internal.legacy_settings in exclusive mode;
  v_use := keylatch_internal.import_use(p_import_id);
  if v_use is not null then
    perform keylatch_internal.refuse('import_was_used', v_use);
  elsif not exists (
    select from keylatch_internal.legacy_keys as g where g.import_id = p_import_id
  ) then
    perform keylatch_internal.refuse(
      'invalid_argument', 'import_id is not the id of an import that brought a key.',
      'The report of the import has it, and so has the view imported_keys.'
    );
  end if;
  v_ids := array(
    -- legacy_keys first: a key that just has its first use is passed over without a lock on it, so
    -- that its revocation does not wait.
    select g.key_id from keylatch_internal.legacy_keys as g
    inner join keylatch_internal.keys as k on g.key_id = k.id
    where g.import_id = p_import_id and g.taken_back is null and g.upgraded_at is null
    order by g.key_id limit p_limit
    for update of g skip locked for update of k skip locked
  );
  with revoked as (
    update keylatch_internal.keys as k
    set revoked_at = clock_timestamp(), revoke_reason = 'the import was taken back'
    where k.id = any (v_ids) and k.revoked_at is null
    returning k.id
  )
  select array_agg(r.id) into v_revoked from revoked as r;
  update keylatch_internal.legacy_keys as g
  set taken_back = case when g.key_id = any (v_revoked)
    then keylatch_internal.taken_back_state(k) else 'revoked' end
  from keylatch_internal.keys as k
  where g.key_id = any (v_ids) and k.id = g.key_id;
  v_result.revoked := cardinality(v_ids);
  v_result.is_done := not exists (
    select from keylatch_internal.legacy_keys as g
    where g.import_id = p_import_id and g.taken_back is null
  );
  return v_result;
end $$;
comment on function keylatch_internal.take_back is 'Does the work of take_back_import.';

create function keylatch.take_back_import(import_id uuid, "limit" integer default 10000)
returns keylatch.retirement language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if take_back_import."limit" is null or take_back_import."limit" not between 1 and 100000 then
    perform keylatch_internal.refuse(
      'invalid_argument', 'limit must be from 1 to 100000.', 'Leave it out for 10000.'
    );
  end if;
  return keylatch_internal.take_back(take_back_import.import_id, take_back_import."limit");
end $$;
comment on function keylatch.take_back_import is
  'Takes back a wrong import before any of its keys was used: revokes the keys that it brought, up
to limit of them, and lets a correct import bring the same keys again, also to another workspace.
Call it until is_done is true.

It was used if a waiting key had its first use, a key was rotated, a service reported a use, or a session was
opened. Resolving alone leaves no trace. Keys that were there before the import stay as it left
them. A key that was revoked or suspended, or expired here, before the call stays so in a later
import. revoke_key cannot add to that after the call: leave a leaked key out of the next import.
revoked: how many keys were taken back. Errors: import_was_used (409), invalid_argument (400).';

-- Who may do what: those who import.
revoke all on function
keylatch_internal.import_use, keylatch_internal.taken_back_state,
keylatch_internal.hold_taken_back, keylatch_internal.merge_legacy, keylatch_internal.take_back,
keylatch.take_back_import
from public, anon, authenticated, service_role;
grant execute on function keylatch.take_back_import, keylatch_internal.take_back to service_role;
