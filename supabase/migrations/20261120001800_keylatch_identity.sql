-- The API key of a request as an identity for the user's own tables: what row policies ask.
--
-- PostgREST gives a request's headers to the database as one setting. A request with an x-api-key
-- comes as anon, so anon may run what is here: it finds no key but the one that the request itself
-- brought, and so tells nothing to somebody who does not hold it.

grant usage on schema keylatch to anon;
-- The calls run with the caller's rights, and lean on one helper there.
grant usage on schema keylatch_internal to anon;

create function keylatch_internal.request_identity()
returns keylatch.resolved_key
language plpgsql
stable
-- A policy on a large table must not keep the whole query from running in parallel.
parallel safe
-- definer because: anon may not resolve keys. It takes no argument, and reads no key but that of
-- the request's own header.
security definer
set search_path = ''
as $$
declare
  v_headers constant pg_catalog.jsonb :=
    nullif(current_setting('request.headers', true), '')::pg_catalog.jsonb;
  v_claims pg_catalog.jsonb;
  v_identity keylatch.resolved_key;
begin
  if v_headers ->> 'x-api-key' is null then
    return null;
  end if;

  v_claims := nullif(current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb;
  if v_claims ->> 'sub' is not null and v_claims ->> 'role' is distinct from 'anon' then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'x-api-key came with the token of a user: a request acts for one of the two.',
      hint = 'Send the key without the user''s Authorization, or that without the key.';
  end if;

  select k.* into v_identity
  from keylatch.resolve_key(v_headers ->> 'x-api-key', v_headers ->> 'origin') as k;
  if not found then
    raise sqlstate 'PT401' using
      message = 'invalid_api_key',
      detail = 'The x-api-key of this request is not accepted.',
      hint = 'It is mistyped, dead, or used from an origin that it is not for; an admin of its '
        || 'workspace can ask explain_key.';
  end if;
  return v_identity;
end;
$$;

comment on function keylatch_internal.request_identity() is
  'Whose key the request''s x-api-key is; null without that header, an error if it is not good.';

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
  'The workspace of the request''s x-api-key, for your own row policies; null without that header.

Write it as (select keylatch.current_workspace_id()), so that it runs once a statement. A key that
is not good is an error and never nobody. Whoever holds a key, also a publishable one, can ask this.
Errors: invalid_api_key (401), invalid_argument (400) beside the token of a user.';

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
  'The id of the request''s x-api-key; null without that header. See current_workspace_id.

Write it as (select keylatch.current_key_id()).
Errors: invalid_api_key (401), invalid_argument (400).';

revoke all on function keylatch.current_key_id() from public, anon, authenticated, service_role;
grant execute on function keylatch.current_key_id() to anon, authenticated, service_role;

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
  'Whether the request''s x-api-key has this scope, letter for letter; false without that header.

Write it as (select keylatch.has_scope(''orders:write'')). A scope "*" is a word like any other.
Errors: invalid_api_key (401), invalid_argument (400).';

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
  'The metadata of the request''s x-api-key; null without that header.

Write it as (select keylatch.key_metadata() ->> ''plan''). Whoever holds a key, so every visitor of a
page with a publishable one, can ask this: keep what they must not read in a table of your own.
Errors: invalid_api_key (401), invalid_argument (400).';

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
  'True, or an error if the request brought an x-api-key that is not good. True without one.

Row policies refuse such a request where they ask for its key. To refuse it before anything else,
name this as PostgREST''s db-pre-request, or call it from the function that you have there; on one
table, write a restrictive policy using ((select keylatch.check_request())).
Errors: invalid_api_key (401), invalid_argument (400).';

revoke all on function keylatch.check_request() from public, anon, authenticated, service_role;
grant execute on function keylatch.check_request()
to anon, authenticated, service_role, keylatch_resolver;
