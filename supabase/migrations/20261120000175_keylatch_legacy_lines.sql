-- Module legacy: reading and checking each line of an import. A bad line affects no other line.

create type keylatch_internal.import_line as (
  "position" integer, given jsonb, key keylatch_internal.keys, scheme text, verifier text,
  clear_part text, parts text[], rounds integer, text_hash bytea, other_hashes bytea[],
  problem text[], outcome text, note text
);
comment on type keylatch_internal.import_line is
  'A line of an import: its JSON, the row for the table keys, the values for the table legacy_keys,
the hashes under which the key may already have a row, and the problem (detail and hint) or the
outcome of the line.';

create view keylatch_internal.import_fields as
select v.type, v.longest, v.pattern, v.rule, v.hint, f.field
from (
  values
  ('{workspace_id,created_by}'::text[], 'string', null,
    '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$', 'a UUID',
    'Give the id of the workspace of the key. created_by may be left out.'),
  ('{expires_at,suspended_at,revoked_at,created_at,last_used_at}', 'string', null,
    E'^(19|[2-9]\\d)\\d\\d-\\d\\d-\\d\\d'
    '([T ]\\d\\d:\\d\\d(:\\d\\d(\\.\\d{1,6})?)? ?(Z|[+-]\\d\\d(:?\\d\\d)?))?$',
    'ISO 8601 with a zone, from the year 1900 on',
    'Write 2027-01-31T09:30:00Z, or 2027-01-31 for the beginning of that day in UTC.'),
  ('{key}', 'string', 1000, E'^(?!\\s)[^\\x01-\\x1f\\x7f-\\x9f]+(?<!\\s)$',
    'a text of 1 to 1000 characters, without control characters and spaces around it',
    'Give the key exactly as the client sends it.'),
  ('{workspace}', 'string', 200, '.', 'a text of 1 to 200 characters',
    'Give the external_id of the workspace.'),
  ('{alg}', 'string', null, '^(sha256|sha256_salted|pbkdf2_(sha1|sha256|sha512)|django|bcrypt)$',
    'sha256, sha256_salted, pbkdf2_sha1, pbkdf2_sha256, pbkdf2_sha512, django or bcrypt',
    'For another unsalted hash, call declare_scheme and give the name of the scheme as scheme. '
    'For scrypt and argon2, see sql/docs/first_use.md.'),
  ('{scheme}', 'string', 40, '.', 'the name of a scheme', 'Call declare_scheme first.'),
  ('{salt_place}', 'string', null, '^(before|after)$', 'before or after',
    'Say where the old system put the salt: before or after the key.'),
  ('{hash_encoding}', 'string', null, '^(hex|base64)$', 'hex or base64',
    'A hash of 32 bytes has 64 characters in hex. In base64, it has 43 characters and a =.'),
  ('{salt_encoding}', 'string', null, '^(hex|base64|text)$', 'hex, base64 or text',
    'Give text if the other system hashed the characters of the salt without decoding them.'),
  ('{iter}', null, 7, '^[1-9][0-9]*$', 'a number of rounds from 1 on',
    'Give the number of rounds of the other system.'),
  ('{starts_with,ends_with}', 'string', 32, '^[ -~]*$', 'up to 32 printable ASCII characters',
    'Give the part of the key that the other system stored in plaintext, or leave the field out.'),
  ('{masked_key}', 'string', 40, '^[ -~]+$', '1 to 40 printable ASCII characters',
    'Give a short form of the key, for example its last four characters.'),
  ('{force}', 'string', 200, '.', 'a reason of 1 to 200 characters',
    'Say why the weak key is imported.'),
  ('{hash,salt,kind,environment,label,revoke_reason}', 'string', null, null, 'a text',
    'Write the value as a JSON string, in double quotes.'),
  ('{allowed_origins,scopes}', 'array', null, null, 'a list', 'For example ["orders:read"].'),
  ('{metadata}', 'object', null, null, 'an object', 'For example {"plan": "pro"}.')
) as v (fields, type, longest, pattern, rule, hint)
cross join lateral pg_catalog.unnest(v.fields) as f (field);
comment on view keylatch_internal.import_fields is
  'The fields that an import line may have, and the JSON type, longest length, regular expression,
rule and hint of each field. check_key checks the rules that also apply to new keys.';

create function keylatch_internal.read_import_fields(p_lines jsonb)
returns keylatch_internal.import_line[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
begin
  return array(
    with given as materialized (
      select
        e.place, case when jsonb_typeof(e.line) = 'object' then e.line end as line,
        -- The usual fields of a SHA-256 are checked here, because the view takes twice as long.
        case when e.line ->> 'alg' = 'sha256' and e.line ->> 'hash_encoding' = 'hex'
          and jsonb_typeof(e.line -> 'hash') = 'string' and length(e.line ->> 'hash') = 64
          and e.line ->> 'hash' ~ '^[0-9a-fA-F]+$'
          and e.line ->> 'workspace_id' like '________-____-____-____-____________'
          and e.line ->> 'workspace_id' ~ '^[0-9a-fA-F]+(-[0-9a-fA-F]+){4}$'
          and coalesce(jsonb_typeof(e.line -> 'label'), 'string') = 'string'
          and coalesce(jsonb_typeof(e.line -> 'scopes'), 'array') = 'array'
          and not e.line ?| '{key,scheme,salt,salt_encoding,salt_place,iter,starts_with,ends_with}'
          then decode(e.line ->> 'hash', 'hex') end as sha256
      from jsonb_array_elements(p_lines) with ordinality as e (line, place)
    ),
    odd as (
      select distinct on (g.place) g.place, case
        when f.value = 'null' and f.key <> 'workspace_id' then null
        when r.rule is null then array['The line has an unknown field.',
          'See the comment of import_keys for the fields of a line.']
        else array[f.key || ' must be ' || r.rule || '.', r.hint]
      end as problem
      from given as g
      cross join jsonb_each(case
        when g.sha256 is not null
          then g.line - '{workspace_id,alg,hash,hash_encoding,label,scopes}'::text[]
        when g.line ? 'workspace_id' then g.line else '{"workspace_id": null}' || g.line
      end) with ordinality as f (key, value, number)
      left join keylatch_internal.import_fields as r on f.key = r.field
      where f.value = 'null' or r.rule is null or jsonb_typeof(f.value) <> r.type
        or case when r.pattern is not null then f.value #>> '{}' !~ r.pattern end
        or case when r.longest is not null then length(f.value #>> '{}') > r.longest end
      order by g.place, f.value = 'null' and f.key <> 'workspace_id', f.number
    )
    select row(
      g.place, case when u.own is null then u.line else jsonb_build_object(
        'kind', case u.own[1] when 'pk' then 'publishable' else 'secret' end,
        'environment', u.own[2]) || u.line end,
      null, case when g.sha256 is not null then 'sha256' end, null, '', null, null, g.sha256, null,
      case when g.line is null
        then array['The line is not a JSON object.', 'Write {"workspace_id": …, "key": …}.']
        else o.problem end, 'imported', null
    )::keylatch_internal.import_line
    from given as g left join odd as o on g.place = o.place
    cross join lateral (
      select case when o.place is null then g.line else g.line
          - array(select n.key from jsonb_each(g.line) as n where n.value = 'null') end as line,
        regexp_match(g.line ->> 'key',
          '^[a-z][a-z0-9]{1,11}_(pk|sk)_(live|test)_[[:alnum:]]{36}$') as own
    ) as u
    order by g.place
  );
end $$;
comment on function keylatch_internal.read_import_fields is
  'Returns each line without null fields, with what a keylatch key tells, and its first problem.';

create function keylatch_internal.read_plaintext(p_line keylatch_internal.import_line)
returns keylatch_internal.import_line language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_text constant text := p_line.given ->> 'key';
  v_force constant text := p_line.given ->> 'force';
  v_form constant text := keylatch_internal.key_form(v_text);
  v_weakness constant text := case
    when keylatch_internal.is_placeholder(v_text) then 'is a placeholder'
    when v_text ~ E'^(\\$[0-9a-z-]+\\$|[a-z0-9_]+\\$[0-9]+\\$|\\{[A-Za-z0-9]+\\})'
      or v_text ~* '^(md5|sha[0-9]+|bcrypt|pbkdf2|scrypt|argon2)[^ ]{0,10}[:=$]'
      then 'has the form of a hash'
    when v_text ~* E'^[+-]?[0-9]+([.,][0-9]+)?e[+-]?[0-9]+$' then 'is a number of a spreadsheet'
    when v_text ~ '[^ -~]' then 'has characters that are not printable ASCII'
    when length(v_text) < 16 then 'is shorter than 16 characters'
    when (select count(distinct c.letter) from string_to_table(v_text, null) as c (letter)) < 6
      then 'has fewer than 6 different characters'
  end;
begin
  p_line.problem := case
    when v_form = 'checksum_failed' then array[
      'key looks like a key of keylatch, but its check characters are wrong.',
      'Copy the whole key again: the key was mistyped or cut off.']
    when v_form = 'valid'
      and v_text !~ format('_%sk_%s_', left((p_line.key).kind, 1), (p_line.key).environment)
      then array[
      'key has another kind or environment than the line.',
      'Leave kind and environment out of the line.']
    when v_weakness is not null and v_force is null then array[
      'key ' || v_weakness || '.',
      'Leave the line out and issue a new key. To import the key anyway, give a reason as force.']
  end;
  p_line.note := case
    when v_force is not null then 'Imported by force: ' || v_force
    when v_text ~ '^[0-9a-fA-F]{64}$'
      then 'The key looks like a SHA-256. If key is a hash, import it as hash with alg sha256.'
  end;
  p_line.key.key_hash := sha256(convert_to(v_text, 'UTF8'));
  p_line.scheme := 'plaintext';
  p_line.other_hashes := array(
    select u.hash from unnest(keylatch_internal.scheme_hashes(v_text)) as h (hash)
    cross join lateral (
      values (h.hash), (keylatch_internal.legacy_hash('held', h.hash))
    ) as u (hash)
  );
  p_line.key.public_key := case (p_line.key).kind when 'publishable' then v_text end;
  -- At least 16 characters, and two thirds of the key, stay hidden.
  p_line.key.masked_key := case when v_form = 'valid' then left(v_text, -36) else '' end
    || '...' || right(v_text, case when length(v_text) >= 20 then 4 else 0 end);
  p_line.parts := keylatch_internal.clear_parts(v_text);
  return p_line;
end $$;
comment on function keylatch_internal.read_plaintext is
  'Checks a line with a plaintext key and fills in its hashes. Refuses a weak key without force.';

create function keylatch_internal.read_verifier(p_line keylatch_internal.import_line, p_hash bytea)
returns keylatch_internal.import_line language plpgsql immutable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_given constant jsonb := p_line.given;
  v_text constant text := v_given ->> 'hash';
  v_django constant boolean := v_given ->> 'alg' = 'django';
  v_rounds constant text := coalesce(
    case when v_django then split_part(v_text, '$', 2) else v_given ->> 'iter' end, ''
  );
  v_salt constant bytea := case when v_django then convert_to(split_part(v_text, '$', 3), 'UTF8')
    else keylatch_internal.read_bytes(v_given ->> 'salt', v_given ->> 'salt_encoding') end;
begin
  p_line.scheme := case when v_django then split_part(v_text, '$', 1) else v_given ->> 'alg' end;
  p_line.problem := case
    when p_line.scheme = 'bcrypt' then case
      when v_text !~ E'^\\$2[aby]\\$(0[4-9]|1[0-5])\\$[./A-Za-z0-9]{53}$' then array[
      'hash must be a bcrypt hash: $2a$, $2b$ or $2y$, a cost from 04 to 15, $ and 53 characters.',
      'Give the whole hash of the other system. For a higher cost, see sql/docs/first_use.md.'] end
    when coalesce(octet_length(v_salt), 0) not between 1 and 1000 then array[
      'salt must be 1 to 1000 bytes, written as salt_encoding says.',
      'For a salt that the other system hashed without decoding it, give salt_encoding text.']
    when p_line.scheme <> 'sha256_salted' and v_rounds = '' then array[
      'iter must be given with ' || p_line.scheme || '.',
      'Give the number of rounds of the other system.']
    when (p_line.scheme = 'sha256_salted') <> (v_given ? 'salt_place') then array[
      'salt_place must be given with sha256_salted and with no other alg.', 'Give before or after.']
  end;
  if p_line.problem is not null then
    return p_line;
  end if;
  p_line.verifier := case p_line.scheme
    -- 2a, 2b and 2y name the same algorithm, but pgcrypto knows only 2a.
    when 'bcrypt' then '$2a' || substr(v_text, 4)
    else concat_ws('$', coalesce(nullif(v_rounds, ''), v_given ->> 'salt_place'),
      encode(v_salt, 'hex'), encode(p_hash, 'hex'))
  end;
  p_line.key.key_hash :=
    keylatch_internal.legacy_hash('salted', convert_to(p_line.verifier, 'UTF8'));
  p_line.rounds := case p_line.scheme
    when 'sha256_salted' then 10
    when 'bcrypt' then 32 * (1 << substring(v_text, 5, 2)::integer)
    else greatest(100, v_rounds::integer * ceil(octet_length(p_hash) / case p_line.scheme
      when 'pbkdf2_sha512' then 64.0 when 'pbkdf2_sha256' then 32.0 else 20.0 end))
  end;
  return p_line;
end $$;
comment on function keylatch_internal.read_verifier is
  'Checks a line with a salted hash, and converts the hash to the format of the column verifier.';

create function keylatch_internal.read_legacy_hash(p_line keylatch_internal.import_line)
returns keylatch_internal.import_line language plpgsql stable parallel safe security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_given constant jsonb := p_line.given;
  v_alg constant text := v_given ->> 'alg';
  v_text constant text := v_given ->> 'hash';
  v_scheme constant text := coalesce(v_given ->> 'scheme', v_alg);
  v_hash constant bytea := case when v_alg = 'django' then decode(substring(
    v_text,
    E'^pbkdf2_sha(?:1|256|512)\\$[1-9][0-9]{0,6}\\$[^$]{1,250}\\$([A-Za-z0-9+/]{27,86}={1,2})$'
  ), 'base64') else keylatch_internal.read_bytes(v_text, v_given ->> 'hash_encoding') end;
  v_kept keylatch_internal.legacy_schemes;
  v_length integer := case when v_alg in ('sha256', 'sha256_salted') then 32 end;
begin
  if v_given ? 'scheme' then
    select s.* into v_kept
    from keylatch_internal.legacy_schemes as s where s.name = v_scheme;
    v_length := coalesce(v_kept.length, case v_kept.digest when 'md5' then 16 when 'sha1' then 20
      else right(v_kept.digest, 3)::integer / 8 end);
    p_line.key.expires_at := least((p_line.key).expires_at, v_kept.ends_at);
  end if;
  p_line.problem := case
    when v_text is null then array[
      'The line has neither key nor hash.',
      'Give the key in plaintext, or its hash with alg. If you have neither, issue a new key.']
    when v_scheme is null then array[
      'alg must be given with a hash.', 'Give alg, for example sha256, or give scheme.']
    when v_alg is not null and v_given ? 'scheme' then array[
      'A line cannot have both alg and scheme.', 'Leave alg out.']
    when v_given ? 'scheme' and v_length is null then array[
      'scheme is not the name of a scheme.', 'Call declare_scheme first.']
    when v_given ?| '{salt,salt_encoding,salt_place,iter}'
      and v_scheme !~ '^(pbkdf2|sha256_salted)' then array[
      'salt, salt_encoding, salt_place and iter do not go with ' || v_scheme || '.',
      'Leave these fields out.']
    when v_scheme = 'bcrypt' then null
    when v_scheme = 'django' and v_hash is null then array[
      'hash must be a Django hash: pbkdf2_sha256$iterations$salt$hash.',
      'Give the whole hash. For other hashers of Django, see sql/docs/first_use.md.']
    when octet_length(v_hash) is null or octet_length(v_hash) <> v_length
      or octet_length(v_hash) not between 16 and 128 then array[
      format('hash must be %s bytes, written as hash_encoding says.', coalesce(v_length, 32)),
      'A hash of 32 bytes has 64 characters in hex. In base64, it has 43 characters and a =.']
  end;
  p_line.clear_part := case
    when not v_given ?| '{starts_with,ends_with}' then ''
    when length(v_given ->> 'ends_with') > coalesce(length(v_given ->> 'starts_with'), 0)
      then 's:' || reverse(v_given ->> 'ends_with')
    else coalesce('p:' || nullif(v_given ->> 'starts_with', ''), '') end;
  if p_line.problem is not null then
    return p_line;
  elsif v_alg <> 'sha256' then
    return keylatch_internal.read_verifier(p_line, v_hash);
  end if;
  p_line.scheme := v_scheme;
  p_line.key.key_hash := case v_scheme when 'sha256' then v_hash
    else keylatch_internal.legacy_hash(v_scheme, v_hash) end;
  return p_line;
end $$;
comment on function keylatch_internal.read_legacy_hash is 'Checks a line that has a legacy hash.';

create function keylatch_internal.name_workspaces(p_lines jsonb)
returns jsonb language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_names text[] := array(
    select distinct l.line ->> 'workspace' from jsonb_array_elements(p_lines) as l (line)
    where jsonb_typeof(l.line -> 'workspace') = 'string' and not l.line ? 'workspace_id'
  );
  v_ids jsonb := '{}'::jsonb;
begin
  -- An application with its own workspace table has no keylatch.workspaces. Lines then need ids.
  if cardinality(v_names) > 0 and to_regclass('keylatch.workspaces') is not null then
    execute 'select coalesce(jsonb_object_agg(w.external_id, w.id), ''{}'') '
      'from keylatch.workspaces as w where w.external_id = any ($1)' into v_ids using v_names;
  end if;
  return case when cardinality(v_names) = 0 then p_lines else (
    select jsonb_agg(
      case when v_ids ? (l.line ->> 'workspace') and not l.line ? 'workspace_id'
        then l.line || jsonb_build_object('workspace_id', v_ids -> (l.line ->> 'workspace'))
        else l.line end order by l.place
    )
    from jsonb_array_elements(p_lines) with ordinality as l (line, place)
  ) end;
end $$;
comment on function keylatch_internal.name_workspaces is
  'Adds workspace_id to each line that names its workspace by external_id.';

create function keylatch_internal.read_import(p_lines jsonb)
returns keylatch_internal.import_line[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_usual keylatch_internal.keys := jsonb_populate_record(
    null::keylatch_internal.keys, '{"label": "", "metadata": {}, "allowed_origins": [], "scopes": [],
    "kind": "secret", "environment": "live", "masked_key": "..."}'::jsonb || jsonb_build_object(
    'created_at', v_now, 'updated_at', v_now, 'imported_at', v_now));
  v_good keylatch_internal.keys;
  v_rest text; v_good_rest text; -- text, because the jsonb numbers 1 and 1.0 are equal
  v_line keylatch_internal.import_line;
  v_lines keylatch_internal.import_line[] := keylatch_internal.read_import_fields(p_lines);
  v_place integer := 0;
begin
  while v_place < cardinality(v_lines) loop
    begin
      -- A block for each line would be slow. After an exception, the outer loop goes on.
      while v_place < cardinality(v_lines) loop
        v_place := v_place + 1;
        v_line := v_lines[v_place];
        continue when v_line.problem is not null;
        v_usual.id := gen_random_uuid();
        v_usual.key_hash := v_line.text_hash;
        v_line.key := jsonb_populate_record(v_usual, v_line.given);
        v_rest := (v_line.given - '{workspace_id,hash,label,created_at}'::text[])::text;
        v_line.problem := case
          when greatest((v_line.key).suspended_at, (v_line.key).revoked_at, (v_line.key).created_at,
            (v_line.given ->> 'last_used_at')::timestamptz) > v_now then array[
            'suspended_at, revoked_at, created_at and last_used_at must not be in the future.',
            'For a time in the future, set expires_at.']
          -- Most lines differ from the last good line only in fields that check_key need not see.
          when v_rest = v_good_rest and length((v_line.key).label) <= 200
            and (v_line.key).label ~ '^[ -^`-~]*$' then null
          -- check_key skips the values that are equal to the values of the last good line.
          else keylatch_internal.check_key(
            case when v_good.kind = (v_line.key).kind
              and v_good.environment = (v_line.key).environment then v_good end,
            -- An expired key may be imported, although check_key refuses a new key that is expired.
            case when (v_line.key).expires_at <= v_now
              then jsonb_populate_record(v_line.key, '{"expires_at": null}') else v_line.key end)
        end;
        if v_line.problem is null then
          v_good := v_line.key;
          v_good_rest := v_rest;
          v_line := case when v_line.scheme = 'sha256' then v_line
            when v_line.given ? 'key' then keylatch_internal.read_plaintext(v_line)
            else keylatch_internal.read_legacy_hash(v_line) end;
        end if;
        v_lines[v_place] := v_line;
      end loop;
    exception
      when data_exception or program_limit_exceeded then
        v_line.problem := array['The line has an impossible time, or a list in a list.',
          'Correct expires_at, suspended_at, revoked_at, created_at, allowed_origins or scopes.'];
        v_lines[v_place] := v_line;
    end;
  end loop;
  return keylatch_internal.finish_reading(v_lines);
end $$;
comment on function keylatch_internal.read_import is 'Checks import lines. Reads no existing key.';

create function keylatch_internal.finish_reading(p_lines keylatch_internal.import_line[])
returns keylatch_internal.import_line[] language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp as $$
declare
  -- The prefix is the same as in legacy_hash, which is too slow to call for each line.
  v_held constant bytea := decode('ff', 'hex') || 'held' || decode('ff', 'hex');
begin
  return array(
    select row(
      l."position", l.given, l.key, l.scheme, l.verifier, l.clear_part, l.parts, l.rounds,
      (l.key).key_hash,
      l.other_hashes || array[(l.key).key_hash, sha256(v_held || (l.key).key_hash)],
      -- For other hashes, upgrade_key and other_hash refuse a placeholder that a client presents.
      case when l.scheme = 'sha256' and l.problem is null and (l.key).key_hash in (
        select sha256(convert_to(w.word, 'UTF8')) from unnest(
          '{"",undefined,"null","NULL","Null",none,NONE,None,nil,nan,NaN,true,TRUE,True,false,'
          'FALSE,False,todo,TODO,redacted,REDACTED,[redacted],[REDACTED],changeme,change-me,'
          'placeholder}'::text[]
        ) as w (word)
      ) then array['hash is that of a placeholder.', 'Leave the line out and issue a new key.']
      when sha256(convert_to((l.key).masked_key, 'UTF8')) = (l.key).key_hash
        then array['masked_key is the whole key.', 'Give the last four characters of the key.']
      when length((l.key).masked_key) > 8 and regexp_replace((l.key).masked_key,
        '^([a-z0-9]{1,12}_)?(pk_|sk_)?(pk|sk|live|test)_', ''
      ) ~ '([^A-Za-z0-9]*[A-Za-z0-9]){9}' then array[
        'masked_key shows more than 8 letters and digits.', 'Give the last four characters of the key.']
      else l.problem end, l.outcome, l.note
    )::keylatch_internal.import_line
    from unnest(p_lines) as l order by l."position"
  );
end $$;
comment on function keylatch_internal.finish_reading is
  'Adds the other hashes of each line, and refuses the hash of an empty string or a placeholder.';

-- The grants of this file.
revoke all on table keylatch_internal.import_fields from public, anon, authenticated, service_role;
revoke all on function keylatch_internal.read_import_fields, keylatch_internal.read_plaintext,
keylatch_internal.read_verifier, keylatch_internal.finish_reading,
keylatch_internal.read_legacy_hash, keylatch_internal.name_workspaces, keylatch_internal.read_import
from public, anon, authenticated, service_role;
