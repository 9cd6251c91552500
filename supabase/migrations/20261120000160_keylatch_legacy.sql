-- Module legacy: imports the keys of another system as they are, so that nobody needs a new key.
--
-- Every imported key is a row of keys from the import on: it is listed, edited, suspended and
-- revoked like any other key. Only its key_hash differs. Under a scheme, key_hash is made from the
-- old digest, and a look-up that missed computes the same from the text. Under a salted hash, that
-- is not possible: the first use (upgrade_key) finds the key and records the text.
-- Nothing here locks a key, so a revocation never waits for a use of the key.

-- Schemes: how an old system made its unsalted hashes.

create table keylatch_internal.legacy_secrets (
  name text not null,
  secret text not null,
  constraint legacy_secrets_pkey primary key (name)
);
comment on table keylatch_internal.legacy_secrets is
  'Secrets that legacy hashes need, for example the key of an HMAC. Only the owner may read and
write this table. Supabase Vault can store the secrets instead.';
comment on column keylatch_internal.legacy_secrets.name is 'The name of the secret in a scheme.';
comment on column keylatch_internal.legacy_secrets.secret is 'The secret of the old system.';
alter table keylatch_internal.legacy_secrets enable row level security;

create table keylatch_internal.legacy_schemes (
  name text not null,
  after text,
  strip text,
  -- squawk-ignore prefer-bigint-over-int
  take integer,
  decode text,
  prepend text,
  append text,
  digest text not null,
  secret text,
  secret_encoding text not null default 'text',
  -- squawk-ignore prefer-bigint-over-int
  salt_take integer,
  -- squawk-ignore prefer-bigint-over-int
  iter integer,
  -- squawk-ignore prefer-bigint-over-int
  length integer,
  ends_at timestamptz,
  constraint legacy_schemes_pkey primary key (name)
);
comment on table keylatch_internal.legacy_schemes is
  'Up to eight schemes. A scheme says how a legacy system computes a hash from a key.';
comment on column keylatch_internal.legacy_schemes.name is 'The name of the scheme in an import.';
comment on column keylatch_internal.legacy_schemes.after is
  'Step 1: keep the part of the key after the first occurrence of this string.';
comment on column keylatch_internal.legacy_schemes.strip is 'Step 2: remove this prefix.';
comment on column keylatch_internal.legacy_schemes.take is
  'Step 3: keep this many characters, from the end if negative.';
comment on column keylatch_internal.legacy_schemes.decode is
  'Step 4: decode the text as hex or base64.';
comment on column keylatch_internal.legacy_schemes.prepend is
  'Step 5: add this string at the beginning. {secret} stands for the secret.';
comment on column keylatch_internal.legacy_schemes.append is 'Step 6: add this string at the end.';
comment on column keylatch_internal.legacy_schemes.digest is
  'Step 7: compute sha256, sha512, md5, sha1, hmac-sha256 or hmac-sha512; or pbkdf2-sha1,
pbkdf2-sha256 or pbkdf2-sha512, which are slow: only the first use of a key computes them.';
comment on column keylatch_internal.legacy_schemes.secret is
  'The name of the secret, in legacy_secrets or in Supabase Vault.';
comment on column keylatch_internal.legacy_schemes.secret_encoding is
  'How the key of an HMAC is written: text, hex or base64.';
comment on column keylatch_internal.legacy_schemes.salt_take is
  'For PBKDF2: how many characters of the key are the salt. If negative, the last characters.';
comment on column keylatch_internal.legacy_schemes.iter is 'For PBKDF2: the number of rounds.';
comment on column keylatch_internal.legacy_schemes.length is 'For PBKDF2: the hash size in bytes.';
comment on column keylatch_internal.legacy_schemes.ends_at is
  'When all keys of the scheme expire at the latest. Null if no end was set with end_scheme.';
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
  'The bytes of a text in hex, any base64 or UTF-8; null if the text does not have that encoding.';

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
    -- A view of another owner could run that owner's code with our rights.
    and r.rolsuper
    and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select');
  if found then
    execute format('select v.decrypted_secret from %s as v where v.name = $1', v_view)
    into v_secret using p_name;
  end if;
  return v_secret;
end $$;
comment on function keylatch_internal.read_secret is
  'A secret by its name, from legacy_secrets or else from Supabase Vault.';

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
  'What the old system stored for a text under this scheme; null if no key of it has that form.';

create function keylatch_internal.legacy_hash(p_scheme text, p_bytes bytea)
returns bytea language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- No text begins with the byte ff: a hash stolen from the old table can never be presented.
  return sha256(
    decode('ff', 'hex') || convert_to(p_scheme, 'UTF8') || decode('ff', 'hex') || p_bytes
  );
end $$;
comment on function keylatch_internal.legacy_hash is
  'The key_hash of a key under this scheme, if only these bytes of it are known.';

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
  'The key_hash that this text would have under each scheme.';

create function keylatch_internal.judge_slow_scheme(p_recipe jsonb)
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if starts_with(p_recipe ->> 'digest', 'pbkdf2-') then
    -- A text that does not begin as strip says costs no slow hash.
    return not p_recipe ?& '{strip,salt_take,iter,length}' or length(p_recipe ->> 'strip') < 3
      or p_recipe ?| '{decode,prepend,append,secret}'
      or (p_recipe ->> 'length')::integer not between 16 and 128
      or (p_recipe ->> 'iter')::integer > keylatch_internal.round_budget() / 7;
  end if;
  return p_recipe ?| '{salt_take,iter,length}';
end $$;
comment on function keylatch_internal.judge_slow_scheme is
  'Whether the words of PBKDF2 in a scheme are wrong.';

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
      'name must be 1 to 40 letters, digits, _ or -, and not a word of keylatch itself.',
      'Name the scheme after the old system, for example "sanctum".']
    when jsonb_typeof(p_recipe) is distinct from 'object'
      or p_recipe - ('{after,strip,take,decode,prepend,append,digest,secret,secret_encoding,'
        'salt_take,iter,length}')::text[] <> '{}' then array[
      'The recipe has an unknown member.', 'The comment of declare_scheme names the members.']
    when exists (
      select from jsonb_each(p_recipe) as w
      where case
        when w.key in ('take', 'salt_take') then w.value::text !~ '^-?[1-9][0-9]{0,2}$'
        when w.key in ('iter', 'length') then w.value::text !~ '^[1-9][0-9]{0,6}$'
        else jsonb_typeof(w.value) <> 'string' or length(w.value #>> '{}') not between 1 and 200 end
    ) then array[
      'Each member of recipe must be a text of 1 to 200 characters; take and salt_take a number to '
        '999 or -999, iter and length a number from 1 on.',
      'Leave out what the old system does not do.']
    when v_digest is null
      or v_digest !~ '^(sha256|sha512|md5|sha1|hmac-sha256|hmac-sha512|pbkdf2-sha(1|256|512))$'
      then array[
      'digest must be sha256, sha512, md5, sha1, hmac-sha256, hmac-sha512 or pbkdf2-sha256.',
      'Salted hashes need no scheme: name their alg in the line.']
    when keylatch_internal.judge_slow_scheme(p_recipe) then array[
      format('PBKDF2 in a scheme needs strip (3 characters or more), salt_take, iter (up to %s), '
        'length (16 to 128) and may have after and take.', keylatch_internal.round_budget() / 7),
      'If the table has the salt, it needs no scheme: name the alg in the line.']
    when coalesce(p_recipe ->> 'decode', 'hex') not in ('hex', 'base64')
      or coalesce(p_recipe ->> 'secret_encoding', 'text') not in ('text', 'hex', 'base64')
      then array[
      'decode must be hex or base64, and secret_encoding text, hex or base64.', 'Use one of these.']
    when (p_recipe ? 'secret') <> (v_has_place or starts_with(v_digest, 'hmac-')) then array[
      'secret is needed for an HMAC or for {secret} in prepend or append, else not allowed.',
      'Pass the name of the secret, or omit the argument secret.']
    when p_recipe = '{"digest": "sha256"}' then array[
      'A SHA-256 of the whole key needs no scheme.', 'Give the lines alg sha256.']
    when p_recipe ? 'secret' and keylatch_internal.read_bytes(
      keylatch_internal.read_secret(p_recipe ->> 'secret'),
      coalesce(p_recipe ->> 'secret_encoding', 'text')
    ) is null then array[
      'There is no secret of that name, or the secret does not have its secret_encoding.',
      'Store it with vault.create_secret(secret, name), or insert it into '
        'keylatch_internal.legacy_secrets, as the owner.']
    when (select count(*) > 7 from keylatch_internal.legacy_schemes as s where s.name <> p_name)
      then array[
      'There are eight schemes already, and each makes a failed look-up slower.',
      'Call end_scheme for an old scheme. After that, delete its row: its keys become unknown.']
  end;
end $$;
comment on function keylatch_internal.judge_scheme is
  'What is wrong with a scheme, and what to do; null for a good scheme.';

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
  -- One call at a time, or two calls could both add an eighth scheme.
  lock table keylatch_internal.legacy_schemes in share row exclusive mode;
  v_problem := keylatch_internal.judge_scheme(p_name, p_recipe);
  if v_problem is null then
    v_scheme := jsonb_populate_record(v_scheme, p_recipe);
    select s.* into v_kept from keylatch_internal.legacy_schemes as s where s.name = p_name;
    v_scheme.ends_at := v_kept.ends_at;
    v_problem := case when v_kept.name is not null and v_kept is distinct from v_scheme then array[
      'There is a scheme of this name with another recipe.',
      'Keys use that recipe. Pass another name for the new recipe.'] end;
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
  'Declares how an old system made its unsalted hashes, so that import lines can name the scheme.
Repeating the call is safe. At most eight schemes: each is tried when a key was not found.

recipe: the steps that turn a key into its legacy hash, in this order. Only digest is required.
  after, strip     keep what follows the first occurrence of after; remove the beginning strip
  take             keep this many characters; from the end if negative
  decode           hex or base64: continue with the decoded bytes
  prepend, append  put these texts around it; {secret} stands for the secret
  digest           sha256, sha512, md5, sha1, hmac-sha256 or hmac-sha512
  salt_take        with digest pbkdf2-sha1, pbkdf2-sha256 or pbkdf2-sha512, iter and length: so many
                   characters of the text are its salt. Such a key waits for upgrade_key
  secret           its name in Supabase Vault or in keylatch_internal.legacy_secrets
  secret_encoding  of the key of an HMAC: text (as it is), hex or base64
For example {"after": "|", "digest": "sha256"}. Errors: invalid_argument (400).';

create function keylatch_internal.move_scheme_end(p_name text, p_ends_at timestamptz)
returns void language plpgsql volatile security definer
-- definer because: only the owner may write schemes.
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.require_grants('keylatch_internal.move_scheme_end');
  update keylatch_internal.legacy_schemes as s set ends_at = p_ends_at
  where s.name = p_name and p_ends_at <= coalesce(s.ends_at, 'infinity')
    and p_ends_at > clock_timestamp() and p_ends_at < '9999-01-01 00:00Z';
  if not found then
    perform keylatch_internal.refuse(
      'invalid_argument',
      'ends_at must be in the future, and not after the present end of the scheme.',
      'To end the scheme now, pass the time of one minute from now.'
    );
  end if;
end $$;
comment on function keylatch_internal.move_scheme_end is 'Sets an ends_at, or an earlier ends_at.';

create function keylatch.end_scheme(
  name text, ends_at timestamptz, "limit" integer default 10000
)
returns keylatch.retirement language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_result keylatch.retirement;
begin
  perform keylatch_internal.move_scheme_end(end_scheme.name, end_scheme.ends_at);
  with locked as materialized (
    select k.id from keylatch.keys as k
    inner join keylatch_internal.legacy_keys as g on k.id = g.key_id
    where g.scheme = end_scheme.name and k.revoked_at is null
      and coalesce(k.expires_at > end_scheme.ends_at, true)
    order by k.created_at, k.id limit end_scheme."limit"
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
  'Lets the keys of a scheme expire at ends_at, up to limit keys. Call it until is_done is true.

Keys that expire earlier do not change. Keys that are imported later expire then, too. Look at the
view imported_keys first: it shows when the old system last saw each key of the scheme.
revoked: how many keys got this expiry. Errors: invalid_argument (400).';

-- What an import knows of each key, in addition to its row in keys.

create table keylatch_internal.legacy_keys (
  key_id uuid not null,
  workspace_id uuid not null,
  scheme text not null,
  source text not null default '',
  import_id uuid not null,
  seen_by uuid not null,
  last_used_at timestamptz,
  verifier text,
  clear_part text collate "C" not null default '',
  -- squawk-ignore prefer-bigint-over-int
  rounds integer,
  upgraded_at timestamptz,
  constraint legacy_keys_pkey primary key (key_id),
  constraint legacy_keys_rounds_check check ((verifier is null) = (rounds is null))
);
create index legacy_keys_workspace_id_clear_part_idx
on keylatch_internal.legacy_keys (workspace_id, clear_part)
where rounds > 0 and upgraded_at is null;
create index legacy_keys_clear_part_idx
on keylatch_internal.legacy_keys (clear_part)
where rounds > 0 and upgraded_at is null;
create index legacy_keys_workspace_id_scheme_idx
on keylatch_internal.legacy_keys (workspace_id, scheme)
where rounds = 0 and upgraded_at is null;
create index legacy_keys_source_scheme_idx on keylatch_internal.legacy_keys (source, scheme);
comment on table keylatch_internal.legacy_keys is
  'One row for each imported key: the source of the key, and the legacy hash if it is salted.';
comment on column keylatch_internal.legacy_keys.key_id is 'The id of the imported key.';
comment on column keylatch_internal.legacy_keys.workspace_id is 'The workspace of the key.';
comment on column keylatch_internal.legacy_keys.scheme is
  'plaintext, sha256, the name of a scheme, or the alg of a salted hash.';
comment on column keylatch_internal.legacy_keys.source is
  'The name of the old system and table, as the import passed it. Empty if not passed.';
comment on column keylatch_internal.legacy_keys.import_id is 'The import that inserted the key.';
comment on column keylatch_internal.legacy_keys.seen_by is
  'The last import of this source that contained the key.';
comment on column keylatch_internal.legacy_keys.last_used_at is
  'When the key was last used in the old system, as the import passed it.';
comment on column keylatch_internal.legacy_keys.verifier is
  'For a key that waits for its first use: the hex of its hash, the whole text of bcrypt, or rounds,
salt and hash in hex, separated by $. Readable by the owner alone.';
comment on column keylatch_internal.legacy_keys.clear_part is
  'p: and the beginning of a waiting key, or s: and its end in reverse. Empty: not known.';
comment on column keylatch_internal.legacy_keys.rounds is
  'The cost of comparing a waiting key, in rounds of PBKDF2; 0 for an unsalted hash, which waits
because it may be the same key as a salted hash. Null: the key does not wait.';
comment on column keylatch_internal.legacy_keys.upgraded_at is
  'When upgrade_key first saw the plaintext of the key. Null before the first use.';
comment on index keylatch_internal.legacy_keys_workspace_id_clear_part_idx is
  'Finds the waiting keys of a workspace that may have a given text.';
comment on index keylatch_internal.legacy_keys_clear_part_idx is
  'Finds waiting keys if the workspace is not known.';
comment on index keylatch_internal.legacy_keys_workspace_id_scheme_idx is
  'Finds the waiting keys of a workspace whose hash has no salt.';
comment on index keylatch_internal.legacy_keys_source_scheme_idx is
  'Finds what a source no longer has, and the keys of a scheme.';

create table keylatch_internal.legacy_texts (
  text_hash bytea not null,
  key_hash bytea not null,
  constraint legacy_texts_pkey primary key (text_hash, key_hash)
);
comment on table keylatch_internal.legacy_texts is
  'Texts of keys that do not hash to the key_hash of their row. Rows are only ever inserted.';
comment on column keylatch_internal.legacy_texts.text_hash is 'The SHA-256 of the plaintext key.';
comment on column keylatch_internal.legacy_texts.key_hash is
  'The key. A text may have several keys, if it was imported under several salts.';

alter table keylatch_internal.legacy_keys enable row level security;
alter table keylatch_internal.legacy_texts enable row level security;

create policy legacy_keys_select_admin on keylatch_internal.legacy_keys
for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
comment on policy legacy_keys_select_admin on keylatch_internal.legacy_keys is
  'A signed-in user may read the import data of the workspaces that the user administers.';

create function keylatch_internal.keep_legacy()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  perform keylatch_internal.refuse(
    tg_argv[0], 'The hash and the text of an imported key never change.'
  );
  return null;
end $$;
comment on function keylatch_internal.keep_legacy is
  'Raises the error that the trigger passes.';

create trigger legacy_keys_update_immutable
before update on keylatch_internal.legacy_keys for each row when (
  -- Not a comparison of rows: pg_dump would write that differently.
  new.key_id is distinct from old.key_id or new.workspace_id is distinct from old.workspace_id
  or new.import_id is distinct from old.import_id or new.scheme is distinct from old.scheme
  or new.verifier is distinct from old.verifier or new.rounds is distinct from old.rounds
  or new.clear_part is distinct from old.clear_part
  or (new.upgraded_at is distinct from old.upgraded_at and old.upgraded_at is not null)
) execute function keylatch_internal.keep_legacy('column_is_immutable');
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_update_immutable;
comment on trigger legacy_keys_update_immutable on keylatch_internal.legacy_keys is
  'The hashes by which an imported key is recognised never change.';

create trigger legacy_keys_delete_keep
before delete or truncate on keylatch_internal.legacy_keys
for each statement execute function keylatch_internal.keep_legacy('keys_are_kept');
alter table keylatch_internal.legacy_keys enable always trigger legacy_keys_delete_keep;
comment on trigger legacy_keys_delete_keep on keylatch_internal.legacy_keys is
  'Rows are kept, so that a text that matches a revoked key is refused under every salt.';

create trigger legacy_texts_change_keep
before update or delete or truncate on keylatch_internal.legacy_texts
for each statement execute function keylatch_internal.keep_legacy('keys_are_kept');
alter table keylatch_internal.legacy_texts enable always trigger legacy_texts_change_keep;
comment on trigger legacy_texts_change_keep on keylatch_internal.legacy_texts is
  'Rows are never deleted: otherwise an old key could be imported a second time.';

create function keylatch_internal.merge_first_use()
returns trigger language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  -- The first use was here and at the publisher. Refusing the row would stop the worker for good.
  if tg_op = 'UPDATE' then
    new.upgraded_at := old.upgraded_at;
  elsif exists (
    select from keylatch_internal.legacy_texts as t
    where t.text_hash = new.text_hash and t.key_hash = new.key_hash
  ) then
    return null;
  end if;
  return new;
end $$;
comment on function keylatch_internal.merge_first_use is
  'On a logical replica: keeps a first use that the replica itself has recorded.';

create trigger legacy_keys_update_a_merge_first_use
before update on keylatch_internal.legacy_keys for each row
when (old.upgraded_at is not null and keylatch_internal.is_apply_worker())
execute function keylatch_internal.merge_first_use();
alter table keylatch_internal.legacy_keys
enable replica trigger legacy_keys_update_a_merge_first_use;
comment on trigger legacy_keys_update_a_merge_first_use on keylatch_internal.legacy_keys is
  'On a logical replica, before all other triggers: the first use that the replica recorded stays.';

create trigger legacy_texts_insert_merge_first_use
before insert on keylatch_internal.legacy_texts for each row
when (keylatch_internal.is_apply_worker())
execute function keylatch_internal.merge_first_use();
alter table keylatch_internal.legacy_texts
enable replica trigger legacy_texts_insert_merge_first_use;
comment on trigger legacy_texts_insert_merge_first_use on keylatch_internal.legacy_texts is
  'On a logical replica: a text that the replica itself has recorded is not inserted again.';

create view keylatch.legacy_keys with (security_invoker = true) as
select
  k.id, k.workspace_id, g.scheme, k.label, k.kind, k.environment, k.metadata, k.allowed_origins,
  k.scopes, k.expires_at, k.suspended_at, k.revoked_at, k.revoked_by, k.revoke_reason,
  k.created_at, k.created_by, k.imported_at, g.upgraded_at, k.masked_key,
  case when g.upgraded_at is not null then k.id end as key_id,
  case
    when g.upgraded_at is not null then 'upgraded'
    when k.status = 'active' then 'waiting'
    else k.status
  end as status
from keylatch_internal.legacy_keys as g
inner join keylatch.keys as k on g.key_id = k.id
where g.rounds is not null;
comment on view keylatch.legacy_keys is
  'The imported keys of your workspaces that wait, or have waited, for their first use.

Each key is in the view keys from its import on, and is revoked there. A waiting key resolves only
through upgrade_key, until its first use shows its text.';
comment on column keylatch.legacy_keys.status is
  'waiting, suspended, superseded, expired, revoked, or upgraded: then look at the view keys.';

create view keylatch.imported_keys with (security_invoker = true) as
select
  k.id as key_id, k.workspace_id, k.label, k.masked_key, k.status, k.expires_at, k.imported_at,
  g.scheme, g.source, g.import_id, g.last_used_at
from keylatch_internal.legacy_keys as g
inner join keylatch.keys as k on g.key_id = k.id;
comment on view keylatch.imported_keys is
  'All imported keys of your workspaces: their scheme, their source, their import, and when the old
system last saw them.';
-- The columns get the comments of their tables.
do $$
declare
  v_column record;
begin
  for v_column in
    select v.attrelid::regclass as relation, v.attname,
      coalesce(
        pg_catalog.col_description('keylatch_internal.keys'::regclass, k.attnum),
        pg_catalog.col_description('keylatch_internal.legacy_keys'::regclass, g.attnum),
        pg_catalog.col_description('keylatch.keys'::regclass, s.attnum)
      ) as meaning
    from pg_catalog.pg_attribute as v
    left join pg_catalog.pg_attribute as k
      on v.attname = k.attname and k.attrelid = 'keylatch_internal.keys'::regclass
    left join pg_catalog.pg_attribute as g
      on v.attname = g.attname and g.attrelid = 'keylatch_internal.legacy_keys'::regclass
    left join pg_catalog.pg_attribute as s
      on v.attname = s.attname and s.attrelid = 'keylatch.keys'::regclass
    where v.attrelid in ('keylatch.legacy_keys'::regclass, 'keylatch.imported_keys'::regclass)
      and pg_catalog.col_description(v.attrelid, v.attnum) is null
  loop
    execute format(
      'comment on column %s.%I is %L', v_column.relation, v_column.attname, v_column.meaning
    );
  end loop;
end $$;

create function keylatch_internal.is_placeholder(p_text text)
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return p_text ~* E'^([[({<]*(undefined|null|none|nil|nan|true|false|todo|redacted|change.?me.*'
    '|placeholder.*|(your|replace|insert)[-_ ].*|(my|example|test)[-_ ]?(api)?[-_ ]?'
    '(key|secret|token))[])}>]*)?$';
end $$;
comment on function keylatch_internal.is_placeholder is
  'Whether a text stands where a key is missing: undefined, changeme, <your key>, or nothing.';

create or replace function keylatch_internal.other_hash(p_text text)
returns bytea language plpgsql stable parallel safe security invoker
-- No exception block: before PostgreSQL 17, a subtransaction fails in a parallel plan.
-- A generic plan: planning the last query at each call would take longer than everything else.
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  v_hash bytea;
  v_hashes bytea[];
begin
  -- A failed look-up costs only this while there is no scheme, and no salted key was used.
  if not exists (select from keylatch_internal.legacy_schemes)
    and not exists (select from keylatch_internal.legacy_texts)
    or octet_length(p_text) > 4000
  then
    return null;
  elsif p_text = '' then
    return p_text::bytea;
  elsif keylatch_internal.is_placeholder(p_text) then
    return null;
  end if;
  v_hash := sha256(convert_to(p_text, 'UTF8'));
  v_hashes := array(
    select t.key_hash from keylatch_internal.legacy_texts as t where t.text_hash = v_hash
    union all
    select keylatch_internal.legacy_hash(s.name, keylatch_internal.scheme_digest(p_text, s))
    from keylatch_internal.legacy_schemes as s where s.iter is null
  );
  if v_hashes = '{}' then
    return null;
  end if;
  return (
    select k.key_hash from keylatch_internal.keys as k
    where k.key_hash = any (v_hashes || v_hash)
    -- The text's own row first. Then the least active row: a text that is inactive under one scheme
    -- or salt must not resolve under another.
    order by
      k.key_hash <> v_hash, k.revoked_at is null, coalesce(k.expires_at > clock_timestamp(), true),
      k.suspended_at is null, k.expires_at nulls last, k.id
    limit 1
  );
end $$;
comment on function keylatch_internal.other_hash is
  'The key_hash of a text that was imported by a scheme, or was recognised at its first use. A row
under the hash of the text itself comes first, active or not.';

create function keylatch.revoke_legacy_key(id uuid, reason text default null)
returns keylatch.revocation language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return keylatch.revoke_key(revoke_legacy_key.id, revoke_legacy_key.reason);
end $$;
comment on function keylatch.revoke_legacy_key is
  'Revokes an imported key, exactly as revoke_key does.

reason: up to 500 characters. Errors: key_not_found (404), invalid_argument (400).';

-- Comparing a text with salted hashes, and the limits of that.

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
revoke all on table
keylatch_internal.legacy_secrets, keylatch_internal.legacy_schemes, keylatch_internal.legacy_keys,
keylatch_internal.legacy_texts, keylatch_internal.legacy_settings, keylatch.legacy_keys,
keylatch.imported_keys
from public, anon, authenticated, service_role;
revoke all on sequence keylatch_internal.legacy_attempts_seq
from public, anon, authenticated, service_role;
revoke all on function
keylatch_internal.read_bytes, keylatch_internal.read_secret, keylatch_internal.scheme_digest,
keylatch_internal.legacy_hash, keylatch_internal.scheme_hashes, keylatch_internal.judge_scheme,
keylatch_internal.keep_scheme, keylatch.declare_scheme, keylatch_internal.move_scheme_end,
keylatch.end_scheme, keylatch_internal.keep_legacy, keylatch_internal.merge_first_use,
keylatch_internal.is_placeholder,
keylatch.revoke_legacy_key, keylatch_internal.judge_slow_scheme,
keylatch_internal.count_attempt,
keylatch_internal.round_budget, keylatch_internal.derive_pbkdf2,
keylatch_internal.matches_verifier, keylatch_internal.clear_parts, keylatch_internal.similar_keys,
keylatch_internal.upgrade_legacy_key, keylatch.upgrade_key
from public, anon, authenticated, service_role;
-- Not the columns that would help to guess a waiting key.
grant select (
  key_id, workspace_id, scheme, source, import_id, seen_by, last_used_at, rounds, upgraded_at
)
on table keylatch_internal.legacy_keys to authenticated, service_role;
grant select on table keylatch.legacy_keys, keylatch.imported_keys to authenticated, service_role;
grant execute on function keylatch.revoke_legacy_key to authenticated, service_role;
grant execute on function
keylatch.declare_scheme, keylatch_internal.keep_scheme, keylatch.end_scheme,
keylatch_internal.move_scheme_end
to service_role;
grant execute on function keylatch.upgrade_key, keylatch_internal.upgrade_legacy_key
to service_role, keylatch_resolver;
