-- What a key looks like, how one is made, and the one hash that is ever taken of it.
--
--   wk_sk_live_9fK…   <prefix>_<pk|sk>_<live|test>_<body: 30><check: 6>
--
-- All here is pure text work on the caller's own values, so signed-in roles may run it.

create function keylatch_internal.key_alphabet()
returns text
language sql
immutable
parallel safe
security invoker
set search_path = ''
as $$
  select '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
$$;

comment on function keylatch_internal.key_alphabet() is
  'The 58 characters of a key''s body and check: digits and letters without 0, O, I and l.';

revoke all on function keylatch_internal.key_alphabet()
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.key_alphabet() to authenticated, service_role;

-- Not language sql, as key_hint below: auto_explain logs the parameters of such a function's query.
create function keylatch.hash_key(key text)
returns bytea
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  -- Fast on purpose: a body has 175 random bits, and NIST 800-63B asks for a slow hash only below
  -- 112. convert_to is "stable" for its encoding's sake; the encoding of a database never changes.
  return sha256(convert_to(hash_key.key, 'UTF8'));
end;
$$;

comment on function keylatch.hash_key(text) is
  'The SHA-256 of the whole key as UTF-8, 32 bytes: what is stored instead of the key.

Over REST hash in the client instead, so that the key does not travel.';

revoke all on function keylatch.hash_key(text) from public, anon, authenticated, service_role;
grant execute on function keylatch.hash_key(text) to authenticated, service_role;

create function keylatch_internal.key_check(p_text text)
returns text
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
declare
  v_alphabet constant pg_catalog.text := keylatch_internal.key_alphabet();
  v_hash constant pg_catalog.bytea := keylatch.hash_key(p_text);
  v_check pg_catalog.text := '';
begin
  for v_index in 0 .. 5 loop
    v_check := v_check || substr(v_alphabet, get_byte(v_hash, v_index) % 58 + 1, 1);
  end loop;
  return v_check;
end;
$$;

comment on function keylatch_internal.key_check(text) is
  'The six check characters that follow this text: they catch a typo without a database.';

revoke all on function keylatch_internal.key_check(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.key_check(text) to authenticated, service_role;

create function keylatch_internal.key_form(p_key text)
returns text
language sql
immutable
parallel safe
security invoker
set search_path = ''
as $$
  select case
    when p_key is null
      or p_key !~ '^[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[1-9A-HJ-NP-Za-km-z]{36}$'
      then 'malformed'
    when keylatch_internal.key_check(pg_catalog.left(p_key, -6)) <> pg_catalog.right(p_key, 6)
      then 'checksum_failed'
    else 'valid'
  end;
$$;

comment on function keylatch_internal.key_form(text) is
  'Whether a text has the form of a key: malformed, checksum_failed or valid.';

revoke all on function keylatch_internal.key_form(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.key_form(text) to authenticated, service_role;

create function keylatch_internal.key_hint(p_key text)
returns text
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  return left(p_key, -36) || '…' || right(p_key, 4);
end;
$$;

comment on function keylatch_internal.key_hint(text) is
  'What people tell a key by: all before its body, and its last four characters.';

revoke all on function keylatch_internal.key_hint(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.key_hint(text) to authenticated, service_role;

create function keylatch_internal.hint_prefix(p_hint text)
returns text
language sql
immutable
parallel safe
security invoker
set search_path = ''
as $$
  select coalesce(pg_catalog.substring(p_hint, '^([a-z][a-z0-9]{1,11})_'), 'wk');
$$;

comment on function keylatch_internal.hint_prefix(text) is
  'The prefix for the successor of a key of this hint: its own, or wk where an it has none.';

revoke all on function keylatch_internal.hint_prefix(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.hint_prefix(text) to authenticated, service_role;

create function keylatch_internal.complete_key(p_beginning text)
returns text
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_alphabet constant pg_catalog.text := keylatch_internal.key_alphabet();
  v_bytes pg_catalog.bytea;
  v_byte integer;
  v_body pg_catalog.text := '';
begin
  while length(v_body) < 30 loop
    v_bytes := extensions.gen_random_bytes(40);
    for v_index in 0 .. 39 loop
      v_byte := get_byte(v_bytes, v_index);
      -- 232 is 4 * 58: taking the rest of a larger byte would make some characters likelier.
      continue when v_byte >= 232;
      v_body := v_body || substr(v_alphabet, v_byte % 58 + 1, 1);
      exit when length(v_body) = 30;
    end loop;
  end loop;
  return p_beginning || v_body || keylatch_internal.key_check(p_beginning || v_body);
end;
$$;

comment on function keylatch_internal.complete_key(text) is
  'What begins like this, with a random body of 175 bits and the check characters of the whole.';

revoke all on function keylatch_internal.complete_key(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.complete_key(text) to authenticated, service_role;

create function keylatch_internal.generate_key(p_prefix text, p_kind text, p_environment text)
returns text
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if p_prefix is null or p_prefix !~ '^[a-z][a-z0-9]{1,11}$' then
    raise sqlstate 'PT400' using
      message = 'invalid_argument',
      detail = 'prefix must be 2 to 12 lower-case letters and digits and begin with a letter.',
      hint = 'Use a short name of your product, for example "acme".';
  end if;

  return keylatch_internal.complete_key(
    p_prefix || case p_kind when 'secret' then '_sk_' else '_pk_' end || p_environment || '_'
  );
end;
$$;

comment on function keylatch_internal.generate_key(text, text, text) is
  'A new random key of this prefix, kind and environment. It is not stored anywhere.';

revoke all on function keylatch_internal.generate_key(text, text, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.generate_key(text, text, text)
to authenticated, service_role;
