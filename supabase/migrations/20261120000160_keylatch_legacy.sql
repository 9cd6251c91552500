-- Module legacy: keys of another system, taken over as they are, so that nobody needs a new one.
--
-- A key in plaintext and an unsalted SHA-256 become rows of the keys at once. A salted hash cannot
-- be looked up: its future row waits here until the key is used for the first time.

create table keylatch_internal.legacy_keys (
  id uuid not null,
  workspace_id uuid not null,
  scheme text not null,
  verifier text not null,
  starts_with text collate "C" not null default '',
  -- squawk-ignore prefer-bigint-over-int
  rounds integer not null,
  kind text not null,
  environment text not null,
  masked_key text,
  label text not null,
  metadata jsonb not null,
  allowed_origins text[] not null,
  scopes text[] not null,
  expires_at timestamptz,
  suspended_at timestamptz,
  revoked_at timestamptz,
  revoked_by uuid,
  revoke_reason text,
  created_at timestamptz not null,
  created_by uuid,
  imported_at timestamptz not null,
  upgraded_at timestamptz,
  key_id uuid,

  constraint legacy_keys_pkey primary key (id),
  constraint legacy_keys_verifier_key unique (verifier),
  constraint legacy_keys_scheme_check check (scheme in ('sha256', 'pbkdf2_sha256', 'bcrypt')),
  constraint legacy_keys_upgraded_check check ((upgraded_at is null) = (key_id is null))
);

create index legacy_keys_workspace_id_starts_with_idx
on keylatch_internal.legacy_keys (workspace_id, starts_with) where upgraded_at is null;
create index legacy_keys_starts_with_idx
on keylatch_internal.legacy_keys (starts_with) where upgraded_at is null and starts_with <> '';
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
  g.created_at, g.created_by, g.imported_at, g.upgraded_at, g.key_id,
  coalesce(g.masked_key, '...') as masked_key,
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
-- The columns mean what they mean in the keys, and the view says what the table says.
do $$
declare
  v_column record;
begin
  for v_column in
    select t.name, a.attname, pg_catalog.col_description(k.attrelid, k.attnum) as meaning
    from (
      values
      (1, 'keylatch_internal.legacy_keys', 'keylatch_internal.keys'),
      (2, 'keylatch.legacy_keys', 'keylatch_internal.keys'),
      (3, 'keylatch.legacy_keys', 'keylatch_internal.legacy_keys')
    ) as t (place, name, source)
    inner join pg_catalog.pg_attribute as a on a.attrelid = t.name::regclass
    inner join pg_catalog.pg_attribute as k
      on k.attrelid = t.source::regclass and a.attname = k.attname
    where pg_catalog.col_description(k.attrelid, k.attnum) is not null
    order by t.place
  loop
    execute format(
      'comment on column %s.%I is %L', v_column.name, v_column.attname, v_column.meaning
    );
  end loop;
end $$;
comment on column keylatch.legacy_keys.status is
  'waiting, suspended, expired, revoked, or upgraded: then look at the key of the id key_id.';

-- The latch of the waiting keys.

create function keylatch_internal.hold_legacy_latch()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_movable constant text[] :=
    '{expires_at,suspended_at,revoked_at,revoked_by,revoke_reason,upgraded_at,key_id}';
begin
  if tg_op = 'DELETE' then
    perform keylatch_internal.refuse(
      'keys_are_kept', 'A key that is imported again would have lost its revocation.',
      'Call revoke_legacy_key instead.'
    );
  elsif old.upgraded_at is not null or to_jsonb(new) - v_movable <> to_jsonb(old) - v_movable then
    perform keylatch_internal.refuse(
      'column_is_immutable', 'What an imported key is never changes, and after its upgrade nothing.'
    );
  elsif old.revoked_at is not null and (new.revoked_at, new.revoked_by, new.revoke_reason)
    is distinct from (old.revoked_at, old.revoked_by, old.revoke_reason)
    or old.expires_at is not null and coalesce(new.expires_at > old.expires_at, true)
    or old.suspended_at is not null and new.suspended_at is distinct from old.suspended_at
  then
    perform keylatch_internal.refuse(
      'revoked_is_final', 'A waiting key only moves towards its end.'
    );
  end if;
  return new;
end $$;
comment on function keylatch_internal.hold_legacy_latch is
  'Keeps the rows, what an imported key is, and how near to its end it is.';

create trigger legacy_keys_change_hold
before update or delete on keylatch_internal.legacy_keys
for each row execute function keylatch_internal.hold_legacy_latch();
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_change_hold;
comment on trigger legacy_keys_change_hold on keylatch_internal.legacy_keys is
  'A waiting key stays revoked and suspended, its expiry only comes nearer, and its row is kept.';

create trigger legacy_keys_truncate_keep
before truncate on keylatch_internal.legacy_keys
for each statement execute function keylatch_internal.keep_keys();
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_truncate_keep;
comment on trigger legacy_keys_truncate_keep on keylatch_internal.legacy_keys is
  'The table is not truncated.';

create function keylatch_internal.stamp_legacy_revocation()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_problem text[];
begin
  new.revoked_at := clock_timestamp();
  new.revoked_by := keylatch_internal.current_user_id();
  -- The same rule as for keys: a reason often quotes the leaked key, and must not fail for that.
  new.revoke_reason := regexp_replace(
    new.revoke_reason,
    '([a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_)[1-9A-HJ-NP-Za-km-z]{36}', E'\\1...', 'g'
  );
  v_problem := keylatch_internal.check_key(
    jsonb_populate_record(null::keylatch_internal.keys, to_jsonb(old)),
    jsonb_populate_record(null::keylatch_internal.keys, to_jsonb(new))
  );
  if v_problem is not null then
    perform keylatch_internal.refuse('invalid_argument', v_problem[1], v_problem[2]);
  end if;
  return new;
end $$;
comment on function keylatch_internal.stamp_legacy_revocation is
  'Writes the clock and the user where a waiting key is revoked, and judges the reason.';

create trigger legacy_keys_update_stamp
before update on keylatch_internal.legacy_keys for each row
when (old.revoked_at is null and new.revoked_at is not null)
execute function keylatch_internal.stamp_legacy_revocation();
comment on trigger legacy_keys_update_stamp on keylatch_internal.legacy_keys is
  'No caller chooses the time or the user.

Origin sessions only: a logical replica keeps the publisher''s times.';

create function keylatch_internal.revoke_legacy_workspace()
returns trigger language plpgsql volatile security definer
-- definer because: whoever deletes a workspace need not be one who may see its waiting keys.
set search_path = pg_catalog, pg_temp as $$
begin
  with locked as materialized (
    select g.id from keylatch_internal.legacy_keys as g
    where g.workspace_id = new.workspace_id and g.revoked_at is null and g.upgraded_at is null
    order by g.id
    for update
  )
  update keylatch_internal.legacy_keys as g
  set revoked_at = clock_timestamp(), revoke_reason = 'workspace deleted'
  from locked as l
  where g.id = l.id;
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
  v_result keylatch.revocation;
  v_key_id uuid;
begin
  update keylatch_internal.legacy_keys as g
  set revoked_at = clock_timestamp(), revoke_reason = revoke_legacy_key.reason
  where g.id = revoke_legacy_key.id and g.revoked_at is null and g.upgraded_at is null;
  v_result.already_revoked := not found;
  select g.id, g.revoked_at, g.key_id into v_result.id, v_result.revoked_at, v_key_id
  from keylatch_internal.legacy_keys as g
  where g.id = revoke_legacy_key.id;
  if not found then
    perform keylatch_internal.refuse(
      'key_not_found', 'You administer no imported key of this id.',
      'List the imported keys of the workspace: the view legacy_keys.'
    );
  elsif v_key_id is not null then
    return keylatch.revoke_key(v_key_id, revoke_legacy_key.reason);
  end if;
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
  upgrades_per_minute integer not null default 60,
  -- squawk-ignore prefer-bigint-over-int
  all_upgrades_per_minute integer not null default 600,

  constraint legacy_settings_pkey primary key (only_row),
  constraint legacy_settings_only_row_check check (only_row),
  constraint legacy_settings_upgrades_check check (
    -- Flat: a nested "and" would read otherwise after a dump.
    upgrades_per_minute >= 1 and upgrades_per_minute <= 100000
    and all_upgrades_per_minute >= 1 and all_upgrades_per_minute <= 100000
  )
);
comment on table keylatch_internal.legacy_settings is
  'One row: the limits of upgrade_key.';
comment on column keylatch_internal.legacy_settings.only_row is 'Always true: there is one row.';
comment on column keylatch_internal.legacy_settings.upgrades_per_minute is
  'How many calls of upgrade_key may compute slow hashes in a minute, for each workspace.';
comment on column keylatch_internal.legacy_settings.all_upgrades_per_minute is
  'The same for all workspaces together. A call that fails or is cancelled counts here, too.';
insert into keylatch_internal.legacy_settings default values;
alter table keylatch_internal.legacy_settings enable row level security;

create unlogged table keylatch_internal.legacy_attempts (
  workspace_id uuid not null,
  attempted_at timestamptz not null default pg_catalog.clock_timestamp()
);
create index legacy_attempts_workspace_id_attempted_at_idx
on keylatch_internal.legacy_attempts (workspace_id, attempted_at);
comment on table keylatch_internal.legacy_attempts is
  'The calls of upgrade_key of the last minute that computed slow hashes. Rows are only added, so
nobody waits for the count.';
comment on column keylatch_internal.legacy_attempts.workspace_id is
  'The workspace; all zeros for a call without one.';
comment on column keylatch_internal.legacy_attempts.attempted_at is 'When it was called.';
comment on index keylatch_internal.legacy_attempts_workspace_id_attempted_at_idx is
  'Counts the last minute of a workspace.';
alter table keylatch_internal.legacy_attempts enable row level security;

create sequence keylatch_internal.legacy_attempts_seq;
comment on sequence keylatch_internal.legacy_attempts_seq is
  'The minute since 1970, times a million, plus the calls of that minute. No rollback undoes it.';

create function keylatch_internal.refuse_attempt(p_limit integer, p_seconds integer)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.refuse_for_now(
    format('upgrade_key was called more than %s times in a minute.', p_limit),
    clock_timestamp() + make_interval(secs => p_seconds)
  );
end $$;
comment on function keylatch_internal.refuse_attempt is
  'Raises too_many_requests, over REST with Retry-After.';

create function keylatch_internal.count_attempt(p_workspace_id uuid)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_second constant bigint := floor(extract(epoch from v_now));
  v_minute constant bigint := v_second / 60;
  v_settings keylatch_internal.legacy_settings;
  v_count bigint := nextval('keylatch_internal.legacy_attempts_seq');
  v_oldest timestamptz;
begin
  select s.* into v_settings from keylatch_internal.legacy_settings as s;
  -- A copy of the schema alone has no row.
  v_settings.upgrades_per_minute := coalesce(v_settings.upgrades_per_minute, 60);
  v_settings.all_upgrades_per_minute := coalesce(v_settings.all_upgrades_per_minute, 600);
  -- Another minute than the counter's, before or after it: the counter begins anew.
  if v_count / 1000000 <> v_minute then
    v_count := setval('keylatch_internal.legacy_attempts_seq', v_minute * 1000000 + 1);
  end if;
  if v_count % 1000000 > v_settings.all_upgrades_per_minute then
    perform keylatch_internal.refuse_attempt(
      v_settings.all_upgrades_per_minute, 60 - (v_second % 60)::integer
    );
  end if;
  select count(*), min(a.attempted_at) into v_count, v_oldest
  from keylatch_internal.legacy_attempts as a
  where a.workspace_id = p_workspace_id
    and a.attempted_at between v_now - interval '1 minute' and v_now;
  if v_count >= v_settings.upgrades_per_minute then
    perform keylatch_internal.refuse_attempt(
      v_settings.upgrades_per_minute,
      greatest(ceil(extract(epoch from v_oldest + interval '1 minute' - v_now)), 1)::integer
    );
  end if;
  insert into keylatch_internal.legacy_attempts (workspace_id) values (p_workspace_id);
  -- What is over leaves, unless another call removes it at this moment.
  delete from keylatch_internal.legacy_attempts as a
  where a.ctid = any (array(
    select o.ctid from keylatch_internal.legacy_attempts as o
    where o.workspace_id = p_workspace_id
      and o.attempted_at not between v_now - interval '1 minute' and v_now + interval '1 minute'
    limit 100
    for update skip locked
  ));
end $$;
comment on function keylatch_internal.count_attempt is
  'Counts a call of upgrade_key, and refuses it where a limit is reached. It waits for nobody.';

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

create function keylatch_internal.beginnings(p_text text)
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return array(select left(p_text, n) from generate_series(0, least(length(p_text), 32)) as n);
end $$;
comment on function keylatch_internal.beginnings is
  'What a text begins with: the empty text, its first character, and so on up to 32.';

create function keylatch_internal.legacy_candidates(p_key text, p_workspace_id uuid)
returns setof keylatch_internal.legacy_keys language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Revoked and expired ones, too: a text that matches one of them is refused. Each costs 1000
  -- rounds or more, so with 1201 of them the budget is exceeded.
  if p_workspace_id is not null then
    return query
    select g.* from keylatch_internal.legacy_keys as g
    where g.workspace_id = p_workspace_id and g.upgraded_at is null and g.scheme <> 'sha256'
      and g.starts_with = any (keylatch_internal.beginnings(p_key))
    limit 1201;
  else
    return query
    select g.* from keylatch_internal.legacy_keys as g
    where g.upgraded_at is null and g.scheme <> 'sha256' and g.starts_with <> ''
      and g.starts_with = any (keylatch_internal.beginnings(p_key))
    limit 1201;
  end if;
end $$;
comment on function keylatch_internal.legacy_candidates is
  'The waiting keys under a salted hash that this text may be; without a workspace only those of
which it is known what they begin with.';

create function keylatch_internal.mask_key(p_key text, p_given text)
returns text language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- How many characters may be shown.
  v_shown constant integer := greatest(least(length(p_key) / 3, length(p_key) - 16), 0);
begin
  return case
    when p_key is null then null
    when length(p_given) <= v_shown + 3 then p_given
    when keylatch_internal.key_form(p_key) = 'valid'
      then left(p_key, -36) || '...' || right(p_key, 4)
    when v_shown < 4 then '...'
    -- The words that it begins with, and four characters.
    else left(coalesce(substring(p_key, '^(?:[a-z]{1,8}[_-]){1,3}'), ''), v_shown - 4)
      || '...' || right(p_key, 4)
  end;
end $$;
comment on function keylatch_internal.mask_key is
  'What people tell a key of any form by, for example wid_...uVO9: at least 16 characters and two
thirds of the text stay hidden, of a shorter one all. The text that an import gave is taken if it
is that short.';

create function keylatch_internal.move_key(
  p_table regclass, p_id uuid, p_revoked_at timestamptz, p_revoke_reason text,
  p_expires_at timestamptz, p_suspended_at timestamptz
)
returns text language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- What expires within the minute counts as expired: it may be when the row is written.
  v_soon timestamptz;
  v_key keylatch_internal.keys;
  v_is_expired boolean;
begin
  execute format(
    'select revoked_at, expires_at, suspended_at from %s where id = $1 for update', p_table
  ) into v_key.revoked_at, v_key.expires_at, v_key.suspended_at using p_id;
  v_soon := clock_timestamp() + interval '1 minute';
  v_is_expired := coalesce(v_key.expires_at <= v_soon, false);
  if v_key.revoked_at is not null then
    return null;
  elsif p_revoked_at is not null or (p_expires_at <= v_soon and not v_is_expired) then
    execute format(
      'update %s set revoked_at = $2, revoke_reason = $3 where id = $1', p_table
    ) using p_id, v_soon, case
      when p_revoked_at is null then 'expired in the imported system' else p_revoke_reason
    end;
    return 'The key is revoked now.';
  elsif v_is_expired then
    return null;
  elsif coalesce(p_expires_at >= v_key.expires_at, p_expires_at is null)
    and (p_suspended_at is null or v_key.suspended_at is not null)
  then
    return null;
  end if;
  execute format(
    'update %s set expires_at = least(expires_at, $2), suspended_at = coalesce(suspended_at, $3) '
    'where id = $1', p_table
  ) using p_id, p_expires_at, p_suspended_at;
  return concat_ws(
    ' ',
    case when p_expires_at < coalesce(v_key.expires_at, 'infinity')
      then 'The key expires earlier now.' end,
    case when p_suspended_at is not null and v_key.suspended_at is null
      then 'The key is suspended now.' end
  );
end $$;
comment on function keylatch_internal.move_key is
  'Moves a key, or a waiting key, towards its end as far as these values are nearer to it, and says
what changed; null if nothing did.';

create function keylatch_internal.finish_upgrade(p_key text, p_ids uuid[])
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_row keylatch_internal.legacy_keys;
  v_hash constant bytea := sha256(convert_to(p_key, 'UTF8'));
  v_key_id uuid;
begin
  -- First the workspace, then the waiting rows, then the keys: everybody locks in this order.
  perform from keylatch_internal.workspace_latches as w
  where w.workspace_id in (
    select g.workspace_id from keylatch_internal.legacy_keys as g where g.id = any (p_ids)
  )
  order by w.workspace_id
  for share;
  -- The same key under several salts: the row that is nearest to its end counts.
  with locked as materialized (
    select g.* from keylatch_internal.legacy_keys as g
    where g.id = any (p_ids) and g.upgraded_at is null
    order by g.id
    for update
  )
  select l.* into v_row
  from locked as l
  order by l.revoked_at nulls last, l.expires_at nulls last, l.suspended_at nulls last, l.id
  limit 1;
  if not found or exists (
    select from keylatch_internal.workspace_latches as w
    where w.workspace_id = v_row.workspace_id and w.deleted_at is not null
  )
  then
    return;
  end if;
  insert into keylatch_internal.keys (
    id, workspace_id, kind, environment, key_hash, public_key, masked_key, label, metadata,
    allowed_origins, scopes, expires_at, suspended_at, revoked_at, revoked_by, revoke_reason,
    created_at, created_by, updated_at, imported_at
  )
  values (
    v_row.id, v_row.workspace_id, v_row.kind, v_row.environment, v_hash,
    case v_row.kind when 'publishable' then p_key end,
    keylatch_internal.mask_key(p_key, v_row.masked_key), v_row.label, v_row.metadata,
    v_row.allowed_origins, v_row.scopes, v_row.expires_at, v_row.suspended_at, v_row.revoked_at,
    v_row.revoked_by, v_row.revoke_reason, v_row.created_at, v_row.created_by, clock_timestamp(),
    v_row.imported_at
  )
  on conflict (key_hash) do nothing;
  -- Somebody else may have imported the text at this moment.
  select k.id into v_key_id from keylatch_internal.keys as k where k.key_hash = v_hash;
  update keylatch_internal.legacy_keys as g
  set upgraded_at = clock_timestamp(), key_id = v_key_id
  where g.id = any (p_ids) and g.upgraded_at is null;
  perform keylatch_internal.move_key(
    'keylatch_internal.keys', v_key_id, m.revoked_at, m.revoke_reason, m.expires_at, m.suspended_at
  )
  from keylatch_internal.legacy_keys as m
  where m.id = any (p_ids)
  order by m.id;
end $$;
comment on function keylatch_internal.finish_upgrade is
  'Makes the waiting keys of these ids, which are all this text, one row of the keys.';

create function keylatch_internal.upgrade_legacy_key(p_key text, p_workspace_id uuid)
returns void language plpgsql volatile security definer
-- definer because: a service that resolves keys reads no hash and inserts no key.
set search_path = pg_catalog, pg_temp as $$
declare
  v_hash constant bytea := sha256(convert_to(p_key, 'UTF8'));
  v_candidates keylatch_internal.legacy_keys[];
  v_ids uuid[];
begin
  -- A key that has its row answers for itself, active or not, and costs no slow hash.
  if length(p_key) not between 1 and 1000
    or exists (select from keylatch_internal.keys as k where k.key_hash = v_hash)
  then
    return;
  end if;
  v_candidates := array(
    select c from keylatch_internal.legacy_candidates(p_key, p_workspace_id) as c
  );
  if (select sum(c.rounds) from unnest(v_candidates) as c) > keylatch_internal.round_budget() then
    perform keylatch_internal.refuse(
      'invalid_argument', 'workspace_id is needed: more keys begin alike than one call tries.',
      'Pass the workspace whose key it would be.'
    );
  elsif cardinality(v_candidates) > 0 then
    perform keylatch_internal.count_attempt(
      coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
    );
  end if;
  -- All of them, not only until the first match: a revoked one may match as well.
  v_ids := array(
    select c.id from unnest(v_candidates) as c
    where keylatch_internal.matches_verifier(p_key, c.scheme, c.verifier)
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
  'resolve_key for keys that were imported under a salted hash: the first use makes such a key a row
of keys, and from then on resolve_key finds it.

Call it where resolve_key found nothing. workspace_id: whose key it would be; without it only keys
are tried of which the import said what they begin with. It answers as resolve_key does. A text
that matches a revoked or expired key is refused, under every salt. One call computes at most
1200000 rounds of PBKDF2, about 2 s, or as much bcrypt; at most 60 calls a minute for a workspace
and 600 in all compute any. bcrypt: keys over 72 bytes never match.
Errors: too_many_requests (429), invalid_argument (400) where workspace_id is needed.';

-- Reading an import: each line by itself, so that a bad one costs no other.

create type keylatch_internal.import_line as (
  "position" integer,
  -- As given, under the names of the JSON.
  workspace_id uuid, key text, alg text, hash text, hash_encoding text, salt text,
  salt_encoding text, iter text, starts_with text, masked_key text, kind text, environment text,
  label text, metadata jsonb, allowed_origins text[], scopes text[], expires_at timestamptz,
  suspended_at timestamptz, revoked_at timestamptz, revoke_reason text, created_at timestamptz,
  created_by uuid, force text,
  -- As read.
  id uuid, scheme text, verifier text, rounds integer, problem text[], outcome text, note text
);
comment on type keylatch_internal.import_line is
  'A line of an import: what was given, what was read from that, and what is wrong with it.';

create function keylatch_internal.check_import_fields(p_line jsonb)
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_time constant text := E'^\\d{4}-\\d\\d-\\d\\d([T ]\\d\\d:\\d\\d(:\\d\\d(\\.\\d{1,6})?)? ?'
    '(Z|[+-]\\d\\d(:?\\d\\d)?))?$';
  v_fields constant text[] := '{workspace_id,key,alg,hash,hash_encoding,salt,salt_encoding,iter,'
    'starts_with,masked_key,kind,environment,label,metadata,allowed_origins,scopes,expires_at,'
    'suspended_at,revoked_at,revoke_reason,created_at,created_by,force}'::text[];
begin
  return case
    when jsonb_typeof(p_line) <> 'object' then array[
      'The line is not a JSON object.', 'Write {"workspace_id": …, "key": …}.']
    when p_line - v_fields <> '{}' then array[
      'The line has a field that an import does not know.',
      'The fields are ' || array_to_string(v_fields, ', ') || '.']
    when jsonb_path_exists(
      p_line - '{metadata,allowed_origins,scopes,iter}'::text[],
      'strict $.* ? (@.type() != "string" && @.type() != "null")'
    )
      or jsonb_typeof(p_line -> 'allowed_origins') not in ('array', 'null')
      or jsonb_typeof(p_line -> 'scopes') not in ('array', 'null') then array[
      'A field of the line has the wrong JSON type.',
      'allowed_origins and scopes are lists, metadata is an object, all others are texts.']
    when p_line ->> 'workspace_id' is null then array[
      'workspace_id must be a UUID.', 'Give the workspace that the key will belong to.']
    when p_line ->> 'expires_at' !~ v_time or p_line ->> 'suspended_at' !~ v_time
      or p_line ->> 'revoked_at' !~ v_time or p_line ->> 'created_at' !~ v_time then array[
      'expires_at, suspended_at, revoked_at and created_at must be ISO 8601 with a zone.',
      'Write 2027-01-31T09:30:00Z, or 2027-01-31 for the beginning of that day in UTC.']
    when coalesce(p_line ->> 'key', p_line ->> 'hash') is null then array[
      'The line has neither key nor hash.',
      'Give the key in plaintext, or its hash with alg. If you have neither, issue a new key.']
  end;
end $$;
comment on function keylatch_internal.check_import_fields is
  'What is wrong with a line before its fields are read; null if nothing is.';

create function keylatch_internal.check_import_values(p_line keylatch_internal.import_line)
returns text[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when least(p_line.expires_at, p_line.suspended_at, p_line.revoked_at, p_line.created_at)
      < '0001-01-02 00:00Z' then array[
      'A time of the line is before the year 1.', 'Write the time as the other system meant it.']
    when greatest(p_line.suspended_at, p_line.revoked_at, p_line.created_at) > clock_timestamp()
      then array[
      'suspended_at, revoked_at and created_at must not be in the future.',
      'Give a key that ends later an expires_at.']
    when length(p_line.starts_with) > 32 or p_line.starts_with ~ '[^ -~]' then array[
      'starts_with must be a text of up to 32 printable ASCII characters.',
      'Give what the other system kept of the key in plaintext, if it did.']
    when length(p_line.masked_key) not between 1 and 40 or p_line.masked_key ~ '[^ -~]' then array[
      'masked_key must be a text of 1 to 40 printable ASCII characters.',
      'Give what people know the key by, for example its last four characters.']
    when length(p_line.force) not between 1 and 200 then array[
      'force must be a reason of 1 to 200 characters.', 'Say why the weak key is imported.']
  end;
end $$;
comment on function keylatch_internal.check_import_values is
  'What is wrong with the values that only an import has; null if nothing is.';

create function keylatch_internal.check_plaintext(p_line keylatch_internal.import_line)
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_key constant text := p_line.key;
  v_form constant text := keylatch_internal.key_form(v_key);
  v_weakness constant text := case
    when v_key ~* E'^[[({<]*(undefined|null|none|nil|nan|true|false|todo|redacted|change.?me.*'
      '|placeholder.*|(your|replace|insert)[-_ ].*|(my|example|test)[-_ ]?(api)?[-_ ]?'
      '(key|secret|token))[])}>]*$'
      then 'is a placeholder'
    when v_key ~ E'^(\\$[0-9a-z-]+\\$|[a-z0-9_]+\\$[0-9]+\\$|\\{[A-Za-z0-9]+\\})'
      or v_key ~* '^(md5|sha[0-9]+|bcrypt|pbkdf2|scrypt|argon2)[^ ]{0,10}[:=$]'
      then 'has the form of a hash'
    when v_key ~* E'^[+-]?[0-9]+([.,][0-9]+)?e[+-]?[0-9]+$' then 'is a number of a spreadsheet'
    when v_key ~ '[^ -~]' then 'has characters that are not printable ASCII'
    when length(v_key) < 16 then 'is shorter than 16 characters'
    when (select count(distinct c.letter) from string_to_table(v_key, null) as c (letter)) < 6
      then 'has fewer than 6 different characters'
  end;
begin
  return case
    when length(v_key) not between 1 and 1000
      or v_key ~ E'^\\s|\\s$|[\\x01-\\x1f\\x7f-\\x9f]' then array[
      'key must be 1 to 1000 characters, without control characters and spaces around it.',
      'Give the key exactly as its holder sends it.']
    when v_form = 'checksum_failed' then array[
      'key has the form of a key of keylatch, but its check characters are wrong.',
      'It was mistyped or cut: nobody has such a key.']
    when v_form = 'valid' and (p_line.kind, p_line.environment) is distinct from (
      case split_part(v_key, '_', 2) when 'pk' then 'publishable' else 'secret' end,
      split_part(v_key, '_', 3)
    ) then array[
      'key is of another kind or environment than the line says.',
      'Leave kind and environment out.']
    when v_weakness is not null and p_line.force is null then array[
      'key ' || v_weakness || '.',
      'Leave the line out and issue a new key. To import it anyway, give a reason as force.']
  end;
end $$;
comment on function keylatch_internal.check_plaintext is
  'What is wrong with a key in plaintext; null if nothing is. Only force goes below its floor.';

create function keylatch_internal.read_bytes(p_text text, p_encoding text)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_base64 text;
begin
  if p_encoding = 'hex' and p_text ~ '^([0-9a-fA-F]{2})+$' then
    return decode(p_text, 'hex');
  elsif p_encoding = 'text' then
    return convert_to(p_text, 'UTF8');
  elsif p_encoding = 'base64' and p_text ~ '^([A-Za-z0-9+/]+|[A-Za-z0-9_-]+)={0,2}$' then
    v_base64 := translate(rtrim(p_text, '='), '-_', '+/');
    if length(v_base64) % 4 <> 1 then
      return decode(rpad(v_base64, (length(v_base64) + 3) / 4 * 4, '='), 'base64');
    end if;
  end if;
  return null;
end $$;
comment on function keylatch_internal.read_bytes is
  'The bytes of a text in hex, in base64 (of either alphabet) or as it is; null if it is not of that
encoding.';

create function keylatch_internal.check_legacy_hash(p_line keylatch_internal.import_line)
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when p_line.alg is null or p_line.alg not in ('sha256', 'pbkdf2_sha256', 'django', 'bcrypt')
      then array[
      'alg must be sha256, pbkdf2_sha256, django or bcrypt.',
      'Keys under another algorithm cannot be imported: issue new ones.']
    when p_line.alg <> 'pbkdf2_sha256' and num_nonnulls(
      case when p_line.alg <> 'sha256' then p_line.hash_encoding end,
      p_line.salt, p_line.salt_encoding, p_line.iter
    ) > 0 then array[
      'salt, salt_encoding and iter do not go with alg ' || p_line.alg || '.',
      'Leave them out. Of django and bcrypt also hash_encoding: the hash contains them all.']
    when p_line.alg = 'bcrypt' then case
      when p_line.hash !~ E'^\\$2[aby]\\$(0[4-9]|1[0-5])\\$[./A-Za-z0-9]{53}$' then array[
      'hash is not one of bcrypt: $2a$, $2b$ or $2y$, a cost from 04 to 15, $ and 53 characters.',
      'Give the whole text as the other system has it. Above that cost issue a new key.'] end
    when p_line.alg = 'django' then case
      when p_line.hash !~ E'^pbkdf2_sha256\\$[1-9][0-9]{0,6}\\$[^$]{1,250}\\$[A-Za-z0-9+/]{43}=$'
        then array[
      'hash is not one of Django: pbkdf2_sha256$iterations$salt$hash.',
      'Give the whole text. Other hashers of Django cannot be imported.'] end
    when p_line.hash_encoding is null or p_line.hash_encoding not in ('hex', 'base64')
      or octet_length(keylatch_internal.read_bytes(p_line.hash, p_line.hash_encoding))
      is distinct from 32 then array[
      'hash must be 32 bytes, and hash_encoding hex or base64.',
      'In hex a hash has 64 characters, in base64 43 and a =.']
    when p_line.alg = 'sha256' then null
    when p_line.salt_encoding is null or p_line.salt_encoding not in ('hex', 'base64', 'text')
      or coalesce(octet_length(
        keylatch_internal.read_bytes(p_line.salt, p_line.salt_encoding)
      ), 0) not between 1 and 1000 then array[
      'salt must be 1 to 1000 bytes, and salt_encoding hex, base64 or text.',
      'Say text if the other system hashed the salt as it is written.']
    when p_line.iter is null or p_line.iter !~ '^[1-9][0-9]{0,6}$' then array[
      'iter must be a number of rounds from 1 on.', 'Give what the other system computes.']
  end;
end $$;
comment on function keylatch_internal.check_legacy_hash is
  'What is wrong with the hash of a line; null if nothing is.';

create function keylatch_internal.read_import_key(p_line keylatch_internal.import_line)
returns keylatch_internal.import_line language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  p_line.scheme := case
    when p_line.key is not null then 'plaintext'
    when p_line.alg = 'django' then 'pbkdf2_sha256'
    else p_line.alg
  end;
  -- The usual hash is seen to be good without a call.
  if p_line.scheme = 'sha256' and p_line.hash_encoding = 'hex' and length(p_line.hash) = 64
    and p_line.hash !~ '[^0-9a-fA-F]'
    and num_nonnulls(p_line.salt, p_line.salt_encoding, p_line.iter) = 0
  then
    p_line.verifier := lower(p_line.hash);
    return p_line;
  elsif p_line.scheme = 'plaintext' then
    p_line.problem := keylatch_internal.check_plaintext(p_line);
    p_line.verifier := encode(sha256(convert_to(p_line.key, 'UTF8')), 'hex');
    p_line.note := nullif(concat_ws(
      ' ', 'Imported by force: ' || p_line.force,
      case when p_line.hash is not null
        then 'The key in plaintext was imported; the hash beside it was not looked at.' end,
      case when p_line.key ~ '^[0-9a-fA-F]{64}$'
        then 'The key looks like a SHA-256. If it is the hash of the key, import it as such.' end
    ), '');
    return p_line;
  end if;
  p_line.problem := keylatch_internal.check_legacy_hash(p_line);
  if p_line.problem is not null then
    return p_line;
  end if;
  p_line.verifier := case p_line.alg
    -- 2a, 2b and 2y are one algorithm; pgcrypto knows it by the first name.
    when 'bcrypt' then '$2a' || substr(p_line.hash, 4)
    when 'django' then concat_ws(
      '$', split_part(p_line.hash, '$', 2),
      encode(convert_to(split_part(p_line.hash, '$', 3), 'UTF8'), 'hex'),
      encode(decode(split_part(p_line.hash, '$', 4), 'base64'), 'hex')
    )
    else concat_ws(
      '$', p_line.iter,
      encode(keylatch_internal.read_bytes(p_line.salt, p_line.salt_encoding), 'hex'),
      encode(keylatch_internal.read_bytes(p_line.hash, p_line.hash_encoding), 'hex')
    )
  end;
  p_line.rounds := greatest(1000, case p_line.scheme
    when 'bcrypt' then 32 * (1 << substr(p_line.hash, 5, 2)::integer)
    when 'pbkdf2_sha256' then split_part(p_line.verifier, '$', 1)::integer
  end);
  p_line.problem := case when p_line.rounds > keylatch_internal.round_budget() then array[
    format('hash needs more than %s rounds.', keylatch_internal.round_budget()),
    'One call of upgrade_key could not compute it: issue a new key.']
  end;
  return p_line;
end $$;
comment on function keylatch_internal.read_import_key is
  'Reads the key or the hash of a line into the one form in which it is kept.';

create function keylatch_internal.unreadable_value(p_line jsonb)
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_uuid constant text := '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$';
begin
  return case
    when p_line ->> 'workspace_id' !~ v_uuid then array[
      'workspace_id must be a UUID.', 'Give the workspace that the key will belong to.']
    when p_line ->> 'created_by' !~ v_uuid then array[
      'created_by must be a UUID.', 'Leave it out if no user of this database made the key.']
    else array[
      'A time of the line does not exist, or a list holds a list.',
      'Correct expires_at, suspended_at, revoked_at, created_at, allowed_origins or scopes.']
  end;
end $$;
comment on function keylatch_internal.unreadable_value is
  'Which value of a line is not one of its type.';

create function keylatch_internal.read_import_lines(p_lines jsonb)
returns keylatch_internal.import_line[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_own constant text := '^[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[1-9A-HJ-NP-Za-km-z]{36}$';
  v_given record;
  v_line keylatch_internal.import_line;
  v_lines keylatch_internal.import_line[] := '{}'::keylatch_internal.import_line[];
  v_key keylatch_internal.keys;
  v_good keylatch_internal.keys;
  v_form text[];
begin
  for v_given in
    select e.line, e.place::integer
    from jsonb_array_elements(p_lines) with ordinality as e (line, place)
  loop
    v_line := null;
    begin
      v_line.problem := keylatch_internal.check_import_fields(v_given.line);
      if v_line.problem is null then
        v_line := jsonb_populate_record(v_line, v_given.line);
        v_form := regexp_match(v_line.key, v_own);
        v_key.kind := coalesce(
          v_line.kind, case v_form[1] when 'pk' then 'publishable' else 'secret' end
        );
        v_key.environment := coalesce(v_line.environment, v_form[2], 'live');
        v_key.label := coalesce(v_line.label, '');
        v_key.metadata := coalesce(v_line.metadata, '{}');
        v_key.allowed_origins := coalesce(v_line.allowed_origins, '{}');
        v_key.scopes := coalesce(v_line.scopes, '{}');
        -- An expired key may be imported. Any other time is judged as for a new key.
        v_key.expires_at := case when v_line.expires_at > v_now then v_line.expires_at end;
        v_key.revoked_at := v_line.revoked_at;
        v_key.revoke_reason := v_line.revoke_reason;
        v_line.kind := v_key.kind;
        v_line.environment := v_key.environment;
        v_line.problem := coalesce(
          keylatch_internal.check_import_values(v_line),
          -- What is as in the good line before is not judged again.
          keylatch_internal.check_key(case
            when v_key.kind = v_good.kind and v_key.environment = v_good.environment then v_good
          end, v_key)
        );
      end if;
      if v_line.problem is null then
        v_good := v_key;
        v_line := keylatch_internal.read_import_key(v_line);
      end if;
    exception
      when data_exception then
        v_line.problem := keylatch_internal.unreadable_value(v_given.line);
    end;
    v_line."position" := v_given.place;
    v_line.id := gen_random_uuid();
    v_lines := array_append(v_lines, v_line);
  end loop;
  return v_lines;
end $$;
comment on function keylatch_internal.read_import_lines is
  'Reads and judges the lines of an import, without a look at any key.';

-- Importing a batch.

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

create function keylatch_internal.share_import_workspaces(p_lines keylatch_internal.import_line[])
returns uuid[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  insert into keylatch_internal.workspace_latches (workspace_id)
  select distinct l.workspace_id from unnest(p_lines) as l where l.problem is null order by 1
  on conflict do nothing;
  return array(
    with shared as materialized (
      select w.workspace_id, w.deleted_at from keylatch_internal.workspace_latches as w
      where w.workspace_id in (select l.workspace_id from unnest(p_lines) as l)
      order by w.workspace_id
      for share
    )
    select w.workspace_id from shared as w where w.deleted_at is not null
  );
end $$;
comment on function keylatch_internal.share_import_workspaces is
  'Keeps the workspaces of an import from being deleted, and names those that are deleted already.';

create function keylatch_internal.overlapping_keys(p_line keylatch_internal.import_line)
returns setof keylatch_internal.legacy_keys language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_starts_with constant text := coalesce(p_line.starts_with, '') collate "C";
begin
  return query
  select g.* from keylatch_internal.legacy_keys as g
  where g.workspace_id = p_line.workspace_id and g.upgraded_at is null and g.scheme <> 'sha256'
    and (
      g.starts_with = any (keylatch_internal.beginnings(v_starts_with))
      or (g.starts_with > v_starts_with and starts_with(g.starts_with, v_starts_with))
    )
  limit 1201;
end $$;
comment on function keylatch_internal.overlapping_keys is
  'The waiting keys that the key of this line may be, as far as is known what they begin with.';

create function keylatch_internal.insert_waiting(p_line keylatch_internal.import_line)
returns keylatch_internal.import_line language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if p_line.scheme in ('pbkdf2_sha256', 'bcrypt') and p_line.rounds + coalesce((
    select sum(g.rounds) from keylatch_internal.overlapping_keys(p_line) as g
  ), 0) > keylatch_internal.round_budget()
  then
    p_line.problem := array[
      'Too many keys of the workspace wait that may be this one: upgrade_key would not reach it.',
      'Give starts_with if the other system knows it. Otherwise issue a new key.'];
    return p_line;
  end if;
  insert into keylatch_internal.legacy_keys (
    id, workspace_id, scheme, verifier, starts_with, rounds, kind, environment, masked_key, label,
    metadata, allowed_origins, scopes, expires_at, suspended_at, revoked_at, revoke_reason,
    created_at, created_by, imported_at
  )
  values (
    p_line.id, p_line.workspace_id,
    case p_line.scheme when 'plaintext' then 'sha256' else p_line.scheme end, p_line.verifier,
    coalesce(p_line.starts_with, ''), coalesce(p_line.rounds, 1000), p_line.kind,
    p_line.environment, p_line.masked_key, coalesce(p_line.label, ''),
    coalesce(p_line.metadata, '{}'), coalesce(p_line.allowed_origins, '{}'),
    coalesce(p_line.scopes, '{}'), p_line.expires_at, p_line.suspended_at, p_line.revoked_at,
    p_line.revoke_reason, coalesce(p_line.created_at, clock_timestamp()), p_line.created_by,
    clock_timestamp()
  );
  p_line.outcome := 'waiting';
  return p_line;
end $$;
comment on function keylatch_internal.insert_waiting is
  'Lets the key of this line wait for its first use, if upgrade_key could find it then.';

create function keylatch_internal.import_waiting(
  p_line keylatch_internal.import_line, p_budget integer
)
returns keylatch_internal.import_line language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_known keylatch_internal.legacy_keys;
  v_candidates keylatch_internal.legacy_keys[];
begin
  if p_line.scheme in ('plaintext', 'sha256') and exists (
    select from keylatch_internal.keys as k where k.key_hash = decode(p_line.verifier, 'hex')
  )
  then
    return p_line;
  end if;
  select g.* into v_known from keylatch_internal.legacy_keys as g
  where g.verifier = p_line.verifier;
  if v_known.upgraded_at is not null then
    return p_line;
  elsif v_known.workspace_id <> p_line.workspace_id then
    p_line.problem := keylatch_internal.foreign_key_problem();
    return p_line;
  elsif p_line.scheme = 'plaintext' then
    v_candidates := array(
      select c from keylatch_internal.legacy_candidates(p_line.key, p_line.workspace_id) as c
    );
    p_line.rounds := (select coalesce(sum(c.rounds), 0) from unnest(v_candidates) as c);
    if p_line.rounds <= p_budget then
      perform keylatch_internal.finish_upgrade(p_line.key, array(
        select c.id from unnest(v_candidates) as c
        where c.id = v_known.id
          or keylatch_internal.matches_verifier(p_line.key, c.scheme, c.verifier)
      ) || array_remove(array[v_known.id], null));
      return p_line;
    end if;
    p_line.rounds := null;
    p_line.note := 'More salted keys wait that may be this one than one call compares: upgrade_key '
      || 'compares them at the first use.';
  elsif p_line.scheme = 'sha256' and p_line.kind = 'secret' and v_known.id is null
    -- A waiting key that is not active may be the same one.
    and not exists (
      select from keylatch_internal.overlapping_keys(p_line) as g
      where num_nonnulls(g.revoked_at, g.suspended_at) > 0 or g.expires_at <= clock_timestamp()
    )
  then
    return p_line;
  end if;
  if v_known.id is null then
    return keylatch_internal.insert_waiting(p_line);
  end if;
  p_line.id := v_known.id;
  return keylatch_internal.move_line(p_line, 'keylatch_internal.legacy_keys');
end $$;
comment on function keylatch_internal.import_waiting is
  'Imports a line whose key waits for its first use, and compares a key in plaintext with those that
wait, for as many rounds. A line that it leaves open becomes a row of the keys, or is one.';

create function keylatch_internal.foreign_key_problem()
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return array[
    'The key is there already, in another workspace.',
    'A key belongs to one workspace: find out which of the two is right.'];
end $$;
comment on function keylatch_internal.foreign_key_problem is
  'Why a line for a key of another workspace is refused.';

create function keylatch_internal.move_line(
  p_line keylatch_internal.import_line, p_table regclass
)
returns keylatch_internal.import_line language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  p_line.note := case
    when num_nonnulls(p_line.revoked_at, p_line.expires_at, p_line.suspended_at) > 0
      then keylatch_internal.move_key(
        p_table, p_line.id, p_line.revoked_at, p_line.revoke_reason, p_line.expires_at,
        p_line.suspended_at
      )
  end;
  p_line.outcome := case when p_line.note is null then 'exists' else 'moved' end;
  return p_line;
end $$;
comment on function keylatch_internal.move_line is
  'Applies a line to the key of its id, which is there already.';

create function keylatch_internal.import_native(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_taken uuid[];
  v_line record;
begin
  with taken as (
    insert into keylatch_internal.keys (
      id, workspace_id, kind, environment, key_hash, public_key, masked_key, label, metadata,
      allowed_origins, scopes, expires_at, suspended_at, revoked_at, revoke_reason, created_at,
      created_by, updated_at, imported_at
    )
    select
      l.id, l.workspace_id, l.kind, l.environment, decode(l.verifier, 'hex'),
      case l.kind when 'publishable' then l.key end,
      coalesce(keylatch_internal.mask_key(l.key, l.masked_key), l.masked_key, '...'),
      coalesce(l.label, ''), coalesce(l.metadata, '{}'), coalesce(l.allowed_origins, '{}'),
      coalesce(l.scopes, '{}'), l.expires_at, l.suspended_at, l.revoked_at, l.revoke_reason,
      coalesce(l.created_at, v_now), l.created_by, v_now, v_now
    from unnest(p_lines) as l
    where l.problem is null and l.outcome is null and l.scheme in ('plaintext', 'sha256')
    -- In one order, so that two imports of the same keys do not deadlock.
    order by l.verifier, l."position"
    on conflict do nothing
    returning id
  )
  select array_agg(t.id) into v_taken from taken as t;
  -- The order in which every call locks several keys.
  for v_line in
    select n.*, k.workspace_id = n.workspace_id as is_ours
    from (
      select l."position", l.workspace_id, t.id is not null as is_new, case
        when t.id is not null then t.id
        when l.scheme in ('plaintext', 'sha256') then (
          select k.id from keylatch_internal.keys as k where k.key_hash = decode(l.verifier, 'hex'))
        else (select g.key_id from keylatch_internal.legacy_keys as g where g.verifier = l.verifier)
      end as id
      from unnest(p_lines) as l
      left join unnest(v_taken) as t (id) on l.id = t.id
      where l.problem is null and l.outcome is null
    ) as n
    left join keylatch_internal.keys as k on n.id = k.id
    order by k.created_at, n.id, n."position"
  loop
    p_lines[v_line."position"].id := v_line.id;
    if v_line.is_new then
      p_lines[v_line."position"].outcome := 'imported';
    elsif v_line.is_ours then
      p_lines[v_line."position"] := keylatch_internal.move_line(
        p_lines[v_line."position"], 'keylatch_internal.keys'
      );
    else
      p_lines[v_line."position"].problem := keylatch_internal.foreign_key_problem();
    end if;
  end loop;
  return p_lines;
end $$;
comment on function keylatch_internal.import_native is
  'Inserts the keys whose hash is known, and moves those that are there already.';

create function keylatch_internal.write_import(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_deleted constant uuid[] := keylatch_internal.share_import_workspaces(p_lines);
  v_waiting uuid[];
  v_left integer := keylatch_internal.round_budget();
  v_place integer;
begin
  for v_place in
    select l."position" from unnest(p_lines) as l where l.workspace_id = any (v_deleted)
  loop
    p_lines[v_place].problem := array[
      'The workspace was deleted, so no key is imported there.',
      'Import the key into a workspace with a new id.'];
  end loop;
  v_waiting := array(
    select distinct g.workspace_id from keylatch_internal.legacy_keys as g
    where g.upgraded_at is null
      and g.workspace_id in (select l.workspace_id from unnest(p_lines) as l)
  );
  for v_place in
    select l."position" from unnest(p_lines) as l
    where l.problem is null and (
      l.scheme in ('pbkdf2_sha256', 'bcrypt') or l.workspace_id = any (v_waiting)
      or (l.scheme = 'sha256' and l.kind = 'publishable')
    )
    -- Those that may be any key first: of two that exclude each other the later one is refused.
    order by length(coalesce(l.starts_with, '')), l."position"
  loop
    -- Imports take turns, so that none overlooks what another lets wait. Nobody else waits.
    lock table keylatch_internal.legacy_settings in exclusive mode;
    p_lines[v_place] := keylatch_internal.import_waiting(p_lines[v_place], v_left);
    if p_lines[v_place].scheme = 'plaintext' then
      v_left := v_left - coalesce(p_lines[v_place].rounds, 0);
    end if;
  end loop;
  return keylatch_internal.import_native(p_lines);
end $$;
comment on function keylatch_internal.write_import is
  'Writes what was read: first the keys that wait, then the rows of the keys.';

create function keylatch_internal.take_import(p_lines jsonb, p_dry_run boolean, p_strict boolean)
returns keylatch.import_report language plpgsql volatile security definer
-- definer because: an import brings hashes, and no role but the owner may name that column.
set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  v_lines keylatch_internal.import_line[] := keylatch_internal.read_import_lines(p_lines);
  v_report keylatch.import_report;
  v_refused keylatch_internal.import_line;
begin
  begin
    v_lines := keylatch_internal.write_import(v_lines);
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
    count(*) filter (where l.outcome = 'imported'), count(*) filter (where l.outcome = 'exists'),
    count(*) filter (where l.outcome = 'moved'), count(*) filter (where l.outcome = 'waiting'),
    count(*) filter (where l.problem is not null),
    coalesce(array_agg(case
      when l.problem is not null then row(
        l."position", 'refused', null, 'invalid_argument', l.problem[1], l.problem[2]
      )::keylatch.import_outcome
      else row(
        l."position", l.outcome,
        case when not (p_dry_run and l.outcome in ('imported', 'waiting')) then l.id end,
        null, l.note, null
      )::keylatch.import_outcome
    end order by l."position"), '{}')
  into v_report
  from unnest(v_lines) as l;
  return v_report;
end $$;
comment on function keylatch_internal.take_import is 'Does the work of import_keys.';

create function keylatch.import_keys(
  lines jsonb, dry_run boolean default false, strict boolean default false
)
returns keylatch.import_report language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if jsonb_typeof(import_keys.lines) is distinct from 'array' then
    perform keylatch_internal.refuse(
      'invalid_argument', 'lines must be a list of up to 10000 objects.',
      'For example [{"workspace_id": "<id>", "key": "<the key>", "label": "orders"}].'
    );
  elsif jsonb_array_length(import_keys.lines) > 10000 then
    perform keylatch_internal.refuse(
      'invalid_argument', 'lines has more than 10000 entries.',
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
A key in plaintext and a sha256 resolve at once. The other three are salted: such a key waits until
upgrade_key sees it. So does a publishable key of which only the hash is known, and a sha256 that
may be the same key as a waiting one that is not active. starts_with (up to 32 characters) says
which waiting keys a text may be; the keys of a workspace that may be the same text need at most
1200000 rounds together, or lines are refused. Keys in plaintext are compared with waiting ones,
for as many rounds a call; from then on they wait as well. Of a key that is a row already only the
hash is known: that a salted hash belongs to it shows at its first use.
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
keylatch_internal.legacy_attempts, keylatch.legacy_keys
from public, anon, authenticated, service_role;
revoke all on sequence keylatch_internal.legacy_attempts_seq
from public, anon, authenticated, service_role;
revoke all on function
keylatch_internal.hold_legacy_latch, keylatch_internal.stamp_legacy_revocation,
keylatch_internal.revoke_legacy_workspace, keylatch.revoke_legacy_key,
keylatch_internal.refuse_attempt, keylatch_internal.count_attempt,
keylatch_internal.round_budget, keylatch_internal.derive_pbkdf2,
keylatch_internal.matches_verifier, keylatch_internal.beginnings,
keylatch_internal.legacy_candidates, keylatch_internal.mask_key, keylatch_internal.move_key,
keylatch_internal.finish_upgrade, keylatch_internal.upgrade_legacy_key, keylatch.upgrade_key,
keylatch_internal.check_import_fields, keylatch_internal.check_import_values,
keylatch_internal.check_plaintext, keylatch_internal.read_bytes,
keylatch_internal.check_legacy_hash, keylatch_internal.read_import_key,
keylatch_internal.unreadable_value, keylatch_internal.read_import_lines,
keylatch_internal.share_import_workspaces,
keylatch_internal.overlapping_keys, keylatch_internal.insert_waiting,
keylatch_internal.foreign_key_problem, keylatch_internal.move_line,
keylatch_internal.import_waiting, keylatch_internal.import_native,
keylatch_internal.write_import, keylatch_internal.take_import,
keylatch.import_keys
from public, anon, authenticated, service_role;
-- All but the verifier and what the key begins with.
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
