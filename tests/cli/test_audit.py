"""keylatch audit tests all operations as all kinds of user, and leaves nothing behind."""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

import psycopg
import pytest
from playwright.sync_api import Browser, Page

from cli.program import Program
from cli.system import System
from keylatch_cli.audit.matrix import expectations
from keylatch_cli.audit.report import ACTORS, OUTCOMES
from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import Choice, Tenancy
from modules.identity.page import open_browser
from stack import Database, People, notifications
from stack.modules import module_names

Connection = psycopg.Connection[tuple[Any, ...]]
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, None, people)  # type: ignore[arg-type]


@pytest.fixture
def owner(system: System) -> Iterator[Connection]:
    with psycopg.connect(system.database.url, autocommit=True) as owner:
        yield owner


@pytest.fixture
def audit(system: System, program: Program) -> Program:
    return program.having(DATABASE_URL=system.database.url)


def differences(audit: Program) -> set[str]:
    """The unexpected outcomes, by actor and test."""
    found = audit("audit", "--json", code=1).json
    return {
        f"{actor}: {one['operation']} {one['column']} {one['object']}: {one['found'][actor]}"
        for one in found["tries"]
        for actor in ACTORS
        if one["found"][actor] != one["expected"].get(actor)
    } | {f"missing: {one['what']}" for one in found["differences"] if one["found"] == "missing"}


def test_a_fresh_installation_gives_exactly_the_expected_access(audit: Program) -> None:
    shown = audit("audit")
    assert shown.out.splitlines()[1].startswith("As expected: ")
    assert len(shown.out.splitlines()) < 24
    whole = audit("audit", "--all").out
    assert whole.splitlines()[1] == shown.out.splitlines()[1]
    assert "!" not in whole.partition("! is not as expected")[0]
    assert not re.search(r"\ballowed\b", whole)
    assert all(len(line) <= 80 for line in whole.splitlines())
    found_all = audit.ok("audit")
    assert (found_all["is_clean"], found_all["differences"]) == (True, [])
    tries = found_all["tries"]
    assert {one["operation"] for one in tries} == {
        *("select", "insert", "update", "delete", "truncate", "call", "execute")
    }
    found = {outcome for one in tries for outcome in one["found"].values()}
    assert found == set(OUTCOMES)
    # These outcomes must never change, so they are also written here.
    by_name = expectations()
    hashes = by_name["select key_hash keylatch_internal.keys"]
    assert [who for who, outcome in hashes.items() if outcome != "no"] == ["owner"]
    for name in ("truncate keylatch_internal.keys", "delete keylatch_internal.keys"):
        assert set(by_name[name].values()) == {"no", "latch"}
    assert by_name["call keylatch.resolve_key"]["admin"] == "no"
    for actor in ("anon", "stranger", "member", "other", "resolver"):
        assert by_name["call keylatch.revoke_key"][actor] in ("no", "none")
    # The latch refuses a change even to the owner. The database replaces a time with its own time.
    for column in ("id", "workspace_id", "kind", "environment", "masked_key", "created_by"):
        outcomes = by_name[f"update {column} keylatch.keys"]
        assert {outcomes[who] for who in ("admin", "service", "owner")} == {"latch"}
    assert by_name["update revoked_at keylatch.keys"]["admin"] == "stamp"
    assert by_name["update label keylatch.keys"]["admin"] == "yes"


DRIFT = {
    "a grant": (
        "grant select (key_hash) on keylatch_internal.keys to authenticated",
        {f"{who}: select key_hash keylatch_internal.keys: none" for who in ("stranger", "member")},
    ),
    "a policy": (
        "create policy wide on keylatch_internal.keys for select to authenticated using (true)",
        {
            "stranger: select masked_key keylatch.keys: yes",
            "other: call  keylatch.list_keys: yes",
        },
    ),
    "row level security": (
        "alter table keylatch_internal.keys disable row level security",
        {"stranger: update label keylatch.keys: yes", "other: insert  keylatch.keys: yes"},
    ),
    "a latch": (
        "alter table keylatch_internal.keys disable trigger keys_update_immutable",
        {
            "admin: update masked_key keylatch.keys: yes",
            "owner: update masked_key keylatch_internal.keys: yes",
        },
    ),
    "a call": (
        "grant execute on function keylatch.resolve_key(text, text) to anon",
        {"anon: call  keylatch.resolve_key: yes"},
    ),
    "a new function": (
        "create function keylatch.extra() returns integer language sql as 'select 1'",
        {"anon: call  keylatch.extra: yes"},
    ),
    "a new column": (
        "alter table keylatch_internal.key_usage add extra integer",
        {"anon: select extra keylatch_internal.key_usage: no"},
    ),
    "a revoked grant": (
        "revoke execute on function keylatch.rotate_key from authenticated",
        {"admin: call  keylatch.rotate_key: no"},
    ),
    "a dropped view": (
        "drop view keylatch.key_usage_days",
        {"missing: view keylatch.key_usage_days"},
    ),
}


# These changes open so much access that they would hide other changes.
ALONE = ("a policy", "row level security")


@pytest.mark.one_server
@pytest.mark.parametrize(
    "names", [DRIFT.keys() - set(ALONE), *({one} for one in ALONE)], ids=["most", *ALONE]
)
def test_every_difference_is_named(audit: Program, owner: Connection, names: set[str]) -> None:
    for name in names:
        owner.execute(DRIFT[name][0].encode())
    named = differences(audit)
    for name in names:
        assert DRIFT[name][1] <= named, name


@pytest.mark.one_server
def test_nothing_is_left_on_a_live_database(
    audit: Program, owner: Connection, system: System
) -> None:
    owner.execute("select from keylatch.issue_key(%s, 'secret')", [People.a])
    tables = owner.execute(
        "select c.oid::regclass::text from pg_class as c where c.relkind = 'r'"
        " and c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal', 'auth')"
    ).fetchall()
    assert len(tables) > 10

    def everything() -> list[Any]:
        read = "select xmin::text, ctid::text, t.* from {} as t order by ctid"
        return [owner.execute(read.format(name).encode()).fetchall() for (name,) in tables]

    before = everything()
    owner.execute("listen keylatch")
    audit("audit")
    assert everything() == before
    assert notifications(owner, system.database.connect()) == []


@pytest.mark.one_server
def test_a_user_who_is_not_the_owner_is_told_so(audit: Program, system: System) -> None:
    other = audit.having(DATABASE_URL=system.database.authenticator_url)
    said = other("audit", code=3).err
    assert "DATABASE_URL logs in as authenticator; this command needs the owner's login." in said
    assert "hint: Set DATABASE_URL to the login of postgres, who owns keylatch." in said


@pytest.mark.one_server
@pytest.mark.parametrize(
    ("modules", "tenancy"),
    [
        *(((name,), "keylatch") for name in ("core", *module_names())),
        (("core",), "own"),
        (("sessions", "legacy"), "own"),
    ],
)
def test_every_module_alone_gives_exactly_the_expected_access(
    program: Program, empty: Database, modules: tuple[str, ...], tenancy: Tenancy
) -> None:
    """With an application's own tenancy, the audit does not expect keylatch's workspace tables."""
    apply(empty.connect(), Choice(only=modules), tenancy)
    shown = program.having(DATABASE_URL=empty.url)("audit")
    assert ("The application's own function decides who administers" in shown.out) is (
        tenancy == "own"
    )


@pytest.mark.one_server
def test_drift_is_named_with_the_applications_own_tenancy(
    program: Program, empty: Database
) -> None:
    apply(empty.connect(), Choice(), "own")
    for name in ("a grant", "a latch"):
        empty.connect().execute(DRIFT[name][0].encode())
    named = differences(program.having(DATABASE_URL=empty.url))
    assert DRIFT["a grant"][1] | DRIFT["a latch"][1] <= named


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


def heard_of(page: Page) -> tuple[list[str], list[str]]:
    """Collect a page's requests and console messages from now on."""
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    return asked, said


@pytest.mark.one_server
def test_the_page_is_whole_without_a_network(
    audit: Program, owner: Connection, browser: Browser
) -> None:
    odd = "<script>alert(1)</script>"
    owner.execute(f'create policy "{odd}" on keylatch_internal.keys using (false)'.encode())
    for kind in ("secret", "secret"):
        owner.execute("select from keylatch.issue_key(%s, %s)", [People.a, kind])
    owner.execute("select from keylatch.keys, keylatch.revoke_key(id) limit 1")
    audit("audit", "--html", "audit.html", code=1)
    for scheme, width in product(SCHEMES, (390, 1200)):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked, said = heard_of(page)
        page.goto((audit.directory / "audit.html").as_uri())
        assert len(asked) == 1
        assert said == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.get_by_text("Not as expected: 1 difference in").is_visible()
        (first,) = page.locator(".differences li").all()
        said_of_it = first.inner_text()
        for words in ("everyone (public)", odd, "no such object", "Why it matters"):
            assert words in said_of_it
        assert not re.search(r"\ballowed\b", page.inner_text("main"))
        assert page.get_by_role("cell", name=odd, exact=True).count() == 1
        assert page.get_by_role("row", name="revoked 1").count() == 1
        assert page.get_by_role("img", name="Keys by status").is_visible()
        # Keys that were all issued today still fill the chart.
        area = page.locator("polygon.active").bounding_box()
        assert area is not None
        assert area["width"] > width / 2
        header = page.get_by_role("rowheader", name="insert").first
        assert header.is_visible()
        # The Tab key visits the links, and then each part that may need scrolling.
        stops = []
        for _ in range(8):
            page.keyboard.press("Tab")
            stops.append(
                page.evaluate(
                    "document.activeElement.getAttribute('aria-label')"
                    " || document.activeElement.textContent"
                )
            )
        assert stops == [
            *("Differences", "Matrix", "Policies", "Keys", "Findings"),
            *("Matrix", "Policies", "Findings"),
        ]
        page.screenshot(path=audit.directory / f"{scheme}-{width}.png", full_page=True)
        page.close()


@pytest.mark.one_server
def test_a_page_that_cannot_be_written_is_said_to_be_so(audit: Program) -> None:
    said = audit("audit", "--html", "none/audit.html", code=2).err
    assert "none/audit.html cannot be written: none is not a directory" in said
    (audit.directory / "audit.html").mkdir()
    assert "cannot be written: Is a directory" in audit("audit", "--html", "audit.html", code=2).err


@pytest.mark.one_server
def test_the_file_of_expectations_is_complete() -> None:
    for name, outcomes in expectations().items():
        assert tuple(outcomes) == tuple(ACTORS), name
        assert set(outcomes.values()) <= set(OUTCOMES), name
    assert len(expectations()) > 400
    assert expectations(["core"]).items() < expectations().items()
