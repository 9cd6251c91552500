-- The table of keys, the rules of each of its values, and the view through which it is seen.

create function keylatch_internal.check_label(p_label text)
returns keylatch_internal.problem
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  if p_label is null or length(p_label) > 200
    or p_label ~ '[\x01-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]'
  then
    return row(
      'label must be a text of up to 200 characters without control characters.',
      'Pass an empty text for no label.'
    )::keylatch_internal.problem;
  end if;
  return null;
end;
$$;

comment on function keylatch_internal.check_label(text) is
  'What is wrong with this label, or null.';

revoke all on function keylatch_internal.check_label(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.check_label(text) to authenticated, service_role;

create function keylatch_internal.check_metadata(p_metadata jsonb)
returns keylatch_internal.problem
language sql
immutable
parallel safe
security invoker
set search_path = ''
as $$
  select case
    when p_metadata is null or pg_catalog.jsonb_typeof(p_metadata) <> 'object'
      or pg_catalog.octet_length(p_metadata::pg_catalog.text) > 8192
      then row(
        'metadata must be a JSON object of up to 8 kB.',
        'Keep larger data in a table of your own, by the id of the key.'
      )::keylatch_internal.problem
  end;
$$;

comment on function keylatch_internal.check_metadata(jsonb) is
  'What is wrong with this metadata, or null.';

revoke all on function keylatch_internal.check_metadata(jsonb)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.check_metadata(jsonb) to authenticated, service_role;

create function keylatch_internal.check_scopes(p_scopes text[])
returns keylatch_internal.problem
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
declare
  v_scope pg_catalog.text;
  v_is_good boolean := p_scopes is not null
    and coalesce(array_ndims(p_scopes), 1) = 1
    and cardinality(p_scopes) <= 64;
begin
  if v_is_good then
    foreach v_scope in array p_scopes loop
      if v_scope is null or length(v_scope) > 64 or v_scope !~ '^[a-z0-9_.:*-]+$' then
        v_is_good := false;
      end if;
    end loop;
    -- Only of several one may be there twice. Each key of an import comes by here.
    if cardinality(p_scopes) > 1 then
      v_is_good := v_is_good and cardinality(p_scopes) = (
        select count(distinct s.scope) from unnest(p_scopes) as s (scope)
      );
    end if;
  end if;
  if v_is_good then
    return null;
  end if;
  return row(
    'scopes must be up to 64 different words of 1 to 64 characters from a-z 0-9 _ . : * -',
    'For example ["orders:read", "orders:write"].'
  )::keylatch_internal.problem;
end;
$$;

comment on function keylatch_internal.check_scopes(text[]) is
  'What is wrong with this list of scopes, or null.';

revoke all on function keylatch_internal.check_scopes(text[])
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.check_scopes(text[]) to authenticated, service_role;

create function keylatch_internal.check_revoke_reason(p_reason text)
returns keylatch_internal.problem
language sql
immutable
parallel safe
security invoker
set search_path = ''
as $$
  select case
    when pg_catalog.length(p_reason) > 500 or p_reason ~ '[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]'
      then row(
        'revoke_reason must be a text of up to 500 characters without control characters.',
        'Say in a sentence why the key had to go, and keep the rest in your ticket.'
      )::keylatch_internal.problem
  end;
$$;

comment on function keylatch_internal.check_revoke_reason(text) is
  'What is wrong with this reason, or null.';

revoke all on function keylatch_internal.check_revoke_reason(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.check_revoke_reason(text)
to authenticated, service_role;

create table keylatch_internal.keys (
  id uuid not null,
  workspace_id uuid not null,
  kind text not null default 'publishable',
  environment text not null default 'live',
  key_hash bytea,
  public_key text,
  hint text not null,
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
  imported_at timestamptz,

  constraint keys_pkey primary key (id),
  constraint keys_key_hash_key unique (key_hash),
  constraint keys_rotated_from_key unique (rotated_from),
  constraint keys_rotated_from_fkey
  foreign key (rotated_from) references keylatch_internal.keys (id),
  constraint keys_kind_check check (kind in ('publishable', 'secret')),
  constraint keys_environment_check check (environment in ('live', 'test')),
  constraint keys_key_hash_check check (octet_length(key_hash) = 32),
  -- What was imported with a salted hash alone gets its own at its first use.
  constraint keys_imported_check check (key_hash is not null or imported_at is not null),
  -- Report 000: a key was saved and its hash was not. Here the two are one row or none. Of a key
  -- that was imported as a hash nobody knows the text, so such a row has none, of either kind.
  constraint keys_public_key_check check (
    case
      when kind = 'secret' then public_key is null
      when public_key is null then imported_at is not null
      else key_hash is not null and key_hash = keylatch.hash_key(public_key)
    end
  ),
  constraint keys_hint_check check (length(hint) between 1 and 40),
  constraint keys_label_check check ((keylatch_internal.check_label(label)) is null),
  -- What most rows have is seen to be right without a call: an import checks a million of them.
  constraint keys_metadata_check check (
    metadata = '{}' or (keylatch_internal.check_metadata(metadata)) is null
  ),
  constraint keys_allowed_origins_check check (
    allowed_origins = '{}'
    or (keylatch_internal.check_origins(allowed_origins, kind, environment)) is null
  ),
  constraint keys_scopes_check check (
    scopes = '{}' or (keylatch_internal.check_scopes(scopes)) is null
  ),
  -- Not every language can name a year past 9999.
  constraint keys_times_check check (
    coalesce(isfinite(expires_at) and expires_at < '10000-01-01 00:00Z', true)
    and coalesce(isfinite(suspended_at), true)
    and coalesce(isfinite(superseded_at), true)
    and coalesce(isfinite(revoked_at), true)
    and isfinite(created_at)
    and coalesce(isfinite(imported_at), true)
  ),
  constraint keys_superseded_check check (superseded_at is null or expires_at is not null),
  constraint keys_revoked_check check (
    revoked_at is not null or (revoked_by is null and revoke_reason is null)
  ),
  constraint keys_revoke_reason_check check (
    revoke_reason is null
    or (keylatch_internal.check_revoke_reason(revoke_reason)) is null
  ),
  constraint keys_rotated_from_check check (rotated_from <> id)
);

-- For list_keys and for the view as an admin reads it: one workspace, the newest first.
create index keys_workspace_id_created_at_idx
on keylatch_internal.keys (workspace_id, created_at desc);

comment on table keylatch_internal.keys is
  'The keys. Rows are inserted, edited within the rules of the latch, and never deleted.';
comment on column keylatch_internal.keys.id is 'Made by the database.';
comment on column keylatch_internal.keys.workspace_id is
  'Whose key it is. No foreign key: keys outlive a workspace, for the audit.';
comment on column keylatch_internal.keys.kind is
  'publishable: may stand in a web page and proves nothing. secret: must never reach a browser.';
comment on column keylatch_internal.keys.environment is 'live or test; part of the key''s text.';
comment on column keylatch_internal.keys.key_hash is
  'SHA-256 of the whole key, 32 bytes. Readable by the owner of the table alone. Null for a key that
was imported with a salted hash, until its first use.';
comment on column keylatch_internal.keys.public_key is
  'A publishable key in clear, so that its embed snippet can be shown again. Null for a secret, and
for a key that was imported as a hash.';
comment on column keylatch_internal.keys.hint is
  'What people tell keys apart by, for example wk_sk_live_…x7Qe.';
comment on column keylatch_internal.keys.label is 'A name for people; up to 200 characters.';
comment on column keylatch_internal.keys.metadata is
  'A JSON object of up to 8 kB for the application; resolve_key answers with it.';
comment on column keylatch_internal.keys.allowed_origins is
  'From which origins a publishable key resolves; empty means from none. Up to 100.';
comment on column keylatch_internal.keys.scopes is
  'Words that the application gives a meaning; up to 64. resolve_key answers with them.';
comment on column keylatch_internal.keys.expires_at is
  'From then on the key is dead, for good. Null: it does not expire.';
comment on column keylatch_internal.keys.suspended_at is
  'Since when the key is out of use; may be cleared again while the key lives.';
comment on column keylatch_internal.keys.superseded_at is
  'When a rotation with a grace made a successor; the key lives on until expires_at.';
comment on column keylatch_internal.keys.revoked_at is 'When the key was revoked; never cleared.';
comment on column keylatch_internal.keys.revoked_by is
  'The user who revoked it; null when it was not a signed-in user.';
comment on column keylatch_internal.keys.revoke_reason is 'Why; up to 500 characters.';
comment on column keylatch_internal.keys.rotated_from is
  'The key whose successor this is. A key has one successor at most.';
comment on column keylatch_internal.keys.created_at is
  'By the server''s clock; of an imported key what was said of it.';
comment on column keylatch_internal.keys.created_by is
  'The user who made it; null when it was not a signed-in user.';
comment on column keylatch_internal.keys.imported_at is
  'When it was imported from another system, by import_keys alone; null for a key made here.';
comment on index keylatch_internal.keys_workspace_id_created_at_idx is
  'Lists the keys of one workspace, the newest first.';

-- Every column but the hash may be written by a client: who may touch a row is for the policies,
-- and which value may change is for the latch, in the words of the contract. For a new row
-- imported_at comes with a hash, and so from no client.
revoke all on table keylatch_internal.keys from public, anon, authenticated, service_role;
grant
select (
  id, workspace_id, kind, environment, public_key, hint, label, metadata, allowed_origins, scopes,
  expires_at, suspended_at, superseded_at, revoked_at, revoked_by, revoke_reason, rotated_from,
  created_at, created_by, imported_at
),
insert (
  id, workspace_id, kind, environment, public_key, hint, label, metadata, allowed_origins, scopes,
  expires_at, suspended_at, superseded_at, revoked_at, revoked_by, revoke_reason, rotated_from,
  created_at, created_by
),
update (
  id, workspace_id, kind, environment, public_key, hint, label, metadata, allowed_origins, scopes,
  expires_at, suspended_at, superseded_at, revoked_at, revoked_by, revoke_reason, rotated_from,
  created_at, created_by, imported_at
)
on table keylatch_internal.keys to authenticated, service_role;

alter table keylatch_internal.keys enable row level security;

create function keylatch_internal.check_key(p_key keylatch_internal.keys)
returns keylatch_internal.problem
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  -- The constraints hold these rules; here they get the words of the contract.
  return case
    when p_key.kind is null or p_key.kind not in ('publishable', 'secret') then row(
      'kind must be publishable or secret.',
      'publishable for what stands in a page, secret for what a server keeps.'
    )::keylatch_internal.problem
    when p_key.environment is null or p_key.environment not in ('live', 'test') then row(
      'environment must be live or test.', 'test keys may allow * and http://localhost:*.'
    )::keylatch_internal.problem
    when not isfinite(p_key.expires_at) or p_key.expires_at >= '10000-01-01 00:00Z' then row(
      'expires_at must be a finite time before the year 10000.',
      'Pass null for a key that does not expire.'
    )::keylatch_internal.problem
    when p_key.superseded_at is not null and p_key.expires_at is null then row(
      'superseded_at needs an expires_at.', 'Call rotate_key with a grace: it sets both.'
    )::keylatch_internal.problem
    when p_key.revoked_at is null
      and (p_key.revoked_by is not null or p_key.revoke_reason is not null) then row(
      case when p_key.revoke_reason is null then 'revoked_by' else 'revoke_reason' end
      || ' belongs to a revoked key.',
      'Call revoke_key, or set revoked_at together with revoke_reason.'
    )::keylatch_internal.problem
    else coalesce(
      keylatch_internal.check_label(p_key.label),
      keylatch_internal.check_metadata(p_key.metadata),
      keylatch_internal.check_scopes(p_key.scopes),
      keylatch_internal.check_origins(p_key.allowed_origins, p_key.kind, p_key.environment),
      keylatch_internal.check_revoke_reason(p_key.revoke_reason)
    )
  end;
end;
$$;

comment on function keylatch_internal.check_key(keylatch_internal.keys) is
  'What is wrong with the values of this row, or null: the first problem that applies.';

revoke all on function keylatch_internal.check_key(keylatch_internal.keys)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.check_key(keylatch_internal.keys)
to authenticated, service_role;

create view keylatch.keys with (security_invoker = true) as
select
  k.id,
  k.workspace_id,
  k.kind,
  k.environment,
  k.public_key,
  k.hint,
  k.label,
  k.metadata,
  k.allowed_origins,
  k.scopes,
  k.expires_at,
  k.suspended_at,
  k.superseded_at,
  k.revoked_at,
  k.revoked_by,
  k.revoke_reason,
  k.rotated_from,
  k.created_at,
  k.created_by,
  k.imported_at,
  -- The clock, not the transaction's start: a key may expire while a transaction is open.
  case
    when k.revoked_at is not null then 'revoked'
    when k.expires_at <= pg_catalog.clock_timestamp() then 'expired'
    when k.suspended_at is not null then 'suspended'
    when k.superseded_at is not null then 'superseded'
    else 'active'
  end as status
from keylatch_internal.keys as k;

comment on view keylatch.keys is
  'The keys of the workspaces that you administer, without their hashes.

Read it with filters, order and pages; PATCH label, metadata, allowed_origins, scopes, expires_at,
suspended_at or revoked_at. Rows are not deleted. To make a key call issue_key: a secret key is
shown in its answer alone.';
comment on column keylatch.keys.id is 'Made by the database.';
comment on column keylatch.keys.workspace_id is 'Whose key it is. Never changes.';
comment on column keylatch.keys.kind is
  'publishable: may stand in a web page and proves nothing. secret: must never reach a browser.';
comment on column keylatch.keys.environment is 'live or test. Never changes.';
comment on column keylatch.keys.public_key is
  'A publishable key in clear; null for a secret key, and for one that was imported as a hash.';
comment on column keylatch.keys.hint is 'What people tell keys apart by.';
comment on column keylatch.keys.label is 'A name for people; up to 200 characters.';
comment on column keylatch.keys.metadata is 'A JSON object of up to 8 kB for the application.';
comment on column keylatch.keys.allowed_origins is
  'From which origins a publishable key resolves: canonical, up to 100, empty means from none.';
comment on column keylatch.keys.scopes is 'Words that the application gives a meaning; up to 64.';
comment on column keylatch.keys.expires_at is
  'From then on the key is dead, for good. Moves freely while the key lives, and once the key is
superseded only nearer.';
comment on column keylatch.keys.suspended_at is
  'Set it to any time to suspend the key, to null to resume it; the database puts its own clock.';
comment on column keylatch.keys.superseded_at is 'When a rotation with a grace made a successor.';
comment on column keylatch.keys.revoked_at is
  'Set it to any time to revoke the key, for good; the database puts its own clock.';
comment on column keylatch.keys.revoked_by is 'The user who revoked it, by the database.';
comment on column keylatch.keys.revoke_reason is 'Why; given together with revoked_at.';
comment on column keylatch.keys.rotated_from is 'The key whose successor this is.';
comment on column keylatch.keys.created_at is 'By the server''s clock.';
comment on column keylatch.keys.created_by is 'The user who made it, by the database.';
comment on column keylatch.keys.imported_at is
  'When it was imported from another system; null for a key made here.';
comment on column keylatch.keys.status is
  'active, superseded (lives until expires_at), suspended, expired or revoked.';

revoke all on table keylatch.keys from public, anon, authenticated, service_role;
grant select, insert, update on table keylatch.keys to authenticated, service_role;
