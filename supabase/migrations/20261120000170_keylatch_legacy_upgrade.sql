-- Module legacy: the first use of a key with a salted hash (upgrade_key), and the limit on the
-- hashes that one call may compute.

create table keylatch_internal.legacy_settings (
  only_row boolean not null default true,
  -- squawk-ignore prefer-bigint-over-int
  upgrades_per_minute integer not null default 600,

  constraint legacy_settings_pkey primary key (only_row),
  constraint legacy_settings_only_row_check check (only_row),
  constraint legacy_settings_upgrades_check check (upgrades_per_minute between 1 and 100000)
);
comment on table keylatch_internal.legacy_settings is 'The rate limit of upgrade_key, in one row.';
comment on column keylatch_internal.legacy_settings.only_row is 'Always true: there is one row.';
comment on column keylatch_internal.legacy_settings.upgrades_per_minute is
  'How many calls of upgrade_key may compute slow hashes in a minute. Failed calls count, too.';
insert into keylatch_internal.legacy_settings default values;
alter table keylatch_internal.legacy_settings enable row level security;

create sequence keylatch_internal.legacy_attempts_seq;
comment on sequence keylatch_internal.legacy_attempts_seq is
  'Counts the calls of upgrade_key: 1000000 times the minutes since 1970, plus the calls of the last
minute. With a sequence, no call waits for another call, and no rollback undoes the count.';

create function keylatch_internal.count_attempt()
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_second constant bigint := floor(extract(epoch from clock_timestamp()));
  v_first constant bigint := v_second / 60 * 1000000 + 1;
  v_count bigint := nextval('keylatch_internal.legacy_attempts_seq');
  -- In a schema-only copy of the database, the table legacy_settings has no row.
  v_limit constant integer := coalesce((
    select s.upgrades_per_minute from keylatch_internal.legacy_settings as s
  ), 600);
begin
  -- If the counter belongs to a past or a future minute, the counter starts again.
  if v_count / 1000000 <> v_first / 1000000 then
    v_count := setval('keylatch_internal.legacy_attempts_seq', v_first);
  end if;
  if v_count - v_first >= v_limit then
    perform keylatch_internal.refuse(
      'too_many_requests',
      format('upgrade_key was called more than %s times in a minute.', v_limit), null,
      to_timestamp((v_second / 60 + 1) * 60)
    );
  end if;
end $$;
comment on function keylatch_internal.count_attempt is
  'Counts a call of upgrade_key, and raises too_many_requests above the limit per minute.';

create function keylatch_internal.round_budget()
returns integer language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return 1200000;
end $$;
comment on function keylatch_internal.round_budget is
  'Returns how many PBKDF2 rounds a call may compute. The limit is one hash of Django 6.0, or 2.1 s
at the measured 1.75 µs a round. A bcrypt hash counts as 32 * 2^cost rounds (measured: 31).';

create function keylatch_internal.derive_pbkdf2(
  p_key text, p_salt bytea, p_rounds integer, p_length integer default 32,
  p_digest text default 'sha256'
)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
-- The variable names u and t are those of RFC 8018, section 5.2.
declare
  v_bytes constant bytea := convert_to(p_key, 'UTF8');
  -- HMAC hashes a long key first. Hashing the key once here avoids hashing it in every round.
  v_password constant bytea := case
    when octet_length(v_bytes) > case p_digest when 'sha512' then 128 else 64 end
      then extensions.digest(v_bytes, p_digest)
    else v_bytes
  end;
  v_u bytea;
  -- A bit string, because PostgreSQL has no exclusive or for bytea.
  v_t varbit;
  v_derived bytea := ''::bytea;
begin
  for v_block in 1 .. 100 loop
    v_u := extensions.hmac(p_salt || int4send(v_block), v_password, p_digest);
    v_t := ('x' || encode(v_u, 'hex'))::varbit;
    for v_round in 2 .. p_rounds loop
      v_u := extensions.hmac(v_u, v_password, p_digest);
      v_t := v_t # ('x' || encode(v_u, 'hex'))::varbit;
    end loop;
    v_derived := v_derived || substr(varbit_send(v_t), 5);
    exit when octet_length(v_derived) >= p_length;
  end loop;
  return substr(v_derived, 1, p_length);
end $$;
comment on function keylatch_internal.derive_pbkdf2 is
  'Returns p_length bytes that PBKDF2 with HMAC derives from a key, a salt and a number of rounds.';

create function keylatch_internal.matches_verifier(p_key text, p_scheme text, p_verifier text)
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- The three parts are: rounds (for sha256_salted: before or after), salt and hash.
  v_parts constant text[] := string_to_array(p_verifier, '$');
  v_salt constant bytea := case when p_scheme <> 'bcrypt' then decode(v_parts[2], 'hex') end;
  v_hash constant bytea := case when p_scheme <> 'bcrypt' then decode(v_parts[3], 'hex') end;
begin
  return case
    -- bcrypt ignores all bytes after the 72nd: a longer text with the same beginning would match.
    when p_scheme = 'bcrypt' then
      octet_length(p_key) <= 72 and extensions.crypt(p_key, p_verifier) = p_verifier
    when p_scheme = 'sha256_salted' then v_hash = sha256(case v_parts[1]
      when 'before' then v_salt || convert_to(p_key, 'UTF8')
      else convert_to(p_key, 'UTF8') || v_salt end)
    else v_hash = keylatch_internal.derive_pbkdf2(
      p_key, v_salt, v_parts[1]::integer, octet_length(v_hash), substr(p_scheme, 8)
    )
  end;
end $$;
comment on function keylatch_internal.matches_verifier is
  'Returns true if a salted hash was computed from this key. Most salted hashes are slow.';

create function keylatch_internal.clear_parts(p_text text)
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return '{""}'::text[] || array(
    select c.part from generate_series(1, least(length(p_text), 32)) as n
    cross join lateral (
      values ('p:' || left(p_text, n)), ('s:' || reverse(right(p_text, n)))
    ) as c (part)
  );
end $$;
comment on function keylatch_internal.clear_parts is
  'Returns each clear_part that an import may have recorded for this plaintext key.';

create function keylatch_internal.similar_keys(p_parts text[], p_workspace_id uuid)
returns setof keylatch_internal.legacy_keys language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Includes revoked and expired keys, because a presented key that matches one must be refused.
  -- "offset 0" makes the planner look up each part, and not read all rows of a workspace.
  if p_workspace_id is null then
    return query
    select g.* from unnest(array_remove(p_parts, '')) as p (part)
    cross join lateral (
      select l.* from keylatch_internal.legacy_keys as l
      where l.clear_part = p.part and l.rounds > 0 and l.upgraded_at is null offset 0
    ) as g;
  else
    return query
    select g.* from unnest(p_parts) as p (part)
    cross join lateral (
      select l.* from keylatch_internal.legacy_keys as l
      where l.workspace_id = p_workspace_id and l.clear_part = p.part
        and l.rounds > 0 and l.upgraded_at is null offset 0
    ) as g;
  end if;
end $$;
comment on function keylatch_internal.similar_keys is
  'Returns the salted keys that upgrade_key has not seen and that have one of these values of
clear_part. Without a workspace_id, searches all workspaces, but no key without a clear_part.';

create function keylatch_internal.matching_keys(
  p_key text, p_similar keylatch_internal.legacy_keys[], p_spent bigint
)
returns uuid[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if p_spent + (select sum(s.rounds) from unnest(p_similar) as s)
    > keylatch_internal.round_budget() then
    perform keylatch_internal.refuse(
      'invalid_argument', 'workspace_id is needed: too many imported keys may match this key.',
      'Pass the workspace_id of the key.'
    );
  end if;
  -- Compare all keys, and do not stop at the first match, because a revoked key may match, too.
  return array(
    select s.key_id from unnest(p_similar) as s
    where keylatch_internal.matches_verifier(p_key, s.scheme, s.verifier)
  );
end $$;
comment on function keylatch_internal.matching_keys is
  'Returns the ids of the salted keys that equal a key. p_spent: the rounds already computed.';

create function keylatch_internal.upgrade_legacy_key(p_key text, p_workspace_id uuid)
returns void language plpgsql volatile security definer
-- definer because: a service that resolves keys may not read salted hashes.
-- enable_seqscan: a cached plan from small tables would still scan whole tables after they grew.
-- jit: with enable_seqscan off, a table without an index looks so expensive that JIT would start.
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  v_hash constant bytea := sha256(convert_to(p_key, 'UTF8'));
  v_similar keylatch_internal.legacy_keys[];
  v_rounds bigint;
  v_ids uuid[];
begin
  perform keylatch_internal.require_grants('keylatch_internal.upgrade_legacy_key');
  perform keylatch_internal.require_read_committed('Upgrading a key');
  -- If resolve_key can already find the key, active or not, no slow hash is computed.
  if length(p_key) not between 1 and 1000 or keylatch_internal.is_placeholder(p_key)
    or keylatch_internal.find_key(p_key) is not null then
    return;
  end if;
  select array_agg(s), coalesce(sum(s.rounds), 0) into v_similar, v_rounds
  from keylatch_internal.similar_keys(keylatch_internal.clear_parts(p_key), p_workspace_id) as s;
  if v_rounds > 1000
    or exists (select from unnest(v_similar) as s where s.scheme <> 'sha256_salted')
    or exists (
      select from keylatch_internal.legacy_schemes as s
      where s.iter is not null and strpos(p_key, s.strip) > 0
    ) then
    perform keylatch_internal.count_attempt();
  end if;
  v_ids := keylatch_internal.matching_keys(p_key, v_similar, 0) || array(
    -- Keys that hold_lines has left to upgrade_key: unsalted keys, and keys of a PBKDF2 scheme.
    select k.id from keylatch_internal.keys as k
    inner join keylatch_internal.legacy_keys as g on k.id = g.key_id
    where k.key_hash in (
      select keylatch_internal.legacy_hash('held', h)
      from unnest(v_hash || keylatch_internal.scheme_hashes(p_key)) as h
    ) and coalesce(k.workspace_id = p_workspace_id, true)
  );
  if p_workspace_id is null then
    -- A key without a clear_part, in the same workspace, may be the same key, and may be revoked.
    v_ids := v_ids || keylatch_internal.matching_keys(p_key, array(
      select s from (
        select distinct k.workspace_id from keylatch_internal.keys as k where k.id = any (v_ids)
      ) as w cross join lateral keylatch_internal.similar_keys('{""}', w.workspace_id) as s
    ), v_rounds);
  end if;
  insert into keylatch_internal.legacy_texts (text_hash, key_hash)
  select v_hash, k.key_hash from keylatch_internal.keys as k where k.id = any (v_ids)
  order by k.key_hash on conflict do nothing;
  update keylatch_internal.legacy_keys as g set upgraded_at = clock_timestamp()
  from (
    select l.key_id from keylatch_internal.legacy_keys as l
    where l.key_id = any (v_ids) and l.upgraded_at is null
    for update skip locked
  ) as locked
  where g.key_id = locked.key_id;
end $$;
comment on function keylatch_internal.upgrade_legacy_key is
  'Records the first use of the imported keys that match this plaintext key. Locks no row of keys.';

create function keylatch.upgrade_key(
  key text, workspace_id uuid default null, origin text default null
)
returns setof keylatch.resolved_key language plpgsql volatile security invoker rows 2
-- Returns at most one row, but "rows 1" would make type generators declare a single object.
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.upgrade_legacy_key(upgrade_key.key, upgrade_key.workspace_id)
  where upgrade_key.key is not null;
  return query
  select r.* from keylatch.resolve_key(upgrade_key.key, upgrade_key.origin) as r
  where upgrade_key.workspace_id is null or r.workspace_id = upgrade_key.workspace_id;
end $$;
comment on function keylatch.upgrade_key is
  'Resolves an imported key with a salted hash at its first use. Later, resolve_key finds the key.

Call upgrade_key if resolve_key returned no row. upgrade_key returns the same type of row.
workspace_id: the workspace of the key. Without workspace_id, upgrade_key only tries keys that were
imported with starts_with or ends_with. A key that matches any revoked or expired row is refused.
One call computes at most 1200000 rounds of PBKDF2, about 2 s, or as much bcrypt. At most 600 calls
a minute compute slow hashes. The call locks no key, so a revocation does not wait.
Errors: too_many_requests (429); read_committed_required (400); invalid_argument (400) if
workspace_id is needed.';

-- The grants of this file.
revoke all on table keylatch_internal.legacy_settings
from public, anon, authenticated, service_role;
revoke all on sequence keylatch_internal.legacy_attempts_seq
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.count_attempt, keylatch_internal.round_budget,
keylatch_internal.derive_pbkdf2, keylatch_internal.matches_verifier, keylatch_internal.clear_parts,
keylatch_internal.similar_keys, keylatch_internal.matching_keys,
keylatch_internal.upgrade_legacy_key, keylatch.upgrade_key
from public, anon, authenticated, service_role;
grant execute on function keylatch.upgrade_key, keylatch_internal.upgrade_legacy_key
to service_role, keylatch_resolver;
