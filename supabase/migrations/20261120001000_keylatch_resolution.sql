-- Resolving a key, which happens a million times for each one issued, and explaining why one fails.

create type keylatch.resolved_key as (
  key_id uuid,
  workspace_id uuid,
  kind text,
  environment text,
  scopes text[],
  metadata jsonb,
  expires_at timestamptz
);
comment on type keylatch.resolved_key is
  'Whose key it is and what it may do.';

create function keylatch.resolve_key(key text, origin text default null)
returns setof keylatch.resolved_key
language plpgsql
stable
-- definer because: key_hash is readable by the owner alone. Here and not in an internal function
-- behind a wrapper, because on this path a second call is a measurable part of the whole.
security definer
-- At most one; but of "rows 1" the type generators make a single object.
rows 2
set search_path = ''
as $$
begin
  return query
  select k.id, k.workspace_id, k.kind, k.environment, k.scopes, k.metadata, k.expires_at
  from keylatch_internal.keys as k
  -- The body of hash_key: calling it costs another tenth of the time of an index look-up.
  where k.key_hash = sha256(convert_to(resolve_key.key, 'UTF8'))
    and k.revoked_at is null
    and k.suspended_at is null
    -- The clock counts, not the start of the transaction.
    and (k.expires_at is null or k.expires_at > clock_timestamp())
    and case
      when k.kind = 'secret' then resolve_key.origin is null
      -- Most lists hold the page's origin as it is, and to see that here saves a call.
      when resolve_key.origin collate "C" = any (k.allowed_origins)
        then strpos(resolve_key.origin, '*') = 0
      else keylatch_internal.origin_matches(resolve_key.origin, k.allowed_origins)
    end;
end;
$$;

comment on function keylatch.resolve_key(text, text) is
  'One row if the key is good, none if not: unknown, dead, suspended and wrong origin look alike.

origin: the request''s Origin header, null if it has none; an empty text is an origin. A publishable
key needs one that it allows, a secret key must come without. Reads only, so it works on a read
replica. Call it with POST: a key in a URL ends up in logs.';

revoke all on function keylatch.resolve_key(text, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch.resolve_key(text, text) to service_role, keylatch_resolver;

create function keylatch_internal.find_key(p_key text)
returns uuid
language sql
stable
-- definer because: key_hash is readable by the owner alone. It takes the key, not its hash, so that
-- a stolen hash finds nothing; who holds the key itself learns an id, which opens nothing.
security definer
set search_path = ''
as $$
  select k.id from keylatch_internal.keys as k where k.key_hash = keylatch.hash_key(p_key);
$$;

comment on function keylatch_internal.find_key(text) is
  'The id of the row of this key, for explain_key to read as its caller.';

revoke all on function keylatch_internal.find_key(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.find_key(text) to authenticated, service_role;

create type keylatch.explanation as (
  verdict text,
  detail text,
  hint text,
  key_id uuid,
  expires_at timestamptz
);
comment on type keylatch.explanation is
  'What would come of a key and why: verdict for programs, detail and hint for people.';

create function keylatch.explain_key(key text, origin text default null)
returns keylatch.explanation
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_id constant pg_catalog.uuid := keylatch_internal.find_key(explain_key.key);
  v_key keylatch.keys;
  v_form pg_catalog.text;
  v_unclaimed boolean;
  v_result keylatch.explanation;
begin
  select k.* into v_key from keylatch.keys as k where k.id = v_id;

  if not found then
    if v_id is null then
      -- The row policy asks this of a foreign key; so an unknown one takes as long.
      perform from keylatch.admin_workspace_ids();
    end if;
    v_unclaimed := exists (select 1 from keylatch.unclaimed_keys);
    -- An imported key may have any form; so the form is only the reason when there is no such key.
    v_form := keylatch_internal.key_form(explain_key.key);
    v_result.verdict := case v_form when 'valid' then 'unknown' else v_form end;
    v_result.detail := case v_result.verdict
      when 'malformed' then 'This is not a key: a key is <prefix>_<pk|sk>_<live|test>_ and 36 '
        || 'letters and digits.'
      when 'checksum_failed' then 'This has the form of a key, but its check characters do not '
        || 'fit: it was mistyped or cut.'
      else 'No workspace that you administer here has this key.'
    end;
    v_result.hint := case
      when v_unclaimed then 'It may be one that was imported with a salted hash and not used since: '
        || 'see unclaimed_keys, and let its service call claim_key.'
      when v_result.verdict = 'unknown' then 'Compare installation() of both services: they may use different '
        || 'databases. If the key is of another workspace, ask its admin.'
      else 'Copy the whole key again, without spaces or quotes.'
    end;
    return v_result;
  end if;

  v_result.key_id := v_key.id;
  v_result.expires_at := v_key.expires_at;
  v_result.verdict := case
    when v_key.status in ('revoked', 'expired', 'suspended') then v_key.status
    when v_key.kind = 'secret' then
      case when explain_key.origin is null then 'valid' else 'secret_in_browser' end
    when explain_key.origin is null then 'origin_required'
    when keylatch_internal.origin_matches(explain_key.origin, v_key.allowed_origins) then 'valid'
    else 'origin_denied'
  end;

  v_result.detail := case v_result.verdict
    when 'revoked' then format('The key was revoked at %s.', v_key.revoked_at)
      || coalesce(' Reason: ' || v_key.revoke_reason, '')
    when 'expired' then format('The key expired at %s.', v_key.expires_at)
    when 'suspended' then format('The key has been suspended since %s.', v_key.suspended_at)
    when 'secret_in_browser' then 'A secret key came with an Origin: a page is sending it, so its '
      || 'visitors can read it.'
    when 'origin_required' then 'A publishable key needs the Origin of the page; none was given.'
    when 'origin_denied' then 'The key does not allow this origin.'
    else case
      when v_key.superseded_at is null then 'The key resolves.'
      else format('The key resolves, but it was superseded and ends at %s.', v_key.expires_at)
    end
  end;
  if v_key.kind = 'publishable' and v_key.allowed_origins = '{}' then
    v_result.detail := v_result.detail
      || ' Its allowed_origins is empty, so it resolves from nowhere.';
  end if;

  v_result.hint := case v_result.verdict
    when 'revoked' then case
      when v_key.revoke_reason = 'rotated' then 'Use its successor.'
      else 'A revoked key stays revoked: issue a new one.'
    end
    when 'expired' then case
      when v_key.superseded_at is not null then 'Use its successor.'
      else 'An expired key stays expired: issue a new one.'
    end
    when 'suspended' then 'Put it back into use with resume_key.'
    when 'secret_in_browser' then 'Rotate it with grace 0, since it is no longer secret, and give '
      || 'the page a publishable key.'
    when 'origin_required' then 'Pass on the Origin header of the request, or use a secret key '
      || 'between servers.'
    when 'origin_denied' then 'Add it to allowed_origins, exactly as location.origin shows it in '
      || 'the page.'
    else case
      when v_key.superseded_at is null then 'Nothing is to be done.'
      else 'Give the caller its successor before then.'
    end
  end;
  return v_result;
end;
$$;

comment on function keylatch.explain_key(text, text) is
  'Says why a key resolves or does not, and what to do: for the admins of its workspace.

verdict is the first that applies of malformed, checksum_failed, unknown, revoked, expired,
suspended, secret_in_browser, origin_required, origin_denied, valid. A key of a workspace that is
not yours is unknown. It changes nothing. Call it with POST: a key in a URL ends up in logs.';

revoke all on function keylatch.explain_key(text, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch.explain_key(text, text) to authenticated, service_role;
