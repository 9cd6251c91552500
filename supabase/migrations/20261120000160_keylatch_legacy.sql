-- Module legacy: keys of another system, taken over as they are, so that nobody needs a new one.
--
-- A key in plaintext and an unsalted SHA-256 become rows of the keys at once. A salted hash cannot
-- be looked up: its key waits here until its first use, when upgrade_key sees the text.

-- A waiting key is the row of the keys that it will be, without the hash, and how to recognise it.
create table keylatch_internal.legacy_keys (
  scheme text not null,
  verifier text not null,
  starts_with text collate "C" not null default '',
  -- squawk-ignore prefer-bigint-over-int
  rounds integer not null,
  upgraded_at timestamptz,
  key_id uuid,
  -- Last, so that an upgrade that adds a column to the keys can add the column here, too.
  like keylatch_internal.keys including comments,

  constraint legacy_keys_pkey primary key (id),
  constraint legacy_keys_verifier_key unique (verifier),
  constraint legacy_keys_scheme_check check (scheme in ('sha256', 'pbkdf2_sha256', 'bcrypt')),
  constraint legacy_keys_upgraded_check check ((upgraded_at is null) = (key_id is null))
);
-- squawk-ignore ban-drop-not-null
alter table keylatch_internal.legacy_keys alter column key_hash drop not null;
create index legacy_keys_workspace_id_starts_with_idx
on keylatch_internal.legacy_keys (workspace_id, starts_with) where upgraded_at is null;
create index legacy_keys_starts_with_idx
on keylatch_internal.legacy_keys (starts_with) where upgraded_at is null;
comment on table keylatch_internal.legacy_keys is
  'Keys whose text keylatch has not seen yet, each with its whole future row of the keys. After the
upgrade the row stays: it tells a second import which key its hash belongs to.';
comment on column keylatch_internal.legacy_keys.scheme is 'sha256, pbkdf2_sha256 or bcrypt.';
comment on column keylatch_internal.legacy_keys.verifier is
  'Of sha256 the hash in hex; of pbkdf2_sha256 rounds, salt and hash in hex, separated by $; of
bcrypt the whole text. Readable by the owner alone.';
comment on column keylatch_internal.legacy_keys.starts_with is
  'What the key begins with, as far as the other system knew; empty if it did not.';
comment on column keylatch_internal.legacy_keys.rounds is
  'What one comparison costs, in rounds of PBKDF2; at least 1000.';
comment on column keylatch_internal.legacy_keys.upgraded_at is
  'When the key became a row of the keys; null while it waits.';
comment on column keylatch_internal.legacy_keys.key_id is
  'The key that it became: its own id, or the id of the same key under another salt.';
comment on index keylatch_internal.legacy_keys_workspace_id_starts_with_idx is
  'Finds the waiting keys of a workspace that a text may be.';
comment on index keylatch_internal.legacy_keys_starts_with_idx is
  'Finds them where the workspace is not known.';

alter table keylatch_internal.legacy_keys enable row level security;

create policy legacy_keys_select_admin on keylatch_internal.legacy_keys
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy legacy_keys_select_admin on keylatch_internal.legacy_keys is
  'A signed-in user sees the waiting keys of the workspaces that they administer.';

create policy legacy_keys_update_admin on keylatch_internal.legacy_keys
for update to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()))
with check (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy legacy_keys_update_admin on keylatch_internal.legacy_keys is
  'A signed-in user revokes the waiting keys of the workspaces that they administer.';

create view keylatch.legacy_keys with (security_invoker = true) as
select
  g.id, g.workspace_id, g.scheme, g.label, g.kind, g.environment, g.metadata, g.allowed_origins,
  g.scopes, g.expires_at, g.suspended_at, g.revoked_at, g.revoked_by, g.revoke_reason,
  g.created_at, g.created_by, g.imported_at, g.upgraded_at, g.key_id, g.masked_key,
  case
    when g.upgraded_at is not null then 'upgraded'
    when g.revoked_at is not null then 'revoked'
    when g.expires_at <= pg_catalog.clock_timestamp() then 'expired'
    when g.suspended_at is not null then 'suspended'
    else 'waiting'
  end as status
from keylatch_internal.legacy_keys as g;
comment on view keylatch.legacy_keys is
  'The imported keys of your workspaces that wait, or have waited, for their first use.

A waiting key resolves through upgrade_key alone, which makes it a row of keys under the same id.
Revoke it with revoke_legacy_key. Rows are not deleted.';
-- The columns mean what they mean in the table.
do $$
declare
  v_column record;
begin
  for v_column in
    select v.attname, pg_catalog.col_description(t.attrelid, t.attnum) as meaning
    from pg_catalog.pg_attribute as v
    inner join pg_catalog.pg_attribute as t on v.attname = t.attname
    where v.attrelid = 'keylatch.legacy_keys'::regclass
      and t.attrelid = 'keylatch_internal.legacy_keys'::regclass
  loop
    execute format(
      'comment on column keylatch.legacy_keys.%I is %L', v_column.attname, v_column.meaning
    );
  end loop;
end $$;
comment on column keylatch.legacy_keys.status is
  'waiting, suspended, expired, revoked, or upgraded: then look at the key of the id key_id.';

-- The latch of the waiting keys, by the functions of the keys' own.

create trigger legacy_keys_update_immutable
before update on keylatch_internal.legacy_keys for each row when (
  old.upgraded_at is not null
  or coalesce(new.expires_at, 'infinity') > old.expires_at
  or coalesce(new.suspended_at <> old.suspended_at, old.suspended_at is not null)
  or pg_catalog.to_jsonb(new)
  - '{expires_at,suspended_at,revoked_at,revoked_by,revoke_reason}'::text[]
  - '{updated_at,upgraded_at,key_id}'::text[]
  <> pg_catalog.to_jsonb(old)
  - '{expires_at,suspended_at,revoked_at,revoked_by,revoke_reason}'::text[]
  - '{updated_at,upgraded_at,key_id}'::text[]
) execute function keylatch_internal.hold_latch('column_is_immutable');
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_update_immutable;
comment on trigger legacy_keys_update_immutable on keylatch_internal.legacy_keys is
  'What an imported key is never changes, it expires no later and stays suspended. After its upgrade
nothing changes.';

create trigger legacy_keys_update_revoked_is_final
before update on keylatch_internal.legacy_keys for each row when (
  old.revoked_at is not null
  and (
    new.revoked_at is distinct from old.revoked_at
    or new.revoked_by is distinct from old.revoked_by
    or new.revoke_reason is distinct from old.revoke_reason
  )
) execute function keylatch_internal.hold_latch('revoked_is_final');
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_update_revoked_is_final;
comment on trigger legacy_keys_update_revoked_is_final on keylatch_internal.legacy_keys is
  'A revoked key stays revoked, and so do the time, the user and the reason.';

create trigger legacy_keys_delete_keep
before delete or truncate on keylatch_internal.legacy_keys
for each statement execute function keylatch_internal.hold_latch('keys_are_kept');
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_delete_keep;
comment on trigger legacy_keys_delete_keep on keylatch_internal.legacy_keys is
  'Rows are kept: a key that is imported again would have lost its revocation.';

create trigger legacy_keys_update_stamp
before update on keylatch_internal.legacy_keys
for each row execute function keylatch_internal.stamp_update();
comment on trigger legacy_keys_update_stamp on keylatch_internal.legacy_keys is
  'No caller chooses a time or a user. Origin sessions only: a replica keeps the publisher''s.';

create function keylatch_internal.revoke_legacy_workspace()
returns trigger language plpgsql volatile security definer
-- definer because: a role that may delete a workspace need not be one that sees waiting keys.
set search_path = pg_catalog, pg_temp as $$
begin
  if tg_relid <> 'keylatch_internal.workspace_latches'::regclass then
    perform keylatch_internal.require_grants('keylatch_internal.revoke_legacy_workspace');
  end if;
  update keylatch_internal.legacy_keys as g
  set revoked_at = clock_timestamp(), revoke_reason = 'workspace deleted'
  where g.workspace_id = new.workspace_id and g.revoked_at is null and g.upgraded_at is null;
  return null;
end $$;
comment on function keylatch_internal.revoke_legacy_workspace is
  'Revokes the waiting keys of a workspace that is deleted.';

create trigger workspace_latches_revoke_legacy_keys
after insert or update on keylatch_internal.workspace_latches for each row
when (new.deleted_at is not null) execute function keylatch_internal.revoke_legacy_workspace();
comment on trigger workspace_latches_revoke_legacy_keys on keylatch_internal.workspace_latches is
  'No key waits in a deleted workspace.

Origin sessions only: a logical replica gets the publisher''s revocations as rows of their own.';

create function keylatch.revoke_legacy_key(id uuid, reason text default null)
returns keylatch.revocation language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_row keylatch.legacy_keys;
  v_key keylatch_internal.keys;
  v_problem text[];
  v_result keylatch.revocation;
begin
  update keylatch_internal.legacy_keys as g
  set revoked_at = clock_timestamp(), revoke_reason = revoke_legacy_key.reason
  where g.id = revoke_legacy_key.id and g.revoked_at is null and g.upgraded_at is null;
  v_result.already_revoked := not found;
  select g.* into v_row from keylatch.legacy_keys as g where g.id = revoke_legacy_key.id;
  if not found then
    perform keylatch_internal.refuse(
      'key_not_found', 'You administer no imported key of this id.',
      'List the imported keys of the workspace: the view legacy_keys.'
    );
  elsif v_row.key_id is not null then
    return keylatch.revoke_key(v_row.key_id, revoke_legacy_key.reason);
  end if;
  v_key := jsonb_populate_record(v_key, to_jsonb(v_row));
  v_problem := keylatch_internal.check_key(v_key, v_key);
  if v_problem is not null then
    perform keylatch_internal.refuse('invalid_argument', v_problem[1], v_problem[2]);
  end if;
  v_result.id := v_row.id;
  v_result.revoked_at := v_row.revoked_at;
  v_result.also_revoked := '{}';
  return v_result;
end $$;
comment on function keylatch.revoke_legacy_key is
  'Revokes an imported key that waits for its first use, for good. Again is not an error.

If the key was upgraded in the meantime, its row of keys is revoked, and the answer is about that.
reason: up to 500 characters. Errors: key_not_found (404), invalid_argument (400).';

-- Comparing a text with salted hashes, and how much of that is allowed.

create table keylatch_internal.legacy_settings (
  only_row boolean not null default true,
  -- squawk-ignore prefer-bigint-over-int
  upgrades_per_minute integer not null default 600,

  constraint legacy_settings_pkey primary key (only_row),
  constraint legacy_settings_only_row_check check (only_row),
  constraint legacy_settings_upgrades_check check (
    upgrades_per_minute >= 1 and upgrades_per_minute <= 100000
  )
);
comment on table keylatch_internal.legacy_settings is 'One row, which the owner changes.';
comment on column keylatch_internal.legacy_settings.only_row is 'Always true: there is one row.';
comment on column keylatch_internal.legacy_settings.upgrades_per_minute is
  'How many calls of upgrade_key may compute slow hashes in a minute, however they end.';
insert into keylatch_internal.legacy_settings default values;
alter table keylatch_internal.legacy_settings enable row level security;

create sequence keylatch_internal.legacy_attempts_seq;
comment on sequence keylatch_internal.legacy_attempts_seq is
  'The minute since 1970, times a million, plus the calls of that minute. No rollback undoes it, and
nobody waits for it.';

create function keylatch_internal.count_attempt()
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_second constant bigint := floor(extract(epoch from clock_timestamp()));
  v_first constant bigint := v_second / 60 * 1000000 + 1;
  v_count bigint := nextval('keylatch_internal.legacy_attempts_seq');
  -- A copy of the schema alone has no row.
  v_limit constant integer := coalesce((
    select s.upgrades_per_minute from keylatch_internal.legacy_settings as s
  ), 600);
begin
  -- Another minute than the counter's, before or after it: the counter begins anew.
  if v_count / 1000000 <> v_first / 1000000 then
    v_count := setval('keylatch_internal.legacy_attempts_seq', v_first);
  end if;
  if v_count - v_first >= v_limit then
    perform keylatch_internal.refuse(
      'too_many_requests', format('upgrade_key was called more than %s times in a minute.', v_limit),
      null, to_timestamp((v_second / 60 + 1) * 60)
    );
  end if;
end $$;
comment on function keylatch_internal.count_attempt is
  'Counts a call of upgrade_key, and raises too_many_requests beyond the limit.';

create function keylatch_internal.round_budget()
returns integer language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return 1200000;
end $$;
comment on function keylatch_internal.round_budget is
  'How many rounds of PBKDF2 one call computes at most: one hash of Django 6.0. That takes 2.1 s at
the measured 1.75 µs a round. bcrypt counts 32 rounds for each of its 2^cost (measured: 31).';

create function keylatch_internal.derive_pbkdf2(p_key text, p_salt bytea, p_rounds integer)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
-- RFC 8018, section 5.2: the one block of 32 bytes that SHA-256 gives, with the names used there.
declare
  v_bytes constant bytea := convert_to(p_key, 'UTF8');
  -- HMAC hashes a long key. Here that happens once and not in every round.
  v_password constant bytea := case
    when octet_length(v_bytes) > 64 then sha256(v_bytes) else v_bytes
  end;
  v_u bytea := extensions.hmac(p_salt || decode('00000001', 'hex'), v_password, 'sha256');
  -- Bit strings, because bytea has no exclusive or.
  v_t bit(256) := ('x' || encode(v_u, 'hex'))::bit(256);
begin
  for v_round in 2 .. p_rounds loop
    v_u := extensions.hmac(v_u, v_password, 'sha256');
    v_t := v_t # ('x' || encode(v_u, 'hex'))::bit(256);
  end loop;
  return substr(varbit_send(v_t), 5);
end $$;
comment on function keylatch_internal.derive_pbkdf2 is 'PBKDF2 with HMAC-SHA-256: 32 bytes.';

create function keylatch_internal.matches_verifier(p_key text, p_scheme text, p_verifier text)
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if p_scheme = 'bcrypt' then
    -- bcrypt ignores what follows 72 bytes: a text that only begins like the key would match.
    return octet_length(p_key) <= 72 and extensions.crypt(p_key, p_verifier) = p_verifier;
  end if;
  return keylatch_internal.derive_pbkdf2(
    p_key, decode(split_part(p_verifier, '$', 2), 'hex'), split_part(p_verifier, '$', 1)::integer
  ) = decode(split_part(p_verifier, '$', 3), 'hex');
end $$;
comment on function keylatch_internal.matches_verifier is
  'Whether this salted hash is one of this key. Slow on purpose.';

create function keylatch_internal.similar_keys(p_beginning text, p_workspace_id uuid)
returns setof keylatch_internal.legacy_keys language plpgsql stable security invoker
-- A plan that fits a call without a workspace would read the keys of all of them.
set plan_cache_mode = force_custom_plan
set search_path = pg_catalog, pg_temp as $$
declare
  v_beginnings constant text[] := array(
    select left(p_beginning, n) from generate_series(0, least(length(p_beginning), 32)) as n
  );
begin
  -- Revoked and expired ones, too: a text that matches one of them is refused.
  return query
  select g.* from keylatch_internal.legacy_keys as g
  where g.upgraded_at is null and g.scheme <> 'sha256'
    and (g.workspace_id = p_workspace_id or (p_workspace_id is null and g.starts_with <> ''))
    and (
      g.starts_with = any (v_beginnings)
      -- What it begins with is printable ASCII, and this character comes after that.
      or g.starts_with between p_beginning and p_beginning || E'\x7f'
    )
  -- Each costs 1000 rounds or more: as many exceed every budget.
  limit 1201;
end $$;
comment on function keylatch_internal.similar_keys is
  'The waiting keys under a salted hash that a key with this beginning may be, as far as is known
what they begin with; without a workspace only those of which it is known.';

create function keylatch_internal.mask_key(p_key text)
returns text language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when keylatch_internal.key_form(p_key) = 'valid' then left(p_key, -36)
    else ''
  end || '...' || right(p_key, case when length(p_key) >= 20 then 4 else 0 end);
end $$;
comment on function keylatch_internal.mask_key is
  'What people tell a key of any form by, for example ...uVO9: at least 16 characters and two thirds
of the text stay hidden.';

create function keylatch_internal.insert_keys(p_keys keylatch_internal.keys[])
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  insert into keylatch_internal.keys (
    id, workspace_id, kind, environment, key_hash, public_key, masked_key, label, metadata,
    allowed_origins, scopes, expires_at, suspended_at, revoked_at, revoked_by, revoke_reason,
    created_at, created_by, updated_at, imported_at
  )
  select
    k.id, k.workspace_id, k.kind, k.environment, k.key_hash, k.public_key, k.masked_key, k.label,
    k.metadata, k.allowed_origins, k.scopes, k.expires_at, k.suspended_at, k.revoked_at,
    k.revoked_by, k.revoke_reason, k.created_at, k.created_by, k.updated_at, k.imported_at
  from unnest(p_keys) with ordinality as k
  -- In one order, so that two imports of the same keys do not deadlock.
  order by k.key_hash, k.ordinality
  on conflict do nothing;
end $$;
comment on function keylatch_internal.insert_keys is
  'Inserts these rows, but for texts that have a row already.';

create function keylatch_internal.move_key(
  p_table regclass, p_id uuid, p_to keylatch_internal.keys
)
returns text language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_key keylatch_internal.keys;
  -- What expires within the minute counts as expired: it may be when the row is written.
  v_soon timestamptz;
  v_note text;
begin
  execute format(
    'select revoked_at, expires_at, suspended_at from %s where id = $1 for update', p_table
  ) into v_key.revoked_at, v_key.expires_at, v_key.suspended_at using p_id;
  v_soon := clock_timestamp() + interval '1 minute';
  if v_key.revoked_at is not null then
    return null;
  elsif p_to.revoked_at is not null
    or (p_to.expires_at <= v_soon and coalesce(v_key.expires_at > v_soon, true))
  then
    execute format(
      'update %s set revoked_at = $2, revoke_reason = $3 where id = $1', p_table
    ) using p_id, v_soon - interval '1 minute', case
      when p_to.revoked_at is null then 'expired in the imported system'
      else p_to.revoke_reason
    end;
    return 'The key is revoked now.';
  elsif v_key.expires_at <= v_soon then
    return null;
  end if;
  v_note := nullif(concat_ws(
    ' ',
    case when p_to.expires_at < coalesce(v_key.expires_at, 'infinity')
      then 'The key expires earlier now.' end,
    case when p_to.suspended_at is not null and v_key.suspended_at is null
      then 'The key is suspended now.' end
  ), '');
  execute format(
    'update %s set expires_at = least(expires_at, $2), suspended_at = coalesce(suspended_at, $3) '
    'where id = $1 and $4 is not null', p_table
  ) using p_id, p_to.expires_at, p_to.suspended_at, v_note;
  return v_note;
end $$;
comment on function keylatch_internal.move_key is
  'Moves a key, or a waiting key, towards its end as far as this row is nearer to it, and says what
changed; null if nothing did.';

create function keylatch_internal.finish_upgrade(p_key text, p_ids uuid[])
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_hash constant bytea := sha256(convert_to(p_key, 'UTF8'));
  v_ids uuid[];
  v_key keylatch_internal.keys;
  v_rows keylatch_internal.keys[];
begin
  -- First the workspace, then the waiting rows, then the keys: everybody locks in this order.
  perform from keylatch_internal.workspace_latches as w
  where w.workspace_id in (
    select g.workspace_id from keylatch_internal.legacy_keys as g where g.id = any (p_ids)
  )
  for share;
  -- Waits for an import that lets keys wait: that import may let this very text wait.
  lock table keylatch_internal.legacy_settings in share mode;
  v_ids := array(
    select g.id from keylatch_internal.legacy_keys as g
    where g.id = any (p_ids) or g.verifier = encode(v_hash, 'hex')
    order by g.id
    for update
  );
  v_rows := array(
    select jsonb_populate_record(null::keylatch_internal.keys, to_jsonb(g))
    from keylatch_internal.legacy_keys as g
    inner join keylatch_internal.workspace_latches as w on g.workspace_id = w.workspace_id
    where g.id = any (v_ids) and g.upgraded_at is null and w.deleted_at is null
    order by g.revoked_at nulls last, g.expires_at nulls last, g.suspended_at nulls last, g.id
  );
  if cardinality(v_rows) = 0 then
    return;
  end if;
  -- The same key under several salts: the row that is nearest to its end comes first.
  v_key := v_rows[1];
  v_key.key_hash := v_hash;
  v_key.public_key := case v_key.kind when 'publishable' then p_key end;
  v_key.masked_key := keylatch_internal.mask_key(p_key);
  v_key.updated_at := clock_timestamp();
  perform keylatch_internal.insert_keys(array[v_key]);
  -- Somebody else may have imported the text at this moment.
  select k.* into v_key from keylatch_internal.keys as k where k.key_hash = v_hash;
  update keylatch_internal.legacy_keys as g
  set upgraded_at = clock_timestamp(), key_id = v_key.id
  where g.id = any (v_ids) and g.upgraded_at is null;
  perform keylatch_internal.move_key('keylatch_internal.keys', v_key.id, r)
  from unnest(v_rows) as r;
end $$;
comment on function keylatch_internal.finish_upgrade is
  'Makes the waiting keys of these ids, which are all this text, one row of the keys.';

create function keylatch_internal.upgrade_legacy_key(p_key text, p_workspace_id uuid)
returns void language plpgsql volatile security definer
-- definer because: a service that resolves keys reads no hash and inserts no key.
set search_path = pg_catalog, pg_temp as $$
declare
  v_hash constant bytea := sha256(convert_to(p_key, 'UTF8'));
  v_similar keylatch_internal.legacy_keys[];
  v_ids uuid[];
begin
  perform keylatch_internal.require_grants('keylatch_internal.upgrade_legacy_key');
  -- A key that has its row answers for itself, active or not, and costs no slow hash.
  if length(p_key) not between 1 and 1000
    or exists (select from keylatch_internal.keys as k where k.key_hash = v_hash)
  then
    return;
  end if;
  v_similar := array(
    select s from keylatch_internal.similar_keys(p_key, p_workspace_id) as s
    where starts_with(p_key, s.starts_with)
  );
  if (select sum(s.rounds) from unnest(v_similar) as s) > keylatch_internal.round_budget() then
    perform keylatch_internal.refuse(
      'invalid_argument', 'workspace_id is needed: more keys begin alike than one call tries.',
      'Pass the workspace whose key it would be.'
    );
  elsif cardinality(v_similar) > 0 then
    perform keylatch_internal.count_attempt();
  end if;
  -- All of them, not only until the first match: a revoked one may match as well.
  v_ids := array(
    select s.id from unnest(v_similar) as s
    where keylatch_internal.matches_verifier(p_key, s.scheme, s.verifier)
    union all
    select g.id from keylatch_internal.legacy_keys as g
    where g.verifier = encode(v_hash, 'hex') and g.upgraded_at is null
      and (p_workspace_id is null or g.workspace_id = p_workspace_id)
  );
  if cardinality(v_ids) > 0 then
    perform keylatch_internal.finish_upgrade(p_key, v_ids);
  end if;
end $$;
comment on function keylatch_internal.upgrade_legacy_key is
  'Finds the waiting key that this text is, and makes it a row of the keys.';

create function keylatch.upgrade_key(
  key text, workspace_id uuid default null, origin text default null
)
returns setof keylatch.resolved_key language plpgsql volatile security invoker rows 2
-- At most one row; but from "rows 1" the type generators make a single object.
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.upgrade_legacy_key(upgrade_key.key, upgrade_key.workspace_id)
  where upgrade_key.key is not null;
  return query
  select r.* from keylatch.resolve_key(upgrade_key.key, upgrade_key.origin) as r
  where upgrade_key.workspace_id is null or r.workspace_id = upgrade_key.workspace_id;
end $$;
comment on function keylatch.upgrade_key is
  'Resolves a key that waits for its first use, and makes the key a row of keys. From then on
resolve_key finds the key.

Call upgrade_key where resolve_key found nothing. The answer is the one of resolve_key. workspace_id:
the workspace of the key; without it, only keys are tried whose import gave starts_with. A text that
matches a revoked or expired key is refused, under every salt. One call computes at most 1200000
rounds of PBKDF2, about 2 s, or as much bcrypt; at most 600 calls a minute compute slow hashes.
Errors: too_many_requests (429), invalid_argument (400) where workspace_id is needed.';

-- Reading an import: each line by itself, so that a bad one costs no other.

create type keylatch_internal.import_line as (
  "position" integer, given jsonb, key keylatch_internal.keys, scheme text, verifier text,
  starts_with text, rounds integer, is_salted boolean, is_held boolean, problem text[],
  outcome text, note text
);
comment on type keylatch_internal.import_line is
  'A line of an import: what was given, the row of the keys that was read from that, how a waiting
key is recognised, and what is wrong with the line or became of it.';

create view keylatch_internal.import_fields as
select v.type, v.longest, v.pattern, v.rule, v.hint, f.field
from (
  values
  ('{workspace_id,created_by}'::text[], 'string', 36,
    '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$', 'a UUID',
    'Give the workspace that the key will belong to. created_by may be left out.'),
  ('{expires_at,suspended_at,revoked_at,created_at}', 'string', 40,
    E'^(19|[2-9]\\d)\\d\\d-\\d\\d-\\d\\d'
    '([T ]\\d\\d:\\d\\d(:\\d\\d(\\.\\d{1,6})?)? ?(Z|[+-]\\d\\d(:?\\d\\d)?))?$',
    'ISO 8601 with a zone, from the year 1900 on',
    'Write 2027-01-31T09:30:00Z, or 2027-01-31 for the beginning of that day in UTC.'),
  ('{key}', 'string', 1000, E'^(?!\\s)[^\\x01-\\x1f\\x7f-\\x9f]+(?<!\\s)$',
    'a text of 1 to 1000 characters, without control characters and spaces around it',
    'Give the key exactly as its holder sends it.'),
  ('{alg}', 'string', null, '^(sha256|pbkdf2_sha256|django|bcrypt)$',
    'sha256, pbkdf2_sha256, django or bcrypt',
    'Keys under another algorithm cannot be imported: issue new ones.'),
  ('{hash_encoding}', 'string', null, '^(hex|base64)$', 'hex or base64',
    'In hex a hash of 32 bytes has 64 characters, in base64 43 and a =.'),
  ('{salt_encoding}', 'string', null, '^(hex|base64|text)$', 'hex, base64 or text',
    'Say text if the other system hashed the salt as it is written.'),
  ('{iter}', null, 7, '^[1-9][0-9]*$', 'a number of rounds from 1 on',
    'Give what the other system computes.'),
  ('{starts_with}', 'string', 32, '^[ -~]*$', 'up to 32 printable ASCII characters',
    'Give what the other system kept of the key in plaintext, if it did.'),
  ('{masked_key}', 'string', 40, '^[ -~]+$', '1 to 40 printable ASCII characters',
    'Give what people know the key by, for example its last four characters.'),
  ('{force}', 'string', 200, '.', 'a reason of 1 to 200 characters',
    'Say why the weak key is imported.'),
  ('{hash,salt,kind,environment,label,revoke_reason}', 'string', null, null, 'a text',
    'Write the value between quotes.'),
  ('{allowed_origins,scopes}', 'array', null, null, 'a list', 'For example ["orders:read"].'),
  ('{metadata}', 'object', null, null, 'an object', 'For example {"plan": "pro"}.')
) as v (fields, type, longest, pattern, rule, hint)
cross join lateral pg_catalog.unnest(v.fields) as f (field);
comment on view keylatch_internal.import_fields is
  'The fields of a line: the type of JSON, what its text is like, and that in words. What a field
shares with every key is judged by check_key.';

create function keylatch_internal.read_import_fields(p_lines jsonb)
returns table (place bigint, line jsonb, problem text[])
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return query
  with given as materialized (
    select e.place, case jsonb_typeof(e.line) when 'object'
      then e.line - array(select f.key from jsonb_each(e.line) as f where f.value = 'null')
    end as line
    from jsonb_array_elements(p_lines) with ordinality as e (line, place)
  ),
  fields as materialized (
    select g.place, f.key, f.value #>> '{}' as value, jsonb_typeof(f.value) as type
    from given as g cross join jsonb_each('{"workspace_id": null}' || g.line) as f
  ),
  wrong as (
    select distinct on (f.place) f.place, case
      when r.rule is null then array[
        'The line has a field that an import does not know.',
        'The comment of import_keys names the fields.']
      else array[f.key || ' must be ' || r.rule || '.', r.hint]
    end as problem
    from fields as f left join keylatch_internal.import_fields as r on f.key = r.field
    where r.rule is null or f.type <> r.type or length(f.value) > r.longest
      or f.value !~ r.pattern
  )
  select g.place, g.line, case when g.line is null
    then array['The line is not a JSON object.', 'Write {"workspace_id": …, "key": …}.']
    else w.problem
  end
  from given as g left join wrong as w on g.place = w.place
  order by g.place;
end $$;
comment on function keylatch_internal.read_import_fields is
  'The lines of an import without their nulls, and what is wrong with the fields of each.';

create function keylatch_internal.read_plaintext(p_line keylatch_internal.import_line)
returns keylatch_internal.import_line language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_text constant text := p_line.given ->> 'key';
  v_force constant text := p_line.given ->> 'force';
  v_form constant text := keylatch_internal.key_form(v_text);
  v_weakness constant text := case
    when v_text ~* E'^[[({<]*(undefined|null|none|nil|nan|true|false|todo|redacted|change.?me.*'
      '|placeholder.*|(your|replace|insert)[-_ ].*|(my|example|test)[-_ ]?(api)?[-_ ]?'
      '(key|secret|token))[])}>]*$'
      then 'is a placeholder'
    when v_text ~ E'^(\\$[0-9a-z-]+\\$|[a-z0-9_]+\\$[0-9]+\\$|\\{[A-Za-z0-9]+\\})'
      or v_text ~* '^(md5|sha[0-9]+|bcrypt|pbkdf2|scrypt|argon2)[^ ]{0,10}[:=$]'
      then 'has the form of a hash'
    when v_text ~* E'^[+-]?[0-9]+([.,][0-9]+)?e[+-]?[0-9]+$' then 'is a number of a spreadsheet'
    when v_text ~ '[^ -~]' then 'has characters that are not printable ASCII'
    when length(v_text) < 16 then 'is shorter than 16 characters'
    when (select count(distinct c.letter) from string_to_table(v_text, null) as c (letter)) < 6
      then 'has fewer than 6 different characters'
  end;
begin
  p_line.problem := case
    when v_form = 'checksum_failed' then array[
      'key has the form of a key of keylatch, but its check characters are wrong.',
      'It was mistyped or cut: nobody has such a key.']
    when v_form = 'valid'
      and strpos(v_text, format('_%sk_%s_', left((p_line.key).kind, 1), (p_line.key).environment)) = 0
      then array[
      'key is of another kind or environment than the line says.',
      'Leave kind and environment out.']
    when v_weakness is not null and v_force is null then array[
      'key ' || v_weakness || '.',
      'Leave the line out and issue a new key. To import it anyway, give a reason as force.']
  end;
  p_line.note := case
    when v_force is not null then 'Imported by force: ' || v_force
    when v_text ~ '^[0-9a-fA-F]{64}$'
      then 'The key looks like a SHA-256. If it is the hash of the key, import it as such.'
  end;
  p_line.key.key_hash := sha256(convert_to(v_text, 'UTF8'));
  p_line.scheme := 'sha256';
  p_line.verifier := encode((p_line.key).key_hash, 'hex');
  p_line.rounds := 1000;
  p_line.is_salted := false;
  p_line.is_held := false;
  p_line.outcome := 'imported';
  p_line.key.public_key := case (p_line.key).kind when 'publishable' then v_text end;
  p_line.key.masked_key := keylatch_internal.mask_key(v_text);
  p_line.starts_with := left(v_text, 32);
  return p_line;
end $$;
comment on function keylatch_internal.read_plaintext is
  'Reads a key in plaintext. Only force goes below its floor.';

create function keylatch_internal.read_bytes(p_text text, p_encoding text)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when p_encoding = 'text' then convert_to(p_text, 'UTF8')
    when p_encoding = 'hex' and p_text ~ '^([0-9a-fA-F]{2})+$'
      or p_encoding = 'base64' and length(p_text) % 4 = 0 and p_text ~ '^[A-Za-z0-9+/]+={0,2}$'
      then decode(p_text, p_encoding)
  end;
end $$;
comment on function keylatch_internal.read_bytes is
  'The bytes of a text in hex, in base64 or as it is; null if it is not of that encoding.';

create function keylatch_internal.read_legacy_hash(p_line keylatch_internal.import_line)
returns keylatch_internal.import_line language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_given constant jsonb := p_line.given;
  v_alg constant text := v_given ->> 'alg';
  v_text constant text := v_given ->> 'hash';
  -- Django keeps it all in one text.
  v_django constant text[] := case v_alg when 'django' then regexp_match(
    v_text, E'^pbkdf2_sha256\\$([1-9][0-9]{0,6})\\$([^$]{1,250})\\$([A-Za-z0-9+/]{43}=)$'
  ) end;
  v_iter constant text := coalesce(v_django[1], v_given ->> 'iter');
  v_salt constant bytea := coalesce(convert_to(v_django[2], 'UTF8'),
    keylatch_internal.read_bytes(v_given ->> 'salt', v_given ->> 'salt_encoding'));
  v_hash constant bytea := coalesce(
    decode(v_django[3], 'base64'), keylatch_internal.read_bytes(v_text, v_given ->> 'hash_encoding')
  );
begin
  p_line.problem := case
    when v_text is null then array[
      'The line has neither key nor hash.',
      'Give the key in plaintext, or its hash with alg. If you have neither, issue a new key.']
    when v_alg is null then array[
      'alg must be given with a hash.', 'Give sha256, pbkdf2_sha256, django or bcrypt.']
    when v_alg <> 'pbkdf2_sha256' and v_given ?| '{salt,salt_encoding,iter}' then array[
      'salt, salt_encoding and iter do not go with alg ' || v_alg || '.', 'Leave them out.']
    when v_alg = 'bcrypt' then case
      when v_text !~ E'^\\$2[aby]\\$(0[4-9]|1[0-5])\\$[./A-Za-z0-9]{53}$' then array[
      'hash is not one of bcrypt: $2a$, $2b$ or $2y$, a cost from 04 to 15, $ and 53 characters.',
      'Give the whole text as the other system has it. Above that cost issue a new key.'] end
    when v_alg = 'django' and v_django is null then array[
      'hash is not one of Django: pbkdf2_sha256$iterations$salt$hash.',
      'Give the whole text. Other hashers of Django cannot be imported.']
    when octet_length(v_hash) is distinct from 32 then array[
      'hash must be 32 bytes, written as hash_encoding says.',
      'In hex a hash has 64 characters, in base64 43 and a =.']
    when v_alg <> 'sha256' and coalesce(octet_length(v_salt), 0) not between 1 and 1000 then array[
      'salt must be 1 to 1000 bytes, written as salt_encoding says.',
      'Say text if the other system hashed the salt as it is written.']
    when v_alg <> 'sha256' and v_iter is null then array[
      'iter must be given with pbkdf2_sha256.', 'Give how many rounds the other system computes.']
  end;
  p_line.scheme := case v_alg when 'django' then 'pbkdf2_sha256' else v_alg end;
  p_line.verifier := case p_line.scheme
    when 'sha256' then encode(v_hash, 'hex')
    -- 2a, 2b and 2y are one algorithm; pgcrypto knows it by the first name.
    when 'bcrypt' then '$2a' || substr(v_text, 4)
    else concat_ws('$', v_iter, encode(v_salt, 'hex'), encode(v_hash, 'hex'))
  end;
  p_line.key.key_hash := case p_line.scheme when 'sha256' then v_hash end;
  p_line.is_salted := p_line.scheme <> 'sha256';
  -- A publishable key is a row with its text, and here that is not known.
  p_line.is_held := not p_line.is_salted and (p_line.key).kind = 'publishable';
  p_line.starts_with := coalesce(v_given ->> 'starts_with', '');
  p_line.outcome := 'imported';
  p_line.rounds := greatest(1000, case p_line.scheme when 'pbkdf2_sha256' then v_iter::integer
    when 'bcrypt' then 32 * (1 << substring(v_text, 5, 2)::integer) end);
  return p_line;
end $$;
comment on function keylatch_internal.read_legacy_hash is
  'Reads the hash of a line into the one form in which it is kept.';

create function keylatch_internal.read_import(p_lines jsonb)
returns keylatch_internal.import_line[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_usual keylatch_internal.keys;
  v_key keylatch_internal.keys;
  v_good keylatch_internal.keys;
  v_own text[];
  v_given record;
  v_line keylatch_internal.import_line;
  v_lines keylatch_internal.import_line[] := '{}'::keylatch_internal.import_line[];
begin
  v_usual := jsonb_populate_record(v_usual, jsonb_build_object(
    'label', '', 'metadata', '{}'::jsonb, 'allowed_origins', '[]'::jsonb, 'scopes', '[]'::jsonb,
    'masked_key', '...', 'created_at', v_now, 'updated_at', v_now, 'imported_at', v_now
  ));
  for v_given in select f.* from keylatch_internal.read_import_fields(p_lines) as f loop
    v_line := null;
    v_line."position" := v_given.place;
    v_line.given := v_given.line;
    v_line.problem := v_given.problem;
    begin
      if v_line.problem is null then
        v_own := regexp_match(v_given.line ->> 'key',
          '^[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[[:alnum:]]{36}$');
        v_usual.id := gen_random_uuid();
        v_usual.kind := case v_own[1] when 'pk' then 'publishable' else 'secret' end;
        v_usual.environment := coalesce(v_own[2], 'live');
        v_key := jsonb_populate_record(v_usual, v_given.line);
        v_line.key := v_key;
        -- An expired key may be imported. Any other time is judged as for a new key.
        v_key.expires_at := nullif(greatest(v_key.expires_at, v_now), v_now);
        v_line.problem := case
          when greatest(v_key.suspended_at, v_key.revoked_at, v_key.created_at) > v_now then array[
            'suspended_at, revoked_at and created_at must not be in the future.',
            'Give a key that ends later an expires_at.']
          -- What is as in the good line before is not judged again.
          else keylatch_internal.check_key(case when (v_good.kind, v_good.environment)
            = (v_key.kind, v_key.environment) then v_good end, v_key)
        end;
      end if;
      if v_line.problem is null then
        v_good := v_key;
        v_line := case when v_given.line ? 'key' then keylatch_internal.read_plaintext(v_line)
          else keylatch_internal.read_legacy_hash(v_line) end;
      end if;
    exception
      when data_exception then
        v_line.problem := array['A time of the line does not exist, or a list holds a list.',
          'Correct expires_at, suspended_at, revoked_at, created_at, allowed_origins or scopes.'];
    end;
    v_lines := array_append(v_lines, v_line);
  end loop;
  return v_lines;
end $$;
comment on function keylatch_internal.read_import is
  'Reads and judges the lines of an import, without a look at any key.';

-- Importing a batch.

create function keylatch_internal.share_import(p_lines keylatch_internal.import_line[])
returns uuid[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  insert into keylatch_internal.workspace_latches (workspace_id)
  select distinct (l.key).workspace_id from unnest(p_lines) as l where l.problem is null order by 1
  on conflict do nothing;
  return array(
    with shared as materialized (
      select w.workspace_id, w.deleted_at from keylatch_internal.workspace_latches as w
      where w.workspace_id in (select (l.key).workspace_id from unnest(p_lines) as l)
      order by w.workspace_id
      for share
    )
    select s.workspace_id from shared as s where s.deleted_at is not null
  );
end $$;
comment on function keylatch_internal.share_import is
  'Keeps the workspaces of an import from being deleted, and names those that are deleted already.';

create function keylatch_internal.write_import(p_lines keylatch_internal.import_line[])
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_line keylatch_internal.import_line;
  -- Where a key waits, or may wait after this import.
  v_waiting constant uuid[] := array(
    select g.workspace_id from keylatch_internal.legacy_keys as g
    where g.upgraded_at is null and g.scheme <> 'sha256'
      and g.workspace_id in (select (l.key).workspace_id from unnest(p_lines) as l)
    union
    select (l.key).workspace_id from unnest(p_lines) as l where l.is_salted or l.is_held
  );
begin
  -- An import that lets a key wait is alone, so that none overlooks it. Only imports wait here.
  if cardinality(v_waiting) > 0 then
    lock table keylatch_internal.legacy_settings in exclusive mode;
  else
    lock table keylatch_internal.legacy_settings in share mode;
  end if;
  for v_line in
    select l.* from unnest(p_lines) as l where l.is_salted
    -- Those that may be any key first: of two that exclude each other the later one is refused.
    order by length(l.starts_with), l."position"
  loop
    insert into keylatch_internal.legacy_keys
    select
      v_line.scheme, v_line.verifier, v_line.starts_with, v_line.rounds, null, null, (v_line.key).*
    where v_line.rounds + coalesce((
      select sum(s.rounds)
      from keylatch_internal.similar_keys(v_line.starts_with, (v_line.key).workspace_id) as s
    ), 0) <= keylatch_internal.round_budget()
    on conflict do nothing;
  end loop;
  insert into keylatch_internal.legacy_keys
  select l.scheme, l.verifier, l.starts_with, l.rounds, null, null, (l.key).*
  from unnest(p_lines) as l
  where not l.is_salted and (l.is_held or ((l.key).workspace_id = any (v_waiting) and exists (
    select from keylatch_internal.similar_keys(l.starts_with, (l.key).workspace_id)
  ))) and not exists (select from keylatch_internal.keys as k where k.key_hash = (l.key).key_hash)
  order by l.verifier, l."position"
  on conflict do nothing;
  perform keylatch_internal.insert_keys(array(
    select l.key from unnest(p_lines) as l
    where not l.is_salted and not l.is_held and not exists (
      select from keylatch_internal.legacy_keys as g where g.verifier = l.verifier
    )
    order by l."position"
  ));
end $$;
comment on function keylatch_internal.write_import is
  'Inserts the keys that are not there yet: the salted ones, as far as upgrade_key could find them;
those that may be one of these, which wait until their text is seen; and all others.';

create function keylatch_internal.settle_import(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_line keylatch_internal.import_line;
  v_row record;
begin
  for v_row in
    select
      l."position", coalesce(k.id, g.id) as id, k.id is null as is_waiting,
      coalesce(k.workspace_id, g.workspace_id) = (l.key).workspace_id as is_ours
    from unnest(p_lines) as l
    left join keylatch_internal.legacy_keys as g on l.verifier = g.verifier
    left join keylatch_internal.keys as k on k.id = coalesce(g.key_id, (
      select h.id from keylatch_internal.keys as h where h.key_hash = (l.key).key_hash
    ))
    -- A key that was inserted as a row of its own is imported, and that is all.
    where l.problem is null and k.id is distinct from (l.key).id
    -- Waiting rows, then keys: the order in which every call locks several.
    order by k.created_at nulls first, coalesce(k.id, g.id), l."position"
  loop
    v_line := p_lines[v_row."position"];
    if v_row.id is null then
      v_line.problem := array[
        format('The waiting keys that may be this one would need more than %s rounds together: '
          'upgrade_key would not reach it.', keylatch_internal.round_budget()),
        'Give starts_with if the other system knows it. Otherwise issue a new key.'];
    elsif not v_row.is_ours then
      v_line.problem := array[
        'The key is there already, in another workspace.',
        'A key belongs to one workspace: find out which of the two is right.'];
    elsif v_row.id = (v_line.key).id then
      v_line.outcome := 'waiting';
    else
      v_line.note := keylatch_internal.move_key(case
        when v_row.is_waiting then 'keylatch_internal.legacy_keys'
        else 'keylatch_internal.keys'
      end, v_row.id, v_line.key);
      v_line.outcome := case when v_line.note is null then 'exists' else 'moved' end;
      v_line.key.id := v_row.id;
    end if;
    p_lines[v_row."position"] := v_line;
  end loop;
  return p_lines;
end $$;
comment on function keylatch_internal.settle_import is
  'Moves the keys that were there already, and says what became of each line.';

create type keylatch.import_outcome as (
  "position" integer, outcome text, key_id uuid, slug text, detail text, hint text
);
comment on type keylatch.import_outcome is
  'What became of the line at this place of a batch, from 1. outcome: imported (resolves from now
on), waiting (for its first use), exists (unchanged), moved (exists, and came nearer to its end) or
refused, with the slug, the reason and the next step.';

create type keylatch.import_report as (
  imported integer, existing integer, moved integer, waiting integer, refused integer,
  lines keylatch.import_outcome[]
);
comment on type keylatch.import_report is
  'What became of a batch: how many lines had each outcome, and the outcome of each line.';

create function keylatch_internal.take_import(p_lines jsonb, p_dry_run boolean, p_strict boolean)
returns keylatch.import_report language plpgsql volatile security definer
-- definer because: an import brings hashes, and no role but the owner may name that column.
set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  v_lines keylatch_internal.import_line[] := keylatch_internal.read_import(p_lines);
  v_report keylatch.import_report;
  v_refused keylatch_internal.import_line;
  v_deleted uuid[];
  v_place integer;
begin
  perform keylatch_internal.require_grants('keylatch_internal.take_import');
  begin
    v_deleted := keylatch_internal.share_import(v_lines);
    for v_place in
      select l."position" from unnest(v_lines) as l where (l.key).workspace_id = any (v_deleted)
    loop
      v_lines[v_place].problem := array[
        'The workspace was deleted, so no key is imported there.',
        'Import the key into a workspace with a new id.'];
    end loop;
    perform keylatch_internal.write_import(array(
      select l from unnest(v_lines) as l where l.problem is null
    ));
    v_lines := keylatch_internal.settle_import(v_lines);
    if p_dry_run then
      raise sqlstate 'UNDO0';
    end if;
  exception
    -- Rows are undone, variables are not: a dry run says what the real one would.
    when sqlstate 'UNDO0' then null;
  end;
  select l.* into v_refused from unnest(v_lines) as l where l.problem is not null limit 1;
  if p_strict and found then
    perform keylatch_internal.refuse(
      'invalid_argument', format('Line %s: %s', v_refused."position", v_refused.problem[1]),
      v_refused.problem[2]
    );
  end if;
  select
    count(*) filter (where o.outcome = 'imported'), count(*) filter (where o.outcome = 'exists'),
    count(*) filter (where o.outcome = 'moved'), count(*) filter (where o.outcome = 'waiting'),
    count(*) filter (where o.outcome = 'refused'),
    coalesce(array_agg(o::keylatch.import_outcome order by o."position"), '{}')
  into v_report
  from unnest(v_lines) as l
  cross join lateral (
    select
      l."position", case when l.problem is null then l.outcome else 'refused' end as outcome,
      case when l.problem is null
        and not (p_dry_run and l.outcome in ('imported', 'waiting')) then (l.key).id end,
      case when l.problem is not null then 'invalid_argument' end,
      coalesce(l.problem[1], l.note), l.problem[2]
  ) as o;
  return v_report;
end $$;
comment on function keylatch_internal.take_import is 'Does the work of import_keys.';

create function keylatch.import_keys(
  lines jsonb, dry_run boolean default false, strict boolean default false
)
returns keylatch.import_report language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(jsonb_typeof(import_keys.lines) <> 'array', true)
    or jsonb_array_length(import_keys.lines) > 10000
  then
    perform keylatch_internal.refuse(
      'invalid_argument', 'lines must be a list of up to 10000 objects.',
      'Send several batches: keylatch import does so.'
    );
  end if;
  return keylatch_internal.take_import(
    import_keys.lines, coalesce(import_keys.dry_run, false), coalesce(import_keys.strict, false)
  );
end $$;
comment on function keylatch.import_keys is
  'Imports the keys of another system, each line by itself: a bad line is refused, and the others
are imported. With strict, nothing is imported if a line is refused. The same again is safe.

lines: up to 10000 objects. A line has workspace_id, and key in plaintext, or hash with alg:
  sha256         of the whole key; hash_encoding hex or base64
  pbkdf2_sha256  with hash_encoding, salt, salt_encoding (hex, base64 or text), iter
  django         the whole pbkdf2_sha256$iterations$salt$hash
  bcrypt         $2a$, $2b$ or $2y$, cost to 15; keys over 72 bytes never match
The last three are salted: such a key waits until upgrade_key sees its text. So does a publishable
key of which only the hash is known, and every key that may be a waiting one. All others resolve at
once; a salted hash that is imported after them is not seen to be the same key.
starts_with (up to 32 characters) says which waiting keys a text may be. The keys of a workspace
that may be the same text need at most 1200000 rounds together, or lines are refused.
Further: kind (secret unless the key says otherwise), environment, label, metadata, scopes,
allowed_origins, masked_key, expires_at, suspended_at, revoked_at with revoke_reason, created_at,
created_by. Times are ISO 8601 with a zone. If the key is there already, these times and the
revocation apply as far as they are nearer to its end; everything else stays.
A key in plaintext needs 16 characters, 6 of them different, and must not look like a placeholder,
a hash or a number; force, with a reason, imports it anyway.
dry_run: nothing is written. Errors: invalid_argument (400), for the batch as a whole.';

update keylatch_internal.installation set modules = array_append(modules, 'legacy');

-- Who may do what.
revoke all on table
keylatch_internal.legacy_keys, keylatch_internal.legacy_settings,
keylatch_internal.import_fields, keylatch.legacy_keys
from public, anon, authenticated, service_role;
revoke all on sequence keylatch_internal.legacy_attempts_seq
from public, anon, authenticated, service_role;
revoke all on function
keylatch_internal.revoke_legacy_workspace, keylatch.revoke_legacy_key,
keylatch_internal.count_attempt, keylatch_internal.round_budget, keylatch_internal.derive_pbkdf2,
keylatch_internal.matches_verifier, keylatch_internal.similar_keys, keylatch_internal.mask_key,
keylatch_internal.insert_keys, keylatch_internal.move_key, keylatch_internal.finish_upgrade,
keylatch_internal.upgrade_legacy_key, keylatch.upgrade_key,
keylatch_internal.read_import_fields, keylatch_internal.read_plaintext,
keylatch_internal.read_bytes, keylatch_internal.read_legacy_hash, keylatch_internal.read_import,
keylatch_internal.share_import, keylatch_internal.write_import, keylatch_internal.settle_import,
keylatch_internal.take_import, keylatch.import_keys
from public, anon, authenticated, service_role;
-- All but the hash, the verifier and what the key begins with.
grant
select (
  id, workspace_id, scheme, kind, environment, masked_key, label, metadata, allowed_origins, scopes,
  expires_at, suspended_at, revoked_at, revoked_by, revoke_reason, created_at, created_by,
  imported_at, upgraded_at, key_id
),
update (revoked_at, revoke_reason)
on table keylatch_internal.legacy_keys to authenticated, service_role;
grant select on table keylatch.legacy_keys to authenticated, service_role;
grant execute on function keylatch.revoke_legacy_key to authenticated, service_role;
grant execute on function keylatch.import_keys, keylatch_internal.take_import to service_role;
grant execute on function keylatch.upgrade_key, keylatch_internal.upgrade_legacy_key
to service_role, keylatch_resolver;
