"""The example page in a real browser, on an allowed origin and on another origin."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from modules.identity.page import build, open_browser, serve, write
from modules.identity.shop import open_application
from security.system import System
from stack import Cluster, Janitor, Rest, Tokens, until

pytestmark = pytest.mark.one_server

REFUSED = "session_refused"
DEAD = "select status from keylatch.keys where id = %s"
SESSION = re.compile(r"^Session …\w{4} until .* GMT$")


@dataclass
class Site:
    """The example page and its application.

    Attributes:
        system: The database and its API.
        browser: The browser of all visitors.
        folder: The directory of the pages.
        shop: The origin that keys are issued for.
        foreign: Another origin that serves the same files.
        visitors: The open browser contexts, one for each visitor.
    """

    system: System
    browser: Browser
    folder: Path
    shop: str
    foreign: str
    visitors: list[BrowserContext] = field(default_factory=list)

    def embed(self, name: str, kind: str = "publishable", *, rest: Rest | None = None) -> UUID:
        """Issue a key for the shop's origin, write a page with the key, and return the key's id."""
        key_id, key = self.ask(
            "alice",
            "select id, key from keylatch.issue_key(%s, %s, %s, allowed_origins => %s)",
            *(self.system.people.a, kind, name, [self.shop] if kind == "publishable" else []),
        )
        self.publish(name, str(key), rest or self.system.rest)
        assert isinstance(key_id, UUID)
        return key_id

    def publish(self, name: str, key: str, rest: Rest) -> None:
        """Write a page with a key."""
        write(self.folder, name, url=rest.url, anon_key=rest.anon_key, key=key)

    def ask(self, who: str, statement: str, *values: object) -> tuple[object, ...]:
        """Run a statement as a user, and return its first row."""
        with self.system.connect(who) as connection:
            row = connection.execute(statement.encode(), values).fetchone()
        assert row is not None
        return tuple(row)

    def visit(self, name: str, origin: str | None = None) -> Page:
        """Open a page as a new visitor."""
        visitor = self.browser.new_context(viewport={"width": 800, "height": 400})
        self.visitors.append(visitor)
        page = visitor.new_page()
        page.goto(f"{origin or self.shop}/{name}.html")
        return page

    def notes(self) -> list[tuple[object, ...]]:
        """All notes of visitors, as the owner sees them."""
        with self.system.database.connect() as owner:
            return owner.execute(
                "select note, workspace_id, session_id from public.notes order by id"
            ).fetchall()


@pytest.fixture(scope="module")
def application(
    server: Cluster,
    template: str,
    tokens: Tokens,
    janitor: Janitor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """The site that the tests of this file share; each test has its own page."""
    folder = build(tmp_path_factory.mktemp("site"))
    with (
        open_application(server, template, tokens, janitor, "page", "session_policies") as system,
        open_browser() as browser,
        serve(folder) as shop,
        serve(folder) as foreign,
    ):
        yield Site(system, browser, folder, shop, foreign)


@pytest.fixture
def site(application: Site, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """The shared site without notes; at the end each visitor's page is saved as a picture."""
    with application.system.database.connect() as owner:
        owner.execute("truncate public.notes")
    yield application
    for number, visitor in enumerate(application.visitors):
        for page in visitor.pages:
            page.screenshot(path=tmp_path / f"visitor_{number}.png")
        visitor.close()
    application.visitors.clear()


def status(page: Page, text: str | re.Pattern[str], *, refused: bool = False) -> None:
    """Wait until the page's status contains this text."""
    line = page.get_by_role("status")
    expect(line).to_contain_text(text)
    expect(line).to_have_class("refused" if refused else "")


def leave(page: Page, note: str) -> None:
    """Write a note."""
    page.get_by_placeholder("Leave a note").fill(note)
    page.get_by_role("button").click()


def shown(page: Page, *notes: str) -> None:
    """Wait until the page lists these notes and no others."""
    expect(page.get_by_role("listitem")).to_have_text(list(notes))


def test_a_page_on_an_allowed_origin_has_a_session_and_its_visitors_their_own_notes(
    site: Site,
) -> None:
    site.embed("open")
    one, two = site.visit("open"), site.visit("open")
    for page in (one, two):
        status(page, SESSION)
        shown(page)
    leave(one, "Good morning")
    shown(one, "Good morning")
    leave(two, "<b>Good</b> evening")
    shown(two, "<b>Good</b> evening")
    leave(one, "Anybody here?")
    shown(one, "Good morning", "Anybody here?")

    before = one.get_by_role("status").text_content()
    one.reload()
    shown(one, "Good morning", "Anybody here?")
    assert one.get_by_role("status").text_content() == before
    notes = site.notes()
    assert {workspace for _, workspace, _ in notes} == {site.system.people.a}
    assert len({session for _, _, session in notes}) == 2


def test_the_same_page_on_another_origin_is_refused(site: Site) -> None:
    site.embed("copied")
    page = site.visit("copied", site.foreign)
    status(page, REFUSED, refused=True)
    leave(page, "Let me in")
    status(page, REFUSED, refused=True)
    shown(page)
    assert site.notes() == []


def test_a_session_is_worth_nothing_on_another_origin(site: Site) -> None:
    site.embed("stolen")
    page, thief = site.visit("stolen"), site.visit("stolen", site.foreign)
    status(page, SESSION)
    leave(page, "Mine")
    shown(page, "Mine")
    status(thief, REFUSED, refused=True)
    token = page.evaluate("sessionStorage.getItem('session')")
    thief.evaluate("kept => sessionStorage.setItem('session', kept)", token)
    thief.reload()
    status(thief, "invalid_session", refused=True)
    shown(thief)


def test_a_revoked_key_refuses_new_visitors_and_the_open_page_goes_on(site: Site) -> None:
    key_id = site.embed("revoked")
    page = site.visit("revoked")
    status(page, SESSION)
    site.ask("alice", "select keylatch.revoke_key(%s, 'season is over')", key_id)
    late = site.visit("revoked")
    status(late, REFUSED, refused=True)
    leave(page, "Still here")
    shown(page, "Still here")
    page.reload()
    shown(page, "Still here")


def test_a_key_that_is_rotated_under_an_open_page_disturbs_no_visitor(site: Site) -> None:
    """An old session goes on. New visitors use the new key, or the old key during its grace."""
    key_id = site.embed("cached")
    page = site.visit("cached")
    status(page, SESSION)
    (key,) = site.ask("alice", "select key from keylatch.rotate_key(%s, '1 hour')", key_id)
    site.publish("rotated", str(key), site.system.rest)
    for name in ("rotated", "cached"):
        status(site.visit(name), SESSION)
    # The grace is over.
    site.ask(
        "alice",
        "update keylatch.keys set expires_at = clock_timestamp() + interval '2 seconds'"
        " where id = %s returning id",
        key_id,
    )
    until(lambda: site.ask("alice", DEAD, key_id) == ("expired",))
    status(site.visit("cached"), REFUSED, refused=True)
    status(site.visit("rotated"), SESSION)
    leave(page, "Still here")
    shown(page, "Still here")
    page.reload()
    shown(page, "Still here")


def test_a_key_that_was_abused_takes_its_sessions_along(site: Site) -> None:
    key_id = site.embed("abused")
    page = site.visit("abused")
    status(page, SESSION)
    leave(page, "Hello")
    shown(page, "Hello")
    site.ask("alice", "select keylatch.end_sessions(%s, 'abused')", key_id)
    leave(page, "And again")
    status(page, "invalid_session", refused=True)
    shown(page)
    page.reload()
    status(page, REFUSED, refused=True)
    assert [note for note, _, _ in site.notes()] == ["Hello"]


def test_a_secret_key_in_a_page_is_refused_and_explain_key_says_why(site: Site) -> None:
    key_id = site.embed("leaked", "secret")
    page = site.visit("leaked")
    status(page, REFUSED, refused=True)
    shown(page)
    secret = re.findall(r"wk_sk_live_\w+", (site.folder / "leaked.html").read_text())[0]
    verdict, found, hint = site.ask(
        "alice", "select verdict, key_id, hint from keylatch.explain_key(%s, %s)", secret, site.shop
    )
    assert (verdict, found) == ("secret_in_browser", key_id)
    assert "Call rotate_key" in str(hint)


def test_if_the_gateway_permits_one_origin_a_browser_asks_from_no_other_origin(
    site: Site, janitor: Janitor
) -> None:
    system = site.system
    with Rest(
        system.database,
        system.rest.tokens,
        janitor=janitor,
        settings={"SERVER_CORS_ALLOWED_ORIGINS": site.shop},
    ) as rest:
        site.embed("cors", rest=rest)
        page = site.visit("cors")
        status(page, SESSION)
        leave(page, "Hello")
        shown(page, "Hello")
        # The browser hides the answer from the page.
        status(site.visit("cors", site.foreign), "Failed to fetch", refused=True)


def test_a_preflight_is_allowed_the_headers_that_a_page_sends(site: Site) -> None:
    asked = "apikey,content-profile,content-type,x-api-key,x-session-token"
    answer = httpx.options(
        f"{site.system.rest.url}/rest/v1/rpc/open_session",
        headers={
            "Origin": site.shop,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": asked,
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] in ("*", site.shop)
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert {header.strip() for header in allowed.split(",")} >= set(asked.split(","))
    # A browser does not send a key by itself, as it sends a cookie, so no credentials are allowed.
    assert "access-control-allow-credentials" not in answer.headers
