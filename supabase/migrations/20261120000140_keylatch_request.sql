-- The API key of a request, as an identity for row policies on the user's own tables.
--
-- A request with an x-api-key comes as anon, so anon may call these functions. They find only the
-- key in the request's own headers.

insert into keylatch_internal.errors (slug, code, hint) values
('invalid_api_key', 'PT401', 'Ask an admin of the workspace to call explain_key.');

create type keylatch_internal.identity as (
  workspace_id uuid, key_id uuid, scopes text[], metadata jsonb
);
comment on type keylatch_internal.identity is 'The workspace and the key that a request acts for.';

create function keylatch_internal.require_one_identity(p_has_other_header boolean)
returns void language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- A token with a subject is a user, whatever the role of the token is.
  if p_has_other_header or coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  ) is not null
  then
    perform keylatch_internal.refuse(
      'invalid_argument',
      'The request has two identities: two headers, or a header and a token with a "sub".',
      'Send only one identity. With a key, use the public key of the project as the token.'
    );
  end if;
end $$;
comment on function keylatch_internal.require_one_identity is
  'Refuses a request that has a second identity.';

create function keylatch_internal.other_identity(p_headers jsonb)
returns keylatch_internal.identity language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return null;
end $$;
comment on function keylatch_internal.other_identity is
  'The identity from another header than x-api-key; null here. A module may replace this function.';

create function keylatch_internal.request_identity()
returns keylatch_internal.identity language plpgsql stable parallel safe security definer
-- definer because: anon may not resolve keys. It reads only the key in the request's headers.
-- It calls nothing with an exception block: that would fail in a parallel plan before version 17.
set search_path = pg_catalog, pg_temp as $$
declare
  v_headers constant jsonb := nullif(current_setting('request.headers', true), '')::jsonb;
  v_key constant text := v_headers ->> 'x-api-key';
  v_identity keylatch_internal.identity := keylatch_internal.other_identity(v_headers);
begin
  if v_key is null then
    return v_identity;
  end if;
  perform keylatch_internal.require_one_identity(v_identity is not null);
  select k.workspace_id, k.key_id, k.scopes, k.metadata
  into v_identity.workspace_id, v_identity.key_id, v_identity.scopes, v_identity.metadata
  from keylatch.resolve_key(v_key, v_headers ->> 'origin') as k;
  if not found then
    perform keylatch_internal.refuse(
      'invalid_api_key',
      'The x-api-key of this request is mistyped, not active, or not for this origin.'
    );
  end if;
  return v_identity;
end $$;
comment on function keylatch_internal.request_identity is
  'The identity of the request: null without an identity header, an error if it is not valid.';

create function keylatch.current_workspace_id()
returns uuid language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return (keylatch_internal.request_identity()).workspace_id;
end $$;
comment on function keylatch.current_workspace_id is
  'The workspace that the request acts for, by its x-api-key; null without one. For row policies.

Write (select keylatch.current_workspace_id()), so that it runs once per statement. An invalid key
is an error: the request never falls back to another identity.
Errors: invalid_api_key (401); invalid_argument (400) if the token of the request has a "sub".';

create function keylatch.current_key_id()
returns uuid language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return (keylatch_internal.request_identity()).key_id;
end $$;
comment on function keylatch.current_key_id is
  'The id of the key that the request acts with; null without one.

Write (select keylatch.current_key_id()). Errors: as current_workspace_id.';

create function keylatch.has_scope(scope text)
returns boolean language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce(has_scope.scope = any ((keylatch_internal.request_identity()).scopes), false);
end $$;
comment on function keylatch.has_scope is
  'Whether the key of the request has this scope, compared exactly; false without a key.

Write (select keylatch.has_scope(''orders:write'')). The scope "*" is a word like any other.
Errors: as current_workspace_id.';

create function keylatch.key_metadata()
returns jsonb language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return (keylatch_internal.request_identity()).metadata;
end $$;
comment on function keylatch.key_metadata is
  'The metadata of the key that the request acts with; null without one.

Write (select keylatch.key_metadata() ->> ''plan''). Every visitor of a page can call this: keep what
they must not read in a table of your own. Errors: as current_workspace_id.';

create function keylatch.check_request()
returns boolean language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.request_identity();
  return true;
end $$;
comment on function keylatch.check_request is
  'True, or an error if the key of the request is not valid. True without a key.

A row policy does not run on an empty table. To refuse an invalid key everywhere, set this as
PostgREST''s db-pre-request, or call it there. For one table, write a restrictive policy using
((select keylatch.check_request())).
Errors: as current_workspace_id.';

update keylatch_internal.installation set modules = array_append(modules, 'request');

-- Who may do what.
revoke all on function
keylatch_internal.require_one_identity, keylatch_internal.other_identity,
keylatch_internal.request_identity, keylatch.current_workspace_id, keylatch.current_key_id,
keylatch.has_scope, keylatch.key_metadata, keylatch.check_request
from public, anon, authenticated, service_role;

grant usage on schema keylatch, keylatch_internal to anon;
grant execute on function
keylatch.current_workspace_id, keylatch.current_key_id, keylatch.has_scope, keylatch.key_metadata
to anon, authenticated, service_role;
grant execute on function keylatch_internal.request_identity, keylatch.check_request
to anon, authenticated, service_role, keylatch_resolver;
