-- Module legacy: the tables and views that describe imported keys, and the look-up of a plaintext
-- key by its legacy hashes.

create table keylatch_internal.legacy_keys (
  key_id uuid not null,
  workspace_id uuid not null,
  scheme text not null,
  source text not null default '',
  import_id uuid not null,
  seen_by uuid not null,
  last_used_at timestamptz,
  verifier text,
  clear_part text collate "C" not null default '',
  -- squawk-ignore prefer-bigint-over-int
  rounds integer,
  upgraded_at timestamptz,
  constraint legacy_keys_pkey primary key (key_id),
  constraint legacy_keys_rounds_check check ((verifier is null) = (rounds is null))
);
create index legacy_keys_workspace_id_clear_part_idx
on keylatch_internal.legacy_keys (workspace_id, clear_part)
where rounds > 0 and upgraded_at is null;
create index legacy_keys_clear_part_idx
on keylatch_internal.legacy_keys (clear_part) where rounds > 0 and upgraded_at is null;
create index legacy_keys_workspace_id_scheme_idx
on keylatch_internal.legacy_keys (workspace_id, scheme) where rounds = 0 and upgraded_at is null;
create index legacy_keys_source_scheme_idx on keylatch_internal.legacy_keys (source, scheme);
comment on table keylatch_internal.legacy_keys is
  'One row for each imported key: the source of the key, and the legacy hash if it is salted.';
comment on column keylatch_internal.legacy_keys.key_id is 'The id of the imported key.';
comment on column keylatch_internal.legacy_keys.workspace_id is 'The workspace of the key.';
comment on column keylatch_internal.legacy_keys.scheme is
  'How the key was imported: plaintext, sha256, the name of a scheme, or the alg of a salted hash.';
comment on column keylatch_internal.legacy_keys.source is
  'The name of the old system and table, as the import passed it. Empty if not passed.';
comment on column keylatch_internal.legacy_keys.import_id is 'The import that inserted the key.';
comment on column keylatch_internal.legacy_keys.seen_by is
  'The last import of this source that contained the key.';
comment on column keylatch_internal.legacy_keys.last_used_at is
  'When the key was last used in the old system, as the import passed it.';
comment on column keylatch_internal.legacy_keys.verifier is
  'The hash of a key that only upgrade_key can find: an unsalted hash in hex, a bcrypt string, or
the rounds (or before, after), the salt and the hash, separated by $. Only the owner can read it.';
comment on column keylatch_internal.legacy_keys.clear_part is
  'The plaintext part of a salted key: p: and the first characters, or s: and the last, reversed.';
comment on column keylatch_internal.legacy_keys.rounds is
  'How many PBKDF2 rounds upgrade_key needs to compare the key. 0 for an unsalted key that also
needs upgrade_key. Null if resolve_key finds the key without upgrade_key.';
comment on column keylatch_internal.legacy_keys.upgraded_at is
  'When upgrade_key first saw the plaintext of the key. Null before the first use.';
comment on index keylatch_internal.legacy_keys_workspace_id_clear_part_idx is
  'Finds the salted keys of a workspace that upgrade_key has not seen yet, by their clear_part.';
comment on index keylatch_internal.legacy_keys_clear_part_idx is
  'Finds salted keys that upgrade_key has not seen yet, if the caller passes no workspace_id.';
comment on index keylatch_internal.legacy_keys_workspace_id_scheme_idx is
  'Finds the unsalted keys of a workspace that upgrade_key has not seen yet.';
comment on index keylatch_internal.legacy_keys_source_scheme_idx is
  'Finds the keys of a source, for finish_import, and the keys of a scheme.';

create table keylatch_internal.legacy_texts (
  text_hash bytea not null,
  key_hash bytea not null,
  constraint legacy_texts_pkey primary key (text_hash, key_hash)
);
comment on table keylatch_internal.legacy_texts is
  'Maps the SHA-256 of an imported key to its key_hash, if the two differ. Rows never change.';
comment on column keylatch_internal.legacy_texts.text_hash is 'The SHA-256 of the plaintext key.';
comment on column keylatch_internal.legacy_texts.key_hash is
  'The key_hash of the imported key. A plaintext key may have several rows: one for each salt.';

alter table keylatch_internal.legacy_keys enable row level security;
alter table keylatch_internal.legacy_texts enable row level security;

create policy legacy_keys_select_admin on keylatch_internal.legacy_keys
for select to authenticated using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy legacy_keys_select_admin on keylatch_internal.legacy_keys is
  'A signed-in user may read the import data of the workspaces that the user administers.';

create function keylatch_internal.keep_legacy()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_name = 'legacy_schemes_change_keep' then
    perform keylatch_internal.require_read_committed('Changing a scheme');
    lock table keylatch_internal.legacy_schemes in exclusive mode; -- waits for running imports
    if not exists (select from keylatch_internal.legacy_keys as g where g.scheme = old.name) then
      return case tg_op when 'UPDATE' then new else old end;
    end if;
  elsif tg_name = 'legacy_keys_update_upgraded' then
    -- Without the first use in legacy_texts, a later import would not recognise the key.
    if old.upgraded_at is null and exists (
      select from keylatch_internal.legacy_texts as t
      inner join keylatch_internal.keys as k on t.key_hash = k.key_hash
      where k.id = old.key_id
    ) then
      return new;
    end if;
  end if;
  perform keylatch_internal.refuse(
    tg_argv[0], 'The hashes of imported keys, and their schemes, cannot be changed or deleted.'
  );
  return null;
end $$;
comment on function keylatch_internal.keep_legacy is
  'A trigger function that raises the error in the trigger argument.';

create trigger legacy_keys_update_immutable
before update on keylatch_internal.legacy_keys for each row when (
  -- Each column is compared alone, because pg_dump would rewrite a comparison of whole rows.
  new.key_id is distinct from old.key_id or new.workspace_id is distinct from old.workspace_id
  or new.import_id is distinct from old.import_id or new.scheme is distinct from old.scheme
  or new.verifier is distinct from old.verifier or new.rounds is distinct from old.rounds
  or new.clear_part is distinct from old.clear_part
) execute function keylatch_internal.keep_legacy('column_is_immutable');
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_update_immutable;
comment on trigger legacy_keys_update_immutable on keylatch_internal.legacy_keys is
  'The hashes by which an imported key is recognised never change.';

create trigger legacy_keys_update_upgraded
before update on keylatch_internal.legacy_keys for each row
when (new.upgraded_at is distinct from old.upgraded_at)
execute function keylatch_internal.keep_legacy('column_is_immutable');
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_update_upgraded;
comment on trigger legacy_keys_update_upgraded on keylatch_internal.legacy_keys is
  'The time of the first use is set once, after the first use was recorded in legacy_texts.';

create trigger legacy_keys_delete_keep before delete or truncate on keylatch_internal.legacy_keys
for each statement execute function keylatch_internal.keep_legacy('keys_are_kept');
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_delete_keep;
comment on trigger legacy_keys_delete_keep on keylatch_internal.legacy_keys is
  'Refuses DELETE and TRUNCATE: a revoked key must be recognised in each later import.';

create trigger legacy_schemes_change_keep
before delete or update of name, after, strip, take, decode, prepend, append, digest, secret,
secret_encoding, salt_take, iter, length on keylatch_internal.legacy_schemes
for each row execute function keylatch_internal.keep_legacy('keys_are_kept');
alter table keylatch_internal.legacy_schemes enable always trigger legacy_schemes_change_keep;
comment on trigger legacy_schemes_change_keep on keylatch_internal.legacy_schemes is
  'Keeps the scheme of any key: a revoked key must be recognised in each later import.';

create trigger legacy_schemes_truncate_keep before truncate on keylatch_internal.legacy_schemes
for each statement execute function keylatch_internal.keep_legacy('keys_are_kept');
alter table keylatch_internal.legacy_schemes enable always trigger legacy_schemes_truncate_keep;
comment on trigger legacy_schemes_truncate_keep on keylatch_internal.legacy_schemes is
  'Refuses TRUNCATE of the schemes.';

create trigger legacy_texts_change_keep
before update or delete or truncate on keylatch_internal.legacy_texts
for each statement execute function keylatch_internal.keep_legacy('keys_are_kept');
alter table keylatch_internal.legacy_texts enable always trigger legacy_texts_change_keep;
comment on trigger legacy_texts_change_keep on keylatch_internal.legacy_texts is
  'Refuses UPDATE, DELETE and TRUNCATE: an old key could otherwise be imported a second time.';

create function keylatch_internal.merge_first_use()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Replica and publisher both saw the first use. An error would stop the apply worker for good.
  if tg_op = 'UPDATE' then
    new.upgraded_at := old.upgraded_at;
  elsif exists (
    select from keylatch_internal.legacy_texts as t
    where t.text_hash = new.text_hash and t.key_hash = new.key_hash
  ) then
    return null;
  end if;
  return new;
end $$;
comment on function keylatch_internal.merge_first_use is
  'A trigger function that keeps the first use that a logical replica recorded by itself.';

create trigger legacy_keys_update_a_merge_first_use
before update on keylatch_internal.legacy_keys for each row
when (old.upgraded_at is not null and keylatch_internal.is_apply_worker())
execute function keylatch_internal.merge_first_use();
alter table keylatch_internal.legacy_keys
enable replica trigger legacy_keys_update_a_merge_first_use;
comment on trigger legacy_keys_update_a_merge_first_use on keylatch_internal.legacy_keys is
  'Keeps the upgraded_at that a logical replica recorded itself. Fires before the other triggers.';

create trigger legacy_texts_insert_merge_first_use
before insert on keylatch_internal.legacy_texts for each row
when (keylatch_internal.is_apply_worker())
execute function keylatch_internal.merge_first_use();
alter table keylatch_internal.legacy_texts
enable replica trigger legacy_texts_insert_merge_first_use;
comment on trigger legacy_texts_insert_merge_first_use on keylatch_internal.legacy_texts is
  'On a logical replica: skips a row of the publisher that the replica already has.';

create view keylatch.legacy_keys with (security_invoker = true) as
select
  k.id, k.workspace_id, g.scheme, k.label, k.kind, k.environment, k.metadata, k.allowed_origins,
  k.scopes, k.expires_at, k.suspended_at, k.revoked_at, k.revoked_by, k.revoke_reason,
  k.created_at, k.created_by, k.imported_at, g.upgraded_at, k.masked_key,
  case when g.upgraded_at is not null then k.id end as key_id,
  case
    when g.upgraded_at is not null then 'upgraded'
    when k.status = 'active' then 'waiting'
    else k.status
  end as status
from keylatch_internal.legacy_keys as g
inner join keylatch.keys as k on g.key_id = k.id
where g.rounds is not null;
comment on view keylatch.legacy_keys is
  'The imported keys of your workspaces that need upgrade_key at their first use.

Each key is also in the view keys from its import on, and can be revoked there. A key with status
waiting resolves only through upgrade_key. After the first use, resolve_key finds the key.';
comment on column keylatch.legacy_keys.status is
  'waiting, suspended, superseded, expired, revoked or upgraded. Query keys for an upgraded key.';

create view keylatch.imported_keys with (security_invoker = true) as
select
  k.id as key_id, k.workspace_id, k.label, k.masked_key, k.status, k.expires_at, k.imported_at,
  g.scheme, g.source, g.import_id, g.last_used_at
from keylatch_internal.legacy_keys as g
inner join keylatch.keys as k on g.key_id = k.id;
comment on view keylatch.imported_keys is
  'All imported keys of your workspaces: the scheme, source and import of each key, and when the old
system last saw the key.';
comment on column keylatch.imported_keys.status is 'The status of the key, as in the view keys.';
select keylatch_internal.expose_table(
  'keylatch_internal.keys', 'keylatch.legacy_keys', 'keylatch.imported_keys'
);
select keylatch_internal.expose_table(
  'keylatch_internal.legacy_keys', 'keylatch.legacy_keys', 'keylatch.imported_keys'
);

create function keylatch_internal.is_placeholder(p_text text)
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return p_text ~* E'^([[({<]*(undefined|null|none|nil|nan|true|false|todo|redacted|change.?me.*'
    '|placeholder.*|(your|replace|insert)[-_ ].*|(my|example|test)[-_ ]?(api)?[-_ ]?'
    '(key|secret|token))[])}>]*)?$';
end $$;
comment on function keylatch_internal.is_placeholder is
  'Returns true for a text that is not a real key: undefined, changeme, <your key>, or empty.';

create or replace function keylatch_internal.other_hash(p_text text)
returns bytea language plpgsql stable parallel safe security invoker
-- No exception block: before PostgreSQL 17, a subtransaction fails in a parallel plan.
-- A generic plan, because planning the last query in each call would be the slowest part.
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  v_hash bytea;
  v_hashes bytea[];
  v_workspaces uuid[];
begin
  -- Without schemes and without recorded first uses, a failed look-up costs only these two checks.
  if not exists (select from keylatch_internal.legacy_schemes)
    and not exists (select from keylatch_internal.legacy_texts)
    or octet_length(p_text) > 4000 then
    return null;
  elsif p_text = '' then
    return p_text::bytea;
  elsif keylatch_internal.is_placeholder(p_text) then
    return null;
  end if;
  v_hash := sha256(convert_to(p_text, 'UTF8'));
  v_hashes := v_hash || array(
    select t.key_hash from keylatch_internal.legacy_texts as t where t.text_hash = v_hash
    union all
    select keylatch_internal.legacy_hash(s.name, keylatch_internal.scheme_digest(p_text, s))
    from keylatch_internal.legacy_schemes as s where s.iter is null
  );
  v_workspaces :=
    array(select k.workspace_id from keylatch_internal.keys as k where k.key_hash = any (v_hashes));
  if v_workspaces = '{}' then
    return null;
  end if;
  -- A row that waits for upgrade_key counts, too, because the row may be newer than the first use.
  v_hashes := v_hashes
    || array(select keylatch_internal.legacy_hash('held', h) from unnest(v_hashes) as h);
  return (
    select k.key_hash from keylatch_internal.keys as k
    where k.key_hash = any (v_hashes) and k.workspace_id = any (v_workspaces)
    -- The row of the plain SHA-256 comes first, then inactive rows: a key that is inactive under a
    -- scheme or salt must not resolve under another scheme or salt.
    order by
      k.key_hash <> v_hash, k.revoked_at is null, coalesce(k.expires_at > clock_timestamp(), true),
      k.suspended_at is null, k.expires_at nulls last, k.imported_at, k.id
    limit 1
  );
end $$;
comment on function keylatch_internal.other_hash is
  'Returns the key_hash of a plaintext key that was imported under a scheme, or that upgrade_key has
seen. If several rows match, the row whose key_hash is the SHA-256 of the key wins, active or not.';

create function keylatch.revoke_legacy_key(id uuid, reason text default null)
returns keylatch.revocation language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch.revoke_key(revoke_legacy_key.id, revoke_legacy_key.reason);
end $$;
comment on function keylatch.revoke_legacy_key is
  'Revokes an imported key, exactly as revoke_key does.

reason: up to 500 characters. Errors: key_not_found (404), invalid_argument (400).';

-- The grants of this file.
revoke all on table keylatch_internal.legacy_keys, keylatch_internal.legacy_texts,
keylatch.legacy_keys, keylatch.imported_keys from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.keep_legacy, keylatch_internal.merge_first_use,
keylatch_internal.is_placeholder, keylatch.revoke_legacy_key
from public, anon, authenticated, service_role;
-- The columns verifier and clear_part are left out, because they would help to guess a key.
grant select (
  key_id, workspace_id, scheme, source, import_id, seen_by, last_used_at, rounds, upgraded_at
)
on table keylatch_internal.legacy_keys to authenticated, service_role;
grant select on table keylatch.legacy_keys, keylatch.imported_keys to authenticated, service_role;
grant execute on function keylatch.revoke_legacy_key to authenticated, service_role;
