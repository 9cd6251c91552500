-- Keys of users, under bcrypt: lines for `keylatch import`.
--
-- bcrypt makes a different hash each time, so a look-up by hash is not possible. The key waits
-- until its first use, when keylatch.upgrade_key sees it. Change the names to yours, then run:
--
--   psql --no-psqlrc -qtA --file sql/import/maas_api_keys.sql > old.jsonl
--   keylatch explain --workspace WORKSPACE_ID --old old.jsonl    why a key would not validate
--   keylatch import --dry-run old.jsonl
--   keylatch import old.jsonl
select
  jsonb_strip_nulls(
    jsonb_build_object(
      -- The workspace of each user: here, each user is a workspace.
      'workspace_id', k.user_id,
      'alg', 'bcrypt',
      'hash', k.key_hash,
      -- With this, upgrade_key tries only the keys that begin like the presented text.
      'starts_with', k.key_prefix,
      'kind', 'secret',
      'label', 'from maas_api_keys',
      'suspended_at', case when not k.is_active then k.created_at end,
      'expires_at', k.expires_at,
      'created_at', k.created_at,
      'created_by', k.user_id
    )
  ) as import_line
from public.maas_api_keys as k
order by k.created_at, k.id;
