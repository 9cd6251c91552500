-- What a key looks like, the table of keys, and the view through which clients see it.
--
--   wk_sk_live_9fK…   <prefix>_<pk|sk>_<live|test>_<body: 30><check: 6>

create function keylatch.hash_key(key text)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Fast on purpose: a body has 175 random bits, and NIST 800-63B asks for a slow hash only below
  -- 112. Not language sql: auto_explain would log the key as a parameter of an SQL function.
  return sha256(convert_to(hash_key.key, 'UTF8'));
end $$;
comment on function keylatch.hash_key is
  'The SHA-256 of the whole key as UTF-8, 32 bytes: what the database stores instead of the key.

Over REST, compute the hash in the client, so that the key is not sent.';

create function keylatch_internal.key_characters(p_bytes bytea)
returns text language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_text text := '';
begin
  for v_place in 0 .. octet_length(p_bytes) - 1 loop
    -- Digits and letters without 0, O, I and l.
    v_text := v_text || substr(
      '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz',
      get_byte(p_bytes, v_place) % 58 + 1, 1
    );
  end loop;
  return v_text;
end $$;
comment on function keylatch_internal.key_characters is
  'Turns each byte into one of the 58 characters of a key.';

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
      -- 232 is 4 * 58. Larger bytes would make some characters more likely than others.
      if get_byte(v_random, v_place - 1) < 232 and octet_length(v_body) < 30 then
        v_body := v_body || substr(v_random, v_place, 1);
      end if;
    end loop;
  end loop;
  v_key := p_beginning || keylatch_internal.key_characters(v_body);
  return v_key || keylatch_internal.key_characters(substr(sha256(convert_to(v_key, 'UTF8')), 1, 6));
end $$;
comment on function keylatch_internal.complete_key is
  'Makes a key: this beginning, a random body of 175 bits, and the check characters.';

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
  'Whether a text has the form of a key: malformed, checksum_failed or valid.';

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
  -- These constraints hold for every key. The rules of single values are checked when a value is
  -- written (check_key). As constraints they would be checked again at each revocation, and a rule
  -- that became stricter would prevent the revocation of a leaked key.
  constraint keys_kind_check check (kind in ('publishable', 'secret')),
  constraint keys_environment_check check (environment in ('live', 'test')),
  constraint keys_key_hash_check check (octet_length(key_hash) = 32),
  -- Report 000: a key was saved without its hash. Here, both are columns of one row.
  constraint keys_public_key_check check (
    case kind
      when 'secret' then public_key is null
      -- Of an imported key, perhaps only the hash is known.
      else coalesce(key_hash = sha256(convert_to(public_key, 'UTF8')), imported_at is not null)
    end
  ),
  constraint keys_superseded_check check (superseded_at is null or expires_at is not null),
  constraint keys_revoked_check check (
    revoked_at is not null or (revoked_by is null and revoke_reason is null)
  ),
  -- Some languages have no years before 1 or after 9999.
  constraint keys_times_check check (
    -- Not nested: pg_dump would write a nested "and" differently.
    created_at >= '0001-01-02 00:00Z' and created_at <= '9999-01-01 00:00Z'
    and coalesce(expires_at between '0001-01-02 00:00Z' and '9999-01-01 00:00Z', true)
    and coalesce(isfinite(suspended_at), true) and coalesce(isfinite(superseded_at), true)
    and coalesce(isfinite(revoked_at), true)
  )
);

-- For list_keys, and for an admin who reads the view: one workspace, the newest first.
create index keys_workspace_id_created_at_idx
on keylatch_internal.keys (workspace_id, created_at desc);
comment on table keylatch_internal.keys is
  'The keys. Rows are inserted, edited within the rules of the latch, and never deleted.';
comment on column keylatch_internal.keys.id is 'Made by the database.';
comment on column keylatch_internal.keys.workspace_id is
  'The workspace of the key. No foreign key: keys outlive a workspace, for the audit.';
comment on column keylatch_internal.keys.kind is
  'publishable: may stand in a web page and proves nothing. secret: must never reach a browser.';
comment on column keylatch_internal.keys.environment is 'live or test; part of the key''s text.';
comment on column keylatch_internal.keys.key_hash is
  'SHA-256 of the whole key, 32 bytes. Readable by the owner of the table alone.';
comment on column keylatch_internal.keys.public_key is
  'A publishable key in plaintext, to show its embed snippet again; null for a secret key.';
comment on column keylatch_internal.keys.masked_key is
  'A short form by which people tell keys apart, for example wk_sk_live_...x7Qe.';
comment on column keylatch_internal.keys.label is 'A name for people; up to 200 characters.';
comment on column keylatch_internal.keys.metadata is
  'A JSON object of up to 8 kB for the application; resolve_key returns it.';
comment on column keylatch_internal.keys.allowed_origins is
  'The origins from which a publishable key resolves; empty means none. Up to 100.';
comment on column keylatch_internal.keys.scopes is
  'Words that the application defines; up to 64. resolve_key returns them.';
comment on column keylatch_internal.keys.expires_at is
  'When the key expires, for good. Null: the key never expires.';
comment on column keylatch_internal.keys.suspended_at is
  'Since when the key is suspended; may be cleared while the key is neither revoked nor expired.';
comment on column keylatch_internal.keys.superseded_at is
  'When a rotation with a grace made its successor; the key resolves until expires_at.';
comment on column keylatch_internal.keys.revoked_at is 'When the key was revoked; never cleared.';
comment on column keylatch_internal.keys.revoked_by is
  'The user who revoked it; null when no signed-in user did.';
comment on column keylatch_internal.keys.revoke_reason is 'Why; up to 500 characters.';
comment on column keylatch_internal.keys.rotated_from is
  'The key that this key replaces. A key has at most one successor.';
comment on column keylatch_internal.keys.created_at is
  'By the server''s clock; for an imported key, the time that the other system gave.';
comment on column keylatch_internal.keys.created_by is
  'The user who made it; null when no signed-in user did.';
comment on column keylatch_internal.keys.updated_at is 'When the row last changed.';
comment on column keylatch_internal.keys.imported_at is
  'When it was imported from another system; null for a key made here.';
comment on column keylatch_internal.keys.fingerprint is
  'The first 8 hex characters of key_hash, for people and logs to compare. It opens nothing.';
comment on index keylatch_internal.keys_workspace_id_created_at_idx is
  'Lists the keys of one workspace, the newest first.';
alter table keylatch_internal.keys enable row level security;

create view keylatch_internal.active_keys as
select
  k.id, k.key_hash, k.workspace_id, k.kind, k.environment, k.allowed_origins, k.scopes, k.metadata,
  k.expires_at
from keylatch_internal.keys as k
where
  k.revoked_at is null and k.suspended_at is null
  -- The clock, not the start of the transaction: a key may expire while a transaction is open.
  and (k.expires_at is null or k.expires_at > pg_catalog.clock_timestamp());
comment on view keylatch_internal.active_keys is
  'The keys that resolve now. This view defines what an active key is.';

create view keylatch.keys with (security_invoker = true) as
select
  k.id, k.workspace_id, k.kind, k.environment, k.public_key, k.masked_key, k.fingerprint, k.label,
  k.metadata, k.allowed_origins, k.scopes, k.expires_at, k.suspended_at, k.superseded_at,
  k.revoked_at, k.revoked_by, k.revoke_reason, k.rotated_from, k.created_at, k.created_by,
  k.updated_at, k.imported_at,
  case
    when k.revoked_at is not null then 'revoked'
    -- Not clock_timestamp(): with a volatile column the planner computes all rows before a limit.
    when k.expires_at <= pg_catalog.statement_timestamp() then 'expired'
    when k.suspended_at is not null then 'suspended'
    when k.superseded_at is not null then 'superseded'
    else 'active'
  end as status
from keylatch_internal.keys as k;
comment on view keylatch.keys is
  'The keys of the workspaces that you administer, without their hashes.

Read it with filters, order and pages. PATCH label, metadata, allowed_origins, scopes, expires_at,
suspended_at or revoked_at. Rows cannot be deleted. To make a key, call issue_key: only its answer
shows a secret key. A PATCH of several keys can fail with 40P01 and change nothing if another change
of them runs at the same time: send it again. revoke_key and deleting a workspace are safe.';
-- The columns get the comments of the table, because PostgREST shows comments.
do $$
declare
  v_column record;
begin
  for v_column in
    select v.attname, pg_catalog.col_description(t.attrelid, t.attnum) as meaning
    from pg_catalog.pg_attribute as v
    inner join pg_catalog.pg_attribute as t on v.attname = t.attname
    where v.attrelid = 'keylatch.keys'::regclass and t.attrelid = 'keylatch_internal.keys'::regclass
  loop
    execute format('comment on column keylatch.keys.%I is %L', v_column.attname, v_column.meaning);
  end loop;
end $$;
comment on column keylatch.keys.status is
  'active, superseded (resolves until expires_at), suspended, expired or revoked.';

-- Who may do what. The policies decide who may change a row, and the latch which value may change.
-- So a client may name every column except the hash, and gets the errors of the contract.
revoke all on table keylatch_internal.keys, keylatch_internal.active_keys, keylatch.keys
from public, anon, authenticated, service_role;
revoke all on function
keylatch.hash_key, keylatch_internal.key_characters, keylatch_internal.complete_key,
keylatch_internal.key_form from public, anon, authenticated, service_role;

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
on table keylatch_internal.keys to authenticated, service_role;
grant select, insert, update on table keylatch.keys to authenticated, service_role;
grant execute on function
keylatch.hash_key, keylatch_internal.key_characters, keylatch_internal.complete_key,
keylatch_internal.key_form to authenticated, service_role;
