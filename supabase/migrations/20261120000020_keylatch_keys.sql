-- The format of a key, the table of keys, and the view through which clients read that table.
--
--   wk_sk_live_9fK…   <prefix>_<pk|sk>_<live|test>_<body: 30><check: 6>

create function keylatch.hash_key(key text)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- SHA-256 is fast enough to be safe here: a key has 175 random bits, and NIST 800-63B asks for a
  -- slow hash only below 112. In language sql, auto_explain would log the key as a parameter.
  return sha256(convert_to(hash_key.key, 'UTF8'));
end $$;
comment on function keylatch.hash_key is
  'Returns the SHA-256 hash (32 bytes) of the whole key. The database stores only this hash.

Over REST, compute the SHA-256 hash in the client, so that the plaintext key is never sent.';

create function keylatch_internal.key_characters(p_bytes bytea)
returns text language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_text text := '';
begin
  for v_place in 0 .. octet_length(p_bytes) - 1 loop
    -- Digits and letters without 0, O, I and l, which people confuse.
    v_text := v_text || substr(
      '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz',
      get_byte(p_bytes, v_place) % 58 + 1, 1
    );
  end loop;
  return v_text;
end $$;
comment on function keylatch_internal.key_characters is
  'Turns each byte of p_bytes into one of the 58 characters that a key may contain.';

create function keylatch_internal.complete_key(p_beginning text)
returns text language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_random bytea;
  v_body bytea := ''::bytea;
  v_key text;
begin
  while octet_length(v_body) < 30 loop
    v_random := extensions.gen_random_bytes(40);
    for v_place in 1 .. 40 loop
      -- Random bytes from 232 (4 * 58) up would make some characters likelier than others.
      if get_byte(v_random, v_place - 1) < 232 and octet_length(v_body) < 30 then
        v_body := v_body || substr(v_random, v_place, 1);
      end if;
    end loop;
  end loop;
  v_key := p_beginning || keylatch_internal.key_characters(v_body);
  return v_key || keylatch_internal.key_characters(substr(sha256(convert_to(v_key, 'UTF8')), 1, 6));
end $$;
comment on function keylatch_internal.complete_key is
  'Returns a new key: p_beginning, 30 random characters (175 bits) and 6 checksum characters.';

create function keylatch_internal.key_form(p_key text)
returns text language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when p_key is null
      or p_key !~ '^[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[1-9A-HJ-NP-Za-km-z]{36}$'
      then 'malformed'
    when right(p_key, 6) <> keylatch_internal.key_characters(
      substr(sha256(convert_to(left(p_key, -6), 'UTF8')), 1, 6)
    )
      then 'checksum_failed'
    else 'valid'
  end;
end $$;
comment on function keylatch_internal.key_form is
  'Checks the format of p_key. Returns malformed, checksum_failed or valid.';

create table keylatch_internal.keys (
  id uuid not null,
  workspace_id uuid not null,
  kind text not null default 'publishable',
  environment text not null default 'live',
  key_hash bytea not null,
  public_key text,
  masked_key text not null,
  label text not null default '',
  metadata jsonb not null default '{}',
  allowed_origins text[] not null default '{}',
  scopes text[] not null default '{}',
  expires_at timestamptz,
  suspended_at timestamptz,
  superseded_at timestamptz,
  revoked_at timestamptz,
  revoked_by uuid,
  revoke_reason text,
  rotated_from uuid,
  created_at timestamptz not null,
  created_by uuid,
  updated_at timestamptz not null,
  imported_at timestamptz,
  fingerprint text generated always as (
    pg_catalog.left(pg_catalog.encode(key_hash, 'hex'), 8)
  ) stored,
  constraint keys_pkey primary key (id),
  constraint keys_key_hash_key unique (key_hash),
  constraint keys_rotated_from_key unique (rotated_from),
  constraint keys_rotated_from_fkey
  foreign key (rotated_from) references keylatch_internal.keys (id),
  -- These constraints hold for every key. The function check_key checks a single value when the
  -- value is written. A constraint would check the value again at each revocation: a stricter rule
  -- in a later release would then prevent the revocation of a leaked key.
  constraint keys_kind_check check (kind in ('publishable', 'secret')),
  constraint keys_environment_check check (environment in ('live', 'test')),
  constraint keys_key_hash_check check (octet_length(key_hash) = 32),
  -- A publishable key and its hash are in one row, so that no key is saved without its hash.
  constraint keys_public_key_check check (
    case kind
      when 'secret' then public_key is null
      -- The plaintext of an imported publishable key may be unknown.
      else coalesce(key_hash = sha256(convert_to(public_key, 'UTF8')), imported_at is not null)
    end
  ),
  constraint keys_superseded_check check (superseded_at is null or expires_at is not null),
  constraint keys_revoked_check check (
    revoked_at is not null or (revoked_by is null and revoke_reason is null)
  ),
  -- Some programming languages cannot represent years before 1 or after 9999.
  constraint keys_times_check check (
    -- No parentheses around "and": pg_dump would write the constraint differently.
    created_at >= '0001-01-02 00:00Z' and created_at <= '9999-01-01 00:00Z'
    and coalesce(expires_at between '0001-01-02 00:00Z' and '9999-01-01 00:00Z', true)
    and coalesce(isfinite(suspended_at), true) and coalesce(isfinite(superseded_at), true)
    and coalesce(isfinite(revoked_at), true)
  )
);

create index keys_workspace_id_created_at_idx
on keylatch_internal.keys (workspace_id, created_at desc);
comment on table keylatch_internal.keys is
  'All API keys. Triggers on this table decide which values may change. Rows stay forever.';
comment on column keylatch_internal.keys.id is 'The id of the key. The database makes the id.';
comment on column keylatch_internal.keys.workspace_id is
  'The workspace that owns the key. A deleted workspace leaves its keys here for the audit.';
comment on column keylatch_internal.keys.kind is
  'A publishable key may be public and proves no identity. A secret key must stay on a server.';
comment on column keylatch_internal.keys.environment is 'live or test. The key contains this word.';
comment on column keylatch_internal.keys.key_hash is
  'The SHA-256 hash (32 bytes) of the whole key. Only the owner of the table may read the hash.';
comment on column keylatch_internal.keys.public_key is 'The plaintext; null for a secret key.';
comment on column keylatch_internal.keys.masked_key is 'Safe to display: wk_sk_live_...x7Qe.';
comment on column keylatch_internal.keys.label is 'The name of the key, up to 200 characters.';
comment on column keylatch_internal.keys.metadata is 'A JSON object of your own, up to 8 kB.';
comment on column keylatch_internal.keys.allowed_origins is
  'The web origins (up to 100) that may use a publishable key. If empty, no origin may use it.';
comment on column keylatch_internal.keys.scopes is
  'The scopes of the key: up to 64 words that the application defines and resolve_key returns.';
comment on column keylatch_internal.keys.expires_at is 'When the key expires; null for never.';
comment on column keylatch_internal.keys.suspended_at is
  'When the key was suspended. Set null to end the suspension of a key that is not yet expired.';
comment on column keylatch_internal.keys.superseded_at is
  'When a rotation with a grace period replaced the key. The old key works until expires_at.';
comment on column keylatch_internal.keys.revoked_at is 'When the key was revoked, permanently.';
comment on column keylatch_internal.keys.revoked_by is 'The user who revoked the key, or null.';
comment on column keylatch_internal.keys.revoke_reason is 'The reason, up to 500 characters.';
comment on column keylatch_internal.keys.rotated_from is 'The key that this key replaces.';
comment on column keylatch_internal.keys.created_at is
  'When the key was made. For an imported key, the time that the import passed.';
comment on column keylatch_internal.keys.created_by is 'The user who made the key, or null.';
comment on column keylatch_internal.keys.updated_at is 'When the row was last changed.';
comment on column keylatch_internal.keys.imported_at is 'When the key was imported, or null.';
comment on column keylatch_internal.keys.fingerprint is
  'The first 8 hex characters of key_hash, for logs. Nobody can use a fingerprint as a key.';
comment on index keylatch_internal.keys_workspace_id_created_at_idx is 'Finds the newest keys.';
alter table keylatch_internal.keys enable row level security;

create view keylatch_internal.active_keys as
select
  k.id, k.key_hash, k.workspace_id, k.kind, k.environment, k.allowed_origins, k.scopes, k.metadata,
  k.expires_at
-- "only": the triggers do not guard the rows of a table that inherits from this one.
from only (keylatch_internal.keys) as k -- noqa: LT01,LT06,RF01
where
  k.revoked_at is null and k.suspended_at is null
  -- clock_timestamp(), not now(): a key can expire while a transaction is open.
  and (k.expires_at is null or k.expires_at > pg_catalog.clock_timestamp());
comment on view keylatch_internal.active_keys is
  'The active keys: resolve_key accepts a key only if this view contains the key.';

create view keylatch.keys with (security_invoker = true) as
select
  k.id, k.workspace_id, k.kind, k.environment, k.public_key, k.masked_key, k.fingerprint, k.label,
  k.metadata, k.allowed_origins, k.scopes, k.expires_at, k.suspended_at, k.superseded_at,
  k.revoked_at, k.revoked_by, k.revoke_reason, k.rotated_from, k.created_at, k.created_by,
  k.updated_at, k.imported_at,
  case
    when k.revoked_at is not null then 'revoked'
    -- clock_timestamp() is volatile, so "limit" would make the planner compute all rows first.
    when k.expires_at <= pg_catalog.statement_timestamp() then 'expired'
    when k.suspended_at is not null then 'suspended'
    when k.superseded_at is not null then 'superseded'
    else 'active'
  end as status
from only (keylatch_internal.keys) as k; -- noqa: LT01,LT06,RF01
comment on view keylatch.keys is
  'The keys of the workspaces that you administer, without the hashes of the keys.

GET supports filters, order and pages. PATCH can change label, metadata, allowed_origins, scopes,
expires_at, suspended_at, superseded_at, revoked_at and revoke_reason. Keys cannot be deleted. Only
issue_key makes a key and shows a secret key. Two PATCH requests for the same keys can deadlock:
send the request that failed with 40P01 again. revoke_key cannot deadlock.';
comment on column keylatch.keys.status is
  'active, superseded (works until expires_at), suspended, expired or revoked.';
select keylatch_internal.expose_table('keylatch_internal.keys', 'keylatch.keys');

-- Grants. Row policies decide who may change a key, and triggers decide which columns
-- may change. The grants name every column but key_hash, so that a trigger can raise its error.
-- A grant on the whole view could allow a role to lock the view.
revoke all on table keylatch_internal.keys, keylatch_internal.active_keys, keylatch.keys
from public, anon, authenticated, service_role;
revoke all on function keylatch.hash_key, keylatch_internal.key_characters,
keylatch_internal.complete_key, keylatch_internal.key_form
from public, anon, authenticated, service_role;

grant
select (
  id, workspace_id, kind, environment, public_key, masked_key, fingerprint, label, metadata,
  allowed_origins, scopes, expires_at, suspended_at, superseded_at, revoked_at, revoked_by,
  revoke_reason, rotated_from, created_at, created_by, updated_at, imported_at
),
insert (
  id, workspace_id, kind, environment, public_key, masked_key, label, metadata,
  allowed_origins, scopes, expires_at, suspended_at, superseded_at, revoked_at, revoked_by,
  revoke_reason, rotated_from, created_at, created_by, updated_at, imported_at
),
update (
  id, workspace_id, kind, environment, public_key, masked_key, label, metadata,
  allowed_origins, scopes, expires_at, suspended_at, superseded_at, revoked_at, revoked_by,
  revoke_reason, rotated_from, created_at, created_by, updated_at, imported_at
)
on table keylatch_internal.keys, keylatch.keys to authenticated, service_role;
grant select on table keylatch.keys to authenticated, service_role;
grant execute on function keylatch.hash_key, keylatch_internal.key_characters,
keylatch_internal.complete_key, keylatch_internal.key_form to authenticated, service_role;
