-- The roles that every Supabase project has, for a plain PostgreSQL 15 or newer.
--
-- Run this as a superuser, once per cluster, before 02_database.sql. Repeating it is harmless. Any
-- client can run it: it is plain SQL. It sets no passwords: `authenticator` and `postgres` can log
-- in after you set their passwords with `alter role … password`.

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

-- The roles of a request: without a user, a signed-in user, or the application's backend.
alter role anon nologin inherit;
alter role authenticated nologin inherit;
alter role service_role nologin inherit bypassrls;

-- The login of PostgREST. It has no rights of its own until it takes one of the three roles above.
alter role authenticator login noinherit;

comment on role anon is 'A request without a token.';
comment on role authenticated is 'A request of a signed-in user; row policies decide by the user.';
comment on role service_role is 'The application''s own backend; row policies do not apply to it.';
comment on role authenticator is
  'PostgREST''s login; takes the role that a request''s token names.';

-- A hosted project cancels slow API requests, so this stand-in does, too.
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';

-- `postgres` runs the migrations on Supabase, and is not a superuser there. If it already is a
-- superuser, because initdb made it (most plain clusters), it stays a superuser: otherwise the
-- owner of the cluster could be locked out.
do $$
begin
  if (select rolsuper from pg_catalog.pg_roles where rolname = 'postgres') then
    raise notice 'The role postgres stays a superuser, as is usual on plain PostgreSQL.';
  else
    alter role postgres login inherit createdb createrole replication bypassrls;
    alter role postgres set search_path = "$user", public, extensions;
    comment on role postgres is 'Runs the migrations of keylatch; not a superuser.';
  end if;
end
$$;

-- `postgres` is a member of the same roles as on a hosted project, as far as they are named above.
-- On 15 it is not a member of authenticator: there, a role with createrole may grant any role. From
-- 16 on, only a role with the admin option may grant a role. A grant that exists is not repeated:
-- PostgreSQL would print a notice.
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

-- Supabase lets `postgres` disable triggers for a session, as a replication worker does. keylatch
-- must be safe against that, so the stand-in allows it, too.
grant set on parameter session_replication_role to postgres;  -- noqa: PRS
-- On a hosted project, postgres may also set the parameters that PostgREST reads.
grant set on parameter pgrst.db_schemas, pgrst.db_pre_request to postgres;  -- noqa: PRS
