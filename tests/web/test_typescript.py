"""TypeScript: what the types allow and refuse, and the wrapper of the examples in Node."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.vectors import mistyped
from keylatch import fingerprint
from stack import Database, Rest
from stack.ports import free_port
from stack.tools import ROOT, node
from tools.compiling import EXAMPLES, compile_project
from tools.typescript import Facts
from web.site import Site

pytestmark = pytest.mark.one_server

USES = Path(__file__).parent / "typescript"
SHOP = "https://shop.example"
EXPECTED = re.compile(r"^ *// @ts-expect-error (.+)$")
Calls = Callable[..., tuple[list[Any], str]]


def test_the_examples_compile() -> None:
    assert compile_project(EXAMPLES) == ""


def test_valid_calls_compile_and_invalid_calls_do_not() -> None:
    assert compile_project(USES) == ""


def test_each_refusal_of_the_types_has_the_error_that_is_expected(tmp_path: Path) -> None:
    """`@ts-expect-error` alone would accept any error."""
    (tmp_path / "supabase").symlink_to(ROOT / "supabase")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/node_modules").symlink_to(ROOT / "tests/node_modules")
    copy = shutil.copytree(USES, tmp_path / "tests/web/typescript")
    expected = {}
    for path in copy.glob("*.ts"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line.replace("@ts-expect-error", "") for line in lines))
        for number, line in enumerate(lines, 2):
            if match := EXPECTED.match(line):
                expected[path.name, number] = match[1]
    found = {
        (Path(name).name, int(number)): message
        for name, number, message in re.findall(
            r"^(\S+)\((\d+),\d+\): error TS\d+: (.*)$", compile_project(copy), re.MULTILINE
        )
    }
    assert found.keys() == expected.keys()
    assert [message for place, message in found.items() if expected[place] not in message] == []


@pytest.fixture(scope="session")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wrapper of the examples, compiled to JavaScript."""
    directory = tmp_path_factory.mktemp("wrapper")
    (directory / "package.json").write_text('{"type": "module"}')
    assert compile_project(EXAMPLES, directory) == ""
    return directory / "examples" / "keylatch.js"


@pytest.fixture
def calls(wrapper: Path, upstream: Rest) -> Calls:
    """Return a function that runs calls of the wrapper in Node and returns answers and log."""
    options = {
        "url": upstream.url,
        "apikey": upstream.publishable_key,
        "token": upstream.token(role="keylatch_resolver"),
    }

    def run(*asked: list[Any], **instead: str) -> tuple[list[Any], str]:
        given = {"module": str(wrapper), "options": options | instead, "calls": asked}
        result = subprocess.run(
            [node(), USES / "calls.mjs"], input=json.dumps(given), capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        answers: list[Any] = json.loads(result.stdout)
        return answers, result.stderr

    return run


def test_the_wrapper_resolves_and_explains(site: Site, calls: Calls) -> None:
    good = site.issue(allowed_origins=[SHOP], scopes=["chat"], metadata={"plan": "pro"})
    revoked = site.issue(kind="secret")
    site.act("alice", "POST", f"/widget-keys/{revoked['id']}/revoke")
    cases = [
        (good["key"], SHOP, "valid"),
        (good["key"], "https://evil.example", "origin_denied"),
        (good["key"], None, "origin_required"),
        (revoked["key"], None, "revoked"),
        (mistyped(good["key"]), SHOP, "checksum_failed"),
        ("a\0b", None, "malformed"),
        ("\ud800", None, "malformed"),
    ]
    found, _ = calls(*(["resolve", key, origin] for key, origin, _ in cases))
    assert found[0] == {
        "key_id": good["id"],
        "workspace_id": good["workspace_id"],
        "kind": "publishable",
        "environment": "live",
        "scopes": ["chat"],
        "metadata": {"plan": "pro"},
        "expires_at": None,
    }
    assert found[1:] == [None] * 6
    why, _ = calls(*(["explain", key, origin] for key, origin, _ in cases))
    assert [one["verdict"] for one in why] == [verdict for *_, verdict in cases]
    assert [one["key_id"] for one in why] == [good["id"]] * 3 + [revoked["id"], None, None, None]
    assert [one["fingerprint"] for one in why[:5]] == [fingerprint(key) for key, *_ in cases[:5]]


def test_the_wrapper_opens_a_session_for_a_page_of_the_key_alone(
    site: Site, calls: Calls, home: Database
) -> None:
    key = site.issue(allowed_origins=[SHOP])["key"]
    (opened, refused), _ = calls(
        ["openSession", key, SHOP], ["openSession", key, "https://evil.example"]
    )
    assert set(opened) == {"token", "expires_at"}
    row = home.connect().execute(
        "select origin from keylatch.resolve_session(%s)", [opened["token"]]
    )
    assert row.fetchall() == [(SHOP,)]
    assert (refused["status"], refused["slug"]) == (401, "session_refused")
    assert key not in refused["message"]


def test_the_guard_lets_a_good_key_with_its_scope_through(site: Site, calls: Calls) -> None:
    secret = site.issue(kind="secret", scopes=["orders:read"])
    page = site.issue(allowed_origins=[SHOP], scopes=["orders:read"])
    rule = {"scope": "orders:read"}
    answers, log = calls(
        ["guarded", rule, {"x-api-key": secret["key"]}],
        ["guarded", rule, {"Authorization": f"Bearer {secret['key']}"}],
        ["guarded", {"kinds": ["publishable"]}, {"x-api-key": page["key"], "Origin": SHOP}],
    )
    assert [(one["status"], one["body"]["key_id"]) for one in answers] == [
        (200, secret["id"]),
        (200, secret["id"]),
        (200, page["id"]),
    ]
    assert log == ""


def test_the_guard_refuses_and_logs_why_but_never_the_key(site: Site, calls: Calls) -> None:
    secret = site.issue(kind="secret", scopes=["orders:write"])
    page = site.issue(allowed_origins=[SHOP])
    bad, foreign = mistyped(secret["key"]), {"x-api-key": page["key"], "Origin": f"{SHOP}.evil"}
    own = {"x-api-key": page["key"], "Origin": SHOP}
    answers, log = calls(
        ["guarded", {}, {}],
        ["guarded", {}, {"Authorization": "Basic abc"}],
        ["guarded", {}, {"x-api-key": bad}],
        ["guarded", {}, {"Authorization": f"Bearer {bad}"}],
        ["guarded", {}, foreign],
        ["guarded", {"scope": "orders:read"}, {"x-api-key": secret["key"]}],
        ["guarded", {}, own],
        ["guarded", {}, {"x-api-key": secret["key"], "Authorization": f"Bearer {bad}"}],
    )
    missing, invalid, scope = (
        (401, "key_missing", "Bearer"),
        (401, "key_invalid", 'Bearer error="invalid_token"'),
        (403, "scope_missing", 'Bearer error="insufficient_scope", scope="orders:read"'),
    )
    assert [
        (one["status"], one["body"]["slug"], one["headers"].get("www-authenticate"))
        for one in answers
    ] == [
        *(missing, missing, invalid, invalid, invalid, scope),
        (403, "kind_not_accepted", None),
        (400, "keys_differ", None),
    ]
    for one in answers:
        assert one["headers"]["content-type"] == "application/problem+json"
        assert set(one["body"]) == {"status", "slug", "detail", "hint"}
        assert one["body"]["status"] == one["status"]
    assert log.splitlines() == [
        *[f"request refused: checksum_failed, key_id null, fingerprint {fingerprint(bad)}"] * 2,
        f"request refused: origin_denied, key_id {page['id']}, "
        f"fingerprint {fingerprint(page['key'])}",
        f"request refused: scope_missing, key_id {secret['id']}",
        f"request refused: kind_not_accepted, key_id {page['id']}",
        "request refused: keys_differ",
    ]
    for key in (bad, page["key"], secret["key"]):
        assert key not in log + json.dumps(answers)


def test_a_refused_key_stays_refused_when_explain_key_does_not_answer(
    site: Site, calls: Calls, database: Database, rest: Rest
) -> None:
    database.connect().execute(
        "revoke execute on function keylatch.explain_key from keylatch_resolver"
    )
    bad = mistyped(site.issue(kind="secret")["key"])
    (answer,), log = calls(["guarded", {}, {"x-api-key": bad}], url=rest.url)
    assert (answer["status"], answer["body"]["slug"]) == (401, "key_invalid")
    assert log.startswith("request refused, and explain_key did not answer: KeylatchError: ")
    assert bad not in log


def test_the_guard_answers_503_when_the_database_cannot_tell(
    site: Site, calls: Calls, upstream: Rest
) -> None:
    key = site.issue(kind="secret")["key"]
    for instead in (
        {"url": f"http://127.0.0.1:{free_port()}"},
        {"token": "no token"},
        {"token": upstream.anon_key},
    ):
        (answer,), log = calls(["guarded", {}, {"x-api-key": key}], **instead)
        assert (answer["status"], answer["body"]["slug"]) == (503, "unavailable")
        assert log.startswith("keylatch did not answer: ")
        assert key not in log


@pytest.mark.parametrize(
    ("change", "source"),
    [
        (
            "alter table keylatch_internal.keys rename constraint keys_kind_check to renamed",
            "keys_kind_check",
        ),
        ("alter view keylatch.keys rename to renamed", "keylatch.keys"),
        ("alter function keylatch_internal.key_form rename to renamed", "key_form"),
    ],
)
def test_the_generator_stops_where_it_finds_no_words(
    database: Database, change: str, source: str
) -> None:
    owner = database.connect()
    Facts(owner)
    owner.execute(change.encode())
    with pytest.raises(AssertionError, match=f"finds no words in .*{source}"):
        Facts(owner)


def test_the_generator_stops_where_nobody_says_which_fields_are_null(database: Database) -> None:
    owner = database.connect()
    place = ("CompositeTypes", "opened_session", "opened_session", "token", "string | null")
    assert Facts(owner).refine(*place) == "string"
    owner.execute("comment on type keylatch.opened_session is 'A token, or null.'")
    with pytest.raises(AssertionError, match="which fields of opened_session are null: A token"):
        Facts(owner).refine(*place)


def test_the_generated_words_are_those_that_the_comments_name(home: Database) -> None:
    owner = home.connect()
    words = Facts(owner).words
    for name, about, named in (
        (
            "Verdict",
            "obj_description('keylatch.explain_key'::regproc)",
            r"first of these that applies: ([^.]*)\.",
        ),
        ("EventName", "col_description('keylatch.key_events'::regclass, 4)", r"([^.]*)\."),
        ("Status", "col_description('keylatch.keys'::regclass, 23)", r"([^.]*)\."),
    ):
        (comment,) = owner.execute(f"select {about}").fetchone() or ("",)
        match = re.search(named, re.sub(r"\s+\([^)]*\)", "", comment))
        assert match, comment
        assert set(re.split(r",\s+|\s+or\s+", match[1])) == set(words[name])
