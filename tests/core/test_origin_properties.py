"""Thousands of origins in SQL, compared with the contract's rules in Python."""

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest

from core.origin_rules import (
    ENTRIES,
    FINE,
    SAVED,
    corners,
    examples,
    is_origin,
    matches,
    may_be_saved,
    near,
)
from stack import Database

pytestmark = pytest.mark.one_server

Connection = psycopg.Connection[Any]
Wrong = list[object]
# The origin that the hint of a refusal proposes, if the hint proposes one.
ADVISED: LiteralString = (
    "select w.text, e.environment, substring((keylatch_internal.check_origins("
    "array[w.text], 'publishable', e.environment))[2], '^Write ((?!the origin as ).*)[.]$') "
    "from unnest('{live,test}'::text[]) as e (environment), unnest(%s::text[]) as w (text)"
)


@cache
def written() -> list[str]:
    """Entries, valid and invalid, that a user may write into a list of origins."""
    return [*corners(), *examples(ENTRIES, 2000)]


@cache
def saved() -> list[str]:
    """The entries that a test key may save."""
    return sorted(
        {entry for entry in (*corners(), *examples(SAVED, 500)) if may_be_saved(entry, "test")}
    )


def saved_wrongly(database: Connection) -> Wrong:
    """The entries on which SQL and the contract disagree."""
    found = database.execute(
        "select t.entry, e.environment, keylatch_internal.is_origin_entry(t.entry, e.environment) "
        "from unnest(%s::text[]) as t (entry), unnest('{live,test}'::text[]) as e (environment)",
        [written()],
    ).fetchall()
    return [row for row in found if row[2] is not may_be_saved(row[0], row[1])]


@cache
def asked() -> list[tuple[str | None, list[str]]]:
    """Origins, each with a valid list that allows or nearly allows the origin."""
    entries = saved()
    origins = sorted({*corners(), *examples(ENTRIES, 500)})
    alone: list[tuple[str | None, list[str]]] = [
        (origin, [entry]) for entry in entries[::3] for origin in near(entry)
    ]
    among = [
        (origin, [*entries[number % 97 :: 97], *extra])
        for number, origin in enumerate(origins)
        for extra in ([], ["https://*.example.com"], ["http://localhost:*"], ["*"])
    ]
    return alone + [(origin, [entry]) for entry in FINE for origin in near(entry)] + among


@cache
def allowed() -> list[bool]:
    """Whether the contract allows each request of `asked`."""
    return [matches(*pair) for pair in asked()]


def matched_wrongly(database: Connection) -> Wrong:
    """The requests on which SQL and the contract disagree."""
    pairs = asked()
    found = database.execute(
        "select keylatch_internal.origin_matches(t.pair ->> 0, array("
        "  select jsonb_array_elements_text(t.pair -> 1))) "
        "from jsonb_array_elements(%s::jsonb) with ordinality as t (pair, n) order by t.n",
        [json.dumps(pairs)],
    ).fetchall()
    said = [row[0] for row in found]
    return [row for row in zip(pairs, said, allowed(), strict=True) if row[1] is not row[2]]


def advised_wrongly(database: Connection) -> Wrong:
    """The texts whose proposal may not be saved, or that need no proposal but get one."""
    texts = written()[::2] + saved()
    return [
        row
        for row in database.execute(ADVISED, [texts]).fetchall()
        for text, environment, guess in [row]
        if guess is not None
        and (may_be_saved(text, environment) or not may_be_saved(guess, environment))
    ]


def repaired_wrongly(database: Connection) -> Wrong:
    """The careless texts for which SQL proposes another origin than the right one."""
    careless = {
        written: origin
        for origin in saved()
        if is_origin(origin)
        for written in carelessly(origin)
        if not may_be_saved(written, "live")
    }
    found = database.execute(ADVISED, [list(careless)]).fetchall()
    return [row for row in found if row[1] == "live" and row[2] != careless[row[0]]]


def carelessly(origin: str) -> list[str]:
    """Careless ways to write an origin."""
    parts = urlsplit(origin)
    host = parts.netloc.removesuffix(f":{parts.port}")
    port = "" if parts.port is None else f":{parts.port}"
    ways = [f"{origin}/", f"{origin}/a?b#c", f" {origin}\n", origin.upper(), f"{origin}?x"]
    ways.append(f"{parts.scheme}://me:pw@{parts.netloc}")
    if parts.port is None and parts.scheme in ("http", "https"):
        ways.append(f"{origin}:{443 if parts.scheme == 'https' else 80}")
    if not host.startswith("["):
        ways.append(f"{parts.scheme}://{host}.{port}")
        if parts.scheme == "https" and "." in host:
            ways.append(parts.netloc)
    return ways


def test_an_origin_can_be_saved_exactly_if_the_contract_permits_it(database: Database) -> None:
    with psycopg.connect(database.url) as owner:
        assert saved_wrongly(owner) == []
    seen = Counter(may_be_saved(entry, "test") for entry in written())
    assert min(seen.values()) > 500, seen


def test_an_origin_matches_what_the_contract_says(database: Database) -> None:
    with psycopg.connect(database.url) as owner:
        assert matched_wrongly(owner) == []
    seen = Counter(allowed())
    assert min(seen.values()) > 200, seen


def test_a_star_an_opaque_origin_and_an_empty_one_match_no_list(database: Database) -> None:
    entries = saved()
    stars = [entry for entry in written() if "*" in entry]
    with psycopg.connect(database.url) as owner:
        found = owner.execute(
            "select o.origin from unnest(%s::text[]) as o (origin) "
            "where keylatch_internal.origin_matches(o.origin, %s)",
            [[*stars, "null", "", None], entries + stars],
        ).fetchall()
    assert len(stars) > 300
    assert found == []


def test_the_origin_that_a_refusal_advises_can_be_saved(database: Database) -> None:
    with psycopg.connect(database.url) as owner:
        assert advised_wrongly(owner) == []
        found = owner.execute(ADVISED, [examples(ENTRIES, 2000)]).fetchall()
    assert sum(row[2] is not None for row in found) > 200


def test_an_origin_written_carelessly_is_advised_as_a_browser_writes_it(database: Database) -> None:
    with psycopg.connect(database.url) as owner:
        assert repaired_wrongly(owner) == []


CANONICAL = "keylatch_internal.is_canonical_origin(text)"
ENTRY = "keylatch_internal.is_origin_entry(text, text)"
MATCHES = "keylatch_internal.origin_matches(text, text[])"
CHECK = "keylatch_internal.check_origins(text[], text, text)"
BROKEN: tuple[tuple[str, str, str, Callable[[Connection], Wrong]], ...] = (
    (CANONICAL, "or v_port > 65535", "", saved_wrongly),
    (CANONICAL, "or (v_scheme = 'https' and v_port = 443)", "", saved_wrongly),
    (CANONICAL, "or (v_scheme = 'http' and v_port = 80)", "", saved_wrongly),
    (CANONICAL, "or length(v_host) > 253", "", saved_wrongly),
    (CANONICAL, "or v_host ~ '[^.]{64}'", "", saved_wrongly),
    (CANONICAL, "([1-9][0-9]{0,4})", "([0-9]{1,5})", saved_wrongly),
    (CANONICAL, "|0x[0-9a-f]*)$", ")$", saved_wrongly),
    (CANONICAL, "and v_host !~ E'(^|\\\\.)0[0-9]'", "", saved_wrongly),
    (CANONICAL, "25[0-5]", "25[0-9]", saved_wrongly),
    (CANONICAL, "|| ']' = v_host", "|| ']' <> ''", saved_wrongly),
    (CANONICAL, "|tauri", "", saved_wrongly),
    (CANONICAL, "(?:\\\\.[a-z0-9](?:[a-z0-9-]*", "(?:\\\\.[a-z0-9](?:[a-z0-9_-]*", saved_wrongly),
    (CANONICAL, "'^(https?", "'(https?", saved_wrongly),
    (CANONICAL, ")?$'", ")?'", saved_wrongly),
    (ENTRY, "return p_environment = 'test'", "return true", saved_wrongly),
    (ENTRY, "(localhost|127\\\\.0\\\\.0\\\\.1|\\\\[::1\\\\])", "(.*)", saved_wrongly),
    (ENTRY, "[^.:]+\\\\.[^:]*[^.:0-9][^.:]*", ".*", saved_wrongly),
    (ENTRY, "p_entry, E'\\\\*\\\\.', ''", "p_entry, E'\\\\*\\\\.', '', 'g'", saved_wrongly),
    (MATCHES, "or strpos(p_origin, '*') > 0", "", matched_wrongly),
    (MATCHES, "or not keylatch_internal.is_canonical_origin(p_origin)", "", matched_wrongly),
    (MATCHES, "v_entry || ':'", "v_entry", matched_wrongly),
    (MATCHES, "p_origin = v_entry or", "", matched_wrongly),
    (
        MATCHES,
        "split_part(v_entry, '*', 2)",
        "substr(split_part(v_entry, '*', 2), 2)",
        matched_wrongly,
    ),
    (MATCHES, "starts_with(p_origin, split_part(v_entry, '*', 1))", "true", matched_wrongly),
    (
        MATCHES,
        "right(p_origin, length(v_suffix)) = v_suffix",
        "p_origin ~ v_suffix",
        matched_wrongly,
    ),
    (
        CHECK,
        "is_origin_entry(v_guess, p_environment)",
        "is_origin_entry('*', 'test')",
        advised_wrongly,
    ),
    (CHECK, "lower(btrim(", "(btrim(", repaired_wrongly),
    (CHECK, "([^/?#@]*@)?", "()", repaired_wrongly),
    (CHECK, ":80$|", ":81$|", repaired_wrongly),
    (CHECK, "'[.]?(:", "'(:", repaired_wrongly),
)


@pytest.mark.parametrize(("function", "line", "instead", "check"), BROKEN)
def test_a_change_of_the_rules_in_sql_is_noticed(
    database: Database, function: str, line: str, instead: str, check: Callable[[Connection], Wrong]
) -> None:
    with psycopg.connect(database.url) as owner:
        row = owner.execute("select pg_get_functiondef(%s::regprocedure)", [function]).fetchone()
        assert row is not None
        assert line in row[0]
        owner.execute(row[0].replace(line, instead, 1))
        assert check(owner) != []
