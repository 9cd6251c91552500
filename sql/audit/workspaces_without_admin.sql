-- Which workspaces have active keys but no admin?
--
-- Needs: tenancy
--
-- Only service_role can revoke the keys of a workspace without an admin. The query reads the tables
-- workspaces and workspace_membership of keylatch. If you have your own tables, write their names.
--
-- workspace_id  the workspace
-- name          the name of the workspace
-- active_keys   how many keys of the workspace are not revoked or expired
-- members       how many members the workspace has; no member is an admin
select
  w.id as workspace_id,
  w.name,
  count(distinct k.id) as active_keys,
  count(distinct m.user_id) as members
from keylatch.workspaces as w
inner join keylatch.keys as k
  on w.id = k.workspace_id and k.status in ('active', 'superseded', 'suspended')
left join keylatch.workspace_membership as m on w.id = m.workspace_id
group by w.id, w.name
having count(*) filter (where m.role = 'admin') = 0
order by active_keys desc, w.name asc;
