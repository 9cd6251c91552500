-- What a Supabase database holds before any migration: schemas `extensions` and `auth`, and grants.
--
-- Run by a superuser in the database, after 01_roles.sql (again is harmless). Plain SQL: any client
-- can run it.

do $$
begin
  execute pg_catalog.format('alter database %I owner to postgres', pg_catalog.current_database());
end
$$;

-- Extensions live apart, so that `public` can be dropped and made again without them.
create schema if not exists extensions authorization postgres;
comment on schema extensions is 'Where extensions are installed.';
grant usage on schema extensions to anon, authenticated, service_role;

create extension if not exists pgcrypto with schema extensions;

-- On Supabase another service owns `auth`; `postgres` may use its rows and not change its shape.
create schema if not exists auth;
comment on schema auth is 'Who is asking: users, and the token of the current request.';
grant usage on schema auth to postgres, anon, authenticated, service_role;

create table if not exists auth.users (
  id uuid primary key,
  email text unique,
  created_at timestamptz default pg_catalog.now()
);
comment on table auth.users is 'Who can sign in. A stand-in for the table of Supabase Auth.';
comment on column auth.users.id is 'The `sub` claim of the user''s tokens.';
comment on column auth.users.email is 'The address that the user signs in with.';
comment on column auth.users.created_at is 'When the user was made.';
grant select, insert, update, delete, truncate, references, trigger on auth.users to postgres;

-- No policy: only its owner and roles with bypassrls see rows, whatever is granted later.
alter table auth.users enable row level security;

-- PostgREST puts a request's claims into one setting, `request.jwt.claims`; long ago it was one
-- setting a claim, and Supabase's functions still read those first. After a transaction they are
-- empty strings, not null. The functions have no `set` clause, so that policies can inline them.
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

-- Supabase's well-known defaults: all that `postgres` (or the superuser) makes in `public` is open
-- to the API's roles, and row level security closes it. What must stay shut belongs elsewhere.
do $$
declare
  v_maker text;
  v_what text;
begin
  foreach v_maker in array array[current_user, 'postgres'] loop
    foreach v_what in array array['tables', 'functions', 'sequences'] loop
      execute pg_catalog.format(
        'alter default privileges for role %I in schema public
         grant all on %s to postgres, anon, authenticated, service_role',
        v_maker, v_what
      );
    end loop;
  end loop;
end
$$;
grant usage on schema public to postgres, anon, authenticated, service_role;
