"""Row policies that use the visitor's session: reads and writes through the API, by the recipe."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from modules.identity.shop import open_application
from security.system import ORIGIN, System
from stack import Cluster, Janitor, Tokens

READS = "{notes:read}"
# The part that the recipe leaves to the application: the policy for signed-in users.
APPLICATION = """
create policy notes_select_own on public.notes for select to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
"""


@dataclass(frozen=True)
class Board:
    """A table of notes, and keys of workspace A.

    Attributes:
        system: The database, its API and its users.
        page: A publishable key that has the server's scope by mistake.
        server: A secret key with the scope that reads all notes.
    """

    system: System
    page: str
    server: str

    def send(
        self, method: str = "GET", *, json: Any = None, who: str = "anon", **sent: str
    ) -> httpx.Response:
        """Send a request for notes with these headers; `_` in a name stands for `-`."""
        headers = {name.replace("_", "-"): value for name, value in sent.items()}
        headers |= {"apikey": self.system.rest.anon_key}
        if token := self.system.token(who):
            headers["Authorization"] = f"Bearer {token}"
        url = f"{self.system.rest.url}/rest/v1/notes"
        return httpx.request(method, f"{url}?order=id", json=json, headers=headers)

    def visit(self, origin: str = ORIGIN) -> dict[str, str]:
        """Open a session, and return the headers of its requests."""
        answer = self.system.request(
            "anon", "POST", "rpc/open_session", json={"key": self.page}, headers={"Origin": origin}
        )
        return {"x_session_token": answer.json()["token"], "origin": origin}

    def sees(self, **sent: str) -> list[str] | str:
        """The notes that a request sees, or the status and message of its refusal."""
        response = self.send(**sent)
        answer = response.json()
        if response.is_success:
            return [row["note"] for row in answer]
        return f"{response.status_code} {answer['message']}"


@pytest.fixture(scope="module")
def board(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[Board]:
    with open_application(
        server, template, tokens, janitor, "board", "session_policies", APPLICATION
    ) as system:
        with system.database.connect() as owner:
            # PostgreSQL evaluates a policy only for a table with rows.
            owner.execute(
                "insert into public.notes (workspace_id, session_id, note)"
                " values (%s, gen_random_uuid(), 'of bob''s visitor')",
                [system.people.b],
            )
        with system.connect("alice") as alice:
            keys = [
                alice.execute(
                    "select key from keylatch.issue_key(%s, %s, scopes => %s,"
                    " allowed_origins => %s)",
                    [system.people.a, kind, READS, origins],
                ).fetchone()[0]  # type: ignore[index]
                for kind, origins in (("publishable", [ORIGIN]), ("secret", []))
            ]
        yield Board(system, *keys)


def test_a_visitor_has_their_own_notes_and_the_workspaces_server_all(board: Board) -> None:
    one, two = board.visit(), board.visit()
    for visitor, note in ((one, "of one"), (two, "of two")):
        assert board.send("POST", json={"note": note}, **visitor).status_code == 201
    assert board.sees(**one) == ["of one"]
    assert board.sees(**two) == ["of two"]
    assert board.sees(x_api_key=board.server) == ["of one", "of two"]
    active = board.system.keys["active"].key
    assert board.sees(x_api_key=active) == []
    assert board.sees() == board.sees(origin=ORIGIN) == []


@pytest.mark.parametrize("field", ["session_id", "workspace_id", "id"])
def test_a_visitor_writes_in_nobody_elses_name(board: Board, field: str) -> None:
    row = {"note": "forged", field: str(board.system.people.b)}
    refused = board.send("POST", json=row, **board.visit())
    # 428C9: the id is generated always, so no insert can set it.
    assert refused.json()["code"] in ("42501", "428C9")
    assert "forged" not in str(board.sees(x_api_key=board.server))


def test_only_a_session_writes(board: Board) -> None:
    row = {"note": "of nobody"}
    for sent in ({}, {"x_api_key": board.server}, {"x_api_key": board.page, "origin": ORIGIN}):
        assert board.send("POST", json=row, **sent).status_code in (400, 401)
    for method in ("PATCH", "DELETE"):
        refused = board.send(method, json=row, **board.visit())
        assert refused.json()["code"] == "42501"
    assert "of nobody" not in str(board.sees(x_api_key=board.server))


def test_one_request_has_one_identity(board: Board) -> None:
    visitor, two = board.visit(), "400 invalid_argument"
    assert board.sees(**visitor) != two
    for key in (board.page, board.server, board.system.keys["revoked"].key, ""):
        assert board.sees(x_api_key=key, **visitor) == two
    for who in ("alice", "mia", "bob", "stranger"):
        assert board.sees(who=who, **visitor) == two


def test_a_text_that_is_not_a_session_token_is_refused_and_not_a_failure(board: Board) -> None:
    token = board.visit()["x_session_token"]
    cases: list[Mapping[str, str]] = [
        {"x_session_token": other, "origin": ORIGIN}
        for other in ("", "x", "x" * 20_000, token[:-1], f"{token}1", f"{token}, {token}")
    ]
    cases += [{"x_session_token": key, "origin": ORIGIN} for key in (board.page, board.server)]
    cases += [
        {"x_session_token": token, "origin": origin} for origin in ("", "null", "https://x.y")
    ]
    cases += [{"x_session_token": token}]
    for case in cases:
        assert board.sees(**case) == "401 invalid_session"
    assert board.sees(x_api_key=token, origin=ORIGIN) == "401 invalid_api_key"
    assert board.sees(x_session_token=token, origin=ORIGIN) == []
