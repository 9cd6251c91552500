-- Taking over the keys of an older system, in batches.

create function keylatch_internal.insert_imported_keys(
  p_lines keylatch_internal.import_line[], p_now timestamptz
)
returns uuid[]
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_ids pg_catalog.uuid[];
begin
  with taken as (
    insert into keylatch_internal.keys as k (
      id, workspace_id, kind, environment, key_hash, public_key, hint, label, metadata,
      allowed_origins, scopes, expires_at, suspended_at, revoked_at, revoke_reason, created_at,
      created_by, imported_at
    )
    select
      l.id, l.workspace_id, l.kind, l.environment, l.key_hash, l.public_key, l.key_hint, l.label,
      l.metadata, l.allowed_origins, l.scopes, l.expires_at, l.suspended_at, l.revoked_at,
      l.revoke_reason, l.created_at, l.created_by, p_now
    from unnest(p_lines) as l
    -- In one order, so that two imports of the same keys do not wait for each other.
    order by l.key_hash
    on conflict do nothing
    returning k.id
  )

  select array_agg(t.id) into v_ids from taken as t;

  insert into keylatch_internal.foreign_hashes (
    key_id, workspace_id, algorithm, verifier, starts_with, imported_at
  )
  select l.id, l.workspace_id, l.algorithm, l.verifier, l.starts_with, p_now
  from unnest(p_lines) as l
  inner join unnest(v_ids) as t (id) on l.id = t.id
  -- A dead key is never claimed: of its hash nothing is kept.
  where l.algorithm is not null and l.revoked_at is null
    and (l.expires_at is null or l.expires_at > p_now);
  return coalesce(v_ids, '{}');
end;
$$;

comment on function keylatch_internal.insert_imported_keys(
  keylatch_internal.import_line[], timestamptz
) is
  'Inserts the keys of these lines; gives the ids of those that nobody else inserted meanwhile.';

revoke all on function keylatch_internal.insert_imported_keys(
  keylatch_internal.import_line[], timestamptz
) from public, anon, authenticated, service_role;

create function keylatch_internal.is_claim_crowded(p_line keylatch_internal.import_line)
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_limit constant bigint := (select i.claim_limit from keylatch_internal.installation as i);
begin
  -- Those that a key of this line may be taken for: what they begin with is the beginning of it, or
  -- the other way round.
  return v_limit <= (
    select count(*)
    from (
      select 1
      from keylatch_internal.foreign_hashes as f
      inner join keylatch_internal.keys as k on f.key_id = k.id
      where f.workspace_id = p_line.workspace_id
        and (
          f.starts_with = any (keylatch_internal.beginnings(p_line.starts_with))
          or (
            f.starts_with > p_line.starts_with
            and f.starts_with < p_line.starts_with || chr(1114111)
          )
        )
        and k.revoked_at is null
        and (k.expires_at is null or k.expires_at > clock_timestamp())
      limit v_limit
    ) as alike
  );
end;
$$;

comment on function keylatch_internal.is_claim_crowded(keylatch_internal.import_line) is
  'Whether as many unclaimed keys as a claim tries may already be taken for the one of this line.';

revoke all on function keylatch_internal.is_claim_crowded(keylatch_internal.import_line)
from public, anon, authenticated, service_role;

create function keylatch_internal.beginnings(p_text text)
returns text[]
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return array(
    select left(p_text, n) from generate_series(0, least(length(p_text), 32)) as n
  );
end;
$$;

comment on function keylatch_internal.beginnings(text) is
  'What a text begins with: nothing, its first character, and so on up to 32.';

revoke all on function keylatch_internal.beginnings(text)
from public, anon, authenticated, service_role;

create type keylatch.import_outcome as (
  "position" integer,
  outcome text,
  key_id uuid,
  slug text,
  detail text,
  hint text
);
comment on type keylatch.import_outcome is
  'What came of the line at this place of a batch, from 1: imported, exists (a key already, left as
it is) or refused, with the slug, why, and what to do. An imported key may have a detail, too.';

create type keylatch.import_report as (
  imported integer,
  existing integer,
  refused integer,
  lines keylatch.import_outcome[]
);
comment on type keylatch.import_report is
  'What came of a batch: how many lines were imported, there already and refused, and of each line
in its order.';

create function keylatch_internal.take_import(p_batch jsonb, p_dry_run boolean)
returns keylatch.import_report
language plpgsql
volatile
-- definer because: an import brings hashes, and no role but the owner may name that column.
security definer
set search_path = ''
as $$
declare
  v_now constant pg_catalog.timestamptz := clock_timestamp();
  v_lines keylatch_internal.import_line[];
  v_line keylatch_internal.import_line;
  v_taken pg_catalog.uuid[] := array[]::pg_catalog.uuid[];
  v_crowded integer[] := array[]::integer[];
  v_report keylatch.import_report;
begin
  if not p_dry_run then
    -- A workspace that is being deleted at this moment: its deletion waits, and finds these keys.
    -- Not a lock for each workspace, of which there may be more than a server has locks.
    lock table keylatch_internal.installation in row exclusive mode;
  end if;
  v_lines := array(
    select l from keylatch_internal.read_import_lines(p_batch) as l order by l."position"
  );

  if not p_dry_run then
    v_taken := keylatch_internal.insert_imported_keys(array(
      select l from unnest(v_lines) as l
      where l.detail is null and l.known_id is null and l.algorithm is null
    ), v_now);
  end if;
  if not p_dry_run and exists (select 1 from unnest(v_lines) as l where l.algorithm is not null)
  then
    -- How many of them a workspace has is counted below: imports with such lines take turns.
    perform 1 from keylatch_internal.installation for no key update;
  end if;
  -- One after the other, because each counts for the next.
  for v_line in
    select l.* from unnest(v_lines) as l
    where l.detail is null and l.known_id is null and l.algorithm is not null
    order by l."position"
  loop
    if v_line.revoked_at is null
      and (v_line.expires_at is null or v_line.expires_at > v_now)
      and keylatch_internal.is_claim_crowded(v_line)
    then
      v_crowded := v_crowded || v_line."position";
    elsif not p_dry_run then
      v_taken := v_taken || keylatch_internal.insert_imported_keys(array[v_line], v_now);
    end if;
  end loop;
  if not p_dry_run and cardinality(v_taken) + cardinality(v_crowded) < (
    select count(*) from unnest(v_lines) as l where l.detail is null and l.known_id is null
  ) then
    -- Another import took some at the same moment: which, and for whom, can be read by now.
    v_lines := array(
      select l from keylatch_internal.read_import_lines(p_batch) as l order by l."position"
    );
  end if;

  with outcomes as (
    select
      l."position" as place,
      case
        when l.detail is not null or c.place is not null then 'refused'
        when t.id is not null or (p_dry_run and l.known_id is null) then 'imported'
        else 'exists'
      end as outcome,
      coalesce(l.known_id, t.id) as key_id,
      case
        when c.place is not null then 'The workspace has as many unclaimed keys that may be this '
          || 'one as a claim tries: the key could never be claimed.'
        else coalesce(l.detail, case when l.known_id is null or t.id is not null then l.note end)
      end as detail,
      case
        when c.place is not null then 'Give starts_with, if the older system knows what the key '
          || 'begins with, or raise claim_limit in keylatch_internal.installation.'
        else l.hint
      end as hint
    from unnest(v_lines) as l
    left join unnest(v_taken) as t (id) on coalesce(l.known_id, l.id) = t.id
    left join unnest(v_crowded) as c (place) on l."position" = c.place
  )

  select
    count(*) filter (where o.outcome = 'imported'),
    count(*) filter (where o.outcome = 'exists'),
    count(*) filter (where o.outcome = 'refused'),
    coalesce(
      array_agg(
        row(
          o.place, o.outcome, case when o.outcome <> 'refused' then o.key_id end,
          case when o.outcome = 'refused' then 'invalid_argument' end, o.detail, o.hint
        )::keylatch.import_outcome
        order by o.place
      ),
      '{}'
    )
  into v_report
  from outcomes as o;
  return v_report;
end;
$$;

comment on function keylatch_internal.take_import(jsonb, boolean) is
  'Does the work of import_keys, whose checks of the batch as a whole come before.';

revoke all on function keylatch_internal.take_import(jsonb, boolean)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.take_import(jsonb, boolean) to service_role;

create function keylatch.import_keys(batch jsonb, dry_run boolean default false)
returns keylatch.import_report
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if jsonb_typeof(import_keys.batch) is distinct from 'array' then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'batch must be a list of up to 10000 lines.',
      hint = 'For example [{"workspace_id": "<id>", "key": "<the key>", "label": "orders"}].';
  elsif jsonb_array_length(import_keys.batch) > 10000 then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'batch has more than 10000 lines.',
      hint = 'Send them in several batches: keylatch import does.';
  end if;
  return keylatch_internal.take_import(
    import_keys.batch, coalesce(import_keys.dry_run, false)
  );
end;
$$;

comment on function keylatch.import_keys(jsonb, boolean) is
  'Takes over the keys of an older system, each line by itself: a bad one is refused and the others
are imported. The same again is safe: what is there already is left as it is.

batch: up to 10000 objects. A line has workspace_id, and key in clear, which wins, or hash with alg:
  sha256         of the whole key; hash_encoding hex or base64. Native at once, as key is.
  pbkdf2_sha256  with hash_encoding, salt, salt_encoding (hex, base64 or text), iter to 2000000
  django         the whole pbkdf2_sha256$iterations$salt$hash
  bcrypt         $2a$, $2b$ or $2y$, cost to 14. bcrypt cuts a key at 72 bytes, so the hash does not
                 say which key it was, and longer ones cannot be claimed: issue new ones.
Those three are salted: such a key resolves once claim_key has seen it. Of a hash alone the text of
a publishable key stays unknown. starts_with (up to 32 characters) tells which of a workspace''s
unclaimed keys one may be; without it there can be only as many as a claim tries (claim_limit, 10).
Further: kind (secret unless the key says otherwise), environment, label, metadata, scopes,
allowed_origins, hint, expires_at, suspended_at, revoked_at with revoke_reason, created_at,
created_by. Times are ISO 8601 with a zone. A dead key stays dead.
dry_run: only say what would come of it; lines that are alike count one by one.
Errors: invalid_argument (400), for the batch as a whole.';

revoke all on function keylatch.import_keys(jsonb, boolean)
from public, anon, authenticated, service_role;
grant execute on function keylatch.import_keys(jsonb, boolean) to service_role;
