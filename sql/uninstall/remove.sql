-- All databases of a server share its roles.
do $$
declare
  v_role constant oid := pg_catalog.to_regrole('keylatch_resolver');
  v_database constant oid := (
    select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()
  );
  v_members text;
begin
  if v_role is null then
    return;
  elsif exists (
    select from pg_catalog.pg_shdepend as s
    where s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass and s.refobjid = v_role
      and s.dbid not in (0, v_database)
  ) then
    raise notice 'The role keylatch_resolver stays: another database of this server uses it.';
    return;
  end if;
  select pg_catalog.string_agg(pg_catalog.quote_ident(r.rolname), ', ' order by r.rolname)
  into v_members
  from pg_catalog.pg_auth_members as m
  inner join pg_catalog.pg_roles as r on m.member = r.oid
  where m.roleid = v_role and r.rolname not in ('authenticator', current_user);
  if v_members is not null then
    raise notice 'The role keylatch_resolver stays, because it has members: %.', v_members
      using hint = pg_catalog.format(
        'Run: revoke keylatch_resolver from %s; drop role keylatch_resolver;', v_members
      );
    return;
  end if;
  drop role keylatch_resolver;
exception when dependent_objects_still_exist or insufficient_privilege then
  raise notice 'The role keylatch_resolver stays: %', sqlerrm
    using hint = 'Revoke what it was granted, then run as its owner: drop role keylatch_resolver;';
end $$;

-- PostgREST caches its settings and the schema.
notify pgrst, 'reload config';
notify pgrst, 'reload schema';
