-- Module request: row policies on your own tables can use the API key in the header x-api-key.
--
-- A request with the header x-api-key runs as the role anon, so anon may call the functions of this
-- file. The functions look up only the key in the headers of the request.

insert into keylatch_internal.errors (slug, code, hint) values
('invalid_api_key', 'PT401', 'Ask an admin of the workspace to call explain_key.');

create type keylatch_internal.identity as (
  workspace_id uuid, key_id uuid, scopes text[], metadata jsonb
);
comment on type keylatch_internal.identity is 'The workspace and the key that a request uses.';

create function keylatch_internal.require_one_identity(p_has_other_header boolean)
returns void language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- A JWT with a "sub" identifies a user, whatever the role of the JWT is.
  if p_has_other_header or coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  ) is not null then
    perform keylatch_internal.refuse(
      'invalid_argument',
      'The request has two identities: two headers, or a header and a token with a "sub".',
      'Send only one identity. With a key, use the public key of the project as the token.'
    );
  end if;
end $$;
comment on function keylatch_internal.require_one_identity is
  'Refuses a request with two identities, for example an API key and a signed-in user.';

create function keylatch_internal.other_identity(p_headers jsonb)
returns keylatch_internal.identity language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return null;
end $$;
comment on function keylatch_internal.other_identity is
  'Returns null. A module that reads an identity from another header replaces this function.';

create function keylatch_internal.request_identity()
returns keylatch_internal.identity language plpgsql stable parallel safe security definer
-- definer because: anon may not resolve keys. The function reads only the key in the headers.
-- No function called here has an exception block, which fails in a parallel plan before version 17.
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
  'Returns the workspace and key that a header of the request proves, or null without a header.';

create function keylatch.current_workspace_id()
returns uuid language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return (keylatch_internal.request_identity()).workspace_id;
end $$;
comment on function keylatch.current_workspace_id is
  'Returns the workspace of the key in the header x-api-key, or null without the header.

In a row policy, write (select keylatch.current_workspace_id()), so that the function runs once per
statement. An invalid key raises an error.
Errors: invalid_api_key (401); invalid_argument (400) if the token of the request has a "sub".';

create function keylatch.current_key_id()
returns uuid language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return (keylatch_internal.request_identity()).key_id;
end $$;
comment on function keylatch.current_key_id is
  'Returns the id of the key in the header x-api-key, or null without the header.

Write (select keylatch.current_key_id()). Errors: the same as for current_workspace_id.';

create function keylatch.has_scope(scope text)
returns boolean language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce(has_scope.scope = any ((keylatch_internal.request_identity()).scopes), false);
end $$;
comment on function keylatch.has_scope is
  'Returns true if the key of the request has exactly this scope, or false without a key.

Write (select keylatch.has_scope(''orders:write'')). The scope "*" is not a wildcard.
Errors: the same as for current_workspace_id.';

create function keylatch.key_metadata()
returns jsonb language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return (keylatch_internal.request_identity()).metadata;
end $$;
comment on function keylatch.key_metadata is
  'Returns the metadata of the key of the request, or null if the request has no key.

Write (select keylatch.key_metadata() ->> ''plan''). Each visitor of a page can read the metadata of
its key: keep secrets in a table of your own. Errors: the same as for current_workspace_id.';

create function keylatch.check_request()
returns boolean language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.request_identity();
  return true;
end $$;
comment on function keylatch.check_request is
  'Raises an error if the key of the request is invalid. Otherwise, and without a key, returns true.

A row policy does not run on an empty table. To refuse an invalid key in every request, set
check_request as PostgREST''s db-pre-request, or call it in your own db-pre-request function. For
a single table, write a restrictive policy using ((select keylatch.check_request())).
Errors: the same as for current_workspace_id.';

update keylatch_internal.installation set modules = array_append(modules, 'request');

-- The grants of this file.
revoke all on function keylatch_internal.require_one_identity, keylatch_internal.other_identity,
keylatch_internal.request_identity, keylatch.current_workspace_id, keylatch.current_key_id,
keylatch.has_scope, keylatch.key_metadata, keylatch.check_request
from public, anon, authenticated, service_role;

grant usage on schema keylatch, keylatch_internal to anon;
grant execute on function keylatch.current_workspace_id, keylatch.current_key_id,
keylatch.has_scope, keylatch.key_metadata to anon, authenticated, service_role;
grant execute on function keylatch_internal.request_identity, keylatch.check_request
to anon, authenticated, service_role, keylatch_resolver;
