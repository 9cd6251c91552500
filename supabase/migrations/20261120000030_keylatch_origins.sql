-- Allowed origins: the format of an entry in allowed_origins, and how an Origin header matches it.
--
-- Allowed origins stop other websites, because a browser always sends the true Origin header.
-- Allowed origins do not stop curl, which can send any Origin header.
-- In all migrations, a string with a backslash is written E'…', because the meaning of a plain
-- '…' with a backslash depends on the setting standard_conforming_strings.

create function keylatch_internal.is_canonical_origin(p_origin text)
returns boolean language plpgsql immutable parallel safe security invoker
-- No exception block: before PostgreSQL 17, a subtransaction fails in a parallel plan.
set search_path = pg_catalog, pg_temp as $$
declare
  -- Check the length first, because a hostile Origin header can have 100 kB.
  v_parts constant text[] := case when octet_length(p_origin) <= 300 then regexp_match(
    p_origin,
    '^(https?|capacitor|ionic|tauri|chrome-extension|moz-extension)://'
    || E'(\\[[0-9a-f:]+\\]|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?'
    || E'(?:\\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*)'
    || '(?::([1-9][0-9]{0,4}))?$'
  ) end;
  v_scheme constant text := v_parts[1];
  v_host constant text := v_parts[2];
  v_port constant integer := v_parts[3]::integer;
begin
  if v_parts is null or v_port > 65535 or length(v_host) > 253 or v_host ~ '[^.]{64}'
    or (v_scheme = 'http' and v_port = 80) or (v_scheme = 'https' and v_port = 443) then
    return false;
  end if;
  -- A browser writes a host that ends in a number as an IPv4 address, and shortens IPv6 addresses.
  if v_host ~ E'(^|\\.)([0-9]+|0x[0-9a-f]*)$' then
    return v_host ~ E'^((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(\\.|$)){4}$'
      and v_host !~ E'(^|\\.)0[0-9]' and v_host !~ E'\\.$';
  elsif starts_with(v_host, '[') then
    -- Cast to inet only a valid IPv6 address: eight groups, or fewer groups and one "::".
    return case
      when v_host ~ E'^\\[([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\\]$'
        or (
          v_host ~ E'^\\[(([0-9a-f]{1,4}:)*[0-9a-f]{1,4})?::(([0-9a-f]{1,4}:)*[0-9a-f]{1,4})?\\]$'
          and regexp_count(v_host, '[0-9a-f]+') <= 7
        )
        then '[' || host(trim(both '[]' from v_host)::inet) || ']' = v_host
      else false
    end;
  end if;
  return true;
end $$;
comment on function keylatch_internal.is_canonical_origin is
  'True if the text is an origin, scheme://host[:port], exactly as a browser writes an origin: lower
case, punycode, no path, no default port. Desktop app and extension schemes are allowed.';

create function keylatch_internal.is_origin_entry(p_entry text, p_environment text)
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if strpos(p_entry, '*') = 0 then
    return keylatch_internal.is_canonical_origin(p_entry);
  elsif p_entry ~ E'^https?://\\*\\.' then
    -- A wildcard needs a domain with two labels (*.example.com). "*.com" and "*.1.2" are refused.
    return keylatch_internal.is_canonical_origin(regexp_replace(p_entry, E'\\*\\.', ''))
      and p_entry ~ E'^https?://\\*\\.[^.:]+\\.[^:]*[^.:0-9][^.:]*(:[0-9]+)?$';
  end if;
  return p_environment = 'test'
    and (p_entry = '*' or p_entry ~ E'^https?://(localhost|127\\.0\\.0\\.1|\\[::1\\]):\\*$');
end $$;
comment on function keylatch_internal.is_origin_entry is
  'True if allowed_origins may contain the entry. Allowed are origins such as https://example.com
and wildcards such as https://*.example.com. Test keys may also have * and http://localhost:*.';

create function keylatch_internal.origin_matches(p_origin text, p_allowed text[])
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_entry text;
  v_suffix text;
begin
  -- An Origin header that contains "*" is refused: only allowed_origins can contain wildcards.
  if p_origin is null or strpos(p_origin, '*') > 0 then
    return false;
  elsif p_origin collate "C" = any (p_allowed) then
    return true;
  elsif strpos(array_to_string(p_allowed, ' '), '*') = 0
    or not keylatch_internal.is_canonical_origin(p_origin) then
    return false;
  end if;
  foreach v_entry in array p_allowed loop
    if v_entry = '*' then
      return true;
    elsif right(v_entry, 2) = ':*' then
      v_entry := left(v_entry, -2);
      if p_origin = v_entry or starts_with(p_origin, v_entry || ':') then
        return true;
      end if;
    elsif strpos(v_entry, '://*.') > 0 then
      -- The origin is canonical, so the text between scheme and suffix can only be a subdomain.
      v_suffix := split_part(v_entry, '*', 2);
      if starts_with(p_origin, split_part(v_entry, '*', 1))
        and right(p_origin, length(v_suffix)) = v_suffix then
        return true;
      end if;
    end if;
  end loop;
  return false;
end $$;
comment on function keylatch_internal.origin_matches is
  'True if allowed_origins matches the Origin header of a request. An empty list allows no origin.
The header "null" or no header never matches. https://*.a.com does not match https://a.com.';

create function keylatch_internal.check_origins(p_origins text[], p_kind text, p_environment text)
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_entry text;
  v_guess text;
  v_problem text[] := case
    when p_origins is null or array_ndims(p_origins) > 1 or array_position(p_origins, null) > 0
      then array['allowed_origins must be a list of strings.', 'Pass [] to allow no origin.']
    when cardinality(p_origins) > 0 and p_kind = 'secret' then array[
      'allowed_origins of a secret key must be empty: web pages must not use secret keys.',
      'Issue a publishable key for the web page.']
    when cardinality(p_origins) > 100 then array[
      'allowed_origins has more than 100 entries.',
      'Use a wildcard such as https://*.example.com, or issue a second key.']
    when cardinality(p_origins) > 1 and cardinality(p_origins) > (
      select count(distinct o.origin) from unnest(p_origins) as o (origin)
    ) then array['allowed_origins lists an origin twice.', 'List each origin once.']
  end;
begin
  if v_problem is not null then
    return v_problem;
  end if;
  foreach v_entry in array p_origins loop
    continue when keylatch_internal.is_canonical_origin(v_entry)
      or keylatch_internal.is_origin_entry(v_entry, p_environment);
    -- Guess the origin that the caller meant: lower case, no path, no default port.
    v_guess := lower(btrim(left(v_entry, 1000), E' \t\r\n'));
    v_guess := case when v_guess ~ '^[a-z0-9.*-]+[.]' then 'https://' || v_guess else v_guess end;
    v_guess := regexp_replace(v_guess, '^([a-z-]+://)([^/?#@]*@)?([^/?#]*).*$', E'\\1\\3');
    v_guess := regexp_replace(v_guess, '[.]?(:[0-9*]*)?$', E'\\1');
    v_guess := regexp_replace(v_guess, '^(http://.*):80$|^(https://.*):443$|:$', E'\\1\\2');
    return array[
      format('allowed_origins[%s] is %s.', array_position(p_origins, v_entry), case
        when keylatch_internal.is_origin_entry(v_entry, 'test') then 'for test keys only'
        else 'not an origin that a browser sends' end),
      case when keylatch_internal.is_origin_entry(v_guess, p_environment)
        then 'Write ' || v_guess || '.'
        else 'Write the origin as location.origin shows it in the page, for example '
          || 'https://shop.example, or https://*.shop.example for its subdomains.' end];
  end loop;
  return null;
end $$;
comment on function keylatch_internal.check_origins is
  'Returns the error detail and hint for a bad allowed_origins list, and null for a valid list. The
error never quotes an entry, because a user may have pasted a secret there and errors are logged.';

-- The grants of this file.
revoke all on function keylatch_internal.is_canonical_origin, keylatch_internal.is_origin_entry,
keylatch_internal.origin_matches, keylatch_internal.check_origins
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.is_canonical_origin, keylatch_internal.is_origin_entry,
keylatch_internal.origin_matches, keylatch_internal.check_origins to authenticated, service_role;
