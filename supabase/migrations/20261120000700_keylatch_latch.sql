-- The latch: what has been revoked, expired or superseded stays so.
--
-- The triggers fire always, so they hold for service_role, for the owner, for a superuser and in
-- replication mode. What is outside of them is the owner's DDL, such as disabling a trigger.

create function keylatch_internal.is_apply_worker()
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return exists (
    select 1 from pg_catalog.pg_stat_subscription as w where w.pid = pg_backend_pid()
  );
end;
$$;

comment on function keylatch_internal.is_apply_worker() is
  'Whether this is the worker of a logical replica, and not a session that only sets its mode.';

revoke all on function keylatch_internal.is_apply_worker()
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.is_apply_worker() to authenticated, service_role;

create function keylatch_internal.hold_latch()
returns trigger
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_now constant pg_catalog.timestamptz := clock_timestamp();
  -- A logical replica keeps the publisher's times, so that it holds the same rows.
  v_stamps constant boolean := current_setting('session_replication_role') <> 'replica';
  -- And what the publisher's clock let through while the key lived arrives later here.
  v_applies constant boolean := not v_stamps and keylatch_internal.is_apply_worker();
  v_column pg_catalog.text;
  v_problem keylatch_internal.problem;
begin
  v_column := case
    when new.id is distinct from old.id then 'id'
    when new.workspace_id is distinct from old.workspace_id then 'workspace_id'
    when new.kind is distinct from old.kind then 'kind'
    when new.environment is distinct from old.environment then 'environment'
    -- An imported key that has none gets its hash once, and if it is publishable its text with it.
    when new.key_hash is distinct from old.key_hash and old.key_hash is not null then 'key_hash'
    when new.public_key is distinct from old.public_key
      and (old.public_key is not null or old.key_hash is not null) then 'public_key'
    when new.hint is distinct from old.hint then 'hint'
    when new.rotated_from is distinct from old.rotated_from then 'rotated_from'
    when new.created_at is distinct from old.created_at then 'created_at'
    when new.created_by is distinct from old.created_by then 'created_by'
    when new.imported_at is distinct from old.imported_at then 'imported_at'
  end;
  if v_column is not null then
    raise sqlstate 'PT409' using
      message = 'column_is_immutable',
      detail = v_column || ' of a key never changes.',
      hint = 'Issue or rotate a key instead.';
  end if;

  -- What only a living key may change. A dead one keeps its label, metadata and origins editable.
  v_column := case
    when new.superseded_at is distinct from old.superseded_at then 'superseded_at'
    when new.expires_at is distinct from old.expires_at then 'expires_at'
    when new.suspended_at is distinct from old.suspended_at then 'suspended_at'
    when new.scopes is distinct from old.scopes then 'scopes'
    when new.key_hash is distinct from old.key_hash then 'key_hash'
  end;

  if old.revoked_at is not null then
    v_column := coalesce(
      case
        when new.revoked_at is distinct from old.revoked_at then 'revoked_at'
        when new.revoked_by is distinct from old.revoked_by then 'revoked_by'
        when new.revoke_reason is distinct from old.revoke_reason then 'revoke_reason'
      end,
      v_column
    );
    if v_column is not null then
      raise sqlstate 'PT409' using
        message = 'revoked_is_final',
        detail = format('The key was revoked at %s; its %s can no longer change.',
          old.revoked_at, v_column),
        hint = 'Issue a new key.';
    end if;
  elsif old.expires_at <= v_now and not v_applies then
    if v_column is not null then
      raise sqlstate 'PT409' using
        message = 'expired_is_final',
        detail = format('The key expired at %s; its %s can no longer change.',
          old.expires_at, v_column),
        hint = 'Issue a new key.';
    end if;
  elsif old.superseded_at is not null then
    if new.superseded_at is distinct from old.superseded_at
      or new.expires_at is null
      or new.expires_at > old.expires_at
    then
      raise sqlstate 'PT409' using
        message = 'superseded_is_final',
        detail = format(
          'The key was superseded at %s and ends at %s; its %s can no longer change that way.',
          old.superseded_at, old.expires_at, v_column),
        hint = 'Move expires_at nearer, revoke the key, or give the caller its successor.';
    end if;
  end if;

  if v_stamps then
    if old.revoked_at is null and new.revoked_at is not null then
      new.revoked_at := v_now;
      new.revoked_by := keylatch_internal.current_user_id();
    end if;
    if old.superseded_at is null and new.superseded_at is not null then
      new.superseded_at := v_now;
    end if;
    if new.suspended_at is not null then
      new.suspended_at := coalesce(old.suspended_at, v_now);
    end if;
  end if;

  v_problem := keylatch_internal.check_key(new);
  if v_problem is null
    and new.expires_at is distinct from old.expires_at
    and new.expires_at <= v_now
    and not v_applies
  then
    v_problem := row('expires_at must be in the future.', 'To end a key now, revoke it.');
  end if;
  if v_problem is not null then
    raise sqlstate 'PT400' using
      message = 'invalid_argument', detail = v_problem.detail, hint = v_problem.hint;
  end if;
  return new;
end;
$$;

comment on function keylatch_internal.hold_latch() is
  'Refuses every change of a row that would turn a latch back, and puts the clock where a time is
set.';

revoke all on function keylatch_internal.hold_latch()
from public, anon, authenticated, service_role;

create trigger keys_update_latch
before update on keylatch_internal.keys
for each row execute function keylatch_internal.hold_latch();
alter table keylatch_internal.keys enable always trigger keys_update_latch;
comment on trigger keys_update_latch on keylatch_internal.keys is
  'Revoked, expired and superseded are final; what a key is never changes.';

create function keylatch_internal.hold_expiry()
returns trigger
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if old.expires_at <= clock_timestamp() then
    raise sqlstate 'PT409' using
      message = 'expired_is_final',
      detail = format('The key expired at %s, before this was committed.', old.expires_at),
      hint = 'Issue a new key.';
  end if;
  return null;
end;
$$;

comment on function keylatch_internal.hold_expiry() is
  'Refuses at the commit an extension that was written while the key lived and would revive it.';

revoke all on function keylatch_internal.hold_expiry()
from public, anon, authenticated, service_role;

create constraint trigger keys_update_hold_expiry
after update on keylatch_internal.keys
deferrable initially deferred
for each row
when (
  old.expires_at is not null and (new.expires_at is null or new.expires_at > old.expires_at)
  -- Asked here because from version 16 on nothing may be deferred in such a worker.
  and not keylatch_internal.is_apply_worker()
)
execute function keylatch_internal.hold_expiry();
alter table keylatch_internal.keys enable always trigger keys_update_hold_expiry;
comment on trigger keys_update_hold_expiry on keylatch_internal.keys is
  'A transaction that stays open past an expiry does not revive the key when it commits.';

create function keylatch_internal.keep_keys()
returns trigger
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  raise sqlstate 'PT409' using
    message = 'keys_are_kept',
    detail = 'Keys are not deleted, so that a dead one stays recognised as dead.',
    hint = 'Revoke the key.';
end;
$$;

comment on function keylatch_internal.keep_keys() is
  'Refuses to delete or truncate.';

revoke all on function keylatch_internal.keep_keys()
from public, anon, authenticated, service_role;

create trigger keys_delete_keep
before delete on keylatch_internal.keys
for each row execute function keylatch_internal.keep_keys();
alter table keylatch_internal.keys enable always trigger keys_delete_keep;
comment on trigger keys_delete_keep on keylatch_internal.keys is
  'Rows are not deleted: one inserted again would have lost its death.';

create trigger keys_truncate_keep
before truncate on keylatch_internal.keys
for each statement execute function keylatch_internal.keep_keys();
alter table keylatch_internal.keys enable always trigger keys_truncate_keep;
comment on trigger keys_truncate_keep on keylatch_internal.keys is
  'The table is not emptied.';
