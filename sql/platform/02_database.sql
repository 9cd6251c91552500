-- What keylatch needs of a Supabase database: the schemas `extensions` and `auth`.
--
-- Run this as a superuser in the database, after 01_roles.sql. Any client can run it: it is plain
-- SQL. What exists stays as it is, except that the roles of the API may use the two schemas.

-- The database keeps its owner. If the owner may not create roles, postgres installs keylatch. So
-- both may use all that this file creates.
do $$
begin
  execute pg_catalog.format(
    'grant create on database %I to postgres', pg_catalog.current_database()
  );
end
$$;

-- Extensions have their own schema, so that `public` can be dropped and created again.
do $$
begin
  if pg_catalog.to_regnamespace('extensions') is null then
    create schema extensions authorization postgres;
    comment on schema extensions is 'Where extensions are installed.';
  end if;
end
$$;
grant usage on schema extensions to postgres, anon, authenticated, service_role;

create extension if not exists pgcrypto with schema extensions;

-- On Supabase, another service owns `auth`. `postgres` may use its rows, but not alter its tables.
do $$
declare
  v_owner constant name := (
    select pg_catalog.pg_get_userbyid(d.datdba)
    from pg_catalog.pg_database as d
    where d.datname = pg_catalog.current_database()
  );
begin
  if pg_catalog.to_regnamespace('auth') is null then
    create schema auth;
    comment on schema auth is 'Users, and the token of the current request.';
  end if;
  if pg_catalog.to_regclass('auth.users') is null then
    create table auth.users (
      id uuid primary key,
      email text unique,
      created_at timestamptz default pg_catalog.now()
    );
    comment on table auth.users is
      'Users who can sign in. A stand-in for the table of Supabase Auth.';
    comment on column auth.users.id is 'The `sub` claim of the user''s tokens.';
    comment on column auth.users.email is 'The address that the user signs in with.';
    comment on column auth.users.created_at is 'When the user was made.';
    execute pg_catalog.format(
      'grant select, insert, update, delete, truncate, references, trigger
       on auth.users to postgres, %I', v_owner
    );
    -- No policy: only the owner and roles with bypassrls see rows, even after later grants.
    alter table auth.users enable row level security;
  end if;
  execute pg_catalog.format('grant usage on schema extensions, auth to %I', v_owner);
end
$$;
grant usage on schema auth to postgres, anon, authenticated, service_role;

-- PostgREST writes the claims of a request into one setting, `request.jwt.claims`. Old versions had
-- one setting per claim, and Supabase's functions still read those first. After a transaction they
-- are empty strings, not null. The functions have no `set` clause, so that policies inline them.
do $$
begin
  if pg_catalog.to_regprocedure('auth.jwt()') is null then
    create function auth.jwt()
    returns jsonb
    language sql
    stable
    as $jwt$
      select coalesce(
        nullif(pg_catalog.current_setting('request.jwt.claim', true), ''),
        nullif(pg_catalog.current_setting('request.jwt.claims', true), '')
      )::pg_catalog.jsonb
    $jwt$;
    comment on function auth.jwt() is 'The claims of the current request''s token, or null.';
  end if;

  if pg_catalog.to_regprocedure('auth.uid()') is null then
    create function auth.uid()
    returns uuid
    language sql
    stable
    as $uid$
      select coalesce(
        nullif(pg_catalog.current_setting('request.jwt.claim.sub', true), ''),
        nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb
          ->> 'sub'
      )::pg_catalog.uuid
    $uid$;
    comment on function auth.uid() is 'The user of the current request (claim `sub`), or null.';
  end if;

  if pg_catalog.to_regprocedure('auth.role()') is null then
    create function auth.role()
    returns text
    language sql
    stable
    as $role$
      select coalesce(
        nullif(pg_catalog.current_setting('request.jwt.claim.role', true), ''),
        nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb
          ->> 'role'
      )
    $role$;
    comment on function auth.role() is
      'The role of the current request (claim `role`), or null.';
  end if;
end
$$;
