"""An application with orders that API keys read and write, made by the recipe of sql/recipes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from security.system import ORIGIN, System, make_system
from stack import Cluster, Database, Janitor, People, Rest, Tokens

RECIPES = Path(__file__).parents[3] / "sql" / "recipes"
# The part that the recipe leaves to the application: the policy for signed-in users.
APPLICATION = """
create policy orders_all_own on public.orders for all to authenticated
using (workspace_id in (select keylatch.admin_workspace_ids()));
create table public.news (title text primary key);
insert into public.news values ('We are open');
"""


@dataclass(frozen=True)
class Shop:
    """The system with the orders of workspaces A and B, and keys for the orders.

    Attributes:
        system: The database, its API, its users and keys in every state.
        reader: A secret key of A that may read.
        writer: A secret key of A that may read and write.
        blind: A secret key of A that may write but not read.
        of_b: A secret key of B that may read and write.
        page: A publishable key of A, for `ORIGIN`, that may read.
        page_id: The id of `page`.
    """

    system: System
    reader: str
    writer: str
    blind: str
    of_b: str
    page: str
    page_id: UUID

    def send(
        self,
        key: str | None = None,
        *,
        method: str = "GET",
        path: str = "orders?select=item&order=item",
        json: Any = None,
        origin: str | None = None,
        who: str = "anon",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    ) -> httpx.Response:
        """Send a request with a key, through the gateway, to schema `public`."""
        sent = [("apikey", self.system.rest.anon_key), *dict(headers).items()]
        sent += [("x-api-key", key)] if key is not None else []
        sent += [("Origin", origin)] if origin is not None else []
        token = self.system.token(who)
        sent += [("Authorization", f"Bearer {token}")] if token else []
        url = f"{self.system.rest.url}/rest/v1/{path}"
        encoded = [(name.encode(), value.encode()) for name, value in sent]
        return httpx.request(method, url, json=json, headers=encoded)

    def items(self, key: str | None = None, **more: Any) -> list[str] | str:
        """The orders that a request sees, or the status and message of its refusal."""
        response = self.send(key, **more)
        answer = response.json()
        if response.is_success:
            return [row["item"] for row in answer]
        return f"{response.status_code} {answer['message']}"


@contextmanager
def open_application(
    server: Cluster,
    template: str,
    tokens: Tokens,
    janitor: Janitor,
    name: str,
    recipe: str,
    more: str = "",
) -> Iterator[System]:
    """A system with the tables of a recipe; they exist before its API starts."""
    with Database(server, name, template) as database:
        People.seed(database.url)
        with database.connect() as owner:
            owner.execute((RECIPES / f"{recipe}.sql").read_bytes())
            if more:
                owner.execute(more.encode())
        with Rest(database, tokens, janitor=janitor) as rest:
            yield make_system(database, rest, People(tokens))


@contextmanager
def open_shop(
    server: Cluster, template: str, tokens: Tokens, janitor: Janitor, name: str
) -> Iterator[Shop]:
    """The application in a database with this name, and its API."""
    with open_application(
        server, template, tokens, janitor, name, "api_key_policies", APPLICATION
    ) as system:
        with system.database.connect() as owner:
            owner.execute(
                "insert into public.orders (workspace_id, item)"
                " values (%(a)s, 'apples'), (%(a)s, 'pears'), (%(b)s, 'of bob')",
                {"a": system.people.a, "b": system.people.b},
            )
        with system.connect("service_role") as issuer:

            def issue(workspace: UUID, kind: str, scopes: str) -> tuple[str, UUID]:
                row = issuer.execute(
                    "select key, id from keylatch.issue_key(%s, %s, scopes => %s,"
                    " allowed_origins => %s)",
                    [workspace, kind, scopes, [ORIGIN] if kind == "publishable" else []],
                ).fetchone()
                return row.key, row.id  # type: ignore[union-attr]

            a, both = system.people.a, "{orders:read,orders:write}"
            page, page_id = issue(a, "publishable", "{orders:read}")
            yield Shop(
                system=system,
                reader=issue(a, "secret", "{orders:read}")[0],
                writer=issue(a, "secret", both)[0],
                blind=issue(a, "secret", "{orders:write}")[0],
                of_b=issue(system.people.b, "secret", both)[0],
                page=page,
                page_id=page_id,
            )
