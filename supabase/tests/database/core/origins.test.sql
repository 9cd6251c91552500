-- Origins: what a key may list, what the refusal advises, and which Origin of a request matches.
begin;
\ir ../people.psql
select plan(138);

-- What a live key and a test key may list: exactly what a browser would send.

select is(
  keylatch_internal.is_origin_entry(v.entry, 'live')::text
  || '/' || keylatch_internal.is_origin_entry(v.entry, 'test')::text,
  v.live || '/' || v.test,
  format('%s in a list: %s', to_json(v.entry), v.why)
)
from (values
  ('https://example.com', 'true', 'true', 'an origin'),
  ('http://example.com', 'true', 'true', 'of http'),
  ('https://example.com:8443', 'true', 'true', 'with a port'),
  ('https://a-b.c--d.example', 'true', 'true', 'with hyphens'),
  ('https://xn--mnchen-3ya.example', 'true', 'true', 'in punycode'),
  ('https://localhost', 'true', 'true', 'of one label'),
  ('http://localhost:3000', 'true', 'true', 'of a developer'),
  ('http://127.0.0.1:3000', 'true', 'true', 'an IPv4 address'),
  ('http://[::1]:3000', 'true', 'true', 'an IPv6 address'),
  ('https://[2001:db8::1]', 'true', 'true', 'an IPv6 address in short'),
  ('capacitor://localhost', 'true', 'true', 'an application shell'),
  ('ionic://localhost', 'true', 'true', 'an application shell'),
  ('tauri://localhost', 'true', 'true', 'an application shell'),
  ('chrome-extension://abcdefghijklmnopabcdefghijklmnop', 'true', 'true', 'an extension'),
  ('moz-extension://0b1a7e9c-1111-4222-8333-444455556666', 'true', 'true', 'an extension'),
  ('https://*.example.com', 'true', 'true', 'a star above two labels'),
  ('https://*.example.com:8443', 'true', 'true', 'a star, with a port'),
  ('https://*.a.b.example.com', 'true', 'true', 'a star above four labels'),
  ('*', 'false', 'true', 'a star alone is for test keys'),
  ('http://localhost:*', 'false', 'true', 'any port is for test keys'),
  ('https://127.0.0.1:*', 'false', 'true', 'any port is for test keys'),
  ('http://[::1]:*', 'false', 'true', 'any port is for test keys'),
  ('http://example.com:*', 'false', 'false', 'any port is for this machine alone'),
  ('https://*.com', 'false', 'false', 'a star needs two labels under it'),
  ('https://*', 'false', 'false', 'a star needs two labels under it'),
  ('https://*example.com', 'false', 'false', 'a star is a whole label'),
  ('https://a.*.example.com', 'false', 'false', 'a star is the first label'),
  ('https://*.*.example.com', 'false', 'false', 'there is one star'),
  ('https://*.1.2.3.4', 'false', 'false', 'an address has no subdomains'),
  ('tauri://*.example.com', 'false', 'false', 'a star is for http and https'),
  ('', 'false', 'false', 'an empty text'),
  ('null', 'false', 'false', 'the text null'),
  ('example.com', 'false', 'false', 'no scheme'),
  ('//example.com', 'false', 'false', 'no scheme'),
  ('ftp://example.com', 'false', 'false', 'a scheme of no page'),
  ('file://', 'false', 'false', 'the scheme of a file'),
  ('https://', 'false', 'false', 'no host'),
  ('https://example.com/', 'false', 'false', 'a path'),
  ('https://example.com/app', 'false', 'false', 'a path'),
  ('https://example.com?x', 'false', 'false', 'a query'),
  ('https://example.com#x', 'false', 'false', 'a fragment'),
  ('https://user@example.com', 'false', 'false', 'a user'),
  ('https://example.com:443', 'false', 'false', 'the default port'),
  ('http://example.com:80', 'false', 'false', 'the default port'),
  ('https://example.com:', 'false', 'false', 'an empty port'),
  ('https://example.com:08443', 'false', 'false', 'a port with a zero before it'),
  ('https://example.com:65536', 'false', 'false', 'a port beyond the last'),
  ('https://example.com:0', 'false', 'false', 'port 0'),
  ('HTTPS://example.com', 'false', 'false', 'capitals'),
  ('https://Example.com', 'false', 'false', 'capitals'),
  ('https://münchen.example', 'false', 'false', 'letters that a browser rewrites'),
  ('https://example.com.', 'false', 'false', 'a dot at the end'),
  ('https://.example.com', 'false', 'false', 'a dot at the start'),
  ('https://a..example.com', 'false', 'false', 'an empty label'),
  ('https://-a.example.com', 'false', 'false', 'a hyphen at the start of a label'),
  ('https://a_b.example.com', 'false', 'false', 'an underscore, which LIKE would read'),
  ('https://%.example.com', 'false', 'false', 'a percent sign, which LIKE would read'),
  ('https://.*.example.com', 'false', 'false', 'a regular expression'),
  ('https://(a|b).example.com', 'false', 'false', 'a regular expression'),
  (' https://example.com', 'false', 'false', 'a space'),
  (e'https://example.com\n', 'false', 'false', 'a newline'),
  (e'https://example.com\thttps://b.example', 'false', 'false', 'two origins in one text'),
  ('https://127.1', 'false', 'false', 'an address that a browser would write in full'),
  ('https://0x7f000001', 'false', 'false', 'an address that a browser would rewrite'),
  ('https://127.0.0.01', 'false', 'false', 'an address that a browser would rewrite'),
  ('https://256.1.1.1', 'false', 'false', 'an address that does not exist'),
  ('https://[2001:DB8::1]', 'false', 'false', 'an IPv6 address in capitals'),
  ('https://[2001:db8:0:0::1]', 'false', 'false', 'an IPv6 address that a browser would shorten'),
  ('https://[::1', 'false', 'false', 'a missing bracket')
) as v (entry, live, test, why);

select ok(
  keylatch_internal.is_origin_entry(
    'https://' || repeat(repeat('a', 62) || '.', 3) || repeat('a', 60) || '.com', 'live'
  )
  and not keylatch_internal.is_origin_entry('https://' || repeat('a', 64) || '.com', 'live')
  and not keylatch_internal.is_origin_entry('https://' || repeat('a.', 126) || 'aa', 'live'),
  'a label has up to 63 characters and a host up to 253'
);

-- What the hint of the refusal says.

select is(
  pg_temp.words('alice', format(
    'select keylatch.issue_key(pg_temp.a(), allowed_origins => array[%L], environment => %L)',
    v.entry, v.environment
  )),
  format(
    'allowed_origins[1] is %s. Write %s.',
    case
      when v.environment = 'live' and v.entry in ('*', 'http://localhost:*')
        then 'for test keys only'
      else 'not an origin that a browser sends'
    end,
    coalesce(v.advice, 'the origin as location.origin shows it in the page, for example '
      || 'https://shop.example, or https://*.shop.example for its subdomains')
  ),
  'advice for ' || v.entry
)
from (values
  ('https://Example.COM/path?x#y', 'live', 'https://example.com'),
  ('https://example.com:443/', 'live', 'https://example.com'),
  ('https://user:word@example.com', 'live', 'https://example.com'),
  ('https://user@example.com', 'live', 'https://example.com'),
  ('https://example.com:', 'live', 'https://example.com'),
  (' example.com ', 'live', 'https://example.com'),
  ('example.com.', 'live', 'https://example.com'),
  ('*.Example.com', 'live', 'https://*.example.com'),
  ('http://LOCALHOST:*', 'test', 'http://localhost:*'),
  ('http://localhost:*', 'live', null),
  ('*', 'live', null),
  ('hello', 'live', null),
  ('wk_sk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V', 'live', null),
  ('https://münchen.example', 'live', null),
  ('ftp://example.com', 'live', null),
  ('https://*.com', 'live', null),
  ('', 'live', null)
) as v (entry, environment, advice);

-- Every path has the same rule. The error says which entry is wrong and how to write it.

select pg_temp.make('page', '''publishable''');
select is(
  pg_temp.words('alice', v.statement),
  'allowed_origins[2] is not an origin that a browser sends. Write https://b.example.',
  v.what || ' names the entry and its canonical form'
)
from (values
  (
    'issue_key',
    $$ select keylatch.issue_key(
      pg_temp.a(), allowed_origins => '{https://a.example,https://B.example/}') $$
  ),
  (
    'an insert',
    $$ insert into keylatch.keys (workspace_id, allowed_origins)
      values (pg_temp.a(), '{https://a.example,https://B.example/}') $$
  ),
  (
    'an update',
    $$ update keylatch.keys set allowed_origins = '{https://a.example,https://B.example/}' $$
  )
) as v (what, statement);

select is(
  pg_temp.outcome('alice', format(
    'select keylatch.issue_key(pg_temp.a(), %L, allowed_origins => %s, environment => %L)',
    v.kind, v.origins, v.environment
  )),
  v.outcome,
  v.what
)
from (values
  ('publishable', 'live', $$ '{}' $$, '1 row', 'the list may be empty'),
  ('publishable', 'live', 'null', 'PT400 invalid_argument', 'the list may not be null'),
  (
    'publishable', 'live', 'array[null]::text[]', 'PT400 invalid_argument',
    'the list may not contain a null'
  ),
  (
    'publishable', 'live', $$ '{{https://a.example}}' $$, 'PT400 invalid_argument',
    'the list may not be a list of lists'
  ),
  (
    'publishable', 'live', $$ '{https://a.example,https://a.example}' $$, 'PT400 invalid_argument',
    'the list may not have an origin twice'
  ),
  (
    'publishable', 'live',
    $$ array(select format('https://s%s.example', n) from generate_series(1, 100) as n) $$, '1 row',
    'the list may have 100 entries'
  ),
  (
    'publishable', 'live',
    $$ array(select format('https://s%s.example', n) from generate_series(1, 101) as n) $$,
    'PT400 invalid_argument', 'the list may not have 101 entries'
  ),
  ('publishable', 'test', $$ '{*}' $$, '1 row', 'a test key may have a star'),
  ('publishable', 'live', $$ '{*}' $$, 'PT400 invalid_argument', 'a live key may not have a star'),
  (
    'secret', 'live', $$ '{https://a.example}' $$, 'PT400 invalid_argument',
    'a secret key may have no origins'
  ),
  ('secret', 'test', $$ '{*}' $$, 'PT400 invalid_argument', 'a secret test key may have no origins')
) as v (kind, environment, origins, outcome, what);

-- Which origins match.

select is(
  keylatch_internal.origin_matches(v.origin, v.allowed), v.matches,
  format(
    '%s is %s %s',
    coalesce(left(v.origin, 60), 'no header'),
    case when v.matches then 'in' else 'not in' end,
    v.allowed
  )
)
from (values
  ('https://example.com', '{https://example.com}'::text[], true),
  ('https://b.example', '{https://a.example,https://b.example}', true),
  ('https://example.com', '{}', false),
  (null, '{https://example.com}', false),
  (null, '{*}', false),
  ('', '{https://example.com}', false),
  ('', '{*}', false),
  ('null', '{*}', false),
  ('file://', '{*}', false),
  ('*', '{*}', false),
  ('https://*.example.com', '{https://*.example.com}', false),
  ('https://EXAMPLE.com', '{https://example.com}', false),
  ('https://example.com/', '{https://example.com}', false),
  ('https://example.com:443', '{https://example.com}', false),
  ('http://example.com', '{https://example.com}', false),
  ('https://user@example.com', '{https://example.com}', false),
  ('https://example.com, https://example.com', '{https://example.com}', false),
  ('https://evil-example.com', '{https://example.com,https://*.example.com}', false),
  ('https://example.com.evil.com', '{https://example.com,https://*.example.com}', false),
  ('https://ехample.com', '{https://example.com}', false),
  ('https://a.example.com', '{https://*.example.com}', true),
  ('https://a.b.c.example.com', '{https://*.example.com}', true),
  ('https://example.com', '{https://*.example.com}', false),
  ('https://.example.com', '{https://*.example.com}', false),
  ('https://a.example.com:8443', '{https://*.example.com}', false),
  ('https://a.example.com:8443', '{https://*.example.com:8443}', true),
  ('http://a.example.com', '{https://*.example.com}', false),
  ('https://evil.com/.example.com', '{https://*.example.com}', false),
  ('https://evil.com#.example.com', '{https://*.example.com}', false),
  ('https://anything.example', '{*}', true),
  ('http://localhost', '{http://localhost:*}', true),
  ('http://localhost:3000', '{http://localhost:*}', true),
  ('https://localhost:3000', '{http://localhost:*}', false),
  ('http://localhost.evil.com', '{http://localhost:*}', false),
  ('http://localhost:3000@evil.com', '{http://localhost:*}', false),
  ('http://[::1]:3000', '{"http://[::1]:*"}', true),
  ('https://' || repeat('a.', 50000) || 'example.com', '{https://*.example.com}', false)
) as v (origin, allowed, matches);

select * from finish();
rollback;
