-- Removes the schema keylatch_adoption, if no adoption is running. `keylatch adopt` runs this file
-- after drop and revert, in the same transaction.
do $$
begin
  if pg_catalog.to_regnamespace('keylatch_adoption') is null or exists (
    select from keylatch_adoption.adoptions as a
    -- The join leaves out adoptions of tables that were dropped.
    inner join pg_catalog.pg_class as c on a.relation = c.oid
    where a.phase <> 'dropped'
  ) then
    return;
  end if;
  perform keylatch_adoption.check_unused(null);
  drop schema keylatch_adoption cascade;
end $$;
