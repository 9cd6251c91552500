-- The API key or the session of a request, as an identity for policies on the user's own tables.
--
-- PostgREST gives a request's headers to the database as one setting. A request with an x-api-key
-- or an x-session-token comes as anon, so anon may run what is here: it finds no key and no session
-- but what the request itself brought, and so tells nothing to somebody who does not hold it.

grant usage on schema keylatch to anon;
-- The calls run with the caller's rights, and lean on one helper there.
grant usage on schema keylatch_internal to anon;

create type keylatch_internal.identity as (
  workspace_id uuid,
  key_id uuid,
  session_id uuid,
  scopes text[],
  metadata jsonb
);
comment on type keylatch_internal.identity is
  'For whom a request acts: a key, or a session and the key that it was opened with.';

create function keylatch_internal.request_identity()
returns keylatch_internal.identity
language plpgsql
stable
-- A policy on a large table must not keep the whole query from running in parallel.
parallel safe
-- definer because: anon may not resolve keys and sessions. It takes no argument, and reads no key
-- but that of the request's own headers.
security definer
set search_path = ''
as $$
declare
  v_headers constant pg_catalog.jsonb :=
    nullif(current_setting('request.headers', true), '')::pg_catalog.jsonb;
  v_key constant pg_catalog.text := v_headers ->> 'x-api-key';
  v_token constant pg_catalog.text := v_headers ->> 'x-session-token';
  v_claims pg_catalog.jsonb;
  v_identity keylatch_internal.identity;
begin
  if v_key is null and v_token is null then
    return null;
  end if;

  v_claims := nullif(current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb;
  if (v_key is not null and v_token is not null)
    or (v_claims ->> 'sub' is not null and v_claims ->> 'role' is distinct from 'anon')
  then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'The request names two of x-api-key, x-session-token and a signed-in user: it acts '
        || 'for one.',
      hint = 'Send one of them, and beside a key or a session the project''s public key alone.';
  end if;

  if v_key is not null then
    select k.workspace_id, k.key_id, null::pg_catalog.uuid, k.scopes, k.metadata
    into v_identity
    from keylatch.resolve_key(v_key, v_headers ->> 'origin') as k;
    if not found then
      raise sqlstate 'PT401' using
        message = 'invalid_api_key',
        detail = 'The x-api-key of this request is not accepted.',
        hint = 'It is mistyped, dead, or used from an origin that it is not for; an admin of its '
          || 'workspace can ask explain_key.';
    end if;
    return v_identity;
  end if;

  select s.workspace_id, s.key_id, s.session_id, k.scopes, k.metadata
  into v_identity
  from keylatch_internal.find_session(v_token) as s
  -- Dead or alive: a session outlives its key.
  inner join keylatch_internal.keys as k on s.key_id = k.id
  -- A token that another page got hold of is worth nothing there.
  where s.origin is not distinct from v_headers ->> 'origin';
  if not found then
    raise sqlstate 'PT401' using
      message = 'invalid_session',
      detail = 'The x-session-token of this request is not accepted.',
      hint = 'It is mistyped, expired, closed, or used from another origin than it was opened at; '
        || 'open a new session.';
  end if;
  return v_identity;
end;
$$;

comment on function keylatch_internal.request_identity() is
  'For whom the request acts by its x-api-key or x-session-token; null without either, an error if
it is not good.';

revoke all on function keylatch_internal.request_identity()
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.request_identity()
to anon, authenticated, service_role, keylatch_resolver;

create function keylatch.current_workspace_id()
returns uuid
language plpgsql
stable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return (keylatch_internal.request_identity()).workspace_id;
end;
$$;

comment on function keylatch.current_workspace_id() is
  'The workspace that the request acts for; null without a key or session. For your row policies.

By its header x-api-key, or x-session-token with the token of open_session. Write it as
(select keylatch.current_workspace_id()), so that it runs once a statement. A key or token that is
not good is an error and never nobody. Of two headers of one name PostgREST keeps the last. Whoever
holds a key, so every visitor of a page with a publishable one, can ask this.
Errors: invalid_api_key, invalid_session (401); invalid_argument (400) if the request has both
headers, or one beside the token of a signed-in user.';

revoke all on function keylatch.current_workspace_id()
from public, anon, authenticated, service_role;
grant execute on function keylatch.current_workspace_id() to anon, authenticated, service_role;

create function keylatch.current_key_id()
returns uuid
language plpgsql
stable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return (keylatch_internal.request_identity()).key_id;
end;
$$;

comment on function keylatch.current_key_id() is
  'The id of the request''s key, or of the one that opened its session; null without either.

Write it as (select keylatch.current_key_id()). A session''s key may be dead by now.
Errors: as current_workspace_id.';

revoke all on function keylatch.current_key_id() from public, anon, authenticated, service_role;
grant execute on function keylatch.current_key_id() to anon, authenticated, service_role;

create function keylatch.current_session_id()
returns uuid
language plpgsql
stable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return (keylatch_internal.request_identity()).session_id;
end;
$$;

comment on function keylatch.current_session_id() is
  'The session of the request''s x-session-token; null without that header, also with an x-api-key.

Write it as (select keylatch.current_session_id()): a visitor''s rows are those of their session.
Errors: as current_workspace_id.';

revoke all on function keylatch.current_session_id() from public, anon, authenticated, service_role;
grant execute on function keylatch.current_session_id() to anon, authenticated, service_role;

create function keylatch.has_scope(scope text)
returns boolean
language plpgsql
stable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return coalesce(
    has_scope.scope = any ((keylatch_internal.request_identity()).scopes), false
  );
end;
$$;

comment on function keylatch.has_scope(text) is
  'Whether the request''s key has this scope, letter for letter; false without a key or session.

Write it as (select keylatch.has_scope(''orders:write'')). A scope "*" is a word like any other. A
session has the scopes of the key that it was opened with, as they are now.
Errors: as current_workspace_id.';

revoke all on function keylatch.has_scope(text) from public, anon, authenticated, service_role;
grant execute on function keylatch.has_scope(text) to anon, authenticated, service_role;

create function keylatch.key_metadata()
returns jsonb
language plpgsql
stable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return (keylatch_internal.request_identity()).metadata;
end;
$$;

comment on function keylatch.key_metadata() is
  'The metadata of the request''s key, or of the one that its session was opened with.

Write it as (select keylatch.key_metadata() ->> ''plan''). Whoever holds a key, so every visitor of
a page with a publishable one, can ask this: keep what they must not read in a table of your own.
Errors: as current_workspace_id.';

revoke all on function keylatch.key_metadata() from public, anon, authenticated, service_role;
grant execute on function keylatch.key_metadata() to anon, authenticated, service_role;

create function keylatch.check_request()
returns boolean
language plpgsql
stable
parallel safe
security invoker
set search_path = ''
as $$
begin
  perform keylatch_internal.request_identity();
  return true;
end;
$$;

comment on function keylatch.check_request() is
  'True, or an error if the request brought a key or session that is not good. True without one.

Row policies refuse such a request where they ask for its identity, so not on a table without rows.
To refuse it before anything else, name this as PostgREST''s db-pre-request, or call it from the
function that you have there; on one table, write a restrictive policy
using ((select keylatch.check_request())).
Errors: as current_workspace_id.';

revoke all on function keylatch.check_request() from public, anon, authenticated, service_role;
grant execute on function keylatch.check_request()
to anon, authenticated, service_role, keylatch_resolver;
