-- Caches of resolved keys hear of every change that may make their answer wrong.
--
-- The channel is keylatch. What is said on it is not the id of the key but a mark that only who
-- knows the id can compare, since every user of SQL may listen.

create function keylatch_internal.cache_mark(p_key_id uuid)
returns text
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return left(encode(sha256(convert_to(p_key_id::pg_catalog.text, 'UTF8')), 'hex'), 16);
end;
$$;

comment on function keylatch_internal.cache_mark(uuid) is
  'What caches hear of a key that changed: the first 16 hex digits of the SHA-256 of its id.';

revoke all on function keylatch_internal.cache_mark(uuid)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.cache_mark(uuid) to authenticated, service_role;

create function keylatch_internal.notify_caches()
returns trigger
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  perform pg_notify('keylatch', keylatch_internal.cache_mark(new.id));
  return null;
end;
$$;

comment on function keylatch_internal.notify_caches() is
  'Tells whoever listens on the channel keylatch that the answer for a key may have changed.';

revoke all on function keylatch_internal.notify_caches()
from public, anon, authenticated, service_role;

-- Always: at a logical replica revocations arrive in replication mode. Not for new keys, which no
-- cache knows, and not for labels: commits that notify wait for each other.
create trigger keys_update_notify
after update on keylatch_internal.keys
for each row
when (
  (new.revoked_at, new.suspended_at, new.superseded_at, new.expires_at)
  is distinct from (old.revoked_at, old.suspended_at, old.superseded_at, old.expires_at)
  or (new.allowed_origins, new.scopes, new.metadata)
  is distinct from (old.allowed_origins, old.scopes, old.metadata)
)
execute function keylatch_internal.notify_caches();
alter table keylatch_internal.keys enable always trigger keys_update_notify;
comment on trigger keys_update_notify on keylatch_internal.keys is
  'Caches hear of a revocation in the moment of its commit.';
