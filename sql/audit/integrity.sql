-- Do the keys keep the rules that nobody should be able to break?
--
-- An empty answer is good. Each row is a key that no call of keylatch can make: somebody used the
-- owner's rights. Run the query as the owner, or as a role with bypassrls in pg_read_all_data, as
-- other roles may not read hashes.
--
-- problem       what is wrong with the key
-- workspace_id  the workspace of the key
-- key_id        the key
select
  'the hash is not the hash of the publishable key' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
where k.kind = 'publishable'
  and k.key_hash is distinct from sha256(convert_to(k.public_key, 'UTF8'))
union all
select
  'a secret key is kept in plaintext' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
where k.kind = 'secret' and k.public_key is not null
union all
select
  'the key has two successors' as problem,
  k.workspace_id,
  k.rotated_from as key_id
from keylatch_internal.keys as k
where k.rotated_from is not null
group by k.workspace_id, k.rotated_from
having count(*) > 1
union all
select
  'the key was rotated from a key of another workspace, kind or environment' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
inner join keylatch_internal.keys as o on k.rotated_from = o.id
where (k.workspace_id, k.kind, k.environment) is distinct from (
  o.workspace_id, o.kind, o.environment
)
union all
select
  'the key has a successor, but is not superseded or revoked' as problem,
  o.workspace_id,
  o.id as key_id
from keylatch_internal.keys as k
inner join keylatch_internal.keys as o on k.rotated_from = o.id
where o.superseded_at is null and o.revoked_at is null
union all
select
  'the key is active in a deleted workspace' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
inner join keylatch_internal.workspace_latches as l on k.workspace_id = l.workspace_id
where l.deleted_at is not null
  and k.revoked_at is null
  and coalesce(k.expires_at > pg_catalog.now(), true)
order by problem, workspace_id, key_id;
