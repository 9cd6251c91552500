-- How far a server has got, so that a client can prove that a replica knows what the primary knew.

create type keylatch.log_position as (
  system_identifier text,
  is_replica boolean,
  "position" bigint
);
comment on type keylatch.log_position is
  'Which server cluster answers, whether it follows another, and up to where in the log it knows.';

create function keylatch.log_position()
returns keylatch.log_position
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  v_is_replica constant boolean := pg_is_in_recovery();
begin
  return row(
    (select c.system_identifier::pg_catalog.text from pg_control_system() as c),
    v_is_replica,
    pg_wal_lsn_diff(
      case when v_is_replica then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end,
      '0/0'
    )::bigint
  )::keylatch.log_position;
end;
$$;

comment on function keylatch.log_position() is
  'Tells how far this server has got: on a primary what is committed, on a replica what it replayed.

A replica whose position is not below one that the primary gave knows every change that was
acknowledged before that. No clock is compared, and no lag is taken on trust.';

revoke all on function keylatch.log_position() from public, anon, authenticated, service_role;
grant execute on function keylatch.log_position()
to authenticated, service_role, keylatch_resolver;
