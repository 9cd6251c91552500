-- Which keys live on in a workspace that is gone?
--
-- There should be none: deleting a workspace revokes its keys. It asks the table that keylatch
-- brings; with a tenancy of your own put your table in its place.
--
-- workspace_id  the id of the workspace that is gone
-- key_id        the key
-- hint, label   what people tell it by
-- status        what it is, and should not be
-- created_at    when it was made
select
  k.workspace_id,
  k.id as key_id,
  k.hint,
  k.label,
  k.status,
  k.created_at
from keylatch.keys as k
left join keylatch.workspaces as w on k.workspace_id = w.id
where w.id is null and k.status in ('active', 'superseded', 'suspended')
order by k.created_at;
