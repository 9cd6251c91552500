-- Which keys are still active in a deleted workspace?
--
-- Needs: tenancy
--
-- There should be none: deleting a workspace revokes its keys. It asks the table that keylatch
-- brings; with a tenancy of your own put your table in its place.
--
-- workspace_id  the id of the deleted workspace
-- key_id        the key
-- masked_key, label   what people tell it by
-- status        what it is, and should not be
-- created_at    when it was made
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
