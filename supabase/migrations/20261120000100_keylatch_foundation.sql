-- The ground the rest stands on: two schemas, one role, and a row that names this installation.
--
-- A habit of all files: function bodies write pg_catalog before the name of a type. Under an empty
-- search_path a caller's temporary types are still found first, and a session with a domain of its
-- own named "timestamptz" once made the latch compare dates.

do $$
begin
  if pg_catalog.current_setting('server_encoding') <> 'UTF8' then
    raise exception 'keylatch needs a database with the encoding UTF8'
      using hint = 'Run: create database … encoding ''UTF8'' template template0;';
  end if;
end;
$$;

create schema if not exists extensions;
create extension if not exists pgcrypto with schema extensions;

do $$
begin
  if pg_catalog.to_regprocedure('extensions.gen_random_bytes(integer)') is null then
    raise exception 'keylatch needs pgcrypto in the schema "extensions"'
      using hint = 'Run: alter extension pgcrypto set schema extensions;';
  end if;
end;
$$;

-- No "if not exists": a schema of that name that somebody else made would be theirs to change.
create schema keylatch;
create schema keylatch_internal;

comment on schema keylatch is
  'API keys, made, guarded and resolved by the database.
All that a client may call. Expose this schema through the Data API.';
comment on schema keylatch_internal is
  'Tables and helpers of keylatch. Not a public interface; never expose it through the Data API.';

-- Roles are shared by all databases of a server, so another installation may have made it, perhaps
-- in this very moment, and perhaps under an owner whose grants are not ours to repeat.
do $$
begin
  if pg_catalog.to_regrole('keylatch_resolver') is null then
    begin
      create role keylatch_resolver nologin noinherit;
    exception
      when duplicate_object or unique_violation then null;
    end;
    begin
      comment on role keylatch_resolver is
        'May resolve keylatch keys and nothing else: an edge service needs no service key.';
    exception
      when insufficient_privilege then null;
    end;
  end if;

  if pg_catalog.to_regrole('authenticator') is null then
    raise notice 'There is no role "authenticator": PostgREST will not reach keylatch_resolver.';
  elsif not pg_catalog.pg_has_role('authenticator', 'keylatch_resolver', 'member') then
    begin
      grant keylatch_resolver to authenticator;
    exception
      when unique_violation then null;
      when insufficient_privilege then
        raise warning 'keylatch_resolver could not be granted to authenticator'
          using hint = 'Let the owner of the role run: grant keylatch_resolver to authenticator;';
    end;
  end if;
end;
$$;

revoke all on schema keylatch from public, anon, authenticated, service_role;
revoke all on schema keylatch_internal from public, anon, authenticated, service_role;
grant usage on schema keylatch to authenticated, service_role, keylatch_resolver;
-- The calls run with the caller's rights and lean on helpers there; grants are beside each object.
grant usage on schema keylatch_internal to authenticated, service_role, keylatch_resolver;

create table keylatch_internal.installation (
  only_row boolean not null default true,
  id uuid not null default pg_catalog.gen_random_uuid(),
  schema_version text not null,
  installed_at timestamptz not null default pg_catalog.now(),
  claim_limit bigint not null default 10,
  claims_per_minute bigint not null default 60,
  sessions_per_minute bigint not null default 600,
  sessions_per_address bigint not null default 30,
  trusted_address_header text,

  constraint installation_pkey primary key (only_row),
  constraint installation_only_row_check check (only_row),
  constraint installation_claim_limit_check check (claim_limit between 1 and 1000),
  constraint installation_per_minute_check check (
    claims_per_minute > 0 and sessions_per_minute > 0 and sessions_per_address > 0
  ),
  constraint installation_trusted_address_header_check check (
    trusted_address_header ~ '^[a-z0-9-]{1,64}$'
  )
);

comment on table keylatch_internal.installation is
  'One row: which installation this database is, made when the first migration ran, and its limits,
which the owner of the table changes: a setting of the session could be raised by whoever calls.';
comment on column keylatch_internal.installation.only_row is 'Always true: there is one row.';
comment on column keylatch_internal.installation.id is
  'Random; a copy of the database by dump and restore has the same.';
comment on column keylatch_internal.installation.schema_version is
  'The release of keylatch whose migrations have run.';
comment on column keylatch_internal.installation.installed_at is 'When the first migration ran.';
comment on column keylatch_internal.installation.claim_limit is
  'How many slow hashes a call of claim_key computes at most.';
comment on column keylatch_internal.installation.claims_per_minute is
  'How many calls of claim_key may compute slow hashes for one workspace, in a minute.';
comment on column keylatch_internal.installation.sessions_per_minute is
  'How many sessions one key may open in a minute.';
comment on column keylatch_internal.installation.sessions_per_address is
  'How many sessions one key may open for one address in a minute.';
comment on column keylatch_internal.installation.trusted_address_header is
  'The header in which your gateway writes a client''s address, in lower case, such as
cf-connecting-ip; of several addresses in it the last counts. Null: addresses are not limited,
because a header that no gateway overwrites says whatever its sender likes.';

revoke all on table keylatch_internal.installation
from public, anon, authenticated, service_role;
grant select on table keylatch_internal.installation
to authenticated, service_role, keylatch_resolver;

alter table keylatch_internal.installation enable row level security;

create policy installation_select_signed_in on keylatch_internal.installation
for select to authenticated, service_role, keylatch_resolver
using (true);
comment on policy installation_select_signed_in on keylatch_internal.installation is
  'Whoever is signed in may see which installation answers; it is no secret.';

insert into keylatch_internal.installation (schema_version) values ('0.1.0');

create type keylatch.installation_info as (
  id uuid,
  schema_version text,
  installed_at timestamptz,
  system_identifier text,
  is_replica boolean,
  replica_lag_seconds double precision
);
comment on type keylatch.installation_info is
  'Which installation answers, which server it runs on, and how current it is.';

create function keylatch.installation()
returns keylatch.installation_info
language sql
stable
security invoker
set search_path = ''
as $$
  select
    i.id,
    i.schema_version,
    i.installed_at,
    -- A dump restored elsewhere keeps the id: the server's own number tells the two apart.
    (select c.system_identifier::pg_catalog.text from pg_catalog.pg_control_system() as c),
    r.is_replica,
    case
      when not r.is_replica then 0
      -- With the stream up and all of it replayed, an idle primary is no lag.
      when r.is_streaming
        and pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn()
        then 0
      else
        extract(epoch from pg_catalog.clock_timestamp()
          - pg_catalog.pg_last_xact_replay_timestamp())
    end::double precision
  from keylatch_internal.installation as i
  cross join lateral (
    select
      pg_catalog.pg_is_in_recovery() as is_replica,
      exists (select 1 from pg_catalog.pg_stat_wal_receiver as w where w.pid is not null)
        as is_streaming
  ) as r;
$$;

comment on function keylatch.installation() is
  'Tells which installation answers: compare two services'' answers to see if they share a database.

Also the schema''s release, whether this server is a read replica, and how many seconds it is behind
(0 on a primary, null when a replica cannot tell).';

revoke all on function keylatch.installation()
from public, anon, authenticated, service_role;
grant execute on function keylatch.installation()
to authenticated, service_role, keylatch_resolver;
