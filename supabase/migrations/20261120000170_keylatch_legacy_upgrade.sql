-- Module legacy: the first use of a key with a salted hash (upgrade_key), and how many hashes a
-- call may compute.

create table keylatch_internal.legacy_settings (
  only_row boolean not null default true,
  -- squawk-ignore prefer-bigint-over-int
  upgrades_per_minute integer not null default 600,

  constraint legacy_settings_pkey primary key (only_row),
  constraint legacy_settings_only_row_check check (only_row),
  constraint legacy_settings_upgrades_check check (
    upgrades_per_minute >= 1 and upgrades_per_minute <= 100000
  )
);
comment on table keylatch_internal.legacy_settings is 'The rate limit of upgrade_key, in one row.';
comment on column keylatch_internal.legacy_settings.only_row is 'Always true: there is one row.';
comment on column keylatch_internal.legacy_settings.upgrades_per_minute is
  'How many calls of upgrade_key may compute slow hashes in a minute, however they end.';
insert into keylatch_internal.legacy_settings default values;
alter table keylatch_internal.legacy_settings enable row level security;

create sequence keylatch_internal.legacy_attempts_seq;
comment on sequence keylatch_internal.legacy_attempts_seq is
  'The minute since 1970, times a million, plus the calls of that minute. No rollback undoes it, and
nobody waits for it.';

create function keylatch_internal.count_attempt()
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_second constant bigint := floor(extract(epoch from clock_timestamp()));
  v_first constant bigint := v_second / 60 * 1000000 + 1;
  v_count bigint := nextval('keylatch_internal.legacy_attempts_seq');
  -- A schema-only copy of the database has no row.
  v_limit constant integer := coalesce((
    select s.upgrades_per_minute from keylatch_internal.legacy_settings as s
  ), 600);
begin
  -- The minute of the counter is over, or in the future: the counter starts again.
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
  'Counts a call of upgrade_key, and raises too_many_requests beyond the limit.';

create function keylatch_internal.round_budget()
returns integer language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return 1200000;
end $$;
comment on function keylatch_internal.round_budget is
  'How many rounds of PBKDF2 one call computes at most: one hash of Django 6.0. That takes 2.1 s at
the measured 1.75 µs a round. bcrypt counts 32 rounds for each of its 2^cost (measured: 31).';

create function keylatch_internal.derive_pbkdf2(
  p_key text, p_salt bytea, p_rounds integer, p_length integer default 32,
  p_digest text default 'sha256'
)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
-- RFC 8018, section 5.2, with the names used there.
declare
  v_bytes constant bytea := convert_to(p_key, 'UTF8');
  -- HMAC hashes a key that is longer than a block. Here that happens once and not in every round.
  v_password constant bytea := case
    when octet_length(v_bytes) > case p_digest when 'sha512' then 128 else 64 end
      then extensions.digest(v_bytes, p_digest)
    else v_bytes
  end;
  v_u bytea;
  -- Bit strings, because bytea has no exclusive or.
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
  'PBKDF2 with HMAC: this number of bytes, by default with sha256.';

create function keylatch_internal.matches_verifier(p_key text, p_scheme text, p_verifier text)
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- Rounds, or for sha256_salted where the salt stands; salt; hash.
  v_parts constant text[] := string_to_array(p_verifier, '$');
  v_salt constant bytea := case when p_scheme <> 'bcrypt' then decode(v_parts[2], 'hex') end;
  v_hash constant bytea := case when p_scheme <> 'bcrypt' then decode(v_parts[3], 'hex') end;
begin
  return case
    -- bcrypt ignores what follows 72 bytes: a text that only begins like the key would match.
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
  'Whether this salted hash belongs to this key. Slow on purpose.';

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
  'Each clear_part that a key of this text may have.';

create function keylatch_internal.similar_keys(p_parts text[], p_workspace_id uuid)
returns setof keylatch_internal.legacy_keys language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- Also revoked and expired keys, because a text that matches them is refused.
  -- "offset 0" keeps the planner from reading all rows of a workspace: each part is one look-up.
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
  'The waiting keys with one of these clear parts. Without a workspace: the keys of all workspaces,
but only those with a known part.';

create function keylatch_internal.upgrade_legacy_key(p_key text, p_workspace_id uuid)
returns void language plpgsql volatile security definer
-- definer because: a service that resolves keys reads no salted hash.
-- enable_seqscan: a plan from the time when the tables were small would read whole tables later.
-- jit: without seqscan, a table that has no index looks so expensive that JIT would compile.
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  v_hash constant bytea := sha256(convert_to(p_key, 'UTF8'));
  v_similar keylatch_internal.legacy_keys[];
  v_rounds bigint;
  v_ids uuid[];
begin
  perform keylatch_internal.require_grants('keylatch_internal.upgrade_legacy_key');
  -- A text whose key is known, active or not, costs no slow hash.
  if length(p_key) not between 1 and 1000 or keylatch_internal.is_placeholder(p_key)
    or keylatch_internal.find_key(p_key) is not null
  then
    return;
  end if;
  select array_agg(s), sum(s.rounds) into v_similar, v_rounds
  from keylatch_internal.similar_keys(keylatch_internal.clear_parts(p_key), p_workspace_id) as s;
  if v_rounds > keylatch_internal.round_budget() then
    perform keylatch_internal.refuse(
      'invalid_argument', 'workspace_id is needed: too many keys begin like this text.',
      'Pass the workspace_id of the key.'
    );
  elsif v_rounds > 1000
    or exists (select from unnest(v_similar) as s where s.scheme <> 'sha256_salted')
    or exists (
      select from keylatch_internal.legacy_schemes as s
      where s.iter is not null and strpos(p_key, s.strip) > 0
    )
  then
    perform keylatch_internal.count_attempt();
  end if;
  -- Compare all keys, and do not stop at the first match: a revoked key may match as well.
  v_ids := array(
    select s.key_id from unnest(v_similar) as s
    where s.rounds > 0 and keylatch_internal.matches_verifier(p_key, s.scheme, s.verifier)
    union all
    -- Keys that waited because they may have the same text as a salted key.
    select k.id from keylatch_internal.keys as k
    inner join keylatch_internal.legacy_keys as g on k.id = g.key_id
    where k.key_hash in (
      select keylatch_internal.legacy_hash('held', h)
      from unnest(v_hash || keylatch_internal.scheme_hashes(p_key)) as h
    ) and coalesce(k.workspace_id = p_workspace_id, true)
  );
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
  'Finds the waiting keys with this text, and records the match. Locks no key.';

create function keylatch.upgrade_key(
  key text, workspace_id uuid default null, origin text default null
)
returns setof keylatch.resolved_key language plpgsql volatile security invoker rows 2
-- At most one row. But "rows 1" would make the type generators return a single object.
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
workspace_id: the workspace of the key. Without it, only keys are tried whose import gave
starts_with or ends_with. A text that matches a revoked or expired key is refused, under every salt.
One call computes at most 1200000 rounds of PBKDF2, about 2 s, or as much bcrypt. At most 600 calls
a minute compute slow hashes. The call locks no key, so a revocation does not wait.
Errors: too_many_requests (429), invalid_argument (400) where workspace_id is needed.';

-- The grants of this file.
revoke all on table keylatch_internal.legacy_settings
from public, anon, authenticated, service_role;
revoke all on sequence keylatch_internal.legacy_attempts_seq
from public, anon, authenticated, service_role;
revoke all on function
keylatch_internal.count_attempt, keylatch_internal.round_budget, keylatch_internal.derive_pbkdf2,
keylatch_internal.matches_verifier, keylatch_internal.clear_parts, keylatch_internal.similar_keys,
keylatch_internal.upgrade_legacy_key, keylatch.upgrade_key
from public, anon, authenticated, service_role;
grant execute on function keylatch.upgrade_key, keylatch_internal.upgrade_legacy_key
to service_role, keylatch_resolver;
