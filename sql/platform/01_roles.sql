-- The roles that every Supabase project has, for a plain PostgreSQL 15 or newer.
--
-- Run this as a superuser, once per cluster, before 02_database.sql. Any client can run it: it is
-- plain SQL. A role that exists stays as it is: it may belong to another application. New roles get
-- no password: `authenticator` and `postgres` can log in after `alter role … password`.

do $$
declare
  v_is_old constant boolean := pg_catalog.current_setting('server_version_num')::integer < 160000;
  v_role record;
  v_grant record;
  v_created text[] := '{}';
begin
  -- Hosted projects cancel slow API requests after the same times.
  for v_role in
    select
      r.name,
      r.attributes,
      r.statement_timeout,
      r.comment
    from (values
      ('anon', 'nologin inherit', '3s', 'A request without a token.'),
      ('authenticated', 'nologin inherit', '8s',
        'A request of a signed-in user; row policies decide by the user.'),
      ('service_role', 'nologin inherit bypassrls', null,
        'The application''s own backend; row policies do not apply to it.'),
      ('authenticator', 'login noinherit', '8s',
        'PostgREST''s login; takes the role that a request''s token names.'),
      -- On Supabase, `postgres` runs the migrations and is not a superuser.
      ('postgres', 'login inherit createdb createrole replication bypassrls', null,
        'Runs the migrations of keylatch; not a superuser.')
    ) as r (name, attributes, statement_timeout, comment)
    where pg_catalog.to_regrole(r.name) is null
  loop
    execute pg_catalog.format('create role %I %s', v_role.name, v_role.attributes);
    execute pg_catalog.format('comment on role %I is %L', v_role.name, v_role.comment);
    if v_role.statement_timeout is not null then
      execute pg_catalog.format(
        'alter role %I set statement_timeout = %L', v_role.name, v_role.statement_timeout
      );
    end if;
    v_created := v_created || v_role.name;
  end loop;

  if 'authenticator' = any (v_created) then
    alter role authenticator set lock_timeout = '8s';
  end if;
  if 'postgres' = any (v_created) then
    alter role postgres set search_path = "$user", public, extensions;
    -- The parameters that PostgREST reads.
    grant set on parameter pgrst.db_schemas, pgrst.db_pre_request to postgres;
  end if;

  -- A new role becomes a member as on a hosted project, and has members as there. On 15, a role
  -- with createrole may grant any role; from 16 on, it needs the admin option.
  for v_grant in
    select
      g.role,
      g.member,
      g.has_admin
    from (
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
    ) as g
    where array[g.role, g.member] && v_created
  loop
    execute pg_catalog.format(
      'grant %I to %I %s', v_grant.role, v_grant.member,
      case when v_grant.has_admin then 'with admin option' end
    );
  end loop;
end
$$;
