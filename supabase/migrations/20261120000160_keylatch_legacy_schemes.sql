-- Module legacy: imports the keys of another system as they are, so that nobody needs a new key.
--
-- An imported key is a row of the table keys: it is listed, edited, suspended and revoked like any
-- key. A scheme says how a legacy system computes an unsalted hash from a key. Under a scheme,
-- key_hash is a SHA-256 of the legacy hash, and a look-up computes key_hash from the plaintext key.
-- A salted hash has no look-up: upgrade_key finds the key at its first use and records its SHA-256.
-- resolve_key and upgrade_key lock no key, so a revocation never waits for a use of the key.

create table keylatch_internal.legacy_secrets (
  name text not null,
  secret text not null,
  constraint legacy_secrets_pkey primary key (name)
);
comment on table keylatch_internal.legacy_secrets is
  'Secrets that legacy hashes need, for example the key of an HMAC. Only the owner may read and
write this table. Supabase Vault can store the secrets instead.';
comment on column keylatch_internal.legacy_secrets.name is 'The name of the secret in the scheme.';
comment on column keylatch_internal.legacy_secrets.secret is 'The secret of the old system.';
alter table keylatch_internal.legacy_secrets enable row level security;

-- squawk-ignore-file prefer-bigint-over-int
create table keylatch_internal.legacy_schemes (
  name text not null,
  after text,
  strip text,
  take integer,
  decode text,
  prepend text,
  append text,
  digest text not null,
  secret text,
  secret_encoding text not null default 'text',
  salt_take integer,
  iter integer,
  length integer,
  ends_at timestamptz,
  constraint legacy_schemes_pkey primary key (name)
);
comment on table keylatch_internal.legacy_schemes is
  'Up to eight schemes. A scheme says how a legacy system computes a hash from a key.';
comment on column keylatch_internal.legacy_schemes.name is 'The name of the scheme in an import.';
comment on column keylatch_internal.legacy_schemes.after is
  'Step 1 of the legacy hash: keep what follows the first occurrence of this string in the key.';
comment on column keylatch_internal.legacy_schemes.strip is
  'Step 2 of the legacy hash: remove this prefix. A key without the prefix never matches.';
comment on column keylatch_internal.legacy_schemes.take is
  'Step 3 of the legacy hash: keep the first characters (32: the first 32) or the last (-8: 8).';
comment on column keylatch_internal.legacy_schemes.decode is
  'Step 4 of the legacy hash: decode what step 3 kept, from hex or base64 to bytes.';
comment on column keylatch_internal.legacy_schemes.prepend is
  'Step 5 of the legacy hash: add this string at the beginning. {secret} stands for the secret.';
comment on column keylatch_internal.legacy_schemes.append is
  'Step 6 of the legacy hash: add this string at the end. {secret} stands for the secret.';
comment on column keylatch_internal.legacy_schemes.digest is
  'Step 7 of the legacy hash: compute sha256, sha512, md5, sha1, hmac-sha256, hmac-sha512 or PBKDF2.
resolve_key does not compute PBKDF2 (pbkdf2-sha1, -sha256 or -sha512), because PBKDF2 is slow.';
comment on column keylatch_internal.legacy_schemes.secret is
  'The name of the secret that the hash needs, in legacy_secrets or in Supabase Vault.';
comment on column keylatch_internal.legacy_schemes.secret_encoding is
  'The encoding of the secret if it is the key of an HMAC: text, hex or base64.';
comment on column keylatch_internal.legacy_schemes.salt_take is
  'For PBKDF2: how many characters of the key are the salt. A negative number counts from the end.';
comment on column keylatch_internal.legacy_schemes.iter is 'For PBKDF2: the number of rounds.';
comment on column keylatch_internal.legacy_schemes.length is 'For PBKDF2: the hash size in bytes.';
comment on column keylatch_internal.legacy_schemes.ends_at is
  'When end_scheme and imports let the keys of the scheme expire. Null if there is no end yet.';
alter table keylatch_internal.legacy_schemes enable row level security;

create function keylatch_internal.read_bytes(p_text text, p_encoding text)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_base64 text;
begin
  if p_encoding = 'hex' then
    return case when p_text ~ '^([0-9a-fA-F]{2})+$' then decode(p_text, 'hex') end;
  end if;
  v_base64 := rtrim(translate(p_text, '-_', '+/'), '=');
  return case
    when p_encoding = 'text' then convert_to(p_text, 'UTF8')
    when p_encoding = 'base64' and p_text ~ '^[A-Za-z0-9+/_-]+={0,2}$' and length(v_base64) % 4 <> 1
      then decode(rpad(v_base64, (length(v_base64) + 3) / 4 * 4, '='), 'base64')
  end;
end $$;
comment on function keylatch_internal.read_bytes is
  'Decodes a text from hex or any base64, or returns its bytes in UTF-8. Null if decoding fails.';

create function keylatch_internal.read_secret(p_name text)
returns text language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_secret text := (
    select s.secret from keylatch_internal.legacy_secrets as s where s.name = p_name
  );
  v_view regclass;
begin
  if v_secret is not null then
    return v_secret;
  end if;
  select c.oid into v_view from pg_catalog.pg_class as c
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  inner join pg_catalog.pg_roles as r on c.relowner = r.oid
  where n.nspname = 'vault' and c.relname = 'decrypted_secrets'
    -- A view that no superuser owns could run the code of its owner with the rights of keylatch.
    and r.rolsuper
    and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select');
  if found then
    execute format('select v.decrypted_secret from %s as v where v.name = $1', v_view)
    into v_secret using p_name;
  end if;
  return v_secret;
end $$;
comment on function keylatch_internal.read_secret is
  'Returns the secret with this name, from legacy_secrets or else from Supabase Vault.';

create function keylatch_internal.scheme_digest(
  p_text text, p_scheme keylatch_internal.legacy_schemes
)
returns bytea language plpgsql stable parallel safe security invoker
-- No exception block: before PostgreSQL 17, a subtransaction fails in a parallel plan.
set search_path = pg_catalog, pg_temp as $$
declare
  v_secret constant text := case when p_scheme.secret is not null
    then keylatch_internal.read_secret(p_scheme.secret) end;
  v_text text := p_text;
  v_bytes bytea;
begin
  if p_scheme.after is not null then
    v_text := substr(v_text, nullif(strpos(v_text, p_scheme.after), 0) + length(p_scheme.after));
  end if;
  if p_scheme.strip is not null then
    v_text := case when starts_with(v_text, p_scheme.strip)
      then substr(v_text, length(p_scheme.strip) + 1) end;
  end if;
  if p_scheme.take is not null then
    v_text := case when p_scheme.take > 0 then left(v_text, p_scheme.take)
      else right(v_text, -p_scheme.take) end;
  end if;
  v_bytes :=
    convert_to(coalesce(replace(p_scheme.prepend, '{secret}', coalesce(v_secret, '')), ''), 'UTF8')
    || keylatch_internal.read_bytes(v_text, coalesce(p_scheme.decode, 'text'))
    || convert_to(
      coalesce(replace(p_scheme.append, '{secret}', coalesce(v_secret, '')), ''), 'UTF8'
    );
  return case
    when v_text is null or (v_secret is null) <> (p_scheme.secret is null) then null
    when p_scheme.iter is not null then keylatch_internal.derive_pbkdf2(
      v_text, convert_to(case when p_scheme.salt_take > 0 then left(p_text, p_scheme.salt_take)
        else right(p_text, -p_scheme.salt_take) end, 'UTF8'),
      p_scheme.iter, p_scheme.length, substr(p_scheme.digest, 8)
    )
    when starts_with(p_scheme.digest, 'hmac-') then extensions.hmac(
      v_bytes, keylatch_internal.read_bytes(v_secret, p_scheme.secret_encoding),
      substr(p_scheme.digest, 6)
    )
    else extensions.digest(v_bytes, p_scheme.digest)
  end;
end $$;
comment on function keylatch_internal.scheme_digest is
  'Returns the legacy hash of a plaintext key under a scheme; null if the scheme does not fit.';

create function keylatch_internal.legacy_hash(p_scheme text, p_bytes bytea)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- No UTF-8 text begins with the byte ff, so nobody can present a key that has this SHA-256.
  return sha256(
    decode('ff', 'hex') || convert_to(p_scheme, 'UTF8') || decode('ff', 'hex') || p_bytes
  );
end $$;
comment on function keylatch_internal.legacy_hash is
  'Returns the key_hash of an imported key, computed from the scheme name and the legacy hash.';

create function keylatch_internal.scheme_hashes(p_text text)
returns bytea[] language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return array(
    select keylatch_internal.legacy_hash(s.name, keylatch_internal.scheme_digest(p_text, s))
    from keylatch_internal.legacy_schemes as s
  );
end $$;
comment on function keylatch_internal.scheme_hashes is
  'Returns the key_hash that a row would have for this plaintext key, for each scheme.';

create function keylatch_internal.judge_slow_scheme(p_recipe jsonb)
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if starts_with(p_recipe ->> 'digest', 'pbkdf2-') then
    -- strip is required, because a plaintext key without this prefix then costs no slow hash.
    return not p_recipe ?& '{strip,salt_take,iter,length}' or length(p_recipe ->> 'strip') < 3
      or p_recipe ?| '{decode,prepend,append,secret}'
      or (p_recipe ->> 'length')::integer not between 16 and 128
      or (p_recipe ->> 'iter')::integer > keylatch_internal.round_budget() / 7;
  end if;
  return p_recipe ?| '{salt_take,iter,length}';
end $$;
comment on function keylatch_internal.judge_slow_scheme is
  'Returns true if a PBKDF2 recipe is wrong, or if a recipe without PBKDF2 has its members.';

create function keylatch_internal.judge_scheme(p_name text, p_recipe jsonb)
returns text[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_digest constant text := p_recipe ->> 'digest';
  v_has_place constant boolean :=
    strpos(concat(p_recipe ->> 'prepend', p_recipe ->> 'append'), '{secret}') > 0;
begin
  return case
    when p_name is null or p_name !~ '^[a-z][a-z0-9_-]{0,39}$'
      or p_name ~ '^(plaintext|sha256|sha256_salted|pbkdf2_.*|django|bcrypt|salted|held)$'
      then array[
      'name must be 1 to 40 letters, digits, _ or -, and not a reserved name such as bcrypt.',
      'Name the scheme after the old system, for example "sanctum".']
    when jsonb_typeof(p_recipe) is distinct from 'object'
      or p_recipe - ('{after,strip,take,decode,prepend,append,digest,secret,secret_encoding,'
        'salt_take,iter,length}')::text[] <> '{}' then array[
      'The recipe has an unknown member.', 'The comment of declare_scheme lists the members.']
    when exists (
      select from jsonb_each(p_recipe) as w
      where case
        when w.key in ('take', 'salt_take') then w.value::text !~ '^-?[1-9][0-9]{0,2}$'
        when w.key in ('iter', 'length') then w.value::text !~ '^[1-9][0-9]{0,6}$'
        else jsonb_typeof(w.value) <> 'string' or length(w.value #>> '{}') not between 1 and 200 end
    ) then array[
      'A member of recipe must be 1 to 200 characters. But take and salt_take must be a number '
        'from -999 to 999 except 0, and iter and length a number from 1 to 9999999.',
      'Leave out the steps that the old system does not do.']
    when v_digest is null
      or v_digest !~ '^(sha256|sha512|md5|sha1|hmac-sha256|hmac-sha512|pbkdf2-sha(1|256|512))$'
      then array[
      'digest must be sha256, sha512, md5, sha1, hmac-sha256, hmac-sha512 or pbkdf2-sha256.',
      'A salted hash needs no scheme: write its alg in the import line.']
    when keylatch_internal.judge_slow_scheme(p_recipe) then array[
      format('PBKDF2 in a scheme needs strip (3 characters or more), salt_take, iter (up to %s), '
        'length (16 to 128), optionally after and take.', keylatch_internal.round_budget() / 7),
      'If the old table stores the salt, declare no scheme: write alg and salt in the import line.']
    when coalesce(p_recipe ->> 'decode', 'hex') not in ('hex', 'base64')
      or coalesce(p_recipe ->> 'secret_encoding', 'text') not in ('text', 'hex', 'base64')
      then array[
      'decode must be hex or base64, and secret_encoding text, hex or base64.', 'Correct a value.']
    when (p_recipe ? 'secret') <> (v_has_place or starts_with(v_digest, 'hmac-')) then array[
      'secret is needed for an HMAC or for {secret} in prepend or append, else not allowed.',
      'Pass the name of the secret, or leave out the member secret.']
    when p_recipe = '{"digest": "sha256"}' then array[
      'A SHA-256 of the whole key needs no scheme.', 'Write alg sha256 in the import lines.']
    when p_recipe ? 'secret' and keylatch_internal.read_bytes(
      keylatch_internal.read_secret(p_recipe ->> 'secret'),
      coalesce(p_recipe ->> 'secret_encoding', 'text')
    ) is null then array[
      'No secret has the name in recipe.secret, or the secret is not in its secret_encoding.',
      'Store the secret with vault.create_secret(secret, name), or insert the secret into '
        'keylatch_internal.legacy_secrets as the owner.']
    when (select count(*) > 7 from keylatch_internal.legacy_schemes as s where s.name <> p_name)
      then array[
      'There are eight schemes already, and each scheme makes a failed look-up slower.',
      'As the owner, delete the row of a scheme without keys. A scheme with keys must stay.']
  end;
end $$;
comment on function keylatch_internal.judge_scheme is
  'Returns the error detail and the hint for a wrong scheme; null for a correct scheme.';

create function keylatch_internal.keep_scheme(p_name text, p_recipe jsonb)
returns void language plpgsql volatile security definer
-- definer because: only the owner may read secrets and write schemes.
set search_path = pg_catalog, pg_temp as $$
declare
  v_scheme keylatch_internal.legacy_schemes := jsonb_populate_record(
    jsonb_populate_record(null::keylatch_internal.legacy_schemes, '{"secret_encoding": "text"}'),
    jsonb_build_object('name', p_name)
  );
  v_problem text[];
  v_kept keylatch_internal.legacy_schemes;
begin
  perform keylatch_internal.require_grants('keylatch_internal.keep_scheme');
  perform keylatch_internal.require_read_committed('Declaring a scheme');
  -- A running import has not compared its keys under the new scheme. Only imports wait.
  lock table keylatch_internal.legacy_schemes in exclusive mode;
  v_problem := keylatch_internal.judge_scheme(p_name, p_recipe);
  if v_problem is null then
    v_scheme := jsonb_populate_record(v_scheme, p_recipe);
    select s.* into v_kept from keylatch_internal.legacy_schemes as s where s.name = p_name;
    v_scheme.ends_at := v_kept.ends_at;
    v_problem := case when v_kept.name is not null and v_kept is distinct from v_scheme then array[
      'There is a scheme of this name with another recipe.',
      'Declare the new recipe under another name.'] end;
  end if;
  if v_problem is not null then
    perform keylatch_internal.refuse('invalid_argument', v_problem[1], v_problem[2]);
  end if;
  insert into keylatch_internal.legacy_schemes select (v_scheme).* on conflict do nothing;
end $$;
comment on function keylatch_internal.keep_scheme is 'Implements keylatch.declare_scheme.';

create function keylatch.declare_scheme(name text, recipe jsonb)
returns void language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.keep_scheme(declare_scheme.name, declare_scheme.recipe);
end $$;
comment on function keylatch.declare_scheme is
  'Declares a scheme for import lines: how a legacy system computes an unsalted hash from a key.
Repeating the call is safe. At most eight schemes can exist: a failed look-up tries each scheme.

recipe: the steps that turn a key into its legacy hash, in this order. Only digest is required.
  after, strip     keep what follows the first occurrence of after; remove the prefix strip
  take             keep the first characters (32: the first 32) or the last (-8: the last 8)
  decode           hex or base64: continue with the decoded bytes
  prepend, append  add these strings at the beginning and the end; {secret} stands for the secret
  digest           sha256, sha512, md5, sha1, hmac-sha256 or hmac-sha512
  salt_take        for digest pbkdf2-sha1, pbkdf2-sha256 or pbkdf2-sha512, with iter and length:
                   so many characters of the key are its salt. The first use needs upgrade_key
  secret           the name of the secret in Supabase Vault or keylatch_internal.legacy_secrets
  secret_encoding  the encoding of the key of an HMAC: text (as it is), hex or base64
For example {"digest": "sha512"}. Errors: invalid_argument (400), read_committed_required (400).';

create function keylatch_internal.move_scheme_end(p_name text, p_ends_at timestamptz)
returns void language plpgsql volatile security definer
-- definer because: only the owner may write schemes.
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.require_grants('keylatch_internal.move_scheme_end');
  lock table keylatch_internal.legacy_schemes in exclusive mode; -- waits for running imports only
  update keylatch_internal.legacy_schemes as s set ends_at = p_ends_at
  where s.name = p_name and p_ends_at <= coalesce(s.ends_at, 'infinity')
    and p_ends_at > clock_timestamp() and p_ends_at < '9999-01-01 00:00Z';
  if not found then
    perform keylatch_internal.refuse(
      'invalid_argument',
      'ends_at must be in the future, and not after the present end of the scheme.',
      'To end the scheme as soon as possible, pass the time in one minute.'
    );
  end if;
end $$;
comment on function keylatch_internal.move_scheme_end is 'Sets ends_at or moves ends_at earlier.';

create function keylatch.end_scheme(name text, ends_at timestamptz, "limit" integer default 10000)
returns keylatch.retirement language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_result keylatch.retirement;
begin
  perform keylatch_internal.require_read_committed('Ending a scheme');
  perform keylatch_internal.move_scheme_end(end_scheme.name, end_scheme.ends_at);
  with locked as materialized (
    select k.id from keylatch.keys as k
    inner join keylatch_internal.legacy_keys as g on k.id = g.key_id
    where g.scheme = end_scheme.name and k.revoked_at is null
      and coalesce(k.expires_at > end_scheme.ends_at, true)
    order by k.created_at, k.id limit greatest(end_scheme."limit", 1)
    for update of k skip locked
  )
  update keylatch.keys as k set expires_at = end_scheme.ends_at from locked as l where k.id = l.id;
  get diagnostics v_result.revoked = row_count;
  v_result.is_done := not exists (
    select from keylatch.keys as k
    inner join keylatch_internal.legacy_keys as g on k.id = g.key_id
    where g.scheme = end_scheme.name and k.revoked_at is null
      and coalesce(k.expires_at > end_scheme.ends_at, true)
  );
  return v_result;
end $$;
comment on function keylatch.end_scheme is
  'Lets up to "limit" keys of a scheme expire at ends_at. Repeat the call until is_done is true.

Keys that expire earlier do not change. Keys imported later expire at ends_at, too. Before ends_at,
an admin can extend a key again. The view key_usage shows when each key was last used.
revoked: how many keys got ends_at as their expiry.
Errors: invalid_argument (400), read_committed_required (400).';

-- The grants of this file.
revoke all on table keylatch_internal.legacy_secrets, keylatch_internal.legacy_schemes
from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.read_bytes, keylatch_internal.read_secret,
keylatch_internal.scheme_digest, keylatch_internal.legacy_hash, keylatch_internal.scheme_hashes,
keylatch_internal.judge_scheme, keylatch_internal.keep_scheme, keylatch.declare_scheme,
keylatch_internal.move_scheme_end, keylatch.end_scheme, keylatch_internal.judge_slow_scheme
from public, anon, authenticated, service_role;
grant execute on function keylatch.declare_scheme, keylatch_internal.keep_scheme,
keylatch.end_scheme, keylatch_internal.move_scheme_end to service_role;
