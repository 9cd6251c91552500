-- What the values of an import may be: texts as older systems write them.
--
-- Nothing here reads or writes a table, and nobody but the owner may call it.

create function keylatch_internal.read_bytes(p_text text, p_encoding text)
returns bytea
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
declare
  v_base64 pg_catalog.text;
begin
  if p_encoding = 'hex' and p_text ~ '^([0-9a-fA-F]{2})+$' then
    return decode(p_text, 'hex');
  elsif p_encoding = 'text' then
    return convert_to(p_text, 'UTF8');
  elsif p_encoding = 'base64' and p_text ~ '^([A-Za-z0-9+/]+|[A-Za-z0-9_-]+)={0,2}$' then
    v_base64 := translate(rtrim(p_text, '='), '-_', '+/');
    if length(v_base64) % 4 <> 1 then
      return decode(rpad(v_base64, (length(v_base64) + 3) / 4 * 4, '='), 'base64');
    end if;
  end if;
  return null;
end;
$$;

comment on function keylatch_internal.read_bytes(text, text) is
  'The bytes that a text stands for in hex, in base64 (of either alphabet) or as itself; null when
it is not of that encoding.';

revoke all on function keylatch_internal.read_bytes(text, text)
from public, anon, authenticated, service_role;

create function keylatch_internal.read_time(p_text text)
returns timestamptz
language plpgsql
stable
parallel safe
security invoker
set search_path = ''
as $$
begin
  if p_text ~ '^\d{4}-\d\d-\d\d$' then
    return (p_text || ' 00:00Z')::pg_catalog.timestamptz;
  elsif p_text ~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)? ?(Z|[+-]\d\d(:?\d\d)?)$' then
    return p_text::pg_catalog.timestamptz;
  end if;
  return null;
exception
  when data_exception then
    return null;
end;
$$;

comment on function keylatch_internal.read_time(text) is
  'The time of a text in ISO 8601 with its zone, or the beginning of a day in UTC; null when it is
neither.';

revoke all on function keylatch_internal.read_time(text)
from public, anon, authenticated, service_role;

create function keylatch_internal.imported_hint(p_key text)
returns text
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  if p_key ~ '^[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[1-9A-HJ-NP-Za-km-z]{36}$' then
    return keylatch_internal.key_hint(p_key);
  end if;
  -- The words that it begins with, and four characters where enough others are left.
  return coalesce(substring(p_key, '^(?:[a-z]{1,8}[_-]){1,3}'), '') || '…'
    || case when length(p_key) >= 20 then right(p_key, 4) else '' end;
end;
$$;

comment on function keylatch_internal.imported_hint(text) is
  'What people tell a key of any form by, for example wid_…uVO9.';

revoke all on function keylatch_internal.imported_hint(text)
from public, anon, authenticated, service_role;

create function keylatch_internal.check_imported_hash(
  p_alg text, p_hash text, p_hash_encoding text, p_salt text, p_salt_encoding text, p_iter text
)
returns keylatch_internal.problem
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
declare
  v_problem keylatch_internal.problem;
begin
  if p_alg is null or p_alg not in ('sha256', 'pbkdf2_sha256', 'django', 'bcrypt') then
    v_problem.detail := 'alg must be sha256, pbkdf2_sha256, django or bcrypt.';
    v_problem.hint := 'Keys under another algorithm cannot be taken over: issue new ones.';
  elsif p_alg in ('django', 'bcrypt')
    and num_nonnulls(p_hash_encoding, p_salt, p_salt_encoding, p_iter) > 0
  then
    v_problem.detail := 'hash_encoding, salt, salt_encoding and iter do not go with alg '
      || p_alg || '.';
    v_problem.hint := 'Leave them out: the text of the hash has all of it.';
  elsif p_alg = 'bcrypt' then
    if p_hash !~ '^\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}$' then
      v_problem.detail := 'hash is not one of bcrypt: $2a$, $2b$ or $2y$, a cost from 04 to 14, $ and '
        || '53 characters.';
      v_problem.hint := 'Give the whole text as the older system has it.';
    end if;
  elsif p_alg = 'django' then
    if p_hash !~ '^pbkdf2_sha256\$[0-9]+\$[^$]+\$[A-Za-z0-9+/]{43}=$' then
      v_problem.detail := 'hash is not one of Django''s: pbkdf2_sha256$iterations$salt$hash.';
      v_problem.hint := 'Give the whole text. Other hashers of Django cannot be taken over.';
    elsif split_part(p_hash, '$', 2) !~ '^[1-9][0-9]{0,6}$'
      or split_part(p_hash, '$', 2)::integer > 2000000
    then
      v_problem.detail := 'hash has iterations that are not from 1 to 2000000.';
      v_problem.hint := 'A claim would have to compute them: issue a new key instead.';
    end if;
  elsif p_hash_encoding is null or p_hash_encoding not in ('hex', 'base64') then
    v_problem.detail := 'hash_encoding must be hex or base64.';
    v_problem.hint := 'Say which it is: nothing is guessed.';
  elsif octet_length(keylatch_internal.read_bytes(p_hash, p_hash_encoding))
    is distinct from 32
  then
    v_problem.detail := 'hash is not 32 bytes in ' || p_hash_encoding || '.';
    v_problem.hint := 'In hex it has 64 characters, in base64 43 and a =.';
  elsif p_alg = 'sha256' then
    if num_nonnulls(p_salt, p_salt_encoding, p_iter) > 0 then
      v_problem.detail := 'salt, salt_encoding and iter do not go with alg sha256.';
      v_problem.hint := 'Only the plain SHA-256 of the whole key can be taken over.';
    end if;
  elsif p_salt_encoding is null or p_salt_encoding not in ('hex', 'base64', 'text') then
    v_problem.detail := 'salt_encoding must be hex, base64 or text.';
    v_problem.hint := 'text where the older system hashed the salt as it is written.';
  elsif coalesce(octet_length(keylatch_internal.read_bytes(p_salt, p_salt_encoding)), 0)
    not between 1 and 1024
  then
    v_problem.detail := 'salt is not 1 to 1024 bytes in ' || p_salt_encoding || '.';
    v_problem.hint := 'Look how the older system reads it before it hashes.';
  elsif p_iter is null or p_iter !~ '^[1-9][0-9]{0,6}$' or p_iter::integer > 2000000 then
    v_problem.detail := 'iter must be from 1 to 2000000.';
    v_problem.hint := 'A claim has to compute them: above that issue a new key.';
  end if;
  return case when v_problem.detail is not null then v_problem end;
end;
$$;

comment on function keylatch_internal.check_imported_hash(text, text, text, text, text, text) is
  'What is wrong with a hash of an older system, or null.';

revoke all on function keylatch_internal.check_imported_hash(text, text, text, text, text, text)
from public, anon, authenticated, service_role;

create function keylatch_internal.read_verifier(
  p_alg text, p_hash text, p_hash_encoding text, p_salt text, p_salt_encoding text, p_iter text
)
returns text
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  if (keylatch_internal.check_imported_hash(
    p_alg, p_hash, p_hash_encoding, p_salt, p_salt_encoding, p_iter
  )) is not null then
    return null;
  end if;
  return case p_alg
    when 'bcrypt' then p_hash
    when 'django' then format(
      '%s$%s$%s',
      split_part(p_hash, '$', 2),
      encode(convert_to(split_part(p_hash, '$', 3), 'UTF8'), 'hex'),
      encode(decode(split_part(p_hash, '$', 4), 'base64'), 'hex')
    )
    else format(
      '%s$%s$%s',
      p_iter,
      encode(keylatch_internal.read_bytes(p_salt, p_salt_encoding), 'hex'),
      encode(keylatch_internal.read_bytes(p_hash, p_hash_encoding), 'hex')
    )
  end;
end;
$$;

comment on function keylatch_internal.read_verifier(text, text, text, text, text, text) is
  'A salted hash in the one form that is kept: of bcrypt its text, else iterations, salt and hash;
null when something is wrong with it.';

revoke all on function keylatch_internal.read_verifier(text, text, text, text, text, text)
from public, anon, authenticated, service_role;

create function keylatch_internal.check_imported_key(p_key text, p_kind text, p_environment text)
returns keylatch_internal.problem
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
declare
  v_form constant pg_catalog.text := keylatch_internal.key_form(p_key);
  v_problem keylatch_internal.problem;
begin
  if p_key = '' or length(p_key) > 1000 or p_key ~ '^\s|\s$|[\x01-\x1f\x7f-\x9f]' then
    v_problem.detail := 'key must be a text of 1 to 1000 characters without control characters and '
      || 'without spaces around it.';
    v_problem.hint := 'Give it exactly as its holder sends it.';
  elsif v_form = 'checksum_failed' then
    v_problem.detail := 'key has the form of keylatch''s own, and its check characters do not fit.';
    v_problem.hint := 'It was mistyped or cut: nobody can have such a key.';
  elsif v_form = 'valid' and (
    p_kind <> case split_part(p_key, '_', 2) when 'pk' then 'publishable' else 'secret' end
    or p_environment <> split_part(p_key, '_', 3)
  )
  then
    v_problem.detail := 'key says in its own words that it is of another kind or environment.';
    v_problem.hint := 'Leave kind and environment out for it.';
  end if;
  return case when v_problem.detail is not null then v_problem end;
end;
$$;

comment on function keylatch_internal.check_imported_key(text, text, text) is
  'What is wrong with a key in clear of an older system, or null.';

revoke all on function keylatch_internal.check_imported_key(text, text, text)
from public, anon, authenticated, service_role;
