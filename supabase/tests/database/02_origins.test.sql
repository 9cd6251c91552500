-- Which origins may be saved, what advice a wrong one gets, and what each matches.
begin;
create extension if not exists pgtap with schema extensions;
set local search_path = public, extensions;
select plan(119);

select ok(keylatch_internal.is_origin_entry(o.origin, 'live'), format('%L may be saved', o.origin))
from (values
  ('https://a.example'), ('http://a.example'), ('https://a.example:8443'), ('http://a.example:443'),
  ('https://localhost:3000'), ('http://127.0.0.1'), ('http://[::1]:8080'), ('https://1.2.3.4'),
  ('https://xn--bcher-kva.example'), ('https://*.example.com'), ('https://*.example.com:8443'),
  ('capacitor://localhost'), ('ionic://localhost'), ('tauri://localhost'),
  ('chrome-extension://abcdefghijklmnopabcdefghijklmnop'),
  ('moz-extension://2f2bcb1c-1b2a-4b3a-9b1a-0123456789ab')
) as o (origin);

select ok(
  not keylatch_internal.is_origin_entry(o.origin, 'test'), format('%L may not be saved', o.origin)
)
from (values
  (''), ('null'), ('a.example'), ('https://A.example'), ('https://a.example/'),
  ('https://a.example/path'), ('https://a.example?'), ('https://a.example#'),
  ('https://a.example:443'), ('http://a.example:80'), ('https://a.example:0443'),
  ('https://a.example:'), ('https://a.example:65536'), ('https://user@a.example'),
  ('https://a.example.'), ('https://.a.example'), ('https://a..example'), ('https://-a.example'),
  ('https://a_b.example'), ('https://a%2eexample'), ('https://bücher.example'), ('file://'),
  ('ftp://a.example'), ('https://1.2.3'), ('https://01.2.3.4'), ('https://256.2.3.4'),
  ('https://[0:0::1]'), ('https://[::1'), ('https://*'), ('https://*.com'), ('https://a*.example.com'),
  ('https://*.*.example.com'), ('https://*.1.2.3.4'), ('https://example.*'), ('**'),
  ('https://a.example https://b.example'), ('https://a.example,https://b.example'),
  (E'https://a.example\n'), (' https://a.example'), ('https://a.example' || repeat('a', 300)),
  ('https://' || repeat('a', 64) || '.example'), ('http://a.example:*'), ('https://[.*]')
) as o (origin);

select ok(
  keylatch_internal.is_origin_entry(o.origin, 'test')
  and not keylatch_internal.is_origin_entry(o.origin, 'live'),
  format('%L is for test keys', o.origin)
)
from (values
  ('*'), ('http://localhost:*'), ('https://localhost:*'), ('http://127.0.0.1:*'), ('http://[::1]:*')
) as o (origin);

select is(
  keylatch_internal.canonical_origin(o.written, 'live'), o.canonical,
  format('%L is advised to be %L', o.written, o.canonical)
)
from (values
  ('https://A.Example/', 'https://a.example'), ('a.example', 'https://a.example'),
  ('https://a.example:443/path?q#f', 'https://a.example'),
  ('http://a.example:080', 'http://a.example'), ('https://me:pw@a.example', 'https://a.example'),
  ('https://a.example.', 'https://a.example'), (E' https://a.example\n', 'https://a.example'),
  ('https://bücher.example', 'https://xn--bcher-kva.example'),
  ('https://日本語.jp:8443', 'https://xn--wgv71a119e.jp:8443'),
  ('http://[0:0:0::1]', 'http://[::1]'), ('https://*.Example.com/', 'https://*.example.com'),
  ('null', null), ('', null), ('file://', null), ('https://*.com', null), ('https://a_b.example', null)
) as o (written, canonical);

select ok(
  keylatch_internal.origin_matches(o.origin, array[o.entry]),
  format('%L matches %L', o.origin, o.entry)
)
from (values
  ('https://a.example', 'https://a.example'),
  ('https://a.example.com', 'https://*.example.com'),
  ('https://a.b.example.com', 'https://*.example.com'),
  ('https://a.example.com:8443', 'https://*.example.com:8443'),
  ('http://localhost:3000', 'http://localhost:*'), ('http://localhost', 'http://localhost:*'),
  ('http://[::1]:5173', 'http://[::1]:*'), ('https://a.example', '*'), ('tauri://localhost', '*')
) as o (origin, entry);

select ok(
  not keylatch_internal.origin_matches(o.origin, array[o.entry]),
  format('%L does not match %L', o.origin, o.entry)
)
from (values
  (null, 'https://a.example'), ('', 'https://a.example'), ('null', '*'), ('', '*'), ('*', '*'),
  ('https://*.example.com', 'https://*.example.com'), ('https://example.com', 'https://*.example.com'),
  ('https://evil-example.com', 'https://*.example.com'),
  ('https://evilexample.com', 'https://*.example.com'),
  ('https://example.com.evil.com', 'https://*.example.com'),
  ('http://a.example.com', 'https://*.example.com'),
  ('https://a.example.com:8443', 'https://*.example.com'),
  ('https://.example.com', 'https://*.example.com'),
  ('https://evil.com/.example.com', 'https://*.example.com'),
  ('https://me@a.example.com', 'https://*.example.com'),
  ('https://A.example.com', 'https://*.example.com'),
  ('https://A.example', 'https://a.example'), ('https://a.example/', 'https://a.example'),
  ('https://a.example:443', 'https://a.example'), ('https://aXexample', 'https://a.example'),
  ('http://localhost.evil.com', 'http://localhost:*'), ('http://localhost:', 'http://localhost:*'),
  ('http://localhost:3000/', 'http://localhost:*'), ('http://localhost:evil', 'http://localhost:*'),
  ('https://localhost:3000', 'http://localhost:*'), ('file://', '*'), ('https://A.example', '*'),
  ('https://a.example, https://b.example', '*'), (repeat('a', 100000), '*')
) as o (origin, entry);

select ok(
  not keylatch_internal.origin_matches('https://a.example', '{}'), 'an empty list matches nothing'
);

select * from finish();
rollback;
