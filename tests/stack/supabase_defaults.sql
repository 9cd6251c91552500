-- What else a Supabase database has before any migration, although keylatch does not need it.

do $$
begin
  execute pg_catalog.format('alter database %I owner to postgres', pg_catalog.current_database());
end
$$;

-- Supabase's well-known defaults: whatever `postgres` (or the superuser) creates in `public` is
-- open to the API's roles, and only row level security protects it. Keep private objects elsewhere.
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
