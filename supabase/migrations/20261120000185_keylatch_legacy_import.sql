-- Module legacy: the calls that import keys, and the report of an import.

create type keylatch.import_outcome as (
  "position" integer, outcome text, key_id uuid, slug text, detail text, hint text
);
comment on type keylatch.import_outcome is
  'The outcome of an import line. position: the number of the line in its batch, from 1. outcome:
imported (resolves now), waiting (needs upgrade_key), exists (unchanged), changed (label or scopes),
moved (revoked, suspended or earlier expiry) or refused. detail: the reason, or what changed.';

create type keylatch.import_probe as ("position" integer, verdict text, key_id uuid);
comment on type keylatch.import_probe is
  'The verdict that explain_key would give, after the import, about a key in the argument probes.';

create type keylatch.import_report as (
  imported integer, existing integer, moved integer, waiting integer, refused integer,
  lines keylatch.import_outcome[], changed integer, import_id uuid, probes keylatch.import_probe[]
);
comment on type keylatch.import_report is
  'The result of import_keys: counts, the outcome of each line, the import id, and all verdicts.';

create function keylatch_internal.probe_import(p_probes jsonb)
returns keylatch.import_probe[] language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- upgrade_key runs for all probes first, so that the query below sees what it recorded.
  perform keylatch_internal.upgrade_legacy_key(
    p.probe ->> 'key', (p.probe ->> 'workspace_id')::uuid
  )
  from jsonb_array_elements(p_probes) as p (probe);
  return array(
    select row(p.place, (e.explained).verdict, (e.explained).key_id)::keylatch.import_probe
    from jsonb_array_elements(p_probes) with ordinality as p (probe, place)
    cross join lateral (
      select keylatch_internal.explain(k, p.probe ->> 'key', p.probe ->> 'origin') as explained
      from (select keylatch_internal.find_key(p.probe ->> 'key') as id) as f
      left join keylatch.keys as k on f.id = k.id
    ) as e
    order by p.place
  );
end $$;
comment on function keylatch_internal.probe_import is
  'Calls upgrade_key and explain_key for each key in the argument probes of import_keys.';

create function keylatch_internal.report_import(
  p_lines keylatch_internal.import_line[], p_dry_run boolean, p_import_id uuid,
  p_probes keylatch.import_probe[]
)
returns keylatch.import_report language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_report keylatch.import_report;
begin
  select
    count(*) filter (where o.outcome = 'imported'), count(*) filter (where o.outcome = 'exists'),
    count(*) filter (where o.outcome = 'moved'), count(*) filter (where o.outcome = 'waiting'),
    count(*) filter (where o.outcome = 'refused'),
    coalesce(array_agg(
      row(o."position", o.outcome, o.key_id, o.slug, o.detail, o.hint)::keylatch.import_outcome
      order by o."position"
    ), '{}'),
    count(*) filter (where o.outcome = 'changed'), p_import_id, p_probes
  into v_report
  from unnest(p_lines) as l
  cross join lateral (
    select
      l."position", case
        when l.problem is not null then 'refused'
        when l.outcome = 'imported' and l.rounds is not null then 'waiting'
        else l.outcome
      end as outcome,
      case when l.problem is null and not (p_dry_run and l.outcome = 'imported')
        then (l.key).id end as key_id,
      case when l.problem is not null then 'invalid_argument' end as slug,
      coalesce(l.problem[1], l.note) as detail, l.problem[2] as hint
  ) as o;
  return v_report;
end $$;
comment on function keylatch_internal.report_import is 'Builds the result of import_keys.';

create function keylatch_internal.take_import(
  p_lines jsonb, p_dry_run boolean, p_strict boolean, p_import jsonb, p_probes jsonb
)
returns keylatch.import_report language plpgsql volatile security definer
-- definer because: an import writes key_hash, and only the owner may write the column key_hash.
-- enable_seqscan: a cached plan from small tables would still scan whole tables after they grew.
-- jit: with enable_seqscan off, a table without an index looks so expensive that JIT would start.
-- work_mem: a batch takes up to 20 MB. With less memory, each statement would write a file.
set search_path = pg_catalog, pg_temp set timezone = 'UTC'
set enable_seqscan = off set jit = off set work_mem = '32MB' as $$
declare
  v_lines keylatch_internal.import_line[];
  v_refused keylatch_internal.import_line;
  v_probes keylatch.import_probe[];
  v_deleted uuid[];
  v_new uuid[];
  v_place integer;
begin
  perform keylatch_internal.require_grants('keylatch_internal.take_import');
  perform keylatch_internal.require_read_committed('Importing keys');
  lock table keylatch_internal.legacy_schemes in row share mode; -- end_scheme waits for this import
  v_lines := keylatch_internal.read_import(keylatch_internal.name_workspaces(p_lines));
  begin
    v_deleted := keylatch_internal.share_import(v_lines);
    for v_place in
      select l."position" from unnest(v_lines) as l where (l.key).workspace_id = any (v_deleted)
    loop
      v_lines[v_place].problem := array[
        'The workspace was deleted, so no key can be imported into the workspace.',
        'Import the key into a workspace with a new id.'];
    end loop;
    select w.p_lines, w.p_new into v_lines, v_new
    from keylatch_internal.write_import(v_lines, p_import) as w;
    v_lines := keylatch_internal.settle_import(v_lines, p_import, v_new);
    v_probes := keylatch_internal.probe_import(p_probes);
    if p_dry_run then
      raise sqlstate 'UNDO0';
    end if;
  exception
    -- The exception rolls back all rows, but v_lines and v_probes keep the results for the report.
    when sqlstate 'UNDO0' then null;
  end;
  select l.* into v_refused from unnest(v_lines) as l where l.problem is not null limit 1;
  if p_strict and found then
    perform keylatch_internal.refuse(
      'invalid_argument', format('Line %s: %s', v_refused."position", v_refused.problem[1]),
      v_refused.problem[2]
    );
  end if;
  return keylatch_internal.report_import(v_lines, p_dry_run, (p_import ->> 'id')::uuid, v_probes);
end $$;
comment on function keylatch_internal.take_import is 'Implements keylatch.import_keys.';

create function keylatch.import_keys(
  lines jsonb, dry_run boolean default false, strict boolean default false,
  source text default '', import_id uuid default null, probes jsonb default '[]'
)
returns keylatch.import_report language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_problem constant text[] := case
    when coalesce(jsonb_typeof(import_keys.lines) <> 'array', true)
      or jsonb_array_length(import_keys.lines) > 10000 then array[
      'lines must be a list of up to 10000 objects.',
      'Send several batches, or use the command "keylatch import".']
    when import_keys.source !~ E'^[^\\x01-\\x1f\\x7f-\\x9f]{0,200}$' then array[
      'source must be a text of up to 200 characters without control characters.',
      'Name the old system and its table.']
    when coalesce(jsonb_typeof(import_keys.probes) <> 'array', true)
      or jsonb_array_length(import_keys.probes) > 20
      or jsonb_path_exists(import_keys.probes, '$[*] ? (@.key.type() != "string"
        || !exists(@.key) || exists(@.workspace_id) && !exists(@.workspace_id ? (@ like_regex
        "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")))') then array[
      'probes must be a list of up to 20 objects with key, and optionally workspace_id and origin.',
      'For example [{"key": "…"}].']
  end;
begin
  if v_problem is not null then
    perform keylatch_internal.refuse('invalid_argument', v_problem[1], v_problem[2]);
  end if;
  return keylatch_internal.take_import(
    import_keys.lines, coalesce(import_keys.dry_run, false), coalesce(import_keys.strict, false),
    jsonb_build_object(
      'id', coalesce(import_keys.import_id, gen_random_uuid()),
      'source', coalesce(import_keys.source, '')
    ),
    import_keys.probes
  );
end $$;
comment on function keylatch.import_keys is
  'Imports the keys of another system. A bad line is refused, and the other lines are imported.
With strict, nothing is imported if any line is refused. Repeating an import is safe.

lines: up to 10000 objects. A line has workspace_id (or workspace, an external_id of
keylatch.workspaces), and key in plaintext, or hash with hash_encoding (hex or base64) and one of
  scheme: the name of a scheme of declare_scheme, for other hashes without a salt
  alg: sha256 (of the whole key); sha256_salted with salt, salt_encoding (hex, base64 or text) and
    salt_place (before or after the key); pbkdf2_sha1, pbkdf2_sha256 or pbkdf2_sha512 with salt,
    salt_encoding and iter; django (the whole pbkdf2_sha256$iterations$salt$hash); bcrypt ($2a$,
    $2b$ or $2y$, cost to 15; keys over 72 bytes never match)
A key with a salted hash does not resolve until upgrade_key sees its plaintext. The same is true for
a key that may be the same key as a waiting salted hash. All other keys resolve at once. If the same
plaintext key is imported under several salts or schemes, the key gets several rows, and does not
resolve if one of these rows is inactive. Two exceptions: if one of these rows was imported in
plaintext, or as SHA-256 before the first scheme existed, this row alone says whether the key
resolves. A revoked line with a salted hash does not revoke a key that resolves: call revoke_key.
starts_with, ends_with (up to 32 characters; the longer is used) help upgrade_key to find a waiting
key. A line is refused if upgrade_key would then need more than 1200000 rounds of PBKDF2 to check
one key against all waiting keys that may match.
Other fields: kind (secret unless the key says otherwise), environment, label, metadata, scopes,
allowed_origins, masked_key, expires_at, suspended_at, revoked_at with revoke_reason, created_at,
created_by, last_used_at. Times are ISO 8601 with a zone. A line for an existing key can only change
its label and scopes, set an earlier expiry, suspend the key or revoke the key. All other fields
of the existing key stay.
A key in plaintext needs 16 characters, 6 of them different, and must not look like a placeholder,
a hash or a number. The field force, with a reason as its value, imports a weak key anyway.
dry_run: nothing is written. probes: keys for which the report gets the verdict of explain_key.
source, import_id: pass the same values with all batches of a file; finish_import needs both.
Errors: read_committed_required (400); invalid_argument (400), with strict also for refused lines.';

create function keylatch.finish_import(source text, import_id uuid, "limit" integer default 10000)
returns keylatch.retirement language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_result keylatch.retirement;
begin
  perform keylatch_internal.require_read_committed('Finishing an import');
  if finish_import.source = '' or not exists (
    select from keylatch_internal.legacy_keys as g
    where g.source = finish_import.source and g.seen_by = finish_import.import_id
  ) then
    perform keylatch_internal.refuse(
      'invalid_argument', 'No key of this source was imported with this import_id.',
      'Pass the source and the import_id that you passed to import_keys.'
    );
  end if;
  with locked as materialized (
    select k.id from keylatch.keys as k
    inner join keylatch_internal.legacy_keys as g on k.id = g.key_id
    where g.source = finish_import.source and g.seen_by <> finish_import.import_id
      and k.revoked_at is null and coalesce(k.expires_at > clock_timestamp(), true)
    order by k.created_at, k.id limit greatest(finish_import."limit", 1)
    for update of k skip locked
  )
  update keylatch.keys as k
  set revoked_at = clock_timestamp(), revoke_reason = 'deleted in ' || finish_import.source
  from locked as l where k.id = l.id;
  get diagnostics v_result.revoked = row_count;
  v_result.is_done := not exists (
    select from keylatch.keys as k
    inner join keylatch_internal.legacy_keys as g on k.id = g.key_id
    where g.source = finish_import.source and g.seen_by <> finish_import.import_id
      and k.revoked_at is null and coalesce(k.expires_at > clock_timestamp(), true)
  );
  return v_result;
end $$;
comment on function keylatch.finish_import is
  'Revokes up to "limit" keys of a source that the import import_id did not contain. A refused line
counts as missing, so call finish_import only after an import of all keys without a refused line,
for example with strict. Repeat the call until is_done is true.

Errors: read_committed_required (400); invalid_argument (400), also if no key was imported with this
source and import_id.';

update keylatch_internal.installation set modules = array_append(modules, 'legacy');

-- The grants of this file.
revoke all on function keylatch_internal.probe_import, keylatch_internal.report_import,
keylatch_internal.take_import, keylatch.import_keys, keylatch.finish_import
from public, anon, authenticated, service_role;
grant execute on function keylatch.import_keys, keylatch_internal.take_import,
keylatch.finish_import to service_role;
