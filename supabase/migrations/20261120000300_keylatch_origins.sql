-- Origins: what may be saved in a key's list, and what of a request's Origin it matches.
--
-- This stops a foreign page, whose browser sends its true Origin. It does not stop curl, which
-- sends whatever it likes.

create type keylatch_internal.problem as (
  detail text,
  hint text
);
comment on type keylatch_internal.problem is
  'Why a value is refused and what to do; null when it is fine. It never quotes the value: somebody
may have put a secret there by mistake, and errors end up in logs.';

create function keylatch_internal.is_canonical_origin(p_origin text)
returns boolean
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
declare
  -- A request's header is measured before it is taken apart: the longest host has 253 characters.
  v_parts constant pg_catalog.text[] := case when octet_length(p_origin) <= 300 then regexp_match(
    p_origin,
    '^(https?|capacitor|ionic|tauri|chrome-extension|moz-extension)://'
    || '(\[[0-9a-f:]+\]|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*)'
    || '(?::([1-9][0-9]{0,4}))?$'
  ) end;
  v_scheme constant pg_catalog.text := v_parts[1];
  v_host constant pg_catalog.text := v_parts[2];
  v_port constant integer := v_parts[3]::integer;
begin
  if v_parts is null
    or v_port > 65535
    or (v_scheme = 'http' and v_port = 80)
    or (v_scheme = 'https' and v_port = 443)
    or length(v_host) > 253
    or v_host ~ '[^.]{64}'
  then
    return false;
  end if;

  -- A browser rewrites every host that ends in a number as an IPv4 address, and shortens IPv6:
  -- only the form that it sends can ever match.
  if v_host ~ '(^|\.)([0-9]+|0x[0-9a-f]*)$' then
    return v_host ~ '^((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(\.|$)){4}$'
      and v_host !~ '(^|\.)0[0-9]' and v_host !~ '\.$';
  elsif v_host like '[%' then
    return '[' || host(trim(both '[]' from v_host)::pg_catalog.inet) || ']' = v_host;
  end if;
  return true;
exception
  when invalid_text_representation then
    return false;
end;
$$;

comment on function keylatch_internal.is_canonical_origin(text) is
  'Whether this is scheme://host[:port] exactly as a browser writes it: lower case, punycode, no
path, no default port; http, https or the scheme of an application shell or extension.';

revoke all on function keylatch_internal.is_canonical_origin(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.is_canonical_origin(text)
to authenticated, service_role;

create function keylatch_internal.is_origin_entry(p_entry text, p_environment text)
returns boolean
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
begin
  if p_entry = '*' or p_entry ~ '^https?://(localhost|127\.0\.0\.1|\[::1\]):\*$' then
    return p_environment = 'test';
  elsif p_entry ~ '^https?://\*\.' then
    -- Two labels under the star, and no address: what is left of it must stand as an origin.
    return keylatch_internal.is_canonical_origin(regexp_replace(p_entry, '\*\.', ''))
      and p_entry ~ '^https?://\*\.[^.:]+\.[^:]*[^.:0-9][^.:]*(:[0-9]+)?$';
  end if;
  return keylatch_internal.is_canonical_origin(p_entry);
end;
$$;

comment on function keylatch_internal.is_origin_entry(text, text) is
  'Whether a key of this environment may list this: a canonical origin, https://*.example.com with
at least two labels under the star, and for test keys * and http://localhost:*.';

revoke all on function keylatch_internal.is_origin_entry(text, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.is_origin_entry(text, text)
to authenticated, service_role;

create function keylatch_internal.origin_matches(p_origin text, p_allowed text[])
returns boolean
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
declare
  v_entry pg_catalog.text;
  v_suffix pg_catalog.text;
begin
  -- A star in a request is never a pattern, and must not equal one either.
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
      -- The origin is canonical, so between scheme and suffix there can only be labels.
      v_suffix := split_part(v_entry, '*', 2);
      if starts_with(p_origin, split_part(v_entry, '*', 1))
        and right(p_origin, length(v_suffix)) = v_suffix
      then
        return true;
      end if;
    end if;
  end loop;
  return false;
end;
$$;

comment on function keylatch_internal.origin_matches(text, text[]) is
  'Whether a request''s Origin is one that a key allows. An empty list allows none; a missing
Origin, the text "null" and anything with a star match nothing; a star never matches the apex.';

revoke all on function keylatch_internal.origin_matches(text, text[])
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.origin_matches(text, text[])
to authenticated, service_role;

create function keylatch_internal.punycode(p_label text)
returns text
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
-- RFC 3492, section 6.3, with the names used there.
declare
  v_points constant integer[] := array(
    select ascii(c.letter) from regexp_split_to_table(p_label, '') with ordinality as c (letter, n)
    order by c.n
  );
  v_output pg_catalog.text := regexp_replace(p_label, '[^\x01-\x7f]', '', 'g');
  v_basic constant integer := length(v_output);
  v_handled integer := v_basic;
  v_n integer := 128;
  v_delta bigint := 0;
  v_bias integer := 72;
  v_next integer;
  v_point integer;
  v_q bigint;
  v_k integer;
  v_t integer;
begin
  if v_basic = length(p_label) then
    return p_label;
  elsif v_basic > 0 then
    v_output := v_output || '-';
  end if;

  while v_handled < cardinality(v_points) loop
    v_next := (select min(p.point) from unnest(v_points) as p (point) where p.point >= v_n);
    v_delta := v_delta + (v_next - v_n)::bigint * (v_handled + 1);
    v_n := v_next;
    foreach v_point in array v_points loop
      if v_point < v_n then
        v_delta := v_delta + 1;
      elsif v_point = v_n then
        v_q := v_delta;
        v_k := 36;
        loop
          v_t := least(greatest(v_k - v_bias, 1), 26);
          exit when v_q < v_t;
          v_output := v_output || substr('abcdefghijklmnopqrstuvwxyz0123456789',
            (v_t + (v_q - v_t) % (36 - v_t))::integer + 1, 1);
          v_q := (v_q - v_t) / (36 - v_t);
          v_k := v_k + 36;
        end loop;
        v_output := v_output
          || substr('abcdefghijklmnopqrstuvwxyz0123456789', v_q::integer + 1, 1);
        v_delta := v_delta / case v_handled when v_basic then 700 else 2 end;
        v_handled := v_handled + 1;
        v_delta := v_delta + v_delta / v_handled;
        v_k := 0;
        while v_delta > 455 loop
          v_delta := v_delta / 35;
          v_k := v_k + 36;
        end loop;
        v_bias := v_k + (36 * v_delta / (v_delta + 38))::integer;
        v_delta := 0;
      end if;
    end loop;
    v_delta := v_delta + 1;
    v_n := v_n + 1;
  end loop;
  return 'xn--' || v_output;
end;
$$;

comment on function keylatch_internal.punycode(text) is
  'One label of a host name as ASCII (RFC 3492). For advice only: what is saved must be so.';

revoke all on function keylatch_internal.punycode(text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.punycode(text) to authenticated, service_role;

create function keylatch_internal.canonical_origin(p_entry text, p_environment text)
returns text
language plpgsql
immutable
parallel safe
security invoker
set search_path = ''
as $$
declare
  v_parts constant pg_catalog.text[] := regexp_match(
    btrim(left(p_entry, 1000), E' \t\r\n'),
    '^(?:([A-Za-z][A-Za-z0-9+.-]*)://)?(?:[^/?#@]*@)?'
    || '(\[[^]/?#]*\]|[^]:/?#@[]+)(?::0*([0-9*]*))?([/?#].*)?$'
  );
  v_scheme constant pg_catalog.text := lower(coalesce(v_parts[1], 'https') collate "C");
  v_host pg_catalog.text := regexp_replace(
    -- First the letters that every locale must fold alike.
    lower(lower(normalize(v_parts[2], nfkc) collate "C") collate "default"), '\.$', ''
  );
  v_origin pg_catalog.text;
begin
  if v_host like '[%' then
    v_host := '[' || host(trim(both '[]' from v_host)::pg_catalog.inet) || ']';
  end if;
  v_origin := v_scheme || '://'
    || (
      select string_agg(keylatch_internal.punycode(l.label), '.' order by l.n)
      from regexp_split_to_table(v_host, '\.') with ordinality as l (label, n)
    )
    || case
      when coalesce(v_parts[3], '') = ''
        or (v_scheme = 'http' and v_parts[3] = '80')
        or (v_scheme = 'https' and v_parts[3] = '443') then ''
      else ':' || v_parts[3]
    end;
  return case
    when v_parts[1] is null and v_host !~ '[.]|^localhost$' then null
    when keylatch_internal.is_origin_entry(v_origin, p_environment) then v_origin
  end;
exception
  when invalid_text_representation then
    return null;
end;
$$;

comment on function keylatch_internal.canonical_origin(text, text) is
  'What somebody who wrote this origin most likely meant, in canonical form; null without a guess.';

revoke all on function keylatch_internal.canonical_origin(text, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.canonical_origin(text, text)
to authenticated, service_role;

create function keylatch_internal.check_origins(
  p_origins text[], p_kind text, p_environment text
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
  if p_origins is null or array_ndims(p_origins) > 1 or array_position(p_origins, null) > 0 then
    v_problem.detail := 'allowed_origins must be a plain list of texts, without nulls.';
    v_problem.hint := 'Pass [] for no origin at all.';
    return v_problem;
  elsif cardinality(p_origins) = 0 then
    return null;
  elsif p_kind = 'secret' then
    v_problem.detail := 'allowed_origins must be empty: a secret key is never used from a page.';
    v_problem.hint := 'Issue a publishable key for the page.';
    return v_problem;
  elsif cardinality(p_origins) > 100 then
    v_problem.detail := 'allowed_origins has more than 100 entries.';
    v_problem.hint := 'Cover subdomains with https://*.example.com, or issue a second key.';
    return v_problem;
  elsif (select count(distinct o.origin) from unnest(p_origins) as o (origin))
    < cardinality(p_origins)
  then
    v_problem.detail := 'allowed_origins names an origin twice.';
    v_problem.hint := 'List each origin once.';
    return v_problem;
  end if;

  for v_index in 1 .. cardinality(p_origins) loop
    continue when keylatch_internal.is_origin_entry(p_origins[v_index], p_environment);
    v_problem.detail := case
      when keylatch_internal.is_origin_entry(p_origins[v_index], 'test') then format(
        'allowed_origins[%s] is for test keys only: a live key names its origins.', v_index)
      else format(
        'allowed_origins[%s] is not an origin as a browser sends it.', v_index)
    end;
    v_problem.hint := coalesce(
      'Write ' || keylatch_internal.canonical_origin(p_origins[v_index], p_environment) || '.',
      'Write scheme://host[:port] without a path, as location.origin shows it in the page, '
      || 'or https://*.example.com for its subdomains.'
    );
    return v_problem;
  end loop;
  return null;
end;
$$;

comment on function keylatch_internal.check_origins(text[], text, text) is
  'What is wrong with this list of origins for a key of this kind and environment, or null.';

revoke all on function keylatch_internal.check_origins(text[], text, text)
from public, anon, authenticated, service_role;
grant execute on function keylatch_internal.check_origins(text[], text, text)
to authenticated, service_role;
