-- The triggers that guard keys ("the latch"): a revoked, expired or superseded key never becomes
-- active again. This file also checks the values of new and changed keys.
-- Each trigger enforces one rule, which its "when" condition states. The triggers fire for every
-- role, including service_role, the owner and a superuser, and also in replication mode. Only the
-- owner of the table can turn the triggers off, with "alter table … disable trigger".

insert into keylatch_internal.errors (slug, code, hint) values
('column_is_immutable', 'PT409', 'Call issue_key or rotate_key instead.'),
('revoked_is_final', 'PT409', 'Call issue_key for a new key.'),
('expired_is_final', 'PT409', 'Call issue_key for a new key.'),
(
  'superseded_is_final', 'PT409',
  'Set an earlier expires_at, or let the caller use the successor of the key.'
);

create function keylatch_internal.is_apply_worker()
returns boolean language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from pg_catalog.pg_stat_subscription as w where w.pid = pg_backend_pid());
end $$;
comment on function keylatch_internal.is_apply_worker is 'Whether this is an apply worker.';

create function keylatch_internal.hold_latch()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- Leave out the columns that may always change, and those that the database computes.
  v_old constant jsonb := to_jsonb(old)
    - '{label,metadata,allowed_origins,updated_at,fingerprint}'::text[];
  v_columns constant text := (
    select string_agg(n.key, ', ' order by n.key) from jsonb_each(to_jsonb(new)) as n
    where v_old ? n.key and n.value <> v_old -> n.key
  );
begin
  perform keylatch_internal.refuse(tg_argv[0], case tg_argv[0]
    when 'keys_are_kept' then
      'Keys cannot be deleted: the record of a revocation must stay in the table.'
    when 'column_is_immutable' then format('%s of a key never changes.', v_columns)
    when 'revoked_is_final' then format(
      'The key was revoked at %s; its %s can no longer change.', old.revoked_at, v_columns)
    when 'expired_is_final' then format(
      'The key expired at %s; its %s can no longer change.', old.expires_at, v_columns)
    else format(
      'The key was superseded at %s and expires at %s. This change of %s is not allowed.',
      old.superseded_at, old.expires_at, v_columns)
  end);
  return null;
end $$;
comment on function keylatch_internal.hold_latch is
  'A trigger function that raises the error in the trigger argument and names the changed columns.';

create trigger keys_update_immutable before update on keylatch_internal.keys for each row when (
  new.id is distinct from old.id or new.workspace_id is distinct from old.workspace_id
  or new.kind is distinct from old.kind or new.environment is distinct from old.environment
  or new.key_hash is distinct from old.key_hash or new.public_key is distinct from old.public_key
  or new.masked_key is distinct from old.masked_key
  or new.rotated_from is distinct from old.rotated_from
  or new.created_at is distinct from old.created_at
  or new.created_by is distinct from old.created_by
  or new.imported_at is distinct from old.imported_at
) execute function keylatch_internal.hold_latch('column_is_immutable');
alter table keylatch_internal.keys enable always trigger keys_update_immutable;
comment on trigger keys_update_immutable on keylatch_internal.keys is
  'The columns that identify a key, such as key_hash, and those of its creation never change.';

create trigger keys_update_revoked_is_final
before update on keylatch_internal.keys for each row when (
  old.revoked_at is not null and (
    new.revoked_at is distinct from old.revoked_at or new.revoked_by is distinct from old.revoked_by
    or new.revoke_reason is distinct from old.revoke_reason
    or new.superseded_at is distinct from old.superseded_at
    or new.expires_at is distinct from old.expires_at
    or new.suspended_at is distinct from old.suspended_at or new.scopes is distinct from old.scopes
  )
) execute function keylatch_internal.hold_latch('revoked_is_final');
alter table keylatch_internal.keys enable always trigger keys_update_revoked_is_final;
comment on trigger keys_update_revoked_is_final on keylatch_internal.keys is
  'A revoked key stays revoked. Its revoked_at, revoked_by and revoke_reason never change.';

create trigger keys_update_expired_is_final
before update on keylatch_internal.keys for each row when (
  old.revoked_at is null and old.expires_at <= pg_catalog.clock_timestamp() and (
    new.superseded_at is distinct from old.superseded_at
    or new.expires_at is distinct from old.expires_at
    or new.suspended_at is distinct from old.suspended_at or new.scopes is distinct from old.scopes
  )
  -- A change that the publisher accepted before the expiry may reach a replica after the expiry.
  and not keylatch_internal.is_apply_worker()
) execute function keylatch_internal.hold_latch('expired_is_final');
alter table keylatch_internal.keys enable always trigger keys_update_expired_is_final;
comment on trigger keys_update_expired_is_final on keylatch_internal.keys is
  'An expired key stays expired. An expired key can still be revoked.';

create trigger keys_update_superseded_is_final
before update on keylatch_internal.keys for each row when (
  old.superseded_at is not null and (
    new.superseded_at is distinct from old.superseded_at or new.expires_at is null
    or new.expires_at > old.expires_at
  )
) execute function keylatch_internal.hold_latch('superseded_is_final');
alter table keylatch_internal.keys enable always trigger keys_update_superseded_is_final;
comment on trigger keys_update_superseded_is_final on keylatch_internal.keys is
  'A superseded key stays superseded. Its expires_at can only move to an earlier time.';

create function keylatch_internal.hold_expiry()
returns trigger language plpgsql volatile security definer
-- definer because: at the commit the trigger may run as a login without rights here.
set search_path = pg_catalog, pg_temp as $$
declare
  v_first numeric; -- the soonest expiry of all rows so far: the first check is long before the commit
begin
  perform keylatch_internal.require_grants('keylatch_internal.hold_expiry');
  v_first := least(
    extract(epoch from old.expires_at),
    substring(current_setting('keylatch.first_expiry', true), E'^\\d+\\.\\d+$')::numeric
  );
  if v_first <= extract(epoch from clock_timestamp()) then
    perform keylatch_internal.refuse(
      tg_argv[0], format('expires_at was %s, before the commit.', to_timestamp(v_first))
    );
  end if;
  perform set_config('keylatch.first_expiry', v_first::text, true);
  -- If a key is extended, the commit waits for no standby: the key could expire before it ends.
  perform set_config('synchronous_commit', 'local', true) where tg_argv[0] = 'expired_is_final';
  return null;
end $$;
comment on function keylatch_internal.hold_expiry is
  'Refuses, at commit, to extend what expired after the update. Raises the error in its argument.';

create constraint trigger keys_update_hold_expiry
after update on keylatch_internal.keys deferrable initially deferred for each row when (
  old.expires_at is not null and (new.expires_at is null or new.expires_at > old.expires_at)
  -- Not in the function: from PostgreSQL 16 on, an apply worker cannot defer a trigger.
  and not keylatch_internal.is_apply_worker()
) execute function keylatch_internal.hold_expiry('expired_is_final');
alter table keylatch_internal.keys enable always trigger keys_update_hold_expiry;
comment on trigger keys_update_hold_expiry on keylatch_internal.keys is
  'A transaction cannot set a later expires_at for a key that expires before the transaction
commits. The commit does not wait for a synchronous standby, so do not revoke keys in it.';

create trigger keys_delete_keep before delete on keylatch_internal.keys
for each row execute function keylatch_internal.hold_latch('keys_are_kept');
alter table keylatch_internal.keys enable always trigger keys_delete_keep;
comment on trigger keys_delete_keep on keylatch_internal.keys is
  'Refuses DELETE: a revoked key could otherwise be deleted and inserted again as an active key.';

create trigger keys_truncate_keep before truncate on keylatch_internal.keys
for each statement execute function keylatch_internal.hold_latch('keys_are_kept');
alter table keylatch_internal.keys enable always trigger keys_truncate_keep;
comment on trigger keys_truncate_keep on keylatch_internal.keys is 'Refuses TRUNCATE of the keys.';

create function keylatch_internal.merge_revocation()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Replica and publisher both revoked the key. An error here would stop the replication.
  if old.revoked_at is not null then
    new.revoked_at := old.revoked_at;
    new.revoked_by := old.revoked_by;
    new.revoke_reason := old.revoke_reason;
    new.suspended_at := old.suspended_at;
    new.superseded_at := old.superseded_at;
    new.expires_at := old.expires_at;
    new.scopes := old.scopes;
  elsif old.superseded_at is not null then
    new.superseded_at := old.superseded_at;
    new.expires_at := least(old.expires_at, new.expires_at);
  end if;
  return new;
end $$;
comment on function keylatch_internal.merge_revocation is
  'On a logical replica, keeps the replica''s own revoked_at and superseded_at of a key.';

create trigger keys_update_a_merge_revocation before update on keylatch_internal.keys
for each row
when (keylatch_internal.is_apply_worker()) execute function keylatch_internal.merge_revocation();
alter table keylatch_internal.keys enable replica trigger keys_update_a_merge_revocation;
comment on trigger keys_update_a_merge_revocation on keylatch_internal.keys is
  'On a logical replica, a row from the publisher never undoes a revocation made on the replica.';

create function keylatch_internal.stamp_update()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := clock_timestamp();
begin
  new.updated_at := v_now;
  -- For jsonb, 0 equals a 0 with 16000 decimal places: equal metadata would pass without a check.
  new.metadata := case when new.metadata = old.metadata then old.metadata else new.metadata end;
  if old.revoked_at is null and new.revoked_at is not null then
    new.revoked_at := v_now;
    new.revoked_by := keylatch_internal.current_user_id();
    -- Mask a key that revoke_reason quotes. An error would prevent an urgent revocation.
    new.revoke_reason := case when strpos(new.revoke_reason, '_') > 0 then regexp_replace(
      new.revoke_reason,
      '([a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_)[1-9A-HJ-NP-Za-km-z]{36}', E'\\1...', 'g'
    ) else new.revoke_reason end;
  end if;
  if old.superseded_at is null and new.superseded_at is not null then
    new.superseded_at := v_now;
  end if;
  new.suspended_at :=
    case when new.suspended_at is not null then coalesce(old.suspended_at, v_now) end;
  return new;
end $$;
comment on function keylatch_internal.stamp_update is
  'Replaces each timestamp that a caller sets with the server''s time, and sets revoked_by.';

create trigger keys_update_stamp before update on keylatch_internal.keys
for each row execute function keylatch_internal.stamp_update();
comment on trigger keys_update_stamp on keylatch_internal.keys is
  'Sets timestamps and users on update. A logical replica keeps the values of its publisher.';

create function keylatch_internal.check_metadata(p_metadata jsonb)
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when p_metadata is null or jsonb_typeof(p_metadata) <> 'object'
      or octet_length(p_metadata::text) > 8192 then array[
      'metadata must be a JSON object of up to 8 kB.',
      'Store larger data in a table of your own, together with the key id.']
    -- The outermost JSON object counts as level 0.
    when jsonb_path_exists(p_metadata, 'strict $.**{16}.*')
      or jsonb_path_exists(p_metadata, 'strict $.**{16}[*]') then array[
      'metadata has more than 16 nested levels.', 'Nest fewer objects and lists in each other.']
    when exists (
      select from jsonb_path_query(p_metadata, 'strict $.** ? (@.type() == "number")') as n (value)
      where length(n.value::text) > 400 or abs(n.value::numeric) > 1.7976931348623157e308
    ) then array[
      'metadata has a number that a 64-bit float or integer cannot hold.',
      'Write the number as a string.']
  end;
end $$;
comment on function keylatch_internal.check_metadata is 'Checks metadata for check_key.';

create function keylatch_internal.check_key(
  p_old keylatch_internal.keys, p_new keylatch_internal.keys
)
returns text[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_has_bad_scopes boolean;
begin
  -- A subquery inside the expression below would make each update three times as slow.
  if p_new.scopes is distinct from coalesce(p_old.scopes, '{}') then
    v_has_bad_scopes := p_new.scopes is null or array_ndims(p_new.scopes) > 1
      or cardinality(p_new.scopes) > 64 or cardinality(p_new.scopes) > (
        select count(distinct s.scope) from unnest(p_new.scopes) as s (scope)
        where s.scope ~ '^[a-z0-9_.:*-]+$' and length(s.scope) <= 64 -- {1,64} is ten times slower
      );
  end if;
  return coalesce(
    case
      when p_new.kind is null or p_new.kind not in ('publishable', 'secret') then array[
        'kind must be publishable or secret.',
        'Use publishable for a web page, and secret for a server.']
      when p_new.environment is null or p_new.environment not in ('live', 'test') then array[
        'environment must be live or test.', 'Use test to allow * or http://localhost:*.']
      when p_new.expires_at is distinct from p_old.expires_at
        and not (p_new.expires_at > clock_timestamp() and p_new.expires_at < '9999-01-01 00:00Z')
        then array[
        'expires_at must be in the future and before the year 9999.',
        'Pass null for a key that never expires. To disable a key now, call revoke_key.']
      when p_new.superseded_at is not null and p_new.expires_at is null then array[
        'superseded_at needs an expires_at.', 'Call rotate_key with a grace to set both columns.']
      when p_new.revoked_at is null and num_nonnulls(p_new.revoked_by, p_new.revoke_reason) > 0
        then array[
        case when p_new.revoke_reason is null then 'revoked_by' else 'revoke_reason' end
        || ' can only be set on a revoked key.',
        'Call revoke_key, or set revoked_at together with revoke_reason.']
      when length(p_new.revoke_reason) > 500
        or p_new.revoke_reason ~ E'[\\x01-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]' then array[
        'revoke_reason must be a text of up to 500 characters without control characters.',
        'Pass a short reason, for example "leaked in a public repository".']
      when p_new.label is null or p_new.label <> coalesce(p_old.label, '') and (
        length(p_new.label) > 200
        or p_new.label ~ E'[\\x01-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]'
      ) then array[
        'label must be a text of up to 200 characters without control characters.',
        'Pass an empty text for no label.']
      when (p_new.label, p_new.metadata) is distinct from (p_old.label, p_old.metadata)
        and strpos(concat(p_new.label, p_new.metadata), 'k_') > 0 -- fast, and false for most keys
        and concat(p_new.label, ' ', p_new.metadata)
        ~ '[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[1-9A-HJ-NP-Za-km-z]{36}' then array[
        'label or metadata contains a key.', 'Write the key id or the masked key instead.']
      when v_has_bad_scopes then array[
        'scopes must be up to 64 different words of 1 to 64 characters from a-z 0-9 _ . : * -',
        'Pass for example ["orders:read", "orders:write"].']
    end,
    case when p_new.metadata::text is distinct from coalesce(p_old.metadata::text, '{}')
      then keylatch_internal.check_metadata(p_new.metadata) end,
    case when p_new.allowed_origins is distinct from coalesce(p_old.allowed_origins, '{}')
      then keylatch_internal.check_origins(p_new.allowed_origins, p_new.kind, p_new.environment) end
  );
end $$;
comment on function keylatch_internal.check_key is
  'Returns the error detail and hint for the first bad value that changed, or else null.';

create function keylatch_internal.judge_update()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_problem constant text[] := keylatch_internal.check_key(old, new);
begin
  if v_problem is not null then
    perform keylatch_internal.refuse('invalid_argument', v_problem[1], v_problem[2]);
  end if;
  return new;
end $$;
comment on function keylatch_internal.judge_update is 'Refuses an update with an invalid value.';

create trigger keys_update_values before update on keylatch_internal.keys for each row when (
  new.label is distinct from old.label or new.metadata is distinct from old.metadata
  or new.allowed_origins is distinct from old.allowed_origins
  or new.scopes is distinct from old.scopes or new.expires_at is distinct from old.expires_at
  or new.superseded_at is distinct from old.superseded_at
  or (new.revoked_at is null and pg_catalog.num_nonnulls(new.revoked_by, new.revoke_reason) > 0)
  -- A short reason of plain words is always valid. Skipping its check speeds up many revocations.
  or pg_catalog.length(new.revoke_reason) > 100 or new.revoke_reason !~ '^[A-Za-z0-9 .,_-]*$'
) execute function keylatch_internal.judge_update();
comment on trigger keys_update_values on keylatch_internal.keys is
  'Checks each new value. The trigger does not check rows of a restore or of logical replication.';

-- The grants of this file.
revoke all on function keylatch_internal.is_apply_worker, keylatch_internal.hold_latch,
keylatch_internal.hold_expiry, keylatch_internal.merge_revocation, keylatch_internal.stamp_update,
keylatch_internal.judge_update, keylatch_internal.check_metadata, keylatch_internal.check_key
from public, anon, authenticated, service_role;
-- The triggers call these functions with the rights of the role that writes the row.
grant execute on function keylatch_internal.is_apply_worker, keylatch_internal.check_metadata,
keylatch_internal.check_key to authenticated, service_role;
