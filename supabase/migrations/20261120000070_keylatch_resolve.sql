-- resolve_key and resolve_keys check a key that a client sent. explain_key says why it is refused.

create type keylatch.resolved_key as (
  key_id uuid, workspace_id uuid, kind text, environment text, scopes text[], metadata jsonb,
  expires_at timestamptz
);
comment on type keylatch.resolved_key is 'An active key: its workspace, kind, scopes and metadata.';

create function keylatch_internal.other_hash(p_text text)
returns bytea language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return null;
end $$;
comment on function keylatch_internal.other_hash is
  'If the key_hash of an imported key is not the SHA-256 of the key, returns it; else null. A lookup
calls this function if it finds no key by SHA-256. For the empty string, null means that there is no
such key. A module for imported keys replaces this function.';

create function keylatch.resolve_key(key text, origin text default null)
returns setof keylatch.resolved_key language plpgsql stable security definer rows 2
-- definer because: only the owner may read key_hash. An invoker wrapper around an internal function
-- would make resolve_key measurably slower.
-- No "rows 1", although the result has at most one row: type generators would drop the array.
set search_path = pg_catalog, pg_temp as $$
declare
  -- The body of hash_key, copied here because a function call would cost measurable time.
  v_hash bytea := sha256(convert_to(resolve_key.key, 'UTF8'));
begin
  -- The body of require_grants, copied here because a function call would cost measurable time.
  if has_function_privilege('public', 'keylatch.resolve_key'::regproc, 'execute') then
    perform keylatch_internal.require_grants('keylatch.resolve_key');
  end if;
  for v_try in 1 .. 2 loop
    return query
    select k.id, k.workspace_id, k.kind, k.environment, k.scopes, k.metadata, k.expires_at
    from keylatch_internal.active_keys as k
    where k.key_hash = v_hash and case
      when k.kind = 'secret' then resolve_key.origin is null
      -- Look for the exact origin first. An exact match saves the call of origin_matches.
      when resolve_key.origin collate "C" = any (k.allowed_origins)
        then strpos(resolve_key.origin, '*') = 0
      else keylatch_internal.origin_matches(resolve_key.origin, k.allowed_origins)
    end;
    exit when found;
    v_hash := keylatch_internal.other_hash(resolve_key.key);
    exit when v_hash is null;
  end loop;
end $$;
comment on function keylatch.resolve_key is
  'Returns one row if the key is active and allowed for this origin. For any other key, returns no
row and no reason.

origin: the Origin header of the request, or null if the request has no Origin header. A publishable
key needs an allowed origin. A secret key must come without an origin. The function writes nothing
and works on a read replica. Over REST, use POST, because a key in a URL ends up in logs.';

create type keylatch.resolved_key_at as (
  "position" integer, key_id uuid, workspace_id uuid, kind text, environment text, scopes text[],
  metadata jsonb, expires_at timestamptz
);
comment on type keylatch.resolved_key_at is
  'The result of resolve_keys for one key: the position in the list, from 1, and the resolved key.';

create function keylatch.resolve_keys(keys text[], origins text[] default null)
returns setof keylatch.resolved_key_at language plpgsql stable security definer rows 100
-- definer because: only the owner may read key_hash. A wrapper would make resolve_keys slower.
set search_path = pg_catalog, pg_temp as $$
declare
  v_any constant boolean := keylatch_internal.other_hash('') is not null;
begin
  perform keylatch_internal.require_grants('keylatch.resolve_keys');
  if resolve_keys.keys is null or cardinality(resolve_keys.keys) > 1000
    or cardinality(resolve_keys.origins) <> cardinality(resolve_keys.keys) then
    perform keylatch_internal.refuse(
      'invalid_argument',
      'keys must be a list of up to 1000 keys, and origins null or a list of the same length.',
      'Write null in origins for a request without an Origin header.'
    );
  end if;
  return query
  select
    p.place::integer, coalesce(k.id, o.id), coalesce(k.workspace_id, o.workspace_id),
    coalesce(k.kind, o.kind), coalesce(k.environment, o.environment), coalesce(k.scopes, o.scopes),
    coalesce(k.metadata, o.metadata), coalesce(k.expires_at, o.expires_at)
  from unnest(resolve_keys.keys, resolve_keys.origins) with ordinality as p (key, origin, place)
  left join keylatch_internal.active_keys as k
    on k.key_hash = sha256(convert_to(p.key, 'UTF8'))
    -- The conditions here and below are copied from resolve_key. A test compares both functions.
    and case
      when k.kind = 'secret' then p.origin is null
      when p.origin collate "C" = any (k.allowed_origins) then strpos(p.origin, '*') = 0
      else keylatch_internal.origin_matches(p.origin, k.allowed_origins)
    end
  left join keylatch_internal.active_keys as o
    on o.key_hash = case when v_any and k.id is null then keylatch_internal.other_hash(p.key) end
    and case when o.kind = 'secret' then p.origin is null
      else keylatch_internal.origin_matches(p.origin, o.allowed_origins) end;
end $$;
comment on function keylatch.resolve_keys is
  'Resolves up to 1000 keys. Returns a row for each key. The row of a refused key has nulls.

origins: the Origin header of each request, null where a request has none. Rows have no order:
use the column position. If a result has fewer rows than keys, the PostgREST setting max-rows has
truncated the result. The function writes nothing. Errors: invalid_argument (400).';

create type keylatch.explanation as (
  verdict text, detail text, hint text, key_id uuid, fingerprint text, expires_at timestamptz
);
comment on type keylatch.explanation is
  'The result of explain_key: verdict for programs, detail and hint for people.';

create function keylatch_internal.key_verdict(p_key keylatch.keys, p_text text, p_origin text)
returns text language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when p_key.id is null then
      -- An imported key may have any format. Check the format only if no key was found.
      replace(keylatch_internal.key_form(p_text), 'valid', 'unknown')
    when p_key.status in ('revoked', 'expired', 'suspended') then p_key.status
    when p_key.kind = 'secret' then
      case when p_origin is null then 'valid' else 'secret_in_browser' end
    when p_origin is null then 'origin_required'
    when keylatch_internal.origin_matches(p_origin, p_key.allowed_origins) then 'valid'
    else 'origin_denied'
  end;
end $$;
comment on function keylatch_internal.key_verdict is 'Returns the verdict of explain_key.';

create function keylatch_internal.explain(p_key keylatch.keys, p_text text, p_origin text)
returns keylatch.explanation language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_result keylatch.explanation;
  v_case text;
begin
  v_result.verdict := keylatch_internal.key_verdict(p_key, p_text, p_origin);
  v_result.key_id := p_key.id;
  v_result.fingerprint := left(encode(sha256(convert_to(p_text, 'UTF8')), 'hex'), 8);
  v_result.expires_at := p_key.expires_at;
  v_case := case
    when v_result.verdict = 'revoked' and p_key.revoke_reason = 'rotated' then 'rotated'
    when v_result.verdict = 'expired' and p_key.superseded_at is not null then 'replaced'
    when v_result.verdict = 'valid' and p_key.superseded_at is not null then 'superseded'
    else v_result.verdict
  end;
  select format(c.detail, p_key.revoked_at, p_key.expires_at, p_key.suspended_at), c.hint
  into v_result.detail, v_result.hint
  from (values
    ('malformed', 'This text is not a key. A key is <prefix>_<pk|sk>_<live|test>_ and 36 letters '
      'and digits.', 'Copy the whole key again, without spaces or quotes.'),
    ('checksum_failed', 'The check characters of the key are wrong: the key was mistyped or cut '
      'off.', 'Copy the whole key again, without spaces or quotes.'),
    ('unknown', 'No workspace that you administer has this key.', 'Compare installation() of both '
      'services: they may use different databases. If another workspace has the key, ask its '
      'admin.'),
    ('revoked', 'The key was revoked at %1$s.', 'A revoked key stays revoked. Issue a new key.'),
    ('rotated', 'The key was revoked at %1$s.', 'Use its successor.'),
    ('expired', 'The key expired at %2$s.', 'An expired key stays expired. Issue a new key.'),
    ('replaced', 'The key expired at %2$s.', 'Use its successor.'),
    ('suspended', 'The key has been suspended since %3$s.', 'Call unsuspend_key.'),
    ('secret_in_browser', 'This secret key came with an Origin: a web page sends it, so visitors '
      'can read it.', 'Call rotate_key with grace 0, and use a publishable key in the page.'),
    ('origin_required', 'A publishable key needs the Origin of the page, and the request has none.',
      'Send the Origin header of the page to keylatch. Between servers, use a secret key.'),
    ('origin_denied', 'The key does not allow this origin.', 'Add the origin to allowed_origins, '
      'exactly as location.origin shows it in the page.'),
    ('valid', 'The key resolves.', 'There is nothing to do.'),
    ('superseded', 'The key was superseded and resolves until %2$s.', 'Use its successor before '
      'then.')
  ) as c (name, detail, hint) where c.name = v_case;
  v_result.detail := v_result.detail || coalesce(' Reason: ' || p_key.revoke_reason, '')
    || case when p_key.kind = 'publishable' and p_key.allowed_origins = '{}'
      then ' Its allowed_origins is empty, so no page can use it.' else '' end;
  return v_result;
end $$;
comment on function keylatch_internal.explain is 'Adds a detail and a hint to a verdict.';

create function keylatch_internal.find_key(p_text text)
returns uuid language plpgsql stable security definer
-- definer because: only the owner may read key_hash. The argument is the plaintext key, so that a
-- thief of a hash cannot find a key. The holder of a key may learn its id.
set search_path = pg_catalog, pg_temp as $$
declare
  v_hashes bytea[] := array[keylatch.hash_key(p_text), keylatch_internal.other_hash(p_text)];
begin
  -- Always compute both hashes, so that timing does not reveal whether another user has the key.
  return (select k.id from keylatch_internal.keys as k where k.key_hash = any (v_hashes)
    order by k.key_hash <> coalesce(v_hashes[2], v_hashes[1]) limit 1);
end $$;
comment on function keylatch_internal.find_key is
  'Returns the id of a plaintext key. explain_key reads that key with the rights of its caller.';

create function keylatch_internal.explain_for_resolver(p_text text, p_origin text)
returns keylatch.explanation language plpgsql stable security definer
-- definer because: keylatch_resolver may not read tables, but may log why a key was refused.
set search_path = pg_catalog, pg_temp as $$
declare
  v_key keylatch.keys;
begin
  perform keylatch_internal.require_grants('keylatch_internal.explain_for_resolver');
  select k.* into v_key from keylatch.keys as k where k.id = keylatch_internal.find_key(p_text);
  -- Return only the verdict, the id and timestamps. Labels and reasons of an admin stay private.
  v_key.revoke_reason := case when v_key.revoke_reason = 'rotated' then 'rotated' end;
  return keylatch_internal.explain(v_key, p_text, p_origin);
end $$;
comment on function keylatch_internal.explain_for_resolver is 'explain_key for keylatch_resolver.';

create function keylatch.explain_key(key text, origin text default null)
returns keylatch.explanation language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_id uuid;
  v_key keylatch.keys;
begin
  if not has_table_privilege('keylatch.keys', 'select') then
    return keylatch_internal.explain_for_resolver(explain_key.key, explain_key.origin);
  end if;
  v_id := keylatch_internal.find_key(explain_key.key);
  select k.* into v_key from keylatch.keys as k where k.id = v_id;
  if v_id is null then
    -- For an unknown key, call the function that the row policy calls, to make timing equal.
    perform from keylatch.admin_workspace_ids();
  end if;
  return keylatch_internal.explain(v_key, explain_key.key, explain_key.origin);
end $$;
comment on function keylatch.explain_key is
  'Explains to an admin of the workspace why a key is accepted or refused, and what to do.

verdict is the first of these that applies: malformed, checksum_failed, unknown, revoked, expired,
suspended, secret_in_browser, origin_required, origin_denied, valid. The verdict is unknown for the
keys of workspaces that you do not administer. Compare fingerprint with keylatch.keys to see
whether you passed the right key. The role keylatch_resolver gets only the verdict, the id and
timestamps. The function writes nothing. Over REST, use POST: a key in a URL ends up in logs.';

-- The grants of this file.
revoke all on function keylatch_internal.other_hash, keylatch.resolve_key, keylatch.resolve_keys,
keylatch.explain_key, keylatch_internal.key_verdict, keylatch_internal.explain,
keylatch_internal.find_key, keylatch_internal.explain_for_resolver
from public, anon, authenticated, service_role;
grant execute on function keylatch.resolve_key, keylatch.resolve_keys
to service_role, keylatch_resolver;
grant execute on function keylatch_internal.find_key, keylatch_internal.explain,
keylatch_internal.key_verdict to authenticated, service_role;
grant execute on function keylatch_internal.explain_for_resolver to keylatch_resolver;
grant execute on function keylatch.explain_key to authenticated, service_role, keylatch_resolver;
