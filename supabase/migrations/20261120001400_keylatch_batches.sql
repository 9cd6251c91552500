-- Many at once: keys for a fleet, and the keys of a gateway's whole batch of requests.

create type keylatch.issued_keys as (
  keys keylatch.issued_key[]
);
comment on type keylatch.issued_keys is
  'New keys in one answer, which PostgREST never cuts to its largest number of rows.';

create function keylatch.issue_keys(
  workspace_id uuid,
  labels text[],
  kind text default 'secret',
  allowed_origins text[] default '{}',
  scopes text[] default '{}',
  environment text default 'live',
  expires_at timestamptz default null,
  metadata jsonb default '{}',
  prefix text default 'wk'
)
returns keylatch.issued_keys
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_label pg_catalog.text;
  v_issued keylatch.issued_key[] := '{}'::keylatch.issued_key[];
begin
  if issue_keys.labels is null or array_ndims(issue_keys.labels) > 1
    or cardinality(issue_keys.labels) > 100000
  then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'labels must be a list of up to 100000 labels, one for each key.',
      hint = 'Name what each key is for, for example the numbers of the devices.';
  end if;

  foreach v_label in array issue_keys.labels loop
    v_issued := array_append(v_issued, keylatch_internal.insert_key(
      issue_keys.workspace_id, issue_keys.kind, v_label, issue_keys.allowed_origins,
      issue_keys.scopes, issue_keys.environment, issue_keys.expires_at, issue_keys.metadata,
      issue_keys.prefix, null
    ));
  end loop;
  return row(v_issued)::keylatch.issued_keys;
end;
$$;

comment on function keylatch.issue_keys(
  uuid, text[], text, text[], text[], text, timestamptz, jsonb, text
) is
  'Makes a key for each label, all or none, and answers with them, once, in the order of the labels.

For a fleet: up to 100000. All but the label they have in common; see issue_key for the rest. Over
REST the time of a request is limited, so make some thousands at a time.
Errors: invalid_argument (400), not an admin there (403).';

revoke all on function keylatch.issue_keys(
  uuid, text[], text, text[], text[], text, timestamptz, jsonb, text
) from public, anon, authenticated, service_role;
grant execute on function keylatch.issue_keys(
  uuid, text[], text, text[], text[], text, timestamptz, jsonb, text
) to authenticated, service_role;

create type keylatch.resolved_key_at as (
  "position" integer,
  key_id uuid,
  workspace_id uuid,
  kind text,
  environment text,
  scopes text[],
  metadata jsonb,
  expires_at timestamptz
);
comment on type keylatch.resolved_key_at is
  'What came of a key of a list: at which place it stands, from 1, and whose it is, or nulls.';

create function keylatch.resolve_keys(keys text[], origins text[] default null)
returns setof keylatch.resolved_key_at
language plpgsql
stable
-- definer because: as resolve_key.
security definer
rows 100
set search_path = ''
as $$
begin
  if resolve_keys.keys is null or cardinality(resolve_keys.keys) > 1000
    or cardinality(resolve_keys.origins) <> cardinality(resolve_keys.keys)
  then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'keys must be a list of up to 1000, and origins null or a list as long.',
      hint = 'Put null into origins where a request had no Origin header.';
  end if;

  return query
  select
    p.place::integer, k.id, k.workspace_id, k.kind, k.environment, k.scopes, k.metadata,
    k.expires_at
  from unnest(resolve_keys.keys, resolve_keys.origins) with ordinality as p (key, origin, place)
  left join keylatch_internal.keys as k
    on k.key_hash = sha256(convert_to(p.key, 'UTF8'))
    -- From here on the same as resolve_key, which a test compares.
    and k.revoked_at is null
    and k.suspended_at is null
    and (k.expires_at is null or k.expires_at > clock_timestamp())
    and case
      when k.kind = 'secret' then p.origin is null
      when p.origin collate "C" = any (k.allowed_origins) then strpos(p.origin, '*') = 0
      else keylatch_internal.origin_matches(p.origin, k.allowed_origins)
    end;
end;
$$;

comment on function keylatch.resolve_keys(text[], text[]) is
  'resolve_key for a batch of up to 1000: a row for each key, with nulls for one that is refused.

origins: each request''s Origin, null where it had none; null for a batch without any. The rows come
in no order: position tells. Fewer rows than keys mean that the API cuts its answers (max-rows).
Reads only. Errors: invalid_argument (400).';

revoke all on function keylatch.resolve_keys(text[], text[])
from public, anon, authenticated, service_role;
grant execute on function keylatch.resolve_keys(text[], text[]) to service_role, keylatch_resolver;
