"""The module request works without the module sessions."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Json

from stack import Cluster, Database, People, Tokens
from stack.database import make_template
from stack.modules import migrations

HEADERS = "select set_config('request.headers', json_strip_nulls(%s)::text, false)"
WHO = "select keylatch.current_workspace_id(), keylatch.current_key_id(), keylatch.check_request()"


@pytest.fixture(scope="module")
def alone(server: Cluster) -> Iterator[Database]:
    """A database with the core, keylatch's own workspaces and only the module request."""
    make_template(server, "request_alone", migrations("request", tenancy=True))
    with Database(server, "request_only", "request_alone") as database:
        People.seed(database.url)
        yield database
    server.drop_database("request_alone")


@pytest.fixture(scope="module")
def key(alone: Database, tokens: Tokens) -> tuple[Any, ...]:
    with alone.connect("authenticated", People(tokens).claims("alice")) as alice:
        row = alice.execute(
            "select key, id from keylatch.issue_key(%s, 'secret')", [People.a]
        ).fetchone()
    assert row is not None
    return row


def ask(alone: Database, **sent: str) -> tuple[Any, ...] | None:
    """The identity of anon with these headers; `_` in a name stands for `-`."""
    names = {name.replace("_", "-"): value for name, value in sent.items()}
    with alone.connect("anon") as anon:
        anon.execute(HEADERS, [Json(names)])
        return anon.execute(WHO).fetchone()


def test_the_module_works_without_sessions(alone: Database, key: tuple[Any, ...]) -> None:
    with alone.connect() as owner:
        assert owner.execute("select modules from keylatch.installation()").fetchone() == (
            ["request"],
        )
    assert ask(alone, x_api_key=key[0]) == (People.a, key[1], True)
    with pytest.raises(psycopg.Error, match="invalid_api_key"):
        ask(alone, x_api_key="mistyped")


def test_an_unknown_header_is_ignored(alone: Database, key: tuple[Any, ...]) -> None:
    assert ask(alone, x_session_token="wk_st_" + "a" * 36) == (None, None, True)
    assert ask(alone, x_session_token="", x_api_key=key[0]) == (People.a, key[1], True)


def test_the_module_request_names_no_sessions(alone: Database) -> None:
    [file] = (path for path in migrations("request") if "request" in path.name)
    assert "session" not in file.read_text().lower()
    with alone.connect() as owner:
        names = owner.execute(
            "select proname from pg_proc where pronamespace::regnamespace::text like 'keylatch%'"
            " and proname like '%session%'"
        ).fetchall()
    assert names == []
