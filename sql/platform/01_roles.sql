-- The roles that every Supabase project has, for a plain PostgreSQL 15 or newer.
--
-- Run by a superuser, once a cluster (again is harmless), before 02_database.sql. Plain SQL: any
-- client can run it. It sets no passwords: `authenticator` and `postgres` can log in once you give
-- them one with `alter role … password`.

do $$
declare
  v_role text;
begin
  foreach v_role in array
    array['anon', 'authenticated', 'service_role', 'authenticator', 'postgres']
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
      execute pg_catalog.format('create role %I', v_role);
    end if;
  end loop;
end
$$;

-- What a request may become: nobody in particular, a signed-in user, or the application's backend.
alter role anon nologin inherit;
alter role authenticated nologin inherit;
alter role service_role nologin inherit bypassrls;

-- What PostgREST logs in as. It has no rights of its own until it takes one of the three above.
alter role authenticator login noinherit;
grant anon to authenticator;
grant authenticated to authenticator;
grant service_role to authenticator;

comment on role anon is 'A request without a token.';
comment on role authenticated is 'A request of a signed-in user; row policies tell who.';
comment on role service_role is 'The application''s own backend; row policies do not apply to it.';
comment on role authenticator is
  'PostgREST''s login; takes the role that a request''s token names.';

-- A hosted project stops slow API requests, and so must a stand-in for one.
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';

-- `postgres` owns the database and runs the migrations, and is not a superuser. Where it is one
-- already, because initdb made it (most plain clusters), it stays one: taking that away could lock
-- the cluster's owner out.
do $$
begin
  if (select rolsuper from pg_catalog.pg_roles where rolname = 'postgres') then
    raise warning 'postgres is a superuser here, unlike on Supabase; it is left as it is';
  else
    alter role postgres login inherit createdb createrole replication bypassrls;
    alter role postgres set search_path = "$user", public, extensions;
    comment on role postgres is 'Owns the database and runs its migrations; not a superuser.';
  end if;
end
$$;

-- What `postgres` may become is what a hosted project has, as far as the roles above are concerned.
-- On 15 it is no member of authenticator: who has createrole grants any role there. From 16 on only
-- who holds a role with admin option may grant it.
do $$
begin
  if pg_catalog.current_setting('server_version_num')::integer < 160000 then
    grant anon, authenticated, service_role to postgres;
    grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
  else
    grant anon, authenticated, service_role, authenticator to postgres with admin option;
    grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres with admin option;
    execute 'grant pg_create_subscription to postgres';
  end if;
end
$$;

-- Supabase lets `postgres` switch triggers off for a session, as a replication worker does. What
-- relies on triggers has to hold against that, so the stand-in allows it too.
grant set on parameter session_replication_role to postgres;  -- noqa: PRS
-- A hosted project lets it set what PostgREST reads from the database, too.
grant set on parameter pgrst.db_schemas, pgrst.db_pre_request to postgres;  -- noqa: PRS
