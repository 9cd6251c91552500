-- The base of all other migrations: schemas, a role, and the tables of errors and installation.

create schema if not exists extensions;
create extension if not exists pgcrypto with schema extensions;

do $$
begin
  if pg_catalog.current_setting('server_encoding') <> 'UTF8' then
    raise exception 'keylatch needs a database with the encoding UTF8'
      using hint = 'Run: create database NAME encoding ''UTF8'' template template0;';
  elsif pg_catalog.to_regprocedure('extensions.gen_random_bytes(integer)') is null then
    raise exception 'keylatch needs pgcrypto in the schema "extensions"'
      using hint = 'Run: alter extension pgcrypto set schema extensions;';
  end if;
end $$;

-- No "if not exists": an existing schema named keylatch belongs to somebody else.
create schema keylatch;
create schema keylatch_internal;
comment on schema keylatch is
  'API keys that the database makes, guards and resolves.
This schema holds everything that a client may call. Expose this schema through the Data API.';
comment on schema keylatch_internal is
  'Internal tables and functions of keylatch. Never expose this schema through the Data API.';

-- All databases of a server share roles. An installation in another database may have created the
-- role keylatch_resolver already, or may be creating the role at this moment.
do $$
begin
  if pg_catalog.to_regrole('keylatch_resolver') is null then
    create role keylatch_resolver nologin noinherit;
    comment on role keylatch_resolver is
      'A role for services: resolves keylatch keys and sessions, but cannot issue or revoke keys.';
  end if;
exception when duplicate_object or unique_violation then null;
end $$;

do $$
begin
  if pg_catalog.to_regrole('authenticator') is null then
    raise notice 'There is no role "authenticator": PostgREST will not reach keylatch_resolver.';
  elsif not pg_catalog.pg_has_role('authenticator', 'keylatch_resolver', 'member') then
    grant keylatch_resolver to authenticator;
  end if;
  -- From version 16 on, the creator of a role may grant the role, but may not SET ROLE to it.
  if not pg_catalog.pg_has_role(
    'keylatch_resolver',
    case when pg_catalog.current_setting('server_version_num')::integer < 160000
      then 'member' else 'set' end
  ) then
    grant keylatch_resolver to current_user;
  end if;
exception
  when unique_violation then null;
  when insufficient_privilege then
    raise warning 'keylatch_resolver could not be granted to authenticator and %', current_user
      using hint = 'Let the owner of the role run: grant keylatch_resolver to <role>;';
end $$;

create table keylatch_internal.errors (
  slug text not null,
  code text not null,
  hint text not null,
  constraint errors_pkey primary key (slug),
  constraint errors_code_check check (length(code) = 5)
);
comment on table keylatch_internal.errors is
  'Every error that keylatch raises. Each file adds the errors of its own functions.';
comment on column keylatch_internal.errors.slug is 'The error message that programs compare.';
comment on column keylatch_internal.errors.code is 'The SQLSTATE. PT404 means HTTP status 404.';
comment on column keylatch_internal.errors.hint is 'The default hint of the error.';
alter table keylatch_internal.errors enable row level security;

insert into keylatch_internal.errors (slug, code, hint) values
('invalid_argument', 'PT400', 'Correct the argument that the detail names.'),
('read_committed_required', '0A000', 'Run "set transaction isolation level read committed" first.'),
('too_many_requests', 'PT429', 'Wait for the number of seconds in Retry-After.'),
('restore_incomplete', 'PT500', 'As the owner of keylatch, run sql/ops/after_restore.sql.');

create function keylatch_internal.refuse(
  p_slug text, p_detail text, p_hint text default null, p_retry_at timestamptz default null
)
returns void language plpgsql stable parallel safe security definer
-- definer because: only the owner of the table of errors may read the table.
set search_path = pg_catalog, pg_temp as $$
declare
  v_error keylatch_internal.errors;
  v_seconds constant integer := greatest(ceil(extract(epoch from p_retry_at - clock_timestamp())), 1);
  v_detail constant text := p_detail
    || case when p_retry_at is null then '' else format(' Try again in %s s.', v_seconds) end;
begin
  select e.* into v_error from keylatch_internal.errors as e where e.slug = p_slug;
  v_error.hint := coalesce(p_hint, v_error.hint || ' See sql/docs/errors.md#' || p_slug,
    'Run sql/ops/after_restore.sql first.');
  if p_retry_at is not null and coalesce(current_setting('request.method', true), '') <> '' then
    -- PostgREST adds an HTTP header to an error only if the error has SQLSTATE PGRST.
    raise sqlstate 'PGRST' using message = jsonb_build_object(
      'code', v_error.code, 'message', p_slug, 'details', v_detail, 'hint', v_error.hint
    ), detail = jsonb_build_object(
      'status', right(v_error.code, 3)::integer,
      'headers', jsonb_build_object('Retry-After', v_seconds::text)
    );
  end if;
  raise exception using
    errcode = coalesce(v_error.code, 'P0001'), message = p_slug, detail = v_detail,
    hint = v_error.hint;
end $$;
comment on function keylatch_internal.refuse is
  'Raises the error p_slug with the detail p_detail and the hint p_hint (default: errors.hint). If
p_retry_at is given, the detail and, over REST, the header Retry-After say how long to wait.';

create function keylatch_internal.require_grants(p_function regproc)
returns void language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if has_function_privilege('public', p_function, 'execute') then
    perform keylatch_internal.refuse(
      'restore_incomplete', format('PUBLIC may execute %s, so the call is refused.', p_function)
    );
  end if;
end $$;
comment on function keylatch_internal.require_grants is
  'Raises restore_incomplete if PUBLIC may execute p_function: a restore of a backup lost grants.';

create function keylatch_internal.require_read_committed(p_what text)
returns void language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.refuse(
    'read_committed_required', p_what || ' needs isolation level READ COMMITTED.'
  )
  where current_setting('transaction_isolation') in ('repeatable read', 'serializable');
end $$;
comment on function keylatch_internal.require_read_committed is 'Refuses snapshots that get old.';

create function keylatch_internal.expose_table(
  p_table regclass, variadic p_views regclass[] default '{}'
)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Row policies do not hide estimates: with "Prefer: count=planned", a client would learn values
  -- of other tenants. workspace_id keeps its most frequent value (and shows it), to plan a limit.
  execute (
    select string_agg(format('alter table %s alter %I set statistics %s', p_table, a.attname,
      (a.attname = 'workspace_id')::integer), ';')
    from pg_catalog.pg_attribute as a
    where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped
  );
  execute coalesce((
    select string_agg(format(
      'comment on column %s.%I is %L', v.attrelid::regclass, v.attname, d.description
    ), ';')
    from pg_catalog.pg_attribute as v
    inner join pg_catalog.pg_attribute as a on v.attname = a.attname and a.attrelid = p_table
    cross join col_description(p_table, a.attnum) as d (description)
    where v.attrelid = any (p_views) and col_description(v.attrelid, v.attnum) is null
  ), 'select');
end $$;
comment on function keylatch_internal.expose_table is
  'Limits the planner''s statistics of a table, and copies the table''s comments to views.';

create function keylatch_internal.current_place()
returns text language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return (select concat_ws('/', s.system_identifier, d.oid, c.timeline_id)
    from pg_control_system() as s cross join pg_control_checkpoint() as c
    cross join pg_catalog.pg_database as d where d.datname = current_database());
end $$;
comment on function keylatch_internal.current_place is
  'Returns the identity of this database: system identifier/database oid/timeline.';

create table keylatch_internal.installation (
  only_row boolean not null default true,
  id uuid not null default pg_catalog.gen_random_uuid(),
  schema_version text not null,
  modules text[] not null default '{}',
  installed_at timestamptz not null default pg_catalog.now(),
  made_in text not null default keylatch_internal.current_place(),
  constraint installation_pkey primary key (only_row),
  constraint installation_only_row_check check (only_row)
);
comment on table keylatch_internal.installation is
  'The table has one row, which identifies the installation of keylatch in this database.';
comment on column keylatch_internal.installation.only_row is 'Always true: the table has one row.';
comment on column keylatch_internal.installation.id is
  'A random id of the installation. A copy of the database has the same id.';
comment on column keylatch_internal.installation.schema_version is 'The release of keylatch.';
comment on column keylatch_internal.installation.modules is 'The installed optional modules.';
comment on column keylatch_internal.installation.installed_at is 'When keylatch was installed.';
comment on column keylatch_internal.installation.made_in is
  'The database where keylatch was installed: system identifier/database oid/timeline.';
alter table keylatch_internal.installation enable row level security;

insert into keylatch_internal.installation (schema_version) values ('0.1.0');

create type keylatch.installation_info as (
  id uuid, schema_version text, modules text[], installed_at timestamptz, database_name text,
  database_oid bigint, system_identifier text, is_replica boolean,
  replica_lag_seconds double precision, made_in text
);
comment on type keylatch.installation_info is
  'Identifies an installation of keylatch, its database and server, and gives its replication lag.';

create function keylatch_internal.describe_installation()
returns keylatch.installation_info language plpgsql stable security definer
-- definer because: only the owner may read the table.
set search_path = pg_catalog, pg_temp as $$
declare
  v_info keylatch.installation_info;
begin
  select
    i.id, i.schema_version, i.modules, i.installed_at, d.datname, d.oid, s.system_identifier,
    pg_is_in_recovery(),
    case
      when not pg_is_in_recovery() then 0
      -- A replica that has replayed all that it received does not lag behind an idle primary.
      when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()
        and exists (select from pg_catalog.pg_stat_wal_receiver as w where w.pid is not null) then 0
      else extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())
    end,
    i.made_in
  into v_info
  from keylatch_internal.installation as i
  cross join pg_control_system() as s
  cross join pg_catalog.pg_database as d where d.datname = current_database();
  if not found then
    perform keylatch_internal.refuse('restore_incomplete', 'The table "installation" has no row.');
  end if;
  return v_info;
end $$;
comment on function keylatch_internal.describe_installation is 'Implements keylatch.installation.';

create function keylatch.installation()
returns keylatch.installation_info language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch_internal.describe_installation();
end $$;
comment on function keylatch.installation is
  'Returns the identity of the keylatch installation that answers this call. Two services use the
same database if they get equal values of id, database_oid and system_identifier.

modules: the installed optional modules. is_replica: whether this server is a read replica.
replica_lag_seconds: the replication lag (0 on a primary, null if unknown). made_in: the database
where keylatch was installed, as system identifier/database oid/timeline.';

-- The grants of this file. All roles that are not named here have no rights.
revoke all on schema keylatch, keylatch_internal from public, anon, authenticated, service_role;
revoke all on table keylatch_internal.errors, keylatch_internal.installation
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.refuse, keylatch_internal.require_grants,
keylatch_internal.require_read_committed, keylatch_internal.expose_table,
keylatch_internal.current_place, keylatch_internal.describe_installation, keylatch.installation
from public, anon, authenticated, service_role;

-- Functions in the schema keylatch run as the caller and call functions in keylatch_internal.
grant usage on schema keylatch, keylatch_internal to authenticated, service_role, keylatch_resolver;
grant execute on function keylatch_internal.refuse, keylatch_internal.describe_installation,
keylatch.installation to authenticated, service_role, keylatch_resolver;
grant execute on function keylatch_internal.require_read_committed to service_role;
