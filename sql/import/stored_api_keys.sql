-- Keys of organizations, under SHA-256 in hex: lines for `keylatch import`.
--
-- These keys resolve at once. Change the names to yours, then run:
--
--   psql --no-psqlrc -qtA --file sql/import/stored_api_keys.sql > old.jsonl
--   keylatch explain --workspace WORKSPACE_ID --old old.jsonl    why a key would not validate
--   keylatch import --dry-run old.jsonl
--   keylatch import old.jsonl
select
  jsonb_strip_nulls(
    jsonb_build_object(
      'workspace_id', k.organization_id,
      'alg', 'sha256',
      'hash', k.encrypted_value,
      'hash_encoding', 'hex',
      'kind', 'secret',
      'environment', case k.environment when 'production' then 'live' else 'test' end,
      'label', k.name,
      'scopes', jsonb_build_array('access:' || coalesce(k.access_level, 'authenticated')),
      -- A rotating key stays active. A deprecated key is revoked. An expired key stays expired.
      'revoked_at', case when k.status = 'deprecated' then k.updated_at end,
      'revoke_reason', case when k.status = 'deprecated' then 'deprecated' end,
      'expires_at', case
        when k.status = 'expired' then least(k.expires_at, k.updated_at)
        else k.expires_at
      end,
      'created_at', k.created_at,
      'created_by', k.created_by
    )
  ) as import_line
from public.stored_api_keys as k
where k.key_type = 'api_key'
order by k.created_at, k.id;
