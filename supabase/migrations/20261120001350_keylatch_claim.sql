-- An imported key with a salted hash becomes a native one at its first use.
--
-- resolve_key never computes a slow hash: a service that has such keys asks here when that found
-- nothing, and says whose key it would be.

create function keylatch_internal.derive_pbkdf2(p_key text, p_salt bytea, p_rounds integer)
returns bytea
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
-- RFC 8018, section 5.2: the one block of 32 bytes that SHA-256 gives, with the names used there.
declare
  v_bytes constant pg_catalog.bytea := convert_to(p_key, 'UTF8');
  -- What HMAC makes of a long key, here once and not in every round.
  v_password constant pg_catalog.bytea := case
    when octet_length(v_bytes) > 64 then sha256(v_bytes)
    else v_bytes
  end;
  v_u pg_catalog.bytea := extensions.hmac(p_salt || '\x00000001', v_password, 'sha256');
  -- Bit strings, because bytea has no exclusive or.
  v_t bit(256) := ('x' || encode(v_u, 'hex'))::bit(256);
begin
  for v_round in 2 .. p_rounds loop
    v_u := extensions.hmac(v_u, v_password, 'sha256');
    v_t := v_t # ('x' || encode(v_u, 'hex'))::bit(256);
  end loop;
  return substr(varbit_send(v_t), 5);
end;
$$;

comment on function keylatch_internal.derive_pbkdf2(text, bytea, integer) is
  'PBKDF2 with HMAC-SHA-256, 32 bytes of it. About 0.3 s for 200000 rounds.';

revoke all on function keylatch_internal.derive_pbkdf2(text, bytea, integer)
from public, anon, authenticated, service_role;

create function keylatch_internal.verifies_key(p_key text, p_algorithm text, p_verifier text)
returns boolean
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  if p_algorithm = 'bcrypt' then
    -- bcrypt would not see what follows, and a key that only begins like the right one would become
    -- the native one. pgcrypto knows the one algorithm behind 2a, 2b and 2y by the first name.
    return octet_length(p_key) <= 72
      and extensions.crypt(p_key, '$2a' || substr(p_verifier, 4)) = '$2a' || substr(p_verifier, 4);
  end if;
  return keylatch_internal.derive_pbkdf2(
    p_key, decode(split_part(p_verifier, '$', 2), 'hex'), split_part(p_verifier, '$', 1)::integer
  ) = decode(split_part(p_verifier, '$', 3), 'hex');
end;
$$;

comment on function keylatch_internal.verifies_key(text, text, text) is
  'Whether this salted hash is one of this key. Slow on purpose.';

revoke all on function keylatch_internal.verifies_key(text, text, text)
from public, anon, authenticated, service_role;

create function keylatch_internal.claim_foreign_key(p_key text, p_workspace_id uuid)
returns void
language plpgsql
volatile
-- definer because: who may resolve keys proves one here, and nobody else writes or reads a hash.
security definer
set search_path = ''
as $$
declare
  v_hash constant pg_catalog.bytea := keylatch.hash_key(p_key);
  v_candidate keylatch_internal.foreign_hashes;
  v_limits keylatch_internal.installation;
  v_permitted boolean := false;
begin
  -- A key that is native answers for itself, dead or alive, and costs no slow hash.
  if length(p_key) not between 1 and 1000
    or exists (select 1 from keylatch_internal.keys as k where k.key_hash = v_hash)
  then
    return;
  end if;

  select i.* into v_limits from keylatch_internal.installation as i;
  for v_candidate in
    select f.*
    from keylatch_internal.foreign_hashes as f
    inner join keylatch_internal.keys as k on f.key_id = k.id
    where f.workspace_id = p_workspace_id
      and f.starts_with = any (keylatch_internal.beginnings(p_key))
      and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > clock_timestamp())
    -- Which one is most likely, and beyond the limit always the same ones.
    order by length(f.starts_with) desc, f.imported_at, f.key_id
    limit v_limits.claim_limit
  loop
    if not v_permitted then
      perform keylatch_internal.take_permit(
        'claim_key', p_workspace_id::pg_catalog.text, v_limits.claims_per_minute
      );
      v_permitted := true;
    end if;
    continue when not keylatch_internal.verifies_key(
      p_key, v_candidate.algorithm, v_candidate.verifier
    );

    begin
      -- Whoever revokes the key at this moment is waited for and wins: the row is looked at again.
      update keylatch_internal.keys as k
      set key_hash = v_hash, public_key = case k.kind when 'publishable' then p_key end
      where k.id = v_candidate.key_id
        and k.key_hash is null
        and k.revoked_at is null
        and (k.expires_at is null or k.expires_at > clock_timestamp());
      if found then
        delete from keylatch_internal.foreign_hashes as f where f.key_id = v_candidate.key_id;
      end if;
    exception
      -- The same key under two salts, claimed at the same moment: the other row has it.
      when unique_violation then null;
    end;
    return;
  end loop;
end;
$$;

comment on function keylatch_internal.claim_foreign_key(text, uuid) is
  'Does the work of claim_key: finds the unclaimed key that this text is, and makes it native.';

revoke all on function keylatch_internal.claim_foreign_key(text, uuid)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.claim_foreign_key(text, uuid)
to service_role, keylatch_resolver;

create function keylatch.claim_key(key text, workspace_id uuid, origin text default null)
returns setof keylatch.resolved_key
language plpgsql
volatile
security invoker
-- At most one; but of "rows 1" the type generators make a single object.
rows 2
set search_path = ''
as $$
begin
  if claim_key.key is not null and claim_key.workspace_id is not null then
    perform keylatch_internal.claim_foreign_key(claim_key.key, claim_key.workspace_id);
  end if;
  -- Of this workspace alone: that is what the caller asked about.
  return query
  select r.* from keylatch.resolve_key(claim_key.key, claim_key.origin) as r
  where r.workspace_id = claim_key.workspace_id;
end;
$$;

comment on function keylatch.claim_key(text, uuid, text) is
  'resolve_key for a workspace that has imported keys with salted hashes: the first use makes such
a key native, and from then on resolve_key finds it.

Ask it where resolve_key found nothing and something else than the key says whose it would be. It
answers as resolve_key does, with keys of that workspace alone. A wrong key costs at most as many
slow hashes as claim_limit in keylatch_internal.installation says, 10 unless its owner changed it:
0.05 to 1 s each for bcrypt, 0.3 s for PBKDF2 with 200000 iterations; so no more than
claims_per_minute (60) calls for a workspace compute any, and the next gets too_many_requests (429).
A revocation at the same moment wins. bcrypt: keys over 72 bytes are never claimed.';

revoke all on function keylatch.claim_key(text, uuid, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch.claim_key(text, uuid, text) to service_role, keylatch_resolver;
