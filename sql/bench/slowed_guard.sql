-- resolve_key with one of its guards slowed, to see that the figures move:
--   make bench BENCH_ARGS='--keys 10000 --also sql/bench/slowed_guard.sql'

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

do $$
declare
  v_definition constant text := pg_get_functiondef('keylatch.resolve_key(text, text)'::regprocedure);
  v_slowed constant text := replace(
    v_definition, 'k.revoked_at is null', 'keylatch.bench_slowly(k.revoked_at is null)'
  );
begin
  if v_slowed = v_definition then
    raise exception 'the guard is not where it was';
  end if;
  execute v_slowed;
end;
$$;
