-- Which keys could resolve, although their workspace is not in the table of workspaces?
--
-- Needs: tenancy
--
-- An empty answer is good: deleting a workspace revokes its keys. Somebody with the service key can
-- issue a key for an id that is no workspace. If you have your own table of workspaces, write the
-- name of your table in place of keylatch.workspaces.
--
-- workspace_id  the id of the missing workspace
-- key_id        the key
-- masked_key, label   how people recognise the key
-- status        active, superseded or suspended; revoke the key
-- created_at    when the key was made
select
  k.workspace_id,
  k.id as key_id,
  k.masked_key,
  k.label,
  k.status,
  k.created_at
from keylatch.keys as k
left join keylatch.workspaces as w on k.workspace_id = w.id
where w.id is null and k.status in ('active', 'superseded', 'suspended')
order by k.created_at;
