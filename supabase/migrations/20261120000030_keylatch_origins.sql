-- Origins: which origins a key may list, and which of these the Origin of a request matches.
--
-- Origins stop a foreign web page, because its browser sends the true Origin. They do not stop
-- curl, which sends any Origin.
--
-- In all files, a text with a backslash is written E'…'. A plain '…' would mean something else in
-- a session that sets standard_conforming_strings to off.

create function keylatch_internal.is_canonical_origin(p_origin text)
returns boolean language plpgsql immutable parallel safe security invoker
-- Without an exception block: a subtransaction would fail in a parallel plan before version 17.
set search_path = pg_catalog, pg_temp as $$
declare
  -- The length is checked first: a header may have 100 kB, and a host has at most 253 characters.
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
    or (v_scheme = 'http' and v_port = 80) or (v_scheme = 'https' and v_port = 443)
  then
    return false;
  end if;
  -- A browser writes each host that ends in a number as an IPv4 address, and shortens IPv6.
  if v_host ~ E'(^|\\.)([0-9]+|0x[0-9a-f]*)$' then
    return v_host ~ E'^((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(\\.|$)){4}$'
      and v_host !~ E'(^|\\.)0[0-9]' and v_host !~ E'\\.$';
  elsif starts_with(v_host, '[') then
    -- Only what is an IPv6 address reaches the cast: eight groups, or fewer with one "::".
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
  'Whether this is scheme://host[:port] exactly as a browser writes it: lower case, punycode, no
path, no default port; http, https or the scheme of an application shell or extension.';

create function keylatch_internal.is_origin_entry(p_entry text, p_environment text)
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  if strpos(p_entry, '*') = 0 then
    return keylatch_internal.is_canonical_origin(p_entry);
  elsif p_entry ~ E'^https?://\\*\\.' then
    -- Two labels under the star, and no address. Without the star the rest must be an origin.
    return keylatch_internal.is_canonical_origin(regexp_replace(p_entry, E'\\*\\.', ''))
      and p_entry ~ E'^https?://\\*\\.[^.:]+\\.[^:]*[^.:0-9][^.:]*(:[0-9]+)?$';
  end if;
  return p_environment = 'test'
    and (p_entry = '*' or p_entry ~ E'^https?://(localhost|127\\.0\\.0\\.1|\\[::1\\]):\\*$');
end $$;
comment on function keylatch_internal.is_origin_entry is
  'Whether a key of this environment may list this entry: a canonical origin, https://*.example.com
with at least two labels under the star, and for test keys * and http://localhost:*.';

create function keylatch_internal.origin_matches(p_origin text, p_allowed text[])
returns boolean language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_entry text;
  v_suffix text;
begin
  -- A star in a request is never a pattern, and never equals a pattern.
  if p_origin is null or strpos(p_origin, '*') > 0 then
    return false;
  elsif p_origin collate "C" = any (p_allowed) then
    return true;
  elsif strpos(array_to_string(p_allowed, ' '), '*') = 0
    or not keylatch_internal.is_canonical_origin(p_origin)
  then
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
      -- The origin is canonical, so only labels can stand between the scheme and the suffix.
      v_suffix := split_part(v_entry, '*', 2);
      if starts_with(p_origin, split_part(v_entry, '*', 1))
        and right(p_origin, length(v_suffix)) = v_suffix
      then
        return true;
      end if;
    end if;
  end loop;
  return false;
end $$;
comment on function keylatch_internal.origin_matches is
  'Whether a key allows the Origin of a request. An empty list allows no origin. A missing Origin,
the text "null" and a text with a star match nothing. A star never matches the apex.';

create function keylatch_internal.check_origins(p_origins text[], p_kind text, p_environment text)
returns text[] language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_entry text;
  v_guess text;
  v_problem text[] := case
    when p_origins is null or array_ndims(p_origins) > 1 or array_position(p_origins, null) > 0
      then array['allowed_origins must be a list of texts without nulls.', 'Pass [] to allow none.']
    when cardinality(p_origins) > 0 and p_kind = 'secret' then array[
      'allowed_origins must be empty: a secret key is never used from a page.',
      'Issue a publishable key for the page.']
    when cardinality(p_origins) > 100 then array[
      'allowed_origins has more than 100 entries.',
      'Cover subdomains with https://*.example.com, or issue a second key.']
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
    -- What the caller most likely meant: without a path and a default port, in lower case.
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
  'What is wrong with this list of origins, and what to do; null for a good list. It never quotes a
value: a secret may have been pasted into the wrong field, and errors end up in logs.';

-- Who may do what. These functions only compare texts that the caller passes.
revoke all on function keylatch_internal.is_canonical_origin, keylatch_internal.is_origin_entry,
keylatch_internal.origin_matches, keylatch_internal.check_origins
from public, anon, authenticated, service_role;
grant execute on function
keylatch_internal.is_canonical_origin, keylatch_internal.is_origin_entry,
keylatch_internal.origin_matches, keylatch_internal.check_origins to authenticated, service_role;
