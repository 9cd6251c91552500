"""Runs README.md and the guides from top to bottom, as a reader who follows them.

`KEYLATCH_WRITE=1` writes what the transcripts print into the pages instead of comparing it.
"""

import html
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from cli.install.project import init
from stack import Cluster, Database, Janitor, People, Rest, Tokens, chosen_cluster
from stack.ports import free_port
from stack.tools import ROOT, supabase_cli, typescript
from tools.pages import Reader, form

pytestmark = [pytest.mark.one_server, pytest.mark.long]

GUIDES = ROOT / "sql" / "docs"
# A line that says what the reader of the next part has before they begin.
GROUND = re.compile(r"<!-- begins with: ([a-z ]+) -->\n")
# These guides have their own tests, which also do what the text between their blocks says.
ELSEWHERE = {"adoption.md", "django.md", "resolver_token.md"}
PAGES = sorted({ROOT / "README.md", *GUIDES.glob("*.md")} - {GUIDES / name for name in ELSEWHERE})

# A reader's CLI finds the linked project by itself. Here --remote names the database. On hosted
# Supabase an event trigger notifies PostgREST of a new schema. Here a loop notifies it and waits.
SUPABASE = """#!/bin/bash
set -e
{cli} "$@" --remote="$DATABASE_URL?sslmode=disable" --yes --agent no
until curl -sf -X POST "$SUPABASE_URL/rest/v1/rpc/installation" -H 'Content-Profile: keylatch' \\
  -H "apikey: $SUPABASE_KEY" >/dev/null
do
  psql -qc "notify pgrst, 'reload schema'" "$DATABASE_URL"
  sleep 0.5
done
"""
# Contributors run these targets. Here make only checks that the targets exist.
MAKE = """#!/bin/sh
exec /usr/bin/make -n -C {root} "$@"
"""
TSC = """#!/bin/sh
exec {tsc} "$@"
"""
# The packages of a page are already installed. So this only checks their names and extras.
PIP = """#!/bin/sh
exec {python} -c 'import sys; from importlib.metadata import metadata
extras = set(metadata("keylatch").get_all("Provides-Extra"))
for word in sys.argv[2:]:
    name, _, wanted = word.strip("]").partition("[")
    metadata(name)
    assert name != "keylatch" or set(filter(None, wanted.split(","))) <= extras, word' "$@"
"""


@pytest.fixture
def begin(
    server: Cluster,
    template: str,
    tokens: Tokens,
    janitor: Janitor,
    tmp_path: Path,
) -> Iterator[Callable[[str], Reader]]:
    """Return a function that makes a reader with what a page begins with."""
    with ExitStack() as opened:

        def make(ground: str) -> Reader:
            directory = tmp_path / ground.replace(" ", "_")
            directory.mkdir()
            if ground in ("nothing", "a checkout"):
                return reader(directory, "", {})
            if ground == "an empty server":
                fresh = opened.enter_context(chosen_cluster(janitor=janitor))
                empty = opened.enter_context(Database(fresh, "app"))
                return reader(directory, empty.superuser_url, {})
            if ground == "a supabase project":
                database = opened.enter_context(Database(server, "project"))
                server.install_platform(database.name)
                init(directory)
            else:
                database = opened.enter_context(Database(server, "app", template))
                People.seed(database.url)
            opened.callback(_forget_settings, database.superuser_url)
            rest = opened.enter_context(Rest(database, tokens, janitor=janitor))
            people = People(tokens)
            return reader(
                directory,
                database.url,
                {
                    "SUPABASE_URL": rest.url,
                    "SUPABASE_PUBLISHABLE_KEY": rest.publishable_key,
                    "SUPABASE_KEY": rest.secret_key,
                    "USER_TOKEN": people.token("alice"),
                    "RESOLVER_TOKEN": rest.token(role="keylatch_resolver"),
                    "KEYLATCH_WORKSPACE_ID": str(people.a),
                },
            )

        def reader(directory: Path, url: str, environment: dict[str, str]) -> Reader:
            programs = directory / ".programs"
            programs.mkdir()
            cli = f"{supabase_cli()} --workdir {directory}"
            texts = {"supabase": SUPABASE, "pip": PIP, "make": MAKE, "tsc": TSC}
            for program, text in texts.items():
                words = {"cli": cli, "python": sys.executable, "root": ROOT, "tsc": typescript()}
                (programs / program).write_text(text.format(**words))
                (programs / program).chmod(0o755)
            port = free_port()
            environment |= {
                "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(directory),
                "LANG": "C.UTF-8",
                "COLUMNS": "80",
                "DATABASE_URL": url.partition("?")[0],
                "SUPABASE_HOME": str(directory),
                "SUPABASE_NO_UPDATE_NOTIFIER": "1",
                "SUPABASE_TELEMETRY_DISABLED": "1",
                "DO_NOT_TRACK": "1",
            }
            addresses = {
                "http://127.0.0.1:8000": f"http://127.0.0.1:{port}",
                "--port 8000": f"--port {port}",
                "../keylatch/": f"{ROOT}/",
            }
            return opened.enter_context(Reader(directory, environment, addresses))

        yield make


def _forget_settings(url: str) -> None:
    """Reset a page's settings for PostgREST, because the databases of a server share the roles."""
    with psycopg.connect(url) as superuser:
        superuser.execute("alter role authenticator reset pgrst.db_pre_request")
        superuser.execute("alter role authenticator reset pgrst.db_schemas")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_does_what_it_says(path: Path, begin: Callable[[str], Reader]) -> None:
    page = path.read_text("utf-8")
    before, *parts = GROUND.split(page)
    assert parts, "no line says what the reader has before they begin"
    read = before
    for ground, text in zip(parts[::2], parts[1::2], strict=True):
        read += f"<!-- begins with: {ground} -->\n{begin(ground).read(text)}"
    if os.environ.get("KEYLATCH_WRITE"):
        if form(read) != form(page):
            path.write_text(read, "utf-8")
        return
    assert form(read) == form(page)


def test_the_picture_is_what_the_demo_draws(tmp_path: Path) -> None:
    drawn = tmp_path / "demo.svg"
    demo = [sys.executable, "-m", "demo", "--picture", str(drawn)]
    subprocess.run(demo, cwd=ROOT / "tests", check=True, capture_output=True)
    picture = GUIDES / "demo.svg"
    if os.environ.get("KEYLATCH_WRITE"):
        picture.write_bytes(drawn.read_bytes())
    told, shown = (_words(path) for path in (drawn, picture))
    assert told == shown
    assert "revoked_is_final" in shown


def _words(svg: Path) -> str:
    """Return the words of a picture, without the times."""
    said = " ".join(
        html.unescape(" ".join(re.findall(r">([^<\n]+)</text>", svg.read_text()))).split()
    )
    return re.sub(r"\d\d:\d\d:\d\d", "<time>", form(said))


def test_a_block_that_fails_is_seen(begin: Callable[[str], Reader]) -> None:
    reader = begin("an installation")
    for block in ("```sh\nfalse\n```\n", "```sql\nselect 1/0;\n```\n", "```python\n1 / 0\n```\n"):
        with pytest.raises((AssertionError, ZeroDivisionError)):
            reader.read(block)
    page = "```psql\n=> select 1 as one;\n one \n-----\n   2\n(1 row)\n```\n"
    assert form(reader.read(page)) != form(page)
    assert form(reader.read(page)) == form(page.replace("2", "1"))


def test_every_path_that_a_page_names_is_there() -> None:
    link, path = re.compile(r"\]\(([^)#:]+)(?:#\w+)?\)"), re.compile(r"`((?:sql|tests)/[\w/.-]+)`")
    missing = []
    for page in [*GUIDES.iterdir(), ROOT / "README.md", *(ROOT / ".github").glob("*.md")]:
        text = page.read_text("utf-8")
        named = [page.parent / name for name in link.findall(text)]
        named += [ROOT / name for name in path.findall(text)]
        missing += [f"{page.name}: {one}" for one in named if not one.exists()]
    assert missing == []


def test_each_hint_names_the_row_of_its_error(database: Database) -> None:
    page = (GUIDES / "errors.md").read_text()
    with database.connect() as owner:
        slugs = [slug for (slug,) in owner.execute("select slug from keylatch_internal.errors")]
        assert len(slugs) > 20
        for slug in slugs:
            with pytest.raises(psycopg.Error) as refused:
                owner.execute("select keylatch_internal.refuse(%s, 'A sentence.')", [slug])
            path, _, anchor = str(refused.value.diag.message_hint).rpartition(" ")[2].partition("#")
            assert (ROOT / path) == GUIDES / "errors.md"
            assert f'<a id="{anchor}"></a>`{slug}`' in page


def test_a_page_is_short() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in GUIDES.glob("*.md")}
    assert {name: number for name, number in lines.items() if number > 120} == {}
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("index", ["README.md", "llms.txt"])
def test_every_guide_is_in_the_index(index: str) -> None:
    text = (GUIDES / index).read_text("utf-8")
    guides = {path.name for path in GUIDES.glob("*.md")} - {"README.md"}
    assert {name for name in guides if f"]({name})" not in text} == set()
