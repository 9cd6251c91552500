-- resolve_key with one slow guard, to prove that the benchmark shows it:
--   make bench ARGS='--keys 10000 --also sql/bench/slowed_guard.sql'

create function keylatch.bench_slowly(answer boolean)
returns boolean
language plpgsql
as $$
begin
  for v_round in 1 .. 5000 loop
    null;
  end loop;
  return answer;
end;
$$;

-- The guard is in the view of active keys, which resolve_key reads.
do $$
declare
  v_definition constant text := pg_get_viewdef('keylatch_internal.active_keys'::regclass);
  v_slowed constant text := regexp_replace(
    v_definition, '\(?(k\.)?revoked_at IS NULL\)?', 'keylatch.bench_slowly(\1revoked_at is null)'
  );
begin
  if v_slowed = v_definition then
    raise exception 'the guard is not where it was';
  end if;
  execute 'create or replace view keylatch_internal.active_keys as ' || v_slowed;
end;
$$;
