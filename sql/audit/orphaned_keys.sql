-- Which keys are still active in a deleted workspace?
--
-- Needs: tenancy
--
-- An empty answer is good: deleting a workspace revokes its keys. The query reads the table
-- keylatch.workspaces. If you have your own table of workspaces, write the name of your table.
--
-- workspace_id  the id of the deleted workspace
-- key_id        the key
-- masked_key, label   how people recognise the key
-- status        the status; it should be revoked
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
