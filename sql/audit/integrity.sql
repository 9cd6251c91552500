-- Do the keys keep the rules that nobody should be able to break?
--
-- No row is the good answer. Each row is a key that no call of keylatch can make: its author had
-- the owner's rights. Run it as the owner, who alone may read hashes.
--
-- problem       what is wrong
-- workspace_id  the workspace of the key
-- key_id        the key
select
  'the hash is not that of the publishable key' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
where k.kind = 'publishable' and k.key_hash is distinct from keylatch.hash_key(k.public_key)
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
  'the key succeeds one of another workspace, kind or environment' as problem,
  k.workspace_id,
  k.id as key_id
from keylatch_internal.keys as k
inner join keylatch_internal.keys as o on k.rotated_from = o.id
where (k.workspace_id, k.kind, k.environment) is distinct from (
  o.workspace_id, o.kind, o.environment
)
order by problem, workspace_id, key_id;
