-- What keylatch needs of a Supabase database: the schemas `extensions` and `auth`.
--
-- Run this as a superuser in the database, after 01_roles.sql. Repeating it is harmless. Any client
-- can run it: it is plain SQL.

-- The database keeps its owner. If the owner may not create roles, postgres installs keylatch.
do $$
begin
  execute pg_catalog.format(
    'grant create on database %I to postgres', pg_catalog.current_database()
  );
end
$$;

-- Extensions have their own schema, so that `public` can be dropped and created again.
create schema if not exists extensions authorization postgres;
comment on schema extensions is 'Where extensions are installed.';
grant usage on schema extensions to anon, authenticated, service_role;

create extension if not exists pgcrypto with schema extensions;

-- On Supabase, another service owns `auth`. `postgres` may use its rows, but not alter its tables.
create schema if not exists auth;
comment on schema auth is 'Users, and the token of the current request.';
grant usage on schema auth to postgres, anon, authenticated, service_role;

create table if not exists auth.users (
  id uuid primary key,
  email text unique,
  created_at timestamptz default pg_catalog.now()
);
comment on table auth.users is 'Users who can sign in. A stand-in for the table of Supabase Auth.';
comment on column auth.users.id is 'The `sub` claim of the user''s tokens.';
comment on column auth.users.email is 'The address that the user signs in with.';
comment on column auth.users.created_at is 'When the user was made.';
grant select, insert, update, delete, truncate, references, trigger on auth.users to postgres;

-- No policy: only the owner and roles with bypassrls see rows, even after later grants.
alter table auth.users enable row level security;

-- PostgREST writes the claims of a request into one setting, `request.jwt.claims`. Old versions had
-- one setting per claim, and Supabase's functions still read those first. After a transaction they
-- are empty strings, not null. The functions have no `set` clause, so that policies inline them.
create or replace function auth.jwt()
returns jsonb
language sql
stable
as $$
  select coalesce(
    nullif(pg_catalog.current_setting('request.jwt.claim', true), ''),
    nullif(pg_catalog.current_setting('request.jwt.claims', true), '')
  )::pg_catalog.jsonb
$$;
comment on function auth.jwt() is 'The claims of the current request''s token, or null.';

create or replace function auth.uid()
returns uuid
language sql
stable
as $$
  select coalesce(
    nullif(pg_catalog.current_setting('request.jwt.claim.sub', true), ''),
    nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb ->> 'sub'
  )::pg_catalog.uuid
$$;
comment on function auth.uid() is 'The user of the current request (claim `sub`), or null.';

create or replace function auth.role()
returns text
language sql
stable
as $$
  select coalesce(
    nullif(pg_catalog.current_setting('request.jwt.claim.role', true), ''),
    nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb ->> 'role'
  )
$$;
comment on function auth.role() is 'The role of the current request (claim `role`), or null.';
