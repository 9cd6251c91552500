-- Keys in a table of settings, with the hash in another row: lines for `keylatch import`.
--
-- For a system that stored a widget's key in plaintext under one name and the JSON of its PBKDF2
-- hash under another name, and sometimes wrote only one. Change the names to yours, then run:
--
--   psql --no-psqlrc -qtA --file sql/import/tenant_settings.sql > old.jsonl
--   keylatch explain --workspace WORKSPACE_ID --old old.jsonl    why a key would not validate
--   keylatch import --dry-run old.jsonl
--   keylatch import old.jsonl
--
-- The lines contain keys: store the file where nobody else can read it, and delete it afterwards.
select
  jsonb_strip_nulls(
    jsonb_build_object(
      'workspace_id', k.tenant_id,
      'key', k.value,
      'kind', 'publishable',
      'label', 'widget',
      -- The pages of the widget. The new key is refused on all other pages.
      'allowed_origins', coalesce(o.value::jsonb, '[]'),
      'alg', h.value::jsonb ->> 'alg',
      'hash', h.value::jsonb ->> 'hash',
      -- The encoding of your hashes: hex or base64. A salt may also be text.
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
