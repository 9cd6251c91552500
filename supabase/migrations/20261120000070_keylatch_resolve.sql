-- Resolving a key, which happens a million times for each key that is issued, and explaining why a
-- key fails.

create type keylatch.resolved_key as (
  key_id uuid, workspace_id uuid, kind text, environment text, scopes text[], metadata jsonb,
  expires_at timestamptz
);
comment on type keylatch.resolved_key is 'Whose key it is and what it may do.';

create function keylatch_internal.other_hash(p_text text)
returns bytea language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return null;
end $$;
comment on function keylatch_internal.other_hash is
  'The key_hash of a text that is stored under another hash. Resolving asks after a miss.
Of the empty text, which no key has: null if no text has another hash, so that a batch asks once.
A module that brings other hashes replaces this function.';

create function keylatch.resolve_key(key text, origin text default null)
returns setof keylatch.resolved_key language plpgsql stable security definer rows 2
-- definer because: key_hash is readable by the owner alone. Here and not in an internal function
-- behind a wrapper, because on this path a second call is a measurable part of the whole.
-- At most one row; but from "rows 1" the type generators make a single object.
set search_path = pg_catalog, pg_temp as $$
declare
  -- The body of hash_key: calling it costs another tenth of the time of an index look-up.
  v_hash bytea := sha256(convert_to(resolve_key.key, 'UTF8'));
begin
  -- The body of require_grants, for the same reason.
  if has_function_privilege('public', 'keylatch.resolve_key'::regproc, 'execute') then
    perform keylatch_internal.require_grants('keylatch.resolve_key');
  end if;
  for v_try in 1 .. 2 loop
    return query
    select k.id, k.workspace_id, k.kind, k.environment, k.scopes, k.metadata, k.expires_at
    from keylatch_internal.active_keys as k
    where k.key_hash = v_hash and case
      when k.kind = 'secret' then resolve_key.origin is null
      -- Most lists hold the page's origin as it is, and to see that here saves a call.
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
  'One row if the key is good, none if not: unknown, revoked, expired, suspended and wrong origin
look alike.

origin: the request''s Origin header, null if it has none; an empty text is an origin. A publishable
key needs one that it allows, a secret key must come without. Reads only, so it works on a read
replica. Call it with POST: a key in a URL ends up in logs.';

create type keylatch.resolved_key_at as (
  "position" integer, key_id uuid, workspace_id uuid, kind text, environment text, scopes text[],
  metadata jsonb, expires_at timestamptz
);
comment on type keylatch.resolved_key_at is
  'A key of a list: its place in the list, from 1, and whose it is, or nulls.';

create function keylatch.resolve_keys(keys text[], origins text[] default null)
returns setof keylatch.resolved_key_at language plpgsql stable security definer rows 100
-- definer because: as resolve_key.
set search_path = pg_catalog, pg_temp as $$
declare
  v_any constant boolean := keylatch_internal.other_hash('') is not null;
begin
  perform keylatch_internal.require_grants('keylatch.resolve_keys');
  if resolve_keys.keys is null or cardinality(resolve_keys.keys) > 1000
    or cardinality(resolve_keys.origins) <> cardinality(resolve_keys.keys)
  then
    perform keylatch_internal.refuse(
      'invalid_argument',
      'keys must be a list of up to 1000, and origins null or a list of the same length.',
      'Put null into origins where a request had no Origin header.'
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
    -- Here and below the same as in resolve_key; a test compares the two.
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
  'resolve_key for a batch of up to 1000: a row for each key, with nulls for one that is refused.

origins: the Origin of each request, null where it had none; null for a batch without any. The rows
come in no order: position tells. If there are fewer rows than keys, the API cuts its answers
(max-rows). Reads only. Errors: invalid_argument (400).';

create type keylatch.explanation as (
  verdict text, detail text, hint text, key_id uuid, fingerprint text, expires_at timestamptz
);
comment on type keylatch.explanation is
  'Whether a key resolves and why: verdict for programs, detail and hint for people, and the
fingerprint of the text that was asked about.';

create function keylatch_internal.key_verdict(p_key keylatch.keys, p_text text, p_origin text)
returns text language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return case
    when p_key.id is null then
      -- An imported key may have any form, so the form only matters where no key was found.
      case keylatch_internal.key_form(p_text)
        when 'valid' then 'unknown' else keylatch_internal.key_form(p_text)
      end
    when p_key.status in ('revoked', 'expired', 'suspended') then p_key.status
    when p_key.kind = 'secret' then
      case when p_origin is null then 'valid' else 'secret_in_browser' end
    when p_origin is null then 'origin_required'
    when keylatch_internal.origin_matches(p_origin, p_key.allowed_origins) then 'valid'
    else 'origin_denied'
  end;
end $$;
comment on function keylatch_internal.key_verdict is
  'The verdict about a presented text, of which this is the key: the first that applies.';

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
    ('malformed', 'This is not a key: a key is <prefix>_<pk|sk>_<live|test>_ and 36 letters and '
      'digits.', 'Copy the whole key again, without spaces or quotes.'),
    ('checksum_failed', 'The text has the form of a key, but its check characters are wrong: it '
      'was mistyped or cut.', 'Copy the whole key again, without spaces or quotes.'),
    ('unknown', 'No workspace that you administer has this key.', 'Compare installation() of both '
      'services: they may use different databases. If the key is of another workspace, ask its '
      'admin.'),
    ('revoked', 'The key was revoked at %1$s.', 'A revoked key stays revoked: issue a new one.'),
    ('rotated', 'The key was revoked at %1$s.', 'Use its successor.'),
    ('expired', 'The key expired at %2$s.', 'An expired key stays expired: issue a new one.'),
    ('replaced', 'The key expired at %2$s.', 'Use its successor.'),
    ('suspended', 'The key has been suspended since %3$s.', 'Call unsuspend_key.'),
    ('secret_in_browser', 'A secret key came with an Origin: a page sends it, so its visitors can '
      'read it.', 'Rotate it with grace 0, and give the page a publishable key.'),
    ('origin_required', 'A publishable key needs the Origin of the page; none was given.',
      'Pass on the Origin header of the request, or use a secret key between servers.'),
    ('origin_denied', 'The key does not allow this origin.', 'Add the origin to allowed_origins, '
      'exactly as location.origin shows it in the page.'),
    ('valid', 'The key resolves.', 'There is nothing to do.'),
    ('superseded', 'The key resolves until %2$s: it was superseded.', 'Give the caller its '
      'successor before then.')
  ) as c (name, detail, hint) where c.name = v_case;
  v_result.detail := v_result.detail || coalesce(' Reason: ' || p_key.revoke_reason, '')
    || case when p_key.kind = 'publishable' and p_key.allowed_origins = '{}'
      then ' Its allowed_origins is empty, so no page can use it.' else '' end;
  return v_result;
end $$;
comment on function keylatch_internal.explain is 'Explains a text, of which this is the key.';

create function keylatch_internal.find_key(p_text text)
returns uuid language plpgsql stable security definer
-- definer because: key_hash is readable by the owner alone. It takes the key, not the hash, so that
-- a stolen hash finds nothing. A holder of the key learns its id, which opens nothing.
set search_path = pg_catalog, pg_temp as $$
declare
  v_hashes bytea[] := array[keylatch.hash_key(p_text), keylatch_internal.other_hash(p_text)];
begin
  -- Both for every text: the key of a stranger takes the steps of an unknown one.
  return (select k.id from keylatch_internal.keys as k where k.key_hash = any (v_hashes)
    order by k.key_hash <> coalesce(v_hashes[2], v_hashes[1]) limit 1);
end $$;
comment on function keylatch_internal.find_key is
  'The id of the key of this text, for explain_key to read as its caller.';

create function keylatch_internal.explain_for_resolver(p_text text, p_origin text)
returns keylatch.explanation language plpgsql stable security definer
-- definer because: a service that resolves keys reads no table, and may log why it refused one.
set search_path = pg_catalog, pg_temp as $$
declare
  v_key keylatch.keys;
begin
  perform keylatch_internal.require_grants('keylatch_internal.explain_for_resolver');
  select k.* into v_key from keylatch.keys as k where k.id = keylatch_internal.find_key(p_text);
  -- The verdict, the id and the times; what an admin wrote is not for a log.
  v_key.revoke_reason := case when v_key.revoke_reason = 'rotated' then 'rotated' end;
  return keylatch_internal.explain(v_key, p_text, p_origin);
end $$;
comment on function keylatch_internal.explain_for_resolver is
  'explain_key for a service: about the keys of all workspaces, without what an admin wrote.';

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
    -- The row policy asks this about a key of a stranger; so an unknown key takes as long.
    perform from keylatch.admin_workspace_ids();
  end if;
  return keylatch_internal.explain(v_key, explain_key.key, explain_key.origin);
end $$;
comment on function keylatch.explain_key is
  'Says why a key resolves or does not, and what to do: for the admins of its workspace.

verdict is the first that applies of malformed, checksum_failed, unknown, revoked, expired,
suspended, secret_in_browser, origin_required, origin_denied, valid. A key of a workspace that is
not yours is unknown. fingerprint is that of the text you passed: if it differs from the fingerprint
in the view keys, you have another text. keylatch_resolver learns the verdict, the id and the times,
for its own log. Nothing is changed. Call it with POST: a key in a URL ends up in logs.';

-- Who may do what.
revoke all on function
keylatch_internal.other_hash, keylatch.resolve_key, keylatch.resolve_keys, keylatch.explain_key,
keylatch_internal.key_verdict, keylatch_internal.explain, keylatch_internal.find_key,
keylatch_internal.explain_for_resolver from public, anon, authenticated, service_role;
grant execute on function keylatch.resolve_key, keylatch.resolve_keys
to service_role, keylatch_resolver;
grant execute on function keylatch_internal.find_key, keylatch_internal.explain,
keylatch_internal.key_verdict to authenticated, service_role;
grant execute on function keylatch_internal.explain_for_resolver to keylatch_resolver;
grant execute on function keylatch.explain_key to authenticated, service_role, keylatch_resolver;
