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

-- What `authenticator` and `postgres` may become is what a hosted project has, as far as the roles
-- above are concerned. On 15 `postgres` is no member of authenticator: createrole is enough there to
-- grant any role. From 16 on a grant needs admin option on the role. A grant that is there is not
-- repeated: PostgreSQL would print a notice.
do $$
declare
  v_is_old constant boolean := pg_catalog.current_setting('server_version_num')::integer < 160000;
  v_grant record;
begin
  for v_grant in
    select r.role, 'authenticator' as member, false as has_admin
    from pg_catalog.unnest(array['anon', 'authenticated', 'service_role']) as r (role)
    union all
    select r.role, 'postgres', not v_is_old
    from pg_catalog.unnest(array[
      'anon', 'authenticated', 'service_role', 'pg_monitor', 'pg_read_all_data',
      'pg_signal_backend'
    ]) as r (role)
    union all
    select r.role, 'postgres', r.role = 'authenticator'
    from pg_catalog.unnest(array['authenticator', 'pg_create_subscription']) as r (role)
    where not v_is_old
  loop
    continue when exists (
      select from pg_catalog.pg_auth_members as m
      where m.roleid = pg_catalog.to_regrole(v_grant.role)::oid
        and m.member = pg_catalog.to_regrole(v_grant.member)::oid
        and (m.admin_option or not v_grant.has_admin)
    );
    execute pg_catalog.format(
      'grant %I to %I %s', v_grant.role, v_grant.member,
      case when v_grant.has_admin then 'with admin option' end
    );
  end loop;
end
$$;

-- Supabase lets `postgres` switch triggers off for a session, as a replication worker does. What
-- relies on triggers has to hold against that, so the stand-in allows it too.
grant set on parameter session_replication_role to postgres;  -- noqa: PRS
-- A hosted project lets it set what PostgREST reads from the database, too.
grant set on parameter pgrst.db_schemas, pgrst.db_pre_request to postgres;  -- noqa: PRS
