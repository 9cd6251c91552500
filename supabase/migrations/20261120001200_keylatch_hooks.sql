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
keylatch. If it fails, its work is undone, the log has a warning, and the key is made all the same.';

revoke all on function keylatch_hooks.first_key_issued(uuid)
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
  -- The key that the caller waits for. The hook may issue one of its own.
  v_handoff pg_catalog.text := coalesce(current_setting('keylatch.handoff', true), '');
begin
  if exists (
    select 1 from keylatch_internal.keys as k
    where k.workspace_id = new.workspace_id and k.id <> new.id
  ) then
    return null;
  end if;

  -- Two first keys at the same moment do not see each other: the second waits, and looks again.
  perform pg_advisory_xact_lock(
    hashtextextended('keylatch first key:' || new.workspace_id::pg_catalog.text, 0)
  );
  if exists (
    select 1 from keylatch_internal.keys as k
    where k.workspace_id = new.workspace_id and k.id <> new.id
  ) then
    return null;
  end if;

  perform set_config('keylatch.handoff', '', true);
  begin
    perform keylatch_hooks.first_key_issued(new.workspace_id);
  exception
    when others then
      raise warning 'keylatch_hooks.first_key_issued failed for workspace %', new.workspace_id
        using detail = sqlstate || ': ' || sqlerrm,
        hint = 'The key was made. Mend the function and call it by hand for this workspace.';
  end;
  v_handoff := set_config('keylatch.handoff', v_handoff, true);
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
for each row execute function keylatch_internal.call_first_key_hook();
comment on trigger keys_insert_first_key on keylatch_internal.keys is
  'Tells the application when a workspace gets its first key.';
