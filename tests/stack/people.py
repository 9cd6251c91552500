"""The users of the tests: who administers which workspace."""

from uuid import UUID

import psycopg

from stack.tokens import Tokens

_STATEMENTS = (
    """
    insert into auth.users (id, email)
    values (%(alice)s, 'alice@a.example'), (%(bob)s, 'bob@b.example'),
           (%(mia)s, 'mia@a.example'), (%(stranger)s, 'stranger@nowhere.example')
    """,
    "insert into workspaces (id, name) values (%(a)s, 'A'), (%(b)s, 'B')",
    """
    insert into workspace_membership (workspace_id, user_id, role)
    values (%(a)s, %(alice)s, 'admin'), (%(a)s, %(mia)s, 'member'), (%(b)s, %(bob)s, 'admin')
    """,
)


class People:
    """The users and workspaces of the tests.

    Attributes:
        alice: The admin of workspace A.
        bob: The admin of workspace B.
        mia: A plain member of workspace A.
        stranger: A user without a workspace.
        a: The workspace A.
        b: The workspace B.
    """

    alice = UUID("a11ce000-0000-4000-8000-000000000001")
    bob = UUID("b0b00000-0000-4000-8000-000000000002")
    mia = UUID("31a00000-0000-4000-8000-000000000003")
    stranger = UUID("57a63e00-0000-4000-8000-000000000004")
    a = UUID("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")
    b = UUID("bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb")

    def __init__(self, tokens: Tokens) -> None:
        """Store the signer of the tokens."""
        self._tokens = tokens

    @classmethod
    def seed(cls, url: str) -> None:
        """Insert the people into a migrated database, as the role of `url`, which must own it.

        They go into keylatch's workspaces, or into the application's if keylatch has none.
        """
        names = ("alice", "bob", "mia", "stranger", "a", "b")
        with psycopg.connect(url, options="-c search_path=keylatch,public") as connection:
            for statement in _STATEMENTS:
                connection.execute(statement, {name: getattr(cls, name) for name in names})

    def claims(self, name: str) -> dict[str, str]:
        """The claims in this person's token, for `Database.connect`."""
        return {"sub": str(getattr(self, name)), "role": "authenticated", "aud": "authenticated"}

    def token(self, name: str) -> str:
        """A token for this person, for HTTP."""
        return self._tokens.token(getattr(self, name))
