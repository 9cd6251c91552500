-- Every row that a client inserts, by whatever path, gets a key that the database makes.

create function keylatch_internal.mint_key()
returns trigger
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_handoff pg_catalog.text := coalesce(current_setting('keylatch.handoff', true), '');
  v_handed constant boolean := starts_with(v_handoff, 'prefix:');
  v_prefix pg_catalog.text := 'wk';
  v_key pg_catalog.text;
  v_given pg_catalog.text;
  v_problem keylatch_internal.problem;
  v_old keylatch.keys;
begin
  -- Nobody but the owner may name these columns. Who brings a hash imports a key, as it is.
  if new.key_hash is not null or new.imported_at is not null then
    new.id := coalesce(new.id, gen_random_uuid());
    new.created_at := coalesce(new.created_at, clock_timestamp());
    return new;
  end if;

  v_given := case
    when new.id is not null then 'id'
    when new.public_key is not null then 'public_key'
    when new.hint is not null then 'hint'
    when new.suspended_at is not null then 'suspended_at'
    when new.superseded_at is not null then 'superseded_at'
    when new.revoked_at is not null then 'revoked_at'
    when new.revoked_by is not null then 'revoked_by'
    when new.revoke_reason is not null then 'revoke_reason'
    when new.created_at is not null then 'created_at'
    when new.created_by is not null then 'created_by'
    when new.rotated_from is not null and not v_handed then 'rotated_from'
  end;
  if v_given is not null then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = v_given || ' is made by the database and cannot be given for a new key.',
      hint = 'Leave it out. To change a key that exists, PATCH it instead of an upsert.';
  end if;

  if new.workspace_id is null then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'workspace_id must be given.',
      hint = 'Pass the id of a workspace that you administer.';
  end if;

  v_problem := keylatch_internal.check_key(new);
  if v_problem is null and new.expires_at <= clock_timestamp() then
    v_problem := row('expires_at must be in the future.', 'Leave it out for a key without an end.');
  end if;
  if v_problem is not null then
    raise sqlstate 'PT400' using
      message = 'invalid_argument', detail = v_problem.detail, hint = v_problem.hint;
  end if;

  -- A workspace that is being deleted is waited for, and the policy of this statement would not see
  -- the deletion: its snapshot is older than the wait. So ask once more, with a snapshot of now.
  perform pg_advisory_xact_lock_shared(keylatch_internal.workspace_lock(new.workspace_id));
  if row_security_active(tg_relid) then
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
      raise feature_not_supported using
        message = 'a key is made in a transaction that reads what is committed',
        detail = 'On an older snapshot a workspace that was deleted since would get a living key.',
        hint = 'Run: set transaction isolation level read committed;';
    elsif new.workspace_id not in (select keylatch.admin_workspace_ids()) then
      raise insufficient_privilege using
        message = 'new row violates row-level security policy for table "keys"',
        hint = 'Only an admin of the workspace makes keys there.';
    end if;
  end if;

  if new.rotated_from is not null then
    perform keylatch_internal.lock_family(new.rotated_from, false);
    select k.* into v_old from keylatch.keys as k where k.id = new.rotated_from for update;
    if not found then
      raise sqlstate 'PT404' using
        message = 'key_not_found',
        detail = 'rotated_from names no key that you can see.',
        hint = 'Call rotate_key with the id of a key in a workspace that you administer.';
    elsif (v_old.workspace_id, v_old.kind, v_old.environment)
      is distinct from (new.workspace_id, new.kind, new.environment)
    then
      raise sqlstate 'PT400' using
        message = 'invalid_argument',
        detail = 'rotated_from names a key of another workspace, kind or environment.',
        hint = 'Call rotate_key: it makes the new key like the old one, and ends that.';
    end if;
    -- Before the old key ends: a dead one mints nothing, whatever it died of.
    perform keylatch_internal.require_rotatable(v_old);
    v_prefix := keylatch_internal.hint_prefix(v_old.hint);
  end if;

  if v_handed then
    v_prefix := substr(v_handoff, 8);
  end if;
  v_key := keylatch_internal.generate_key(v_prefix, new.kind, new.environment);
  new.id := gen_random_uuid();
  new.key_hash := keylatch.hash_key(v_key);
  new.public_key := case new.kind when 'publishable' then v_key end;
  new.hint := keylatch_internal.key_hint(v_key);
  new.created_at := clock_timestamp();
  new.created_by := keylatch_internal.current_user_id();

  -- Read once by insert_key and cleared there. Nobody else asks for the key, so after a plain
  -- insert it is nowhere: a secret one made that way is of no use until it is rotated. It is an
  -- assignment because that runs no statement whose parameters a log could show.
  if v_handed then
    v_handoff := set_config('keylatch.handoff', 'key:' || v_key, true);
  end if;
  return new;
end;
$$;

comment on function keylatch_internal.mint_key() is
  'Makes the key of a row that is being inserted: its id, hash, hint and stamps.';

revoke all on function keylatch_internal.mint_key()
from public, anon, authenticated, service_role;

-- Origin sessions only: a logical replica takes the row as it was made.
create trigger keys_insert_mint
before insert on keylatch_internal.keys
for each row execute function keylatch_internal.mint_key();
comment on trigger keys_insert_mint on keylatch_internal.keys is
  'No caller chooses a hash: the database makes the key of every inserted row.';
