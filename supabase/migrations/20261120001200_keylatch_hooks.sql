-- What an application may hang in: a function of its own that runs when a workspace gets its first
-- key.

create schema keylatch_hooks;
comment on schema keylatch_hooks is
  'Functions for the application to replace. Not for clients: never expose it.';

revoke all on schema keylatch_hooks from public, anon, authenticated, service_role;

create function keylatch_hooks.first_key_issued(workspace_id uuid)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  -- As shipped, nothing is to be done.
  return;
end;
$$;

comment on function keylatch_hooks.first_key_issued(uuid) is
  'Replace it to provision what a workspace needs with its first key.

It runs once a workspace, in the transaction that makes the key, with the rights of the owner of
keylatch; not for keys that are imported. If it fails, its work is undone, the log has a warning,
and the key is made all the same.';

revoke all on function keylatch_hooks.first_key_issued(uuid)
from public, anon, authenticated, service_role;

create function keylatch_internal.has_more_keys(p_workspace_id uuid, p_count bigint)
returns boolean
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  return exists (
    select 1 from keylatch_internal.keys as k where k.workspace_id = p_workspace_id offset p_count
  );
end;
$$;

comment on function keylatch_internal.has_more_keys(uuid, bigint) is
  'Whether a workspace has more keys than these, looking no further than needed.';

revoke all on function keylatch_internal.has_more_keys(uuid, bigint)
from public, anon, authenticated, service_role;

create function keylatch_internal.call_first_key_hook()
returns trigger
language plpgsql
volatile
-- definer because: what the application provisions is not for the admin of a workspace to touch.
security definer
set search_path = ''
as $$
declare
  v_workspace_id pg_catalog.uuid;
  v_made bigint;
begin
  -- In one order, so that two statements with the first keys of several workspaces take turns. Not
  -- for an import: whoever had keys elsewhere has what goes with them.
  for v_workspace_id, v_made in
    select n.workspace_id, count(*)
    from new_keys as n
    where n.imported_at is null
    group by n.workspace_id
    order by 1
  loop
    continue when keylatch_internal.has_more_keys(v_workspace_id, v_made);
    -- Two first keys at the same moment do not see each other: the second waits, and looks again.
    perform pg_advisory_xact_lock(
      hashtextextended('keylatch first key:' || v_workspace_id::pg_catalog.text, 0)
    );
    continue when keylatch_internal.has_more_keys(v_workspace_id, v_made);

    begin
      perform keylatch_hooks.first_key_issued(v_workspace_id);
    exception
      when others then
        raise warning 'keylatch_hooks.first_key_issued failed for workspace %', v_workspace_id
          using detail = sqlstate || ': ' || sqlerrm,
          hint = 'The key was made. Mend the function and call it by hand for this workspace.';
    end;
  end loop;
  return null;
end;
$$;

comment on function keylatch_internal.call_first_key_hook() is
  'Calls keylatch_hooks.first_key_issued when a workspace gets its first key.';

revoke all on function keylatch_internal.call_first_key_hook()
from public, anon, authenticated, service_role;

-- Origin sessions only: a logical replica does not provision again what the publisher has.
create trigger keys_insert_first_key
after insert on keylatch_internal.keys
referencing new table as new_keys
for each statement execute function keylatch_internal.call_first_key_hook();
comment on trigger keys_insert_first_key on keylatch_internal.keys is
  'Tells the application when a workspace gets its first key.';
