-- Keys among settings, their hash in a row of its own: lines for `keylatch import`.
--
-- As in a system that kept a widget's key in plaintext under one name and the JSON of its PBKDF2
-- hash under another, and did not always write both. Change the names to yours, then
--
--   psql --no-psqlrc -qtA --file sql/import/tenant_settings.sql > old.jsonl
--   keylatch explain --workspace WORKSPACE_ID --old old.jsonl    why each would not validate
--   keylatch import --dry-run old.jsonl
--   keylatch import old.jsonl
--
-- The lines hold keys: keep the file where nobody else reads, and delete it afterwards.
select
  jsonb_strip_nulls(
    jsonb_build_object(
      'workspace_id', k.tenant_id,
      'key', k.value,
      'kind', 'publishable',
      'label', 'widget',
      -- Where the widget may stand: the new key is refused everywhere else.
      'allowed_origins', coalesce(o.value::jsonb, '[]'),
      'alg', h.value::jsonb ->> 'alg',
      'hash', h.value::jsonb ->> 'hash',
      -- Say how yours were written: hex or base64, and a salt also text.
      'hash_encoding', case when h.value is not null then 'hex' end,
      'salt', h.value::jsonb ->> 'salt',
      'salt_encoding', case when h.value is not null then 'hex' end,
      'iter', h.value::jsonb ->> 'iter',
      'created_at', k.updated_at
    )
  ) as import_line
from public.tenant_settings as k
left join public.tenant_settings as h
  on k.tenant_id = h.tenant_id and h.key = 'WIDGET_API_KEY_HASH'
left join public.tenant_settings as o
  on k.tenant_id = o.tenant_id and o.key = 'WIDGET_ORIGINS'
where k.key = 'WIDGET_API_KEY'
order by k.tenant_id;
