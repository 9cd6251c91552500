-- How a batch is read: each line is checked by itself, so that a bad one costs no other.
--
-- Nothing here writes, and nobody but the owner may call it.

create type keylatch_internal.found_key as (
  id uuid,
  workspace_id uuid
);
comment on type keylatch_internal.found_key is 'A key that a line of an import is already.';

create type keylatch_internal.import_line as (
  "position" integer,
  detail text,
  hint text,
  known_id uuid,
  note text,
  id uuid,
  workspace_id uuid,
  kind text,
  environment text,
  key_hash bytea,
  public_key text,
  key_hint text,
  label text,
  metadata jsonb,
  allowed_origins text[],
  scopes text[],
  expires_at timestamptz,
  suspended_at timestamptz,
  revoked_at timestamptz,
  revoke_reason text,
  created_at timestamptz,
  created_by uuid,
  algorithm text,
  verifier text,
  starts_with text
);
comment on type keylatch_internal.import_line is
  'A line of an import as it was read: what is wrong with it, or which key it is already, or the key
that it becomes.';

create function keylatch_internal.read_import_lines(p_batch jsonb)
returns setof keylatch_internal.import_line
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_now constant pg_catalog.timestamptz := clock_timestamp();
  v_uuid constant pg_catalog.text := '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$';
  v_fields constant pg_catalog.text[] := array[
    'workspace_id', 'key', 'alg', 'hash', 'hash_encoding', 'salt', 'salt_encoding', 'iter',
    'starts_with', 'hint', 'kind', 'environment', 'label', 'metadata', 'allowed_origins', 'scopes',
    'expires_at', 'suspended_at', 'revoked_at', 'revoke_reason', 'created_at', 'created_by'
  ];
  -- What is no object has no fields; that it is none is said below.
  v_objects constant pg_catalog.jsonb := case
    when jsonb_path_exists(p_batch, 'strict $[*] ? (@.type() != "object")') then (
      select jsonb_agg(
        case jsonb_typeof(e.line) when 'object' then e.line else '{}' end order by e.place
      )
      from jsonb_array_elements(p_batch) with ordinality as e (line, place)
    )
    else p_batch
  end;
begin
  return query
  -- Each step is a table of its own, so that nothing is computed twice.
  with given as materialized (
    select
      g.*,
      coalesce(g.kind, case
        when g.key ~ '^[a-z][a-z0-9]{1,11}_pk_(live|test)_[1-9A-HJ-NP-Za-km-z]{36}$'
          then 'publishable'
        else 'secret'
      end) as its_kind,
      coalesce(g.environment, case
        when g.key ~ '^[a-z][a-z0-9]{1,11}_(pk|sk)_test_[1-9A-HJ-NP-Za-km-z]{36}$' then 'test'
        else 'live'
      end) as its_environment,
      case
        when g.key is not null then sha256(convert_to(g.key, 'UTF8'))
        when g.alg = 'sha256' and g.hash_encoding in ('hex', 'base64')
          then keylatch_internal.read_bytes(g.hash, g.hash_encoding)
      end as key_hash,
      case when g.expires_at is not null then keylatch_internal.read_time(g.expires_at) end
        as its_expiry,
      case when g.suspended_at is not null then keylatch_internal.read_time(g.suspended_at) end
        as its_suspension,
      case when g.revoked_at is not null then keylatch_internal.read_time(g.revoked_at) end
        as its_revocation,
      case when g.created_at is not null then keylatch_internal.read_time(g.created_at) end
        as its_creation,
      case
        when g.allowed_origins is null then '{}'::pg_catalog.text[]
        when jsonb_typeof(g.allowed_origins) = 'array'
          then array(select jsonb_array_elements_text(g.allowed_origins))
      end as its_origins,
      case
        when g.scopes is null then '{}'::pg_catalog.text[]
        when jsonb_typeof(g.scopes) = 'array'
          then array(select jsonb_array_elements_text(g.scopes))
      end as its_scopes,
      case
        when g.alg <> 'sha256' and g.key is null then keylatch_internal.read_verifier(
          g.alg, g.hash, g.hash_encoding, g.salt, g.salt_encoding, g.iter
        )
      end as verifier
    from rows from (
      jsonb_array_elements(p_batch),
      jsonb_to_recordset(v_objects) as (
        workspace_id pg_catalog.text, key pg_catalog.text, alg pg_catalog.text,
        hash pg_catalog.text, hash_encoding pg_catalog.text, salt pg_catalog.text,
        salt_encoding pg_catalog.text, iter pg_catalog.text, starts_with pg_catalog.text,
        hint pg_catalog.text, kind pg_catalog.text, environment pg_catalog.text,
        label pg_catalog.text, metadata pg_catalog.jsonb, allowed_origins pg_catalog.jsonb,
        scopes pg_catalog.jsonb, expires_at pg_catalog.text, suspended_at pg_catalog.text,
        revoked_at pg_catalog.text, revoke_reason pg_catalog.text, created_at pg_catalog.text,
        created_by pg_catalog.text
      )
    ) with ordinality as g (
      line, workspace_id, key, alg, hash, hash_encoding, salt, salt_encoding, iter, starts_with,
      hint, kind, environment, label, metadata, allowed_origins, scopes, expires_at, suspended_at,
      revoked_at, revoke_reason, created_at, created_by, place
    )
  ),

  checked as materialized (
    select
      l.place,
      l.workspace_id,
      l.key,
      l.hash,
      l.hint,
      l.label,
      l.metadata,
      l.revoke_reason,
      l.created_by,
      l.alg,
      l.starts_with,
      l.its_kind,
      l.its_environment,
      l.key_hash,
      l.its_expiry,
      l.its_suspension,
      l.its_revocation,
      l.its_creation,
      l.its_origins,
      l.its_scopes,
      l.verifier,
      coalesce(
        case
          when jsonb_typeof(l.line) <> 'object' then row(
            'The line is not a JSON object.', 'Write {"workspace_id": …, "key": …}.'
          )::keylatch_internal.problem
          when l.line - v_fields <> '{}' then row(
            'The line has a field that an import does not know.',
            'The fields are ' || array_to_string(v_fields, ', ') || '.'
          )::keylatch_internal.problem
          when l.workspace_id is null or l.workspace_id !~ v_uuid then row(
            'workspace_id must be a UUID.', 'Give the workspace that the key becomes one of.'
          )::keylatch_internal.problem
          when l.key is null and l.hash is null then row(
            'The line has neither key nor hash.',
            'Give the key in clear, or its hash with alg. Without both a new key is needed.'
          )::keylatch_internal.problem
          when l.its_kind not in ('publishable', 'secret') then row(
            'kind must be publishable or secret.',
            'publishable for what stands in a page, secret for what a server keeps.'
          )::keylatch_internal.problem
          when l.its_environment not in ('live', 'test') then row(
            'environment must be live or test.', 'Leave it out for live.'
          )::keylatch_internal.problem
          when l.key is not null then keylatch_internal.check_imported_key(
            l.key, l.its_kind, l.its_environment
          )
          -- The usual one is seen to be right without a call.
          when l.alg = 'sha256' and octet_length(l.key_hash) = 32
            and num_nonnulls(l.salt, l.salt_encoding, l.iter) = 0 then null
          else keylatch_internal.check_imported_hash(
            l.alg, l.hash, l.hash_encoding, l.salt, l.salt_encoding, l.iter
          )
        end,
        case
          when length(l.starts_with) > 32 or l.starts_with ~ '[\x01-\x1f\x7f-\x9f]' then row(
            'starts_with must be a text of up to 32 characters.',
            'Give what the older system kept of the key in clear, if it did.'
          )::keylatch_internal.problem
          when length(l.hint) not between 1 and 40
            or l.hint ~ '[\x01-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]' then row(
            'hint must be a text of 1 to 40 characters without control characters.',
            'Give what people tell the key by, for example its last four characters.'
          )::keylatch_internal.problem
          when num_nonnulls(l.expires_at, l.suspended_at, l.revoked_at, l.created_at)
            <> num_nonnulls(l.its_expiry, l.its_suspension, l.its_revocation, l.its_creation)
          then row(
            case
              when l.expires_at is not null and l.its_expiry is null then 'expires_at'
              when l.suspended_at is not null and l.its_suspension is null then 'suspended_at'
              when l.revoked_at is not null and l.its_revocation is null then 'revoked_at'
              else 'created_at'
            end || ' is not a time in ISO 8601 with its zone.',
            'Write 2027-01-31T09:30:00Z, or 2027-01-31 for the beginning of that day in UTC.'
          )::keylatch_internal.problem
          when greatest(l.its_suspension, l.its_revocation, l.its_creation) > v_now then row(
            case
              when l.its_suspension > v_now then 'suspended_at'
              when l.its_revocation > v_now then 'revoked_at'
              else 'created_at'
            end || ' is in the future.',
            'What is to end later gets an expires_at.'
          )::keylatch_internal.problem
          when l.revoke_reason is not null and l.revoked_at is null then row(
            'revoke_reason belongs to a revoked key.', 'Give revoked_at with it.'
          )::keylatch_internal.problem
          when l.created_by is not null and l.created_by !~ v_uuid then row(
            'created_by must be a UUID.', 'Leave it out where no user of this database made it.'
          )::keylatch_internal.problem
        end,
        case when l.label is not null then keylatch_internal.check_label(l.label) end,
        case when l.metadata is not null then keylatch_internal.check_metadata(l.metadata) end,
        case when l.scopes is not null then keylatch_internal.check_scopes(l.its_scopes) end,
        case
          when l.allowed_origins is not null then keylatch_internal.check_origins(
            l.its_origins, l.its_kind, l.its_environment
          )
        end,
        case
          when l.revoke_reason is not null
            then keylatch_internal.check_revoke_reason(l.revoke_reason)
        end
      ) as problem
    from given as l
  ),

  -- The id of a salted one is made from its hash, so that a second import finds it, claimed or not.
  named as materialized (
    select
      c.*,
      case
        when (c.problem).detail is not null then null
        when c.verifier is null then gen_random_uuid()
        else encode(
          substr(sha256(convert_to('keylatch import:' || c.verifier, 'UTF8')), 1, 16), 'hex'
        )::pg_catalog.uuid
      end as id
    from checked as c
  ),

  looked_up as materialized (
    select
      n.*,
      -- A look at the index for each, whatever the statistics say.
      case
        when n.id is null then null
        when n.verifier is not null then (
          select row(k.id, k.workspace_id)::keylatch_internal.found_key
          from keylatch_internal.keys as k
          where k.id = n.id
        )
        else (
          select row(k.id, k.workspace_id)::keylatch_internal.found_key
          from keylatch_internal.keys as k
          where k.key_hash = n.key_hash
        )
      end as found
    from named as n
  ),

  placed as (
    select
      u.*,
      min(u.place) filter (
        where u.id is not null
          and coalesce((u.found).workspace_id::pg_catalog.text = lower(u.workspace_id), true)
      ) over (partition by coalesce(convert_to(u.verifier, 'UTF8'), u.key_hash)) as first_place
    from looked_up as u
  )

  select
    p.place::integer,
    case
      when (p.problem).detail is not null then (p.problem).detail
      when (p.found).workspace_id <> p.workspace_id::pg_catalog.uuid
        then 'The key is there, in another workspace.'
      when p.id is not null and p.place > p.first_place
        then format('The key is the same as that of line %s of this batch.', p.first_place)
    end,
    case
      when (p.problem).detail is not null then (p.problem).hint
      when (p.found).workspace_id <> p.workspace_id::pg_catalog.uuid
        then 'A key is of one workspace: find out which of the two is right.'
      when p.id is not null and p.place > p.first_place then 'Give each key once.'
    end,
    (p.found).id,
    case
      when (p.problem).detail is not null then null
      when length(p.key) < 16
        then 'The key is short: who gets at its hash could guess it. Rotate it.'
      when p.key is not null and p.hash is not null
        then 'The key in clear was taken; the hash beside it counts for nothing.'
    end,
    p.id,
    case when (p.problem).detail is null then p.workspace_id::pg_catalog.uuid end,
    p.its_kind,
    p.its_environment,
    p.key_hash,
    case when p.its_kind = 'publishable' then p.key end,
    coalesce(p.hint, case
      when p.key is not null then keylatch_internal.imported_hint(p.key)
      when p.starts_with <> '' then p.starts_with || '…'
      else 'imported ' || left(p.id::pg_catalog.text, 8)
    end),
    coalesce(p.label, ''),
    coalesce(p.metadata, '{}'),
    p.its_origins,
    p.its_scopes,
    p.its_expiry,
    p.its_suspension,
    p.its_revocation,
    p.revoke_reason,
    coalesce(p.its_creation, v_now),
    case when (p.problem).detail is null then p.created_by::pg_catalog.uuid end,
    case
      when p.verifier is null then null
      when p.alg = 'bcrypt' then 'bcrypt'
      else 'pbkdf2_sha256'
    end,
    p.verifier,
    coalesce(p.starts_with, '')
  from placed as p;
end;
$$;

comment on function keylatch_internal.read_import_lines(jsonb) is
  'Reads and checks the lines of an import, and looks which of them are keys already. It writes
nothing.';

revoke all on function keylatch_internal.read_import_lines(jsonb)
from public, anon, authenticated, service_role;
